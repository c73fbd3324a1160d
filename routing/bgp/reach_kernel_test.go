package bgp

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// TestECMP: a prefix that two neighbours announce equally well has both as next hops, and one when one goes.
func TestECMP(t *testing.T) {
	h, ns := lab(t, 3)
	same := []string{"10.80.0.0/24 blackhole"}
	a := birdConfig{i: 2, asn: 64513, static4: same, static6: []string{"fd80::/64 blackhole"}}.start(t, ns[0])
	birdConfig{i: 3, asn: 64513, static4: same, static6: []string{"fd80::/64 blackhole"}}.start(t, ns[1])
	birdConfig{i: 4, asn: 64513, static4: []string{"10.80.0.0/24 blackhole { bgp_path.prepend(64513); }"}}.start(t, ns[2]) // worse
	var list []routing.Session
	for _, p := range []string{"10.77.0.2", "10.77.0.3", "10.77.0.4", "fd77::2", "fd77::3"} {
		list = append(list, session(p, 64513, func(s *routing.Session) { s.RestartSeconds = 0 }))
	}
	h.apply(t, plan(sessions(list...)))
	rest := []string{"10.65.2.0/26 via 10.77.0.2", "10.65.3.0/26 via 10.77.0.3", "10.65.4.0/26 via 10.77.0.4"}
	rest6 := []string{"fd65:2::/122 via fd77::2", "fd65:3::/122 via fd77::3"}
	h.learns(t, append(append(append([]string{}, rest...), "10.80.0.0/24 via 10.77.0.2 10.77.0.3"), append(rest6, "fd80::/64 via fd77::2 fd77::3")...)...)
	a.Kill(t)
	h.learns(t, rest[1], rest[2], "10.80.0.0/24 via 10.77.0.3", rest6[1], "fd80::/64 via fd77::3")
	a.Start(t)
	h.learns(t, append(append(append([]string{}, rest...), "10.80.0.0/24 via 10.77.0.2 10.77.0.3"), append(rest6, "fd80::/64 via fd77::2 fd77::3")...)...)
	// Our own is better than any.
	own := plan(sessions(list...))
	own.Advertisements = []routing.Advertisement{{Prefix: prefix("10.80.0.0/24")}}
	h.apply(t, own)
	h.learns(t, append(append([]string{}, rest...), append(rest6, "fd80::/64 via fd77::2 fd77::3")...)...)
	own.Advertisements = nil
	h.apply(t, own)
	h.learns(t, append(append(append([]string{}, rest...), "10.80.0.0/24 via 10.77.0.2 10.77.0.3"), append(rest6, "fd80::/64 via fd77::2 fd77::3")...)...)
}

// TestReflector: the speaker reflects between clients, and is a client of a reflector.
func TestReflector(t *testing.T) {
	t.Run("the speaker reflects", func(t *testing.T) {
		h, ns := lab(t, 2)
		a := birdConfig{i: 2, asn: 64512}.start(t, ns[0])
		b := birdConfig{i: 3, asn: 64512}.start(t, ns[1])
		client := func(s *routing.Session) { s.ReflectorClient, s.ClusterID = true, addr("10.99.99.99") }
		list := []routing.Session{session("10.77.0.2", 64512), session("10.77.0.3", 64512), session("fd77::2", 64512), session("fd77::3", 64512)}
		h.apply(t, plan(sessions(list...)))
		h.established(t, "10.77.0.2", "10.77.0.3")
		eventually(t, "the clients have ours", func() bool { return a.Route(t, "10.65.1.0/26") != "" && b.Route(t, "10.65.1.0/26") != "" })
		if a.Route(t, "10.65.3.0/26") != "" || b.Route(t, "10.65.2.0/26") != "" {
			t.Error("told on between iBGP neighbours that are no clients")
		}
		h.apply(t, plan(sessions(list...), each(client)))
		says(t, a, "10.65.3.0/26", "BGP.next_hop: 10.77.0.3", "BGP.originator_id: 10.77.0.3", "BGP.cluster_list: 10.99.99.99")
		says(t, b, "10.65.2.0/26", "BGP.next_hop: 10.77.0.2", "BGP.originator_id: 10.77.0.2", "BGP.cluster_list: 10.99.99.99")
		says(t, a, "fd65:3::/122", "BGP.next_hop: fd77::3")
	})
	t.Run("BIRD reflects", func(t *testing.T) {
		h, ns := lab(t, 2)
		c := birdConfig{i: 2, asn: 64512, sessions: "rr client; rr cluster id 10.99.99.98;", export: "all"}
		c.more = `protocol bgp second { local 10.77.0.2 as 64512; neighbor 10.77.0.3 as 64512; direct; rr client; rr cluster id 10.99.99.98; connect delay time 1; ipv4 { import all; export all; }; }
`
		c.start(t, ns[0])
		d := birdConfig{i: 3, asn: 64512}
		d.more = `protocol bgp reflector { local 10.77.0.3 as 64512; neighbor 10.77.0.2 as 64512; direct; connect delay time 1; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
`
		b := d.start(t, ns[1])
		h.apply(t, plan())
		eventually(t, "what the other client has is learned", func() bool { return strings.Contains(h.learned(), "10.65.3.0/26 via") })
		says(t, b, "10.65.1.0/26", "BGP.originator_id: 10.77.0.1")
	})
}

// TestNextHops: what a neighbour is told as next hop of what others announced, and of what is ours.
func TestNextHops(t *testing.T) {
	h, ns := lab(t, 3)
	birdConfig{i: 2, asn: 64513}.start(t, ns[0]) // the origin
	inner := birdConfig{i: 3, asn: 64512}.start(t, ns[1])
	outer := birdConfig{i: 4, asn: 64514}.start(t, ns[2])
	for _, c := range []struct {
		mode                 routing.NextHop
		inner, outer, inner6 string
	}{
		{routing.NextHopAuto, "10.77.0.2", "10.77.0.1", "fd77::2"}, {routing.NextHopSelf, "10.77.0.1", "10.77.0.1", "fd77::1"}, {routing.NextHopKeep, "10.77.0.2", "10.77.0.2", "fd77::2"},
	} {
		mode := func(s *routing.Session) { s.NextHop = c.mode }
		p := plan(sessions(session("10.77.0.2", 64513), session("10.77.0.3", 64512, mode), session("10.77.0.4", 64514, mode),
			session("fd77::2", 64513), session("fd77::3", 64512, mode)))
		p.Advertisements = append(p.Advertisements, routing.Advertisement{Prefix: prefix("10.70.0.0/24"), NextHop: addr("10.77.0.77")}, routing.Advertisement{Prefix: prefix("fd70::/64"), NextHop: addr("fd77::77")})
		h.apply(t, p)
		says(t, inner, "10.65.2.0/26", "BGP.next_hop: "+c.inner)
		says(t, outer, "10.65.2.0/26", "BGP.next_hop: "+c.outer)
		says(t, inner, "fd65:2::/122", "BGP.next_hop: "+c.inner6)
		for _, b := range []*router.Bird{inner, outer} {
			says(t, b, "10.65.1.0/26", "BGP.next_hop: 10.77.0.1")
			says(t, b, "10.70.0.0/24", "BGP.next_hop: 10.77.0.77")
		}
		says(t, inner, "fd65:1::/122", "BGP.next_hop: fd77::1")
		says(t, inner, "fd70::/64", "BGP.next_hop: fd77::77")
	}
	if p := h.peer(t, "10.77.0.3"); p.State != speaker.Established || p.Flaps > 0 {
		t.Errorf("the session began anew: %+v", p)
	}
}

// TestLocalAS: a session with another AS of our own, and paths that have ours in them.
func TestLocalAS(t *testing.T) {
	h, ns := lab(t, 1)
	c := birdConfig{i: 2, asn: 64513, of: 64700, static4: []string{"10.81.0.0/24 blackhole { bgp_path.prepend(64700); }"}}
	b := c.start(t, ns[0])
	local := func(s *routing.Session) { s.LocalASN = 64700 }
	h.apply(t, plan(sessions(session("10.77.0.2", 64513, local))))
	h.learns(t, "10.65.2.0/26 via 10.77.0.2")
	says(t, b, "10.65.1.0/26", "BGP.as_path: 64700")
	h.apply(t, plan(sessions(session("10.77.0.2", 64513, local, func(s *routing.Session) { s.AllowedLocalAS = 1 }))))
	h.learns(t, "10.65.2.0/26 via 10.77.0.2", "10.81.0.0/24 via 10.77.0.2")
}

// TestManyRoutes: 100,000 routes of one neighbour, and their end.
func TestManyRoutes(t *testing.T) {
	n := testkit.Count(100_000)
	h, ns := lab(t, 1)
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%d.%d.%d.0/24 blackhole", 20+i/65536, i/256%256, i%256))
	}
	c := birdConfig{i: 2, asn: 64513, static4: list}
	b := c.start(t, ns[0])
	testkit.Eventually(t, time.Minute, "BIRD has them", func() bool { return b.Count(t, "where source = RTS_STATIC") >= n })
	h.apply(t, plan(sessions(session("10.77.0.2", 64513))))
	h.established(t, "10.77.0.2")
	took := testkit.Eventually(t, 2*time.Minute, "all are learned", func() bool { return h.driver.count() == n+1 })
	pid := h.speakerPID(t)
	now, peak := memory(t, pid)
	t.Logf("%d routes learned within %v of the session; the speaker has %d MB, at most %d, and took %v of processor", n, took.Round(time.Millisecond), now, peak, processor(t, pid))
	if took > 60*time.Second || peak > 1500 {
		t.Error("that is too much")
	}
	h.renew(t) // another node service
	start := time.Now()
	h.apply(t, plan(sessions(session("10.77.0.2", 64513))))
	testkit.Eventually(t, 2*time.Minute, "another driver knows them", func() bool { return h.driver.count() == n+1 })
	t.Logf("another driver knows them after %v", time.Since(start).Round(time.Millisecond))
	c.static4 = nil
	start = time.Now()
	b.Reconfigure(t, c.text())
	testkit.Eventually(t, 2*time.Minute, "they are withdrawn", func() bool { return h.driver.count() == 1 })
	t.Logf("withdrawn after %v; %v of processor since the start", time.Since(start).Round(time.Millisecond), processor(t, pid))
}

// count is how many routes are learned; unlike Learned it costs nothing.
func (d *Driver) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.routes.all)
}

// processor returns how much processor time a process took.
func processor(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var user, system int
	_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// memory returns the resident memory of a process, now and at its peak, in MB.
func memory(t testing.TB, pid int) (now, peak int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(l, "VmRSS: %d", &now)
		_, _ = fmt.Sscanf(l, "VmHWM: %d", &peak)
	}
	return now / 1024, peak / 1024
}

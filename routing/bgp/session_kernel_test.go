package bgp

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/testkit/router"
	"weft/model"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

const password = "c4nary-Passw0rd"

// TestErrorsInWords: what keeps a session from coming up is said in words that name the peer, what was tried
// and what to look at.
func TestErrorsInWords(t *testing.T) {
	h, ns := lab(t, 5)
	birdConfig{i: 2, asn: 64513, sessions: `password "another";`}.start(t, ns[0])
	birdConfig{i: 3, asn: 64999}.start(t, ns[1])            // it says another AS than the plan does
	birdConfig{i: 4, asn: 64514, of: 64888}.start(t, ns[2]) // it expects another AS of this host
	// 5 answers, and nobody listens there; 6 drops what comes.
	testkit.Run(t, ns[4], "nft", "add table ip t; add chain ip t in { type filter hook input priority 0; policy drop; }")
	h.apply(t, plan(sessions(
		session("10.77.0.2", 64513, func(s *routing.Session) { s.Password = password }),
		session("10.77.0.3", 64513), session("10.77.0.4", 64514), session("10.77.0.5", 64515), session("10.77.0.6", 64516),
		session("10.77.0.99", 64517), session("192.0.2.1", 64518),
	)))
	for a, says := range map[string][]string{
		"10.77.0.2":  {"10.77.0.2 port 179", "wrong TCP-MD5 signature", "different passwords"},
		"10.77.0.3":  {"10.77.0.3 says that its AS is another than 64513", "Bad Peer AS"},
		"10.77.0.4":  {"10.77.0.4 refused this host", "AS number 64512"},
		"10.77.0.5":  {"10.77.0.5 port 179", "refused: no BGP speaker listens there"},
		"10.77.0.6":  {"10.77.0.6 port 179", "no answer", "firewall"},
		"10.77.0.99": {"10.77.0.99 port 179", "unreachable", "ip route get 10.77.0.99"},
		"192.0.2.1":  {"192.0.2.1 port 179", "unreachable", "ip route get 192.0.2.1"},
	} {
		last := ""
		testkit.Eventually(t, 60*time.Second, "the error of "+a+" is said", func() bool {
			p := h.peer(t, a)
			if p.LastError != last {
				last = p.LastError
				t.Logf("%s %s: %s", a, p.State, last)
			}
			for _, s := range says {
				if !strings.Contains(last, s) {
					return false
				}
			}
			return p.State != speaker.Established && !p.ErrorAt.IsZero()
		})
	}
}

// TestNotificationIsKept: what a NOTIFICATION said, sent or received, is told until there is other news. BIRD closes for a
// minute without a word what comes after it.
func TestNotificationIsKept(t *testing.T) {
	h, ns := lab(t, 2)
	birdConfig{i: 2, asn: 64999}.start(t, ns[0])
	wrong := birdConfig{i: 3, asn: 64514, of: 64888}
	b := wrong.start(t, ns[1])
	a, c := session("10.77.0.2", 64513), session("10.77.0.3", 64514)
	debug := func(s *routing.Speaker) { s.LogLevel = model.LogDebug }
	h.apply(t, plan(sessions(a, c), debug))
	kept := map[string]string{"10.77.0.2": "its AS is another than 64513", "10.77.0.3": "look at the AS number 64512"}
	said := func(peer, text string) bool { return strings.Contains(h.peer(t, peer).LastError, text) }
	for peer, text := range kept {
		testkit.Eventually(t, 60*time.Second, peer+": "+text, func() bool { return said(peer, text) })
	}
	log := func() int {
		text, err := os.ReadFile(filepath.Join(h.dir, "bgp-speaker.log"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "outgoing connection IO error")
	}
	looks, closed := 0, log()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		looks++
		for peer, text := range kept {
			if !said(peer, text) {
				t.Fatalf("%s, after %d looks: %q", peer, looks, h.peer(t, peer).LastError)
			}
		}
	}
	if closed = log() - closed; closed == 0 || looks < 20 {
		t.Errorf("%d looks, in which %d connections were closed without a word", looks, closed)
	}
	t.Logf("%d looks, in which %d connections were closed without a word", looks, closed)
	// Another configuration has another reason, and a peer that is gone is news.
	a.ASN = 64998
	h.apply(t, plan(sessions(a, c), debug))
	testkit.Eventually(t, 60*time.Second, "what was said of the session before its change is forgotten", func() bool { return !said("10.77.0.2", "64513") })
	b.Kill(t)
	testkit.Eventually(t, 60*time.Second, "nobody listens any more", func() bool { return said("10.77.0.3", "no BGP speaker listens there") })
	wrong.of = 0
	wrong.start(t, ns[1])
	h.established(t, "10.77.0.3")
}

// TestPassword: a session with a password comes up, the password changes and goes away with nothing left of
// it, and it is in no file of ours and no command line.
func TestPassword(t *testing.T) {
	h, ns := lab(t, 1)
	c := birdConfig{i: 2, asn: 64512, sessions: fmt.Sprintf("password %q;", password)}
	b := c.start(t, ns[0])
	with := func(p string) routing.Speaker {
		return plan(each(func(s *routing.Session) { s.Password = routing.Password(p) }))
	}
	h.apply(t, with(password))
	h.established(t, "10.77.0.2", "fd77::2")
	pid := h.speakerPID(t)
	c.sessions = `password "c4nary-Passw0rd2";`
	b.Reconfigure(t, c.text())
	h.apply(t, with(password+"2"))
	eventually(t, "the sessions are up again", func() bool {
		return b.Established(t, "host4") && b.Established(t, "host6") && h.peer(t, "10.77.0.2").State == speaker.Established
	})
	c.sessions = ""
	b.Reconfigure(t, c.text())
	h.apply(t, with(""))
	eventually(t, "the sessions are up without", func() bool {
		return b.Established(t, "host4") && b.Established(t, "host6") && h.peer(t, "10.77.0.2").State == speaker.Established
	})
	// Gone and back without a password: the listening sockets of the speaker want none any more.
	c.sessions = fmt.Sprintf("password %q;", password)
	b.Reconfigure(t, c.text())
	h.apply(t, with(password))
	h.established(t, "10.77.0.2", "fd77::2")
	h.apply(t, plan(sessions()))
	c.sessions = ""
	b.Reconfigure(t, c.text())
	h.apply(t, plan(each(func(s *routing.Session) { s.Passive = true })))
	h.established(t, "10.77.0.2", "fd77::2")

	if now := h.speakerPID(t); now != pid {
		t.Errorf("process %d speaks, was %d", now, pid)
	}
	looked := 0
	for _, f := range []string{filepath.Join(h.dir, "bgp-speaker.log"), fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid), filepath.Join(h.dir, "bgp-speaker.ran")} {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
		}
		looked += len(text)
		if strings.Contains(string(text), password) {
			t.Errorf("the password is in %s", f)
		}
	}
	if looked < 500 {
		t.Errorf("only %d bytes were looked at", looked)
	}
	info, err := os.Stat(filepath.Join(h.dir, "bgp-speaker.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || !strings.Contains(string(status), "CapEff:\t0000000000000400") || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Errorf("the process's status: %s, %v", status, err)
	}
}

// TestChangesAreApart: what changes of one session resets no other, and what can be changed live resets none.
func TestChangesAreApart(t *testing.T) {
	h, ns := lab(t, 3)
	for i := range 3 {
		birdConfig{i: i + 2, asn: 64513 + i}.start(t, ns[i])
	}
	a, b, c := session("10.77.0.2", 64513), session("10.77.0.3", 64514), session("10.77.0.4", 64515)
	h.apply(t, plan(sessions(a, b)))
	h.established(t, "10.77.0.2", "10.77.0.3")
	h.learns(t, "10.65.2.0/26 via 10.77.0.2", "10.65.3.0/26 via 10.77.0.3")
	since := func(p string) time.Time { return h.peer(t, p).Since }
	at2, at3 := since("10.77.0.2"), since("10.77.0.3")
	same := func(what string, peers ...string) {
		t.Helper()
		for _, p := range peers {
			if at := map[string]time.Time{"10.77.0.2": at2, "10.77.0.3": at3}[p]; !since(p).Equal(at) || h.peer(t, p).Flaps > 0 {
				t.Errorf("%s: the session with %s began anew: %+v", what, p, h.peer(t, p))
			}
		}
	}
	h.apply(t, plan(sessions(a, b, c)))
	h.established(t, "10.77.0.4")
	same("a third", "10.77.0.2", "10.77.0.3")
	a.Import = []routing.FilterRule{{CIDR: prefix("10.65.2.0/26")}}
	h.apply(t, plan(sessions(a, b, c)))
	h.learns(t, "10.65.3.0/26 via 10.77.0.3", "10.65.4.0/26 via 10.77.0.4")
	same("a filter", "10.77.0.2", "10.77.0.3")
	a.Import, a.Name, a.MaxPrefixes, a.BFD = nil, "other", 500, routing.BFD{IntervalMillis: 5000, Multiplier: 10}
	h.apply(t, plan(sessions(a, b, c)))
	h.learns(t, "10.65.2.0/26 via 10.77.0.2", "10.65.3.0/26 via 10.77.0.3", "10.65.4.0/26 via 10.77.0.4")
	same("name, limit, BFD", "10.77.0.2", "10.77.0.3")
	b.HoldSeconds, b.KeepaliveSeconds = 30, 10
	h.apply(t, plan(sessions(a, b)))
	eventually(t, "the session began anew", func() bool { p := h.peer(t, "10.77.0.3"); return p.State == speaker.Established && p.Since.After(at3) })
	same("another's timers", "10.77.0.2")
	h.learns(t, "10.65.2.0/26 via 10.77.0.2", "10.65.3.0/26 via 10.77.0.3")
	if p := h.peer(t, "10.77.0.4"); p.State != "" {
		t.Errorf("it is gone: %+v", p)
	}
}

// TestTTLSecurity: a neighbour that is as near as it has to be comes up, one behind a router does not.
func TestTTLSecurity(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64513, sessions: "ttl security on;"}.start(t, ns[0])
	near := session("10.77.0.2", 64513, func(s *routing.Session) { s.TTLSecurityHops = 1 })
	for _, passive := range []bool{false, true} {
		near.Passive = passive
		h.apply(t, plan(sessions(near)))
		eventually(t, "the session is up on both sides", func() bool { return b.Established(t, "host4") && h.peer(t, "10.77.0.2").State == speaker.Established })
		h.apply(t, plan(sessions()))
		eventually(t, "it is gone", func() bool { return !b.Established(t, "host4") })
	}
	// The neighbour's packets come as from afar.
	testkit.Run(t, ns[0], "nft", "add table ip t; add chain ip t out { type filter hook output priority 0; }; add rule ip t out tcp dport 179 ip ttl set 200; add rule ip t out tcp sport 179 ip ttl set 200")
	h.apply(t, plan(sessions(near, session("fd77::2", 64513))))
	near.HoldSeconds, near.KeepaliveSeconds = 9, 3
	h.apply(t, plan(sessions(near)))
	defer func() { t.Logf("%+v", h.peer(t, "10.77.0.2")) }()
	eventually(t, "an error is said", func() bool { return strings.Contains(h.peer(t, "10.77.0.2").LastError, "more hops") })
	if p := h.peer(t, "10.77.0.2"); p.State == speaker.Established {
		t.Errorf("it came up: %+v", p)
	}
}

// TestMaxPrefixes: a neighbour that announces more than it may is cut off, and another is not.
func TestMaxPrefixes(t *testing.T) {
	h, ns := lab(t, 2)
	many := birdConfig{i: 2, asn: 64513}
	for i := range 30 {
		many.static4 = append(many.static4, fmt.Sprintf("10.90.%d.0/24 blackhole", i))
	}
	b := many.start(t, ns[0])
	birdConfig{i: 3, asn: 64514}.start(t, ns[1])
	limit := func(s *routing.Session) { s.MaxPrefixes = 20 }
	h.apply(t, plan(sessions(session("10.77.0.2", 64513, limit), session("10.77.0.3", 64514, limit))))
	eventually(t, "it is cut off", func() bool {
		p := h.peer(t, "10.77.0.2")
		return p.State == speaker.Idle && strings.Contains(p.LastError, "more than the 20 prefixes")
	})
	h.learns(t, "10.65.3.0/26 via 10.77.0.3")
	// It begins again by itself, and stays where the peer has learned its lesson.
	begin := time.Now()
	many.static4 = many.static4[:5]
	b.Reconfigure(t, many.text())
	testkit.Eventually(t, 2*time.Minute, "the session is back after its pause", func() bool {
		return h.peer(t, "10.77.0.2").State == speaker.Established && strings.Count(h.learned(), "via 10.77.0.2") == 6
	})
	t.Logf("back after %v", time.Since(begin).Round(time.Second))
	if p := h.peer(t, "10.77.0.3"); p.State != speaker.Established || p.Flaps > 0 {
		t.Errorf("the other session: %+v", p)
	}
}

// TestBFD: a cut link is noticed by BFD long before the hold time.
func TestBFD(t *testing.T) {
	h, ns := lab(t, 1)
	b := birdConfig{i: 2, asn: 64513, sessions: "bfd on;", more: `protocol bfd { interface "eth0" { min rx interval 300 ms; min tx interval 300 ms; multiplier 3; }; }`}.start(t, ns[0])
	h.apply(t, plan(sessions(session("10.77.0.2", 64513, func(s *routing.Session) { s.BFD = routing.BFD{IntervalMillis: 300, Multiplier: 3} }))))
	h.established(t, "10.77.0.2")
	bfd := func() string {
		peers, err := h.driver.Peers(context.Background())
		if err != nil || len(peers) != 1 {
			t.Fatal(peers, err)
		}
		return peers[0].BFD
	}
	eventually(t, "BFD is up", func() bool { return bfd() == "Up" && strings.Contains(b.Ask(t, "show bfd sessions"), "Up") })
	rounds := 0
	for range 3 {
		testkit.Run(t, h.sw, "ip", "link", "set", "p2", "nomaster") // neither end loses its carrier
		took := eventually(t, "the cut is noticed", func() bool { return h.peer(t, "10.77.0.2").State != speaker.Established })
		figures.Write(t, "neighbour", figures.Seconds("cut_noticed", "BFD of 300 ms × 3", took)...)
		t.Logf("cut noticed after %v: %s", took.Round(time.Millisecond), h.peer(t, "10.77.0.2").LastError)
		if !strings.Contains(h.peer(t, "10.77.0.2").LastError, "BFD") {
			t.Error("BFD is not in the error")
		}
		if took > 10*time.Second { // 0.9 s, and the hold time is 90
			t.Errorf("noticed after %v", took)
		}
		testkit.Run(t, h.sw, "ip", "link", "set", "p2", "master", "br0")
		up := func() bool {
			return bfd() == "Up" && h.peer(t, "10.77.0.2").State == speaker.Established && b.Established(t, "host4")
		}
		eventually(t, "session and BFD are up, and stay so", func() bool {
			if !up() {
				return false
			}
			time.Sleep(time.Second)
			return up()
		})
		rounds++
	}
	t.Logf("%d cuts", rounds)
}

// TestFRR: FRR is a neighbour, too: eBGP of both families with a password, BFD and graceful restart.
func TestFRR(t *testing.T) {
	testkit.Require(t, testkit.FRR)
	h, ns := lab(t, 1)
	f := router.StartFRR(t, ns[0], "10.77.0.2", `
router bgp 64513
 bgp router-id 10.77.0.2
 no bgp ebgp-requires-policy
 bgp graceful-restart
 no bgp network import-check
 neighbor 10.77.0.1 remote-as 64512
 neighbor 10.77.0.1 password `+password+`
 neighbor 10.77.0.1 timers connect 2
 address-family ipv4 unicast
  network 10.65.2.0/26
  neighbor 10.77.0.1 activate
 exit-address-family
`)
	h.keep(t, plan(sessions(session("10.77.0.2", 64513, func(s *routing.Session) { s.Password = password }))))
	h.learns(t, "10.65.2.0/26 via 10.77.0.2")
	kernel := func() bool {
		return strings.Contains(testkit.Run(t, ns[0], "ip", "route", "show", "proto", "bgp"), "10.65.1.0/26")
	}
	eventually(t, "FRR has the route", kernel)
	events := router.WatchRoutes(t, ns[0])
	before := len(events.Settle(t))
	if err := syscallKill(h.speakerPID(t)); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	eventually(t, "another speaks", func() bool {
		p := h.peer(t, "10.77.0.2")
		return p.State == speaker.Established && p.Since.After(start)
	})
	eventually(t, "all is told", func() bool { _, s := h.driver.Learned(); return s })
	h.learns(t, "10.65.2.0/26 via 10.77.0.2")
	if !kernel() {
		t.Error("FRR lost the route")
	}
	after := events.Settle(t)
	t.Logf("1 speaker killed: %d route events at FRR", len(after)-before)
	if len(after) != before {
		t.Errorf("route events: %q\n%s", after[before:], f.Ask(t, "show bgp neighbors 10.77.0.1"))
	}
}

func syscallKill(pid int) error { return unix.Kill(pid, unix.SIGKILL) }

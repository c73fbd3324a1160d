package nftables

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/nat"
)

// stream sends numbered packets each millisecond, or lines over TCP, and counts the answers.
type stream struct {
	network        string
	sent, answered atomic.Int64
	source         atomic.Pointer[string] // as seen outside
	changed        atomic.Int64           // answers that tell another source than the first
	conn           net.Conn
	stop           chan struct{}

	sender, receiver sync.WaitGroup
}

func start(t *testing.T, from testkit.NS, network, to string) *stream {
	t.Helper()
	c, err := dial(t, from, network, "", to)
	if err != nil {
		t.Fatal(err)
	}
	if network == "udp" {
		if err := testkit.Roomy(c.(*net.UDPConn)); err != nil {
			t.Fatal(err)
		}
	}
	s := &stream{network: network, conn: c, stop: make(chan struct{})}
	s.receiver.Go(func() { s.receive() })
	s.sender.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			s.sent.Add(1)
		}
	})
	t.Cleanup(func() { s.end() })
	return s
}

func (s *stream) receive() {
	b := make([]byte, 4096)
	for {
		n, err := s.conn.Read(b)
		if err != nil {
			return
		}
		s.answered.Add(1)
		for line := range strings.FieldsSeq(strings.ReplaceAll(string(b[:n]), "x ", "")) {
			if s.source.CompareAndSwap(nil, &line) {
				continue
			}
			if first := *s.source.Load(); s.network == "udp" && line != first {
				s.changed.Add(1)
			}
		}
	}
}

// end stops sending, and waits until each packet is answered that was sent, for 5 s at most.
func (s *stream) end() {
	select {
	case <-s.stop:
		return
	default:
		close(s.stop)
	}
	if s.network == "udp" {
		s.sender.Wait()
		for end := time.Now().Add(5 * time.Second); s.lost() > 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	s.conn.Close()
	s.sender.Wait()
	s.receiver.Wait()
}

func (s *stream) lost() int64 { return s.sent.Load() - s.answered.Load() }

// TestConnectionsOutliveChanges replaces all rules many times under connections that they translated.
func TestConnectionsOutliveChanges(t *testing.T) {
	testkit.LeakCheck(t)
	w := newWorld(t)
	echo(t, w.out, toWorld, toWorld6)
	first := compile(t, model.NATConfig{})
	w.apply(t, first)
	var streams []*stream
	for _, to := range []string{toWorld, toWorld6} {
		for _, network := range []string{"udp", "tcp"} {
			streams = append(streams, start(t, w.pod, network, to))
		}
	}
	for _, s := range streams {
		testkit.Eventually(t, 5*time.Second, "the first answer", func() bool { return s.source.Load() != nil })
	}
	all := pools()
	off := pools()
	for i := range off {
		off[i].NATOutgoing = false
	}
	var plans []nat.Plan
	for _, c := range []struct {
		cfg   model.NATConfig
		pools []model.Pool
		tun   bool
	}{
		{model.NATConfig{Address: netip.MustParseAddr(natAddr)}, all, true},
		{model.NATConfig{Ports: model.PortRange{First: 20000, Last: 20099}, SpareHosts: true}, all, true},
		{model.NATConfig{Interface: "ens+"}, all[:3], false},
		{model.NATConfig{}, off, true},
		{model.NATConfig{}, off, false}, // nothing to translate any more, but what was
		{model.NATConfig{}, append(all, model.Pool{CIDR: netip.MustParsePrefix("172.31.9.0/24")}), true},
		{model.NATConfig{}, all, true},
	} {
		tun := tunnels()
		if !c.tun {
			tun = nil
		}
		p, err := nat.Compile(c.cfg, c.pools, nodes(), tun)
		if err != nil {
			t.Fatal(err)
		}
		plans = append(plans, p)
	}
	rounds := 20
	if testkit.Emulated() {
		rounds = 10
	}
	changes := 0
	for range rounds {
		for _, p := range plans {
			w.apply(t, p)
			changes++
			time.Sleep(15 * time.Millisecond)
		}
		// A new process knows nothing and finds all of it.
		w.driver.Close()
		w.driver = w.newDriver(t)
	}
	for _, s := range streams {
		now := s.answered.Load()
		testkit.Eventually(t, 20*time.Second, s.network+" goes on", func() bool { return s.answered.Load() > now })
		s.end()
		lost := s.lost()
		if s.network == "tcp" {
			t.Logf("tcp as %s: lives on, through %d changes and %d restarts", *s.source.Load(), changes, rounds)
			continue
		}
		if s.sent.Load() < 1000 || lost != 0 || s.changed.Load() != 0 {
			t.Errorf("udp: %d of %d lost, %d answers told another source", lost, s.sent.Load(), s.changed.Load())
		}
		t.Logf("udp as %s: %d of %d lost, %d told another source, through %d changes and %d restarts", *s.source.Load(), lost, s.sent.Load(), s.changed.Load(), changes, rounds)
	}
	// The control: the zero plan ends translation.
	w.apply(t, first)
	s := start(t, w.pod, "udp", toWorld)
	testkit.Eventually(t, 5*time.Second, "answers", func() bool { return s.answered.Load() > 100 })
	before := s.changed.Load()
	w.apply(t, nat.Plan{})
	time.Sleep(300 * time.Millisecond)
	s.end()
	if lost := s.lost(); s.changed.Load() == before && lost == 0 {
		t.Errorf("control: with all rules gone nothing changed: %d of %d lost", lost, s.sent.Load())
	}
}

// state prints what is in the table, without what counts.
func state(t *testing.T, w *world) string {
	t.Helper()
	out, err := testkit.Try(t, w.node, "nft", "--stateless", "list", "ruleset")
	if err != nil {
		return err.Error()
	}
	return out
}

func TestSabotageIsRepaired(t *testing.T) {
	testkit.LeakCheck(t)
	w := newWorld(t)
	echo(t, w.out, toWorld)
	p := compile(t, model.NATConfig{SpareHosts: true})
	w.apply(t, p)
	want := state(t, w)
	repaired := &testkit.Keep(t, w.node, w.driver, func(ctx context.Context) (bool, error) {
		res, err := w.driver.Apply(ctx, p)
		return res.Repaired > 0, err
	}).Changes
	for _, c := range []string{
		"flush ruleset",
		"flush table inet weft",
		"delete table inet weft",
		"flush chain inet weft nat-postrouting",
		"flush chain inet weft nat-outgoing4",
		"flush chain inet weft nat-forward",
		"flush set inet weft nat-from4",
		"delete element inet weft nat-pools4 { 10.9.0.0/16 }",
		"add element inet weft nat-pools4 { 172.31.9.0/24 }",
		"delete element inet weft nat-hosts6 { " + toHost6 + " }",
		"add element inet weft nat-from6 { fd31::/16 }",
		"insert rule inet weft nat-postrouting accept",
		"add rule inet weft nat-outgoing6 drop",
		"add chain inet weft nat-foreign",
		"add set inet weft nat-alien { type ipv4_addr ; }",
		"add table inet weft { flags dormant ; }",
	} {
		before := repaired.Load()
		testkit.Run(t, w.node, "nft", c)
		// The aim is 1 s, which e2e measures; more is left here for a machine that does much else.
		took := testkit.Eventually(t, 5*time.Second, "healed: "+c, func() bool { return repaired.Load() > before && state(t, w) == want })
		t.Logf("%s: healed within %v", c, took.Round(time.Millisecond))
		if got, err := seen(t, w.pod, "udp", "", toWorld); err != nil || got.Addr().String() != nodeAddr {
			t.Errorf("after %s the pod is seen as %v, %v", c, got, err)
		}
	}
	// What is not ours stays, and makes nobody work.
	before := repaired.Load()
	testkit.Run(t, w.node, "nft", "add chain inet weft other-chain; add rule inet weft other-chain accept; add table ip nat")
	time.Sleep(100 * time.Millisecond)
	if s := state(t, w); repaired.Load() != before || !strings.Contains(s, "other-chain") || !strings.Contains(s, "table ip nat") {
		t.Errorf("somebody else's chain: %d repairs\n%s", repaired.Load()-before, s)
	}
}

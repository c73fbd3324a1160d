package nftables

import (
	"context"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// prober sends, a thousand times a second, the first packet of a new connection from the first pod to the
// second one's port 99, and from it to the node, and counts what arrives.
type prober struct {
	x             *crossing
	sent, arrived atomic.Int64
	stop          chan struct{}
	wg            sync.WaitGroup
}

func probe(t *testing.T, x *crossing) *prober {
	t.Helper()
	p := &prober{x: x, stop: make(chan struct{})}
	stopped := func() bool {
		select {
		case <-p.stop:
			return true
		default:
			return false
		}
	}
	p.wg.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for !stopped() {
			<-tick.C
			n := p.sent.Load()
			pkt := &model.Packet{In: policytest.Device(0), Out: policytest.Device(1), Src: policytest.Local4(0), Dst: policytest.Local4(1),
				Protocol: model.TCP, SrcPort: uint16(1024 + n%60000), DstPort: 99}
			if n%2 == 1 {
				pkt.Src, pkt.Dst = policytest.Local6(0), policytest.Local6(1)
			}
			if _, err := x.send(pkt, model.MAC{2}); err != nil {
				t.Errorf("probe: %v", err)
				return
			}
			p.sent.Add(1)
		}
	})
	p.wg.Go(func() {
		for !stopped() {
			if err := x.receive(20*time.Millisecond, func(uint32) bool { p.arrived.Add(1); return stopped() }); err != nil {
				t.Errorf("probe: %v", err)
				return
			}
		}
	})
	t.Cleanup(p.end)
	return p
}

func (p *prober) end() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.wg.Wait()
}

// during runs f, waits for what is under way, and tells how many probes were sent and arrived meanwhile.
func (p *prober) during(f func()) (sent, arrived int64) {
	sent, arrived = p.sent.Load(), p.arrived.Load()
	f()
	time.Sleep(30 * time.Millisecond) // the last probe, on its way
	return p.sent.Load() - sent, p.arrived.Load() - arrived
}

// guarded is a world in which nobody gets to port 99.
func guarded(t *testing.T, seed uint64) (*policytest.World, *policy.Compiler) {
	t.Helper()
	w := policytest.New(seed, true)
	k := policy.NewCompiler(policytest.Self)
	first, err := model.OrderOf(math.Inf(-1))
	if err != nil {
		t.Fatal(err)
	}
	k.SetTier(&model.Tier{Name: "first", Order: first, DefaultAction: model.Pass})
	if err := k.SetPolicy(noPort99(model.Deny)); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		w.Step(k)
	}
	return w, k
}

func noPort99(a model.Action) *model.Policy {
	rule := []model.Rule{{Action: a, Protocol: model.TCP, Destination: model.EntityMatch{Ports: []model.Port{{Range: model.PortRange{First: 99, Last: 99}}}}}}
	return &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "no-99"}, Tier: "first", Selector: "all()", Ingress: rule, Egress: rule}
}

// TestNeverOpen changes a world many times, now and then by a new driver as after a restart, and now and
// then as a whole; pods come and go. No probe may arrive.
func TestNeverOpen(t *testing.T) {
	testkit.LeakCheck(t)
	x := newCrossing(t)
	d := newDriver(t, x.node)
	w, k := guarded(t, 7)
	apply(t, d, k.Flush())
	p := probe(t, x)
	changes, starts := testkit.Count(200), 0
	sent, arrived := p.during(func() {
		for i := range changes {
			for range 1 + w.IntN(4) {
				w.Step(k)
			}
			u := k.Flush()
			if i%10 == 9 {
				d.Close()
				d = New(x.node.Open(t), slog.New(slog.DiscardHandler))
				if err := d.Barrier(context.Background()); err != nil {
					t.Error(err)
				}
				starts++
			}
			if _, err := d.Apply(context.Background(), u); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Millisecond) // a few probes between changes
		}
	})
	defer func() { d.Close() }()
	if arrived != 0 || sent < int64(changes)*3 {
		t.Errorf("%d of %d probes arrived", arrived, sent)
	}
	t.Logf("%d of %d probes arrived during %d changes and %d starts", arrived, sent, changes, starts)
	// The control: when the policy allows it they do.
	for n := range 2 {
		if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: "probe" + string(rune('a'+n)), Interface: "eth0"}, Device: policytest.Device(n),
			MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: []netip.Addr{policytest.Local4(n), policytest.Local6(n)}}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			k.DeleteEndpoint(model.EndpointID{Namespace: "ns", Pod: "p" + string(rune('0'+i)), Interface: "eth0"})
		}
	}
	if err := k.SetPolicy(noPort99(model.Allow)); err != nil {
		t.Fatal(err)
	}
	apply(t, d, k.Flush())
	sent, arrived = p.during(func() { time.Sleep(100 * time.Millisecond) })
	if arrived == 0 {
		t.Errorf("control: none of %d probes arrived where they may", sent)
	}
	t.Logf("control: %d of %d arrive where they may", arrived, sent)
}

// TestSabotage has somebody else take the rules apart. They come back; what a chain's removal opens until
// then is counted, and all else opens nothing.
func TestSabotage(t *testing.T) {
	testkit.LeakCheck(t)
	x := newCrossing(t)
	d := newDriver(t, x.node)
	_, k := guarded(t, 7)
	for n := range 2 {
		if err := k.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: "p" + string(rune('0'+n)), Interface: "eth0"}, Device: policytest.Device(n),
			MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: []netip.Addr{policytest.Local4(n), policytest.Local6(n)}}); err != nil {
			t.Fatal(err)
		}
	}
	u := k.Flush()
	apply(t, d, u)
	want := ruleset(t, x.node)
	repaired := &testkit.Keep(t, x.node, d, func(ctx context.Context) (bool, error) {
		res, err := d.Apply(ctx, u)
		return res.Repaired > 0, err
	}).Changes
	rules := chainName(policy.PolicyChain(model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "no-99"}, model.Egress))
	p := probe(t, x)
	total := int64(0)
	for _, c := range []struct {
		command string
		opens   bool // nothing is left that could be closed
	}{
		{"flush table inet weft", false},
		{"flush chain inet weft policy-forward", false},
		{"flush chain inet weft policy-forward-to", false},
		{"flush map inet weft policy-egress", false},
		{"delete element inet weft policy-egress { " + policytest.Device(0) + " }", false},
		{"delete element inet weft policy-ingress { " + policytest.Device(1) + " }", false},
		{"flush set inet weft policy-pods", false},
		{"flush set inet weft policy-sources4", false},
		{"flush chain inet weft policy-source", false},
		{"flush chain inet weft " + rules, false}, // what comes in is denied too
		{"add chain inet weft policy-foreign", false},
		{"add rule inet weft policy-input drop", false},
		{"add chain inet weft policy-forward { policy accept ; }", false},
		{"flush chain inet weft policy-forward; delete chain inet weft policy-forward", false}, // the destination's is there
		{"insert rule inet weft " + rules + " accept", false},
		{"delete table inet weft", true},
		{"flush ruleset", true},
	} {
		before := repaired.Load()
		var took time.Duration
		sent, arrived := p.during(func() {
			testkit.Run(t, x.node, "nft", c.command)
			took = testkit.Eventually(t, 5*time.Second, "healed: "+c.command, func() bool { return repaired.Load() > before && state1(t, x.node) == want })
		})
		total += sent
		if arrived != 0 && !c.opens {
			t.Errorf("%s: %d of %d probes arrived", c.command, arrived, sent)
		}
		t.Logf("%s: healed and looked at within %v; %d of %d probes arrived", c.command, took.Round(time.Millisecond), arrived, sent)
	}
	if total < 100 {
		t.Errorf("%d probes only", total)
	}
	// What is not ours stays, and makes nobody work.
	before := repaired.Load()
	testkit.Run(t, x.node, "nft", "add chain inet weft other; add rule inet weft other accept; add table ip nat")
	time.Sleep(50 * time.Millisecond)
	if s := testkit.Run(t, x.node, "nft", "list", "ruleset"); repaired.Load() != before || !strings.Contains(s, "chain other") || !strings.Contains(s, "table ip nat") {
		t.Errorf("somebody else's chain: %d repairs\n%s", repaired.Load()-before, s)
	}
}

// state1 is ruleset while it may be gone.
func state1(t *testing.T, ns testkit.NS) string {
	t.Helper()
	if _, err := testkit.Try(t, ns, "nft", "list", "table", "inet", "weft"); err != nil {
		return err.Error()
	}
	return ruleset(t, ns)
}

package iptables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
	"weft/policy/policytest/wire"
)

// TestSabotage: whatever somebody does to our chains, hooks and sets is put right again by Watch.
func TestSabotage(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		ns := testkit.NewNetns(t)
		addOthers(t, ns, b)
		d := newDriver(t, ns, b)
		w := policytest.Full(4, true)
		u := fromScratch(compile(t, w.Snapshot))
		apply(t, d, u)
		want := sortedDump(t, ns, b)
		repairs := &testkit.Keep(t, ns, d, func(ctx context.Context) (bool, error) {
			res, err := d.Apply(ctx, u)
			if err != nil && ctx.Err() == nil {
				t.Errorf("repair: %v", err)
			}
			return res.Repaired > 0, err
		}).Changes
		four, six := map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b], map[Backend]string{NFT: "ip6tables-nft", Legacy: "ip6tables-legacy"}[b]
		set := firstSet(t, ns)
		sabotage := [][]string{
			{four, "-F", "FORWARD"}, {four, "-D", "INPUT", "-j", "weft-input"}, {four, "-I", "FORWARD", "-j", "ACCEPT"},
			{four, "-t", "raw", "-F"}, {four, "-F", "weft-to"}, {four, "-A", "weft-from", "-j", "ACCEPT"}, {four, "-I", "weft-fwd", "-j", "ACCEPT"},
			{four, "-I", "OUTPUT", "-j", "weft-output"}, {six, "-D", "weft-pod-to-host", "1"}, {six, "-t", "raw", "-D", "PREROUTING", "1"},
			{"ipset", "flush", set}, {"ipset", "flush"}, {four, "-N", "weft-strange"}, {"ipset", "create", "weft-strange", "hash:net"},
			{six, "-F"}, {four, "-P", "FORWARD", "ACCEPT"},
		}
		if b == NFT {
			sabotage = append(sabotage, []string{"nft", "flush", "ruleset"}, []string{"nft", "delete", "table", "ip6", "filter"})
		}
		worst := time.Duration(0)
		for _, s := range sabotage {
			before := repairs.Load()
			testkit.Run(t, ns, s...)
			if strings.Contains(strings.Join(s, " "), "-I FORWARD -j ACCEPT") {
				// Others' rules stay; ours comes before it.
				took := testkit.Eventually(t, 20*time.Second, "ours is first again", func() bool {
					return strings.Contains(testkit.Run(t, ns, four, "-S", "FORWARD"), "-A FORWARD -j weft-forward\n-A FORWARD -j ACCEPT")
				})
				worst = max(worst, took)
				testkit.Run(t, ns, four, "-D", "FORWARD", "-j", "ACCEPT")
				continue
			}
			took := testkit.Eventually(t, 20*time.Second, "repaired after "+strings.Join(s, " "), func() bool { return sortedDump(t, ns, b) == want })
			worst = max(worst, took)
			if s[1] != "-P" && repairs.Load() == before && !strings.Contains(s[len(s)-1], "strange") && s[len(s)-2] != "create" {
				testkit.Eventually(t, 5*time.Second, "counted as a repair: "+strings.Join(s, " "), func() bool { return repairs.Load() > before })
			}
		}
		// What rules refer to cannot be destroyed at all.
		if out, err := testkit.Try(t, ns, "ipset", "destroy", set); err == nil {
			t.Errorf("a set in use was destroyed: %s", out)
		}
		t.Logf("%s: %d of %d kinds of sabotage repaired, the slowest after %v (busy machine; sets and legacy tables are looked at every %v)", b, len(sabotage), len(sabotage), worst.Round(time.Millisecond), pollEvery)
	})
}

// firstSet is a set of ours with members.
func firstSet(t *testing.T, ns testkit.NS) string {
	t.Helper()
	for l := range strings.Lines(testkit.Run(t, ns, "ipset", "save")) {
		if w := strings.Fields(l); w[0] == "add" && strings.HasPrefix(w[1], prefix) {
			return w[1]
		}
	}
	t.Fatal("no set has members")
	return ""
}

// closed is a node whose pods may not be reached, and what tries to.
func closed(t *testing.T) (*policy.Compiler, *model.Packet) {
	t.Helper()
	s := town()
	for id, e := range s.Endpoints {
		e.Device = policytest.Device(int(e.MAC[5]))
		s.Endpoints[id] = e
	}
	web(s, model.Policy{Selector: "all()", Types: model.Types{Ingress: true}, Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(443)}}}})
	c := policy.NewCompiler("n1")
	if err := c.Replace(s); err != nil {
		t.Fatal(err)
	}
	return c, &model.Packet{In: policytest.Device(2), Out: policytest.Device(1), Src: netip.MustParseAddr("10.244.0.2"), Dst: netip.MustParseAddr("10.244.0.1"),
		Protocol: model.TCP, SrcPort: 1000, DstPort: 80}
}

// TestNoOpenMoment probes a closed port while policies come and go, the driver starts anew, and the
// backend changes.
func TestNoOpenMoment(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		c, probe := closed(t)
		u := c.Flush()
		apply(t, d, u)
		stop := rig.Probe(t, probe, model.MAC{2, 0, 0, 0, 0, 2})
		random := rand.New(rand.NewPCG(1, 2))
		changes, starts, switches := 0, 0, 0
		for n := range testkit.Count(30) {
			for range 3 {
				p := &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: fmt.Sprint("x", random.IntN(4))}, Selector: "all()", Types: model.Types{Ingress: true},
					Ingress: []model.Rule{{Action: model.Allow, Protocol: model.UDP, Source: model.EntityMatch{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(random.IntN(200))}), 8)}}}}}
				if random.IntN(3) == 0 {
					c.DeletePolicy(p.ID)
				} else if err := c.SetPolicy(p); err != nil {
					t.Fatal(err)
				}
				u = c.Flush()
				apply(t, d, u)
				changes++
			}
			if n%2 == 0 { // as after a kill: a new driver knows nothing
				d = newDriver(t, rig.Node, b)
				if err := d.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
				starts++
			}
			if n%3 == 0 && bothBackends() {
				d.SetBackend([]Backend{NFT, Legacy}[switches%2])
				switches++
			}
			apply(t, d, u)
		}
		sent, arrived := stop()
		t.Logf("%s: %d of %d probes of a closed port were answered, during %d policy changes, %d starts and %d changes of backend", b, arrived, sent, changes, starts, switches)
		if arrived > 0 || sent < 100 {
			t.Error("want 0 of at least 100")
		}
		if switches > 0 {
			last := []Backend{NFT, Legacy}[(switches-1)%2]
			d.SetBackend(last.other())
			apply(t, d, u)
			if left := dump(t, rig.Node, last, true); strings.Contains(left, "tables") {
				t.Errorf("left in %s after the change to %s:\n%s", last, last.other(), left)
			}
		}

		// The control: what removes our rules before it writes them is found.
		stop = rig.Probe(t, probe, model.MAC{2, 0, 0, 0, 0, 2})
		for range 5 {
			apply(t, d, policy.Update{})
			apply(t, d, u)
		}
		sent, arrived = stop()
		t.Logf("control: %d of %d answered", arrived, sent)
		if arrived == 0 {
			t.Error("the probe does not find an open moment")
		}
	})
}

func bothBackends() bool {
	for _, b := range []Backend{NFT, Legacy} {
		for _, program := range []string{"-restore", "-save"} {
			if _, err := exec.LookPath("iptables" + map[Backend]string{NFT: "-nft", Legacy: "-legacy"}[b] + program); err != nil {
				return false
			}
		}
	}
	return true
}

// TestBarrier: before a Program is known pods are cut off, in both directions and families; rules of an
// earlier process stay in force.
func TestBarrier(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		addOthers(t, rig.Node, b)
		testkit.Run(t, rig.Node, map[Backend]string{NFT: "iptables-nft", Legacy: "iptables-legacy"}[b], "-P", "FORWARD", "ACCEPT")
		c, denied := closed(t)
		u := c.Flush()
		allowed := *denied
		allowed.DstPort = 443
		six := allowed
		six.Src, six.Dst = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
		out, in := allowed, allowed
		out.Out, out.Dst = "eth0", netip.MustParseAddr("198.51.100.1")
		in.In, in.Src = "eth0", netip.MustParseAddr("198.51.100.1")
		around := model.Packet{In: "eth0", Out: "eth1", Src: in.Src, Dst: netip.MustParseAddr("198.51.100.9"), Protocol: model.UDP, SrcPort: 1, DstPort: 2}
		packets := []*model.Packet{&allowed, denied, &six, &out, &in, &around}

		d := newDriver(t, rig.Node, b)
		if err := d.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		tally, wrong := rig.Check(t, &policy.Program{}, packets)
		if len(wrong) > 0 || tally.Allowed != 1 {
			t.Fatalf("behind the barrier: %s %v; want only what is no pod's to pass", tally, wrong)
		}
		apply(t, d, u)
		if tally, wrong = rig.Check(t, u.Program, packets); len(wrong) > 0 || tally.Allowed != 5 {
			t.Fatalf("after Apply: %s %v", tally, wrong)
		}
		before := dump(t, rig.Node, b, true)
		for _, next := range []Backend{b, b.other()} { // another process, maybe with the other backend
			if next != b && !bothBackends() {
				continue
			}
			d = newDriver(t, rig.Node, next)
			if err := d.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := dump(t, rig.Node, b, true); after != before {
				t.Errorf("the barrier of a later process changed what is in force:\n%s", after)
			}
			if tally, wrong = rig.Check(t, u.Program, packets); len(wrong) > 0 {
				t.Errorf("after the barrier of a later process: %s %v", tally, wrong)
			}
		}
	})
}

package ipip

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/tunnel"
)

// bigPlan has n peers with a block each.
func bigPlan(t *testing.T, self *host, n int) tunnel.Plan {
	t.Helper()
	v := &topology.View{Self: self.name, Tunnels: []topology.Tunnel{{
		Driver: tunnel.IPIP, Device: kernel.IPIPDevice, Family: model.IPv4, Local: self.addr, Parent: "eth0",
		Addresses: []netip.Addr{self.tunnelIP()}, MTU: 1480,
	}}}
	for i := range n {
		v.Peers = append(v.Peers, topology.Peer{Node: model.NodeName(fmt.Sprintf("node-%05d", i)),
			Address:  netip.AddrFrom4([4]byte{172, 20, byte(i / 250), byte(i%250 + 1)}),
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 1024), byte(i / 4), byte(i % 4 * 64)}), 26)}})
	}
	p, err := tunnel.Compile(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestFiveThousandPeers(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		n1 := cluster(t, w)[0]
		const n = 5000
		do := func(d *Driver, p tunnel.Plan) func() (any, error) {
			return func() (any, error) { return d.Apply(context.Background(), p) }
		}
		full, more := bigPlan(t, n1, n), bigPlan(t, n1, n+1)
		for _, p := range []*tunnel.Plan{&full, &more} { // reached through the underlay
			for i := range p.Sources {
				a := p.Sources[i].Outer.As4()
				p.Sources[i].Outer = netip.AddrFrom4([4]byte{172, 31, a[2], a[3]})
			}
			slices.SortFunc(p.Sources, tunnel.CompareSources)
		}
		testkit.Run(t, n1.NS, "ip", "route", "add", "172.31.0.0/16", "dev", "eth0")
		testkit.Within(t, "5000 peers from empty", time.Second, do(n1.driver, full))
		if w.Way == EBPF {
			s := programState(t, n1)
			if targets, sources := strings.Count(s, "target "), strings.Count(s, "source "); targets != n || sources != n {
				t.Errorf("%d targets and %d sources, want %d", targets, sources, n)
			}
		}
		testkit.Within(t, "the same again", 100*time.Millisecond, do(n1.driver, full))
		testkit.Within(t, "one more", 100*time.Millisecond, do(n1.driver, more))
		testkit.Within(t, "one less", 100*time.Millisecond, do(n1.driver, full))
		if w.Way == EBPF {
			if ok, err := n1.driver.bpf.mapsHold(context.Background()); !ok || err != nil { // and compiles what they should hold
				t.Errorf("the maps hold something else, %v", err)
			}
			cost, err := kernel.Cost(func() error { _, err := n1.driver.bpf.mapsHold(context.Background()); return err })
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("a look at the maps costs %v of a processor, so it is taken every %v", cost.Round(10*time.Microsecond), max(lookInterval, lookShare*cost).Round(100*time.Millisecond))
			const looks = 200
			before := testkit.ProcessorTime()
			for range looks {
				if ok, err := n1.driver.bpf.quickLook(context.Background()); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			each := (testkit.ProcessorTime() - before) / looks
			t.Logf("a quick look costs %v (mean of %d), %.3f %% of a processor", each, looks, 100*float64(each)/float64(lookInterval))
		}
		again := w.driver(n1.h)
		defer again.Close()
		testkit.Within(t, "a new process takes over", time.Second, do(again, full))
		testkit.Run(t, n1.NS, "ip", "link", "del", kernel.IPIPDevice)
		again.Observe(kernel.Event{Kind: kernel.EventLost})
		testkit.Within(t, "device deleted, all anew", time.Second, do(again, full))
		testkit.Within(t, "none", time.Second, do(again, tunnel.Plan{}))
	})
}

var rounds = flag.Int("rounds", 8, "rounds of TestThroughput")

// TestThroughput compares the tunnel, with 5,000 more peers in its maps, with plain routes between
// the same namespaces. It fails when all of the range is below what was measured on an idle machine.
func TestThroughput(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 25 seconds")
	}
	testkit.Require(t, testkit.Iperf3)
	require(t, EBPF)
	testkit.LeakCheck(t)
	hosts := cluster(t, way{EBPF, false}, way{EBPF, false})
	a, b := hosts[0], hosts[1]
	for _, h := range hosts {
		p := plan(t, h, hosts)
		p.Sources = append(p.Sources, bigPlan(t, h, 5000).Sources...)
		apply(t, h, p)
	}
	// A table that sleeps has no hooks: as if it were not there, and it is back in a moment.
	way := func(name, device, table string) testkit.Way {
		return testkit.Way{Name: name, Ready: func() {
			for _, h := range []*host{a, b} {
				testkit.Run(t, h.NS, "nft", "add table inet weft { "+table+" }")
				h.routes(t, hosts, device)
			}
		}}
	}
	s := testkit.CompareStreams(t, a.pod, b.pod, b.podIP, *rounds,
		way("plain", "eth0", "flags dormant;"),
		way("ours", kernel.IPIPDevice, ""),
		way("ours, no nft", kernel.IPIPDevice, "flags dormant;"))
	s.Ratio(t, "ours, no nft", "plain")
	if r := s.Ratio(t, "ours", "plain"); r.High < 0.85 {
		t.Errorf("ours carries %.3f of plain routes (at most %.3f), want at least 0.85", r.Median, r.High)
	}
	if d, err := b.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
		t.Errorf("dropped %+v, %v", d, err)
	}
}

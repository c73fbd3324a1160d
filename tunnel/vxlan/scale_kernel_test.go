package vxlan

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/byhand"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/tunnel"
	"weft/tunnel/guard"
)

// bigPlan has n peers with a block each.
func bigPlan(t *testing.T, self *host, n int) tunnel.Plan {
	t.Helper()
	v := &topology.View{Self: self.name, Tunnels: []topology.Tunnel{{
		Driver: tunnel.VXLAN, Device: kernel.VXLANDevice, Family: model.IPv4, Local: self.addr, Parent: "eth0",
		Addresses: []netip.Addr{self.vtep()}, MTU: 1450, VNI: 4096, Port: 4789,
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
	testkit.LeakCheck(t)
	n1 := cluster(t, 1)[0]
	const n = 5000
	do := func(d *Driver, p tunnel.Plan) func() (any, error) {
		return func() (any, error) { return d.Apply(context.Background(), p) }
	}
	full, more := bigPlan(t, n1, n), bigPlan(t, n1, n+1)
	testkit.Within(t, "5000 peers from empty", time.Second, do(n1.driver, full))
	counts := []struct {
		what string
		have int
	}{
		{"neighbours", strings.Count(testkit.Neighbours(t, n1.NS, kernel.VXLANDevice), "\n")},
		{"FDB entries", strings.Count(testkit.FDB(t, n1.NS, kernel.VXLANDevice), "\n")},
		{"guard elements", strings.Count(testkit.Run(t, n1.NS, "nft", "list", "set", "inet", "weft", "tunnel-vxlan-ip4-in-ip4-26"), "172.20.")},
	}
	for _, c := range counts {
		if c.have != n {
			t.Errorf("%d %s, want %d", c.have, c.what, n)
		}
	}
	testkit.Within(t, "the same again", 100*time.Millisecond, do(n1.driver, full))
	testkit.Within(t, "one more", 100*time.Millisecond, do(n1.driver, more))
	testkit.Within(t, "one less", 100*time.Millisecond, do(n1.driver, full))
	again := New(n1.h, n1.driver.log)
	defer again.Close()
	testkit.Within(t, "a new process takes over", time.Second, do(again, full))
	testkit.Run(t, n1.NS, "ip", "link", "del", kernel.VXLANDevice)
	again.Observe(kernel.Event{Kind: kernel.EventLost})
	testkit.Within(t, "device deleted, all anew", time.Second, do(again, full))
	testkit.Run(t, n1.NS, "nft", "flush", "ruleset")
	again.guard.Invalidate()
	testkit.Within(t, "ruleset flushed, guard anew", time.Second, do(again, full))
	testkit.Within(t, "none", time.Second, do(again, tunnel.Plan{}))
}

var rounds = flag.Int("rounds", 12, "rounds of TestThroughput")

// TestThroughput compares our device, with 5,000 more peers in its guard, with one that a person
// makes with ip(8) between the same namespaces, and with ours without the guard. The one made by hand runs
// twice a round: when even that differs from itself, the machine is too busy to tell anything.
// Otherwise the test fails when the range lies below 0.90: pairs of devices that are made alike differ from each other
// by up to 0.05, each run anew.
func TestThroughput(t *testing.T) {
	if testing.Short() || testkit.Emulated() {
		t.Skip("takes 40 seconds, and a processor of its own")
	}
	testkit.Require(t, testkit.Iperf3)
	testkit.LeakCheck(t)
	hosts := cluster(t, 2)
	join(t, hosts)
	a, b := hosts[0], hosts[1]
	for i, h := range hosts {
		byHand(t, h, hosts[1-i])
		p := plan(t, h, hosts)
		p.Sources = append(p.Sources, bigPlan(t, h, 5000).Sources...)
		apply(t, h, p)
	}
	// A table that sleeps has no hooks: as if it were not there, and it is back in a moment.
	guarded := func(flags string) {
		for _, h := range hosts {
			testkit.Run(t, h.NS, "nft", "add table inet weft { "+flags+" }")
		}
	}
	way := func(name, device, table string) testkit.Way {
		return testkit.Way{Name: name, Ready: func() {
			guarded(table)
			a.routes(t, hosts, device)
			b.routes(t, hosts, device)
		}}
	}
	const ours, open, hand, again = "ours", "ours, no guard", "by hand", "by hand again"
	s := testkit.CompareStreams(t, a.pod, b.pod, b.podIP, *rounds,
		way(hand, "hand0", "flags dormant;"),
		way(ours, kernel.VXLANDevice, ""),
		way(open, kernel.VXLANDevice, "flags dormant;"),
		way(again, "hand0", "flags dormant;"))
	for _, h := range hosts {
		if d, err := h.driver.Dropped(context.Background()); err != nil || d != (guard.Dropped{}) {
			t.Errorf("%s dropped %v, %v", h.name, d, err)
		}
	}
	s.Ratio(t, ours, open)
	s.Ratio(t, open, hand)
	self := s.Ratio(t, hand, again)
	switch most := s.Ratio(t, ours, hand).High; {
	case self.Low > 1 || self.High < 1:
		t.Log("the same device differs from itself: too busy a machine to tell anything")
	case most < 0.90:
		t.Errorf("ours carries at most %.3f of a device made by hand, want at least 0.90", most)
	}
}

// byHand makes a VXLAN device beside ours as a person would.
func byHand(t *testing.T, h, other *host) {
	t.Helper()
	mac := func(h *host) string { return "02:00:00:00:00:0" + fmt.Sprint(h.addr.As4()[3]) }
	v := byhand.VXLAN{Device: "hand0", Parent: "eth0", VNI: 77, Port: 8472, MTU: 1450, MAC: mac(h), Address: h.vtep(), Local: h.addr,
		Peer: other.addr, PeerOuter: other.addr, PeerMAC: mac(other)}
	for _, c := range v.Commands() {
		testkit.Run(t, h.NS, strings.Fields(c)...)
	}
}

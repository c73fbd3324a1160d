package vxlan

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/tunnel"
)

// TestIPv6Underlay has two nodes with IPv6 only, and an outsider.
func TestIPv6Underlay(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.Bridge, testkit.NFTables, testkit.IPRoute2, testkit.IPv6)
	testkit.LeakCheck(t)
	under := testkit.NewNetns(t)
	if err := under.Open(t).AddBridge("br0", 1500); err != nil {
		t.Fatal(err)
	}
	addr := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00::%d", i)) }
	block := func(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf("fd00:10::%d00/122", i)) }
	node := func(i int) model.NodeName { return model.NodeName(fmt.Sprintf("n%d", i)) }
	var hosts []*host
	var drivers []*Driver
	for i := 1; i <= 2; i++ {
		h, other := attach(t, under, i), 3-i
		h.AddAddress(t, "eth0", addr(i).String()+"/64")
		d := New(h.Open(t), slog.New(slog.DiscardHandler))
		t.Cleanup(d.Close)
		p, err := tunnel.Compile(&topology.View{Self: node(i),
			Tunnels: []topology.Tunnel{{Driver: tunnel.VXLAN, Device: kernel.VXLANDevice, Family: model.IPv6, Local: addr(i),
				Parent: "eth0", Addresses: []netip.Addr{block(i).Addr()}, MTU: 1430, VNI: 4096, Port: 4789}},
			Peers: []topology.Peer{{Node: node(other), Address: addr(other), Prefixes: []netip.Prefix{block(other)}}}})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := d.Apply(context.Background(), p); err != nil {
				t.Fatal(err)
			}
		}
		d.Invalidate()
		if res, err := d.Apply(context.Background(), p); err != nil || res.Added+res.Removed > 1 {
			t.Errorf("reading all again: %v, %v", res, err)
		}
		testkit.Run(t, h.NS, "ip", "-6", "route", "add", block(other).String(), "via", topology.TunnelNextHop(addr(other)).String(),
			"dev", kernel.VXLANDevice, "onlink", "src", block(i).Addr().String())
		hosts, drivers = append(hosts, h), append(drivers, d)
	}
	ping := func() (string, error) {
		return testkit.Try(t, hosts[0].NS, "ping", "-6", "-n", "-c", "5", "-i", "0.01", "-W", "1", "-I", block(1).Addr().String(), block(2).Addr().String())
	}
	if out, err := ping(); err != nil {
		t.Errorf("no ping through the tunnel: %v\n%s\n%s\n%s", err, out, testkit.Run(t, hosts[0].NS, "ip", "-6", "neigh"), testkit.Run(t, hosts[1].NS, "nft", "list", "ruleset"))
	}
	if d, err := drivers[1].Dropped(context.Background()); err != nil || d.Unknown != 0 {
		t.Errorf("the guard refused %d packets of a known node, %v", d.Unknown, err)
	}
	// n2 no longer allows n1's block: what came through must not any more.
	set := "tunnel-vxlan-ip6-in-ip6-122"
	testkit.Run(t, hosts[1].NS, "nft", "flush", "set", "inet", "weft", set)
	if out, err := ping(); err == nil {
		t.Errorf("ping goes through although the guard allows nothing:\n%s", out)
	}
	if d, err := drivers[1].Dropped(context.Background()); err != nil || d.Unknown != 5 {
		t.Errorf("the guard counted %d of 5 refused packets, %v", d.Unknown, err)
	}
	if l := testkit.Run(t, hosts[0].NS, "ip", "-6", "addr", "show", "dev", kernel.VXLANDevice); strings.Contains(l, "fe80") {
		t.Errorf("the device has an address of the kernel's making:\n%s", l)
	}
}

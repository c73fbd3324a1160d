package guard

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wired returns a node and a peer of it, with 172.31.1.1 and .2, and a pod of the peer's, 10.244.2.5.
func wired(t *testing.T) (node, peer, pod testkit.NS) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.NFTables, testkit.IPRoute2)
	node, peer, pod = testkit.NewNetns(t), testkit.NewNetns(t), testkit.NewNetns(t)
	testkit.Wire(t, node, "eth0", peer, "eth0")
	node.AddAddress(t, "eth0", "172.31.1.1/24")
	peer.AddAddress(t, "eth0", "172.31.1.2/24")
	peer.AddAddress(t, "eth0", "172.31.1.3/24") // an outsider's
	testkit.Wire(t, peer, "weft00000000001", pod, "eth0")
	peer.AddAddress(t, "weft00000000001", "10.244.2.1/24")
	pod.AddAddress(t, "eth0", "10.244.2.5/24")
	testkit.Run(t, pod, "ip", "route", "add", "default", "via", "10.244.2.1")
	testkit.Run(t, node, "ip", "route", "add", "10.244.2.0/24", "via", "172.31.1.2")
	if err := kernel.SetSysctlAt(peer.Path, "net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	return node, peer, pod
}

func made(t *testing.T, ns testkit.NS, name string) *Guard {
	t.Helper()
	g := New(ns.Open(t), name)
	t.Cleanup(g.Close)
	return g
}

func apply(t *testing.T, g *Guard, endpoints []Endpoint, sources []tunnel.Source) {
	t.Helper()
	if _, err := g.Apply(context.Background(), endpoints, sources); err != nil {
		t.Fatal(err)
	}
}

// ipip sends n packets of IP protocol 4 with this inner source, of the size given.
func ipip(t *testing.T, ns testkit.NS, from, to, inner string, size, n int) {
	t.Helper()
	b := make([]byte, max(size, 20))
	b[0], b[9] = 0x45, unix.IPPROTO_UDP
	copy(b[12:], netip.MustParseAddr(inner).AsSlice())
	copy(b[16:], netip.MustParseAddr("10.244.1.5").AsSlice())
	b = b[:size]
	ns.Do(t, func() error {
		c, err := net.DialIP("ip4:4", &net.IPAddr{IP: net.ParseIP(from)}, &net.IPAddr{IP: net.ParseIP(to)})
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			// Refusals by the host's own guard or by the far end come back as errors: no failure here.
			_, _ = c.Write(b)
		}
		return nil
	})
}

// TestIPIP judges packets of IP protocol 4 by what the guard lets through to a counter behind it.
func TestIPIP(t *testing.T) {
	testkit.LeakCheck(t)
	node, peer, pod := wired(t)
	sources := []tunnel.Source{source("172.31.1.2", "10.244.2.0/26"), source("172.31.1.2", "10.244.7.7/32")}
	g, atPeer := made(t, node, tunnel.IPIP), made(t, peer, tunnel.IPIP)
	apply(t, g, []Endpoint{IPIP()}, sources)
	apply(t, atPeer, []Endpoint{IPIP()}, nil)
	testkit.Run(t, node, "nft", "add table inet after; add chain inet after input { type filter hook input priority 0 ; }; "+
		"add rule inet after input meta l4proto 4 counter")
	passed := func() uint64 { return packets(t, node, "after") }
	const n = 100
	for _, c := range []struct {
		name          string
		from          testkit.NS
		outer, to     string
		inner         string
		size          int
		pass, unknown uint64
		pods          uint64 // at the pod's node
	}{
		{"a known node with its pod", peer, "172.31.1.2", "172.31.1.1", "10.244.2.5", 100, n, 0, 0},
		{"a known node with a borrowed address", peer, "172.31.1.2", "172.31.1.1", "10.244.7.7", 100, n, 0, 0},
		{"in fragments", peer, "172.31.1.2", "172.31.1.1", "10.244.2.5", 2500, n, 0, 0},
		{"a known node with another's pod", peer, "172.31.1.2", "172.31.1.1", "10.244.3.5", 100, 0, n, 0},
		{"the address after its block", peer, "172.31.1.2", "172.31.1.1", "10.244.2.64", 100, 0, n, 0},
		{"the same in fragments", peer, "172.31.1.2", "172.31.1.1", "10.244.3.5", 2500, 0, n, 0},
		{"an outsider with a known node's pod", peer, "172.31.1.3", "172.31.1.1", "10.244.2.5", 100, 0, n, 0},
		{"nothing but a header", peer, "172.31.1.2", "172.31.1.1", "10.244.2.5", 20, n, 0, 0},
		{"cut short in the inner source", peer, "172.31.1.2", "172.31.1.1", "10.244.2.5", 14, 0, n, 0},
		{"a pod to another node", pod, "10.244.2.5", "172.31.1.1", "10.244.2.5", 100, 0, 0, n},
		{"a pod to its own node", pod, "10.244.2.5", "172.31.1.2", "10.244.2.5", 100, 0, 0, n},
	} {
		before, beforePods, was := dropped(t, g), dropped(t, atPeer), passed()
		ipip(t, c.from, c.outer, c.to, c.inner, c.size, n)
		pass, unknown, pods := passed()-was, dropped(t, g).Unknown-before.Unknown, dropped(t, atPeer).FromPods-beforePods.FromPods
		if pass != c.pass || unknown != c.unknown || pods != c.pods {
			t.Errorf("%s: of %d packets %d passed, %d were unknown, %d refused as a pod's; want %d, %d, %d", c.name, n, pass, unknown, pods, c.pass, c.unknown, c.pods)
		}
	}
	// The control: all of them pass without a guard.
	apply(t, g, nil, nil)
	apply(t, atPeer, nil, nil)
	was := passed()
	ipip(t, peer, "172.31.1.3", "172.31.1.1", "10.244.3.5", 100, n)
	ipip(t, pod, "10.244.2.5", "172.31.1.1", "10.244.2.5", 100, n)
	if got := passed() - was; got != 2*n {
		t.Errorf("control: %d of %d packets passed without a guard", got, 2*n)
	}
}

// packets reads the one counter of a table.
func packets(t *testing.T, ns testkit.NS, table string) uint64 {
	t.Helper()
	f := strings.Fields(testkit.Run(t, ns, "nft", "list", "table", "inet", table))
	for i, w := range f {
		if w == "packets" {
			var n uint64
			for _, c := range f[i+1] {
				n = n*10 + uint64(c-'0')
			}
			return n
		}
	}
	t.Fatalf("no counter in %v", f)
	return 0
}

func dropped(t *testing.T, g *Guard) Dropped {
	t.Helper()
	d, err := g.Dropped(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSideBySide has the guards of two drivers in one table, and what the guard was called before there
// were two.
func TestSideBySide(t *testing.T) {
	node, _, _ := wired(t)
	testkit.Run(t, node, "nft", "add table inet weft; add chain inet weft tunnel-peers; add counter inet weft tunnel-unknown; add counter inet weft tunnel-from-pods; "+
		"add set inet weft tunnel-ip4-in-ip4-26 { type ipv4_addr . ipv4_addr ; }; "+
		"add chain inet weft tunnel-input { type filter hook input priority -300 ; }; add chain inet weft tunnel-forward { type filter hook forward priority -300 ; }; "+
		"add rule inet weft tunnel-peers ip saddr . ip daddr @tunnel-ip4-in-ip4-26 accept; add rule inet weft tunnel-peers counter name tunnel-unknown drop; "+
		"add rule inet weft tunnel-input udp dport 4789 jump tunnel-peers; add rule inet weft tunnel-forward udp dport 4789 counter name tunnel-from-pods drop")
	v, i := made(t, node, tunnel.VXLAN), made(t, node, tunnel.IPIP)
	sources := []tunnel.Source{source("172.31.1.2", "10.244.2.0/26")}
	list := func() string { return testkit.Run(t, node, "nft", "list", "ruleset") }
	apply(t, i, []Endpoint{IPIP()}, sources)
	if got := list(); !strings.Contains(got, "chain tunnel-peers") || !strings.Contains(got, "chain tunnel-ipip-input") {
		t.Errorf("the guard of IPIP is missing, or it touched what was VXLAN's:\n%s", got)
	}
	apply(t, v, []Endpoint{VXLAN(4789, 4096)}, sources)
	got := list()
	for _, old := range []string{"tunnel-peers", "tunnel-input", "tunnel-forward", "tunnel-unknown", "tunnel-from-pods", "tunnel-ip4"} {
		if strings.Contains(got, old) {
			t.Errorf("%s is still there after the upgrade:\n%s", old, got)
		}
	}
	ofIPIP := testkit.Run(t, node, "nft", "list", "chain", "inet", "weft", "tunnel-ipip-input")
	apply(t, v, []Endpoint{VXLAN(4789, 4096), VXLAN(8472, 7)}, sources)
	apply(t, v, nil, nil)
	if got := testkit.Run(t, node, "nft", "list", "chain", "inet", "weft", "tunnel-ipip-input"); got != ofIPIP {
		t.Errorf("changing one guard changed the other:\n%s", got)
	}
	apply(t, i, nil, nil)
	if got := list(); got != "" {
		t.Errorf("both gone, and there is\n%s", got)
	}
	if _, err := i.Apply(context.Background(), []Endpoint{IPIP(), VXLAN(1, 1)}, nil); err == nil || list() != "" {
		t.Errorf("endpoints of two protocols: got %v and\n%s", err, list())
	}
}

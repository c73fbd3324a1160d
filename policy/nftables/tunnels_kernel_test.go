package nftables

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

const (
	tunnelPort          = 4789
	ownOf4, peerOf4     = "172.31.1.11", "172.31.1.12"
	ownOf6, peerOf6     = "fd00:31:1::11", "fd00:31:1::12"
	strangerOf4, onward = "172.31.1.13", "172.31.2.1"
)

// carrying is a node with a peer, and what it knows of tunnels.
type carrying struct {
	node, peer testkit.NS
	driver     *Driver
	compiler   *policy.Compiler
}

func newCarrying(t *testing.T) *carrying {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.NFTables, testkit.IPRoute2)
	c := &carrying{node: testkit.NewNetns(t), peer: testkit.NewNetns(t), compiler: policy.NewCompiler("n1")}
	testkit.Wire(t, c.node, "eth0", c.peer, "eth0")
	for _, a := range []string{ownOf4 + "/24", ownOf6 + "/64", "172.31.1.10/24"} {
		c.node.AddAddress(t, "eth0", a)
	}
	for _, a := range []string{peerOf4 + "/24", peerOf6 + "/64", strangerOf4 + "/24"} {
		c.peer.AddAddress(t, "eth0", a)
	}
	if err := kernel.SetSysctlAt(c.node.Path, "net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, c.node, "ip", "route", "add", onward+"/32", "via", peerOf4)
	testkit.Run(t, c.peer, "ip", "route", "add", onward+"/32", "via", ownOf4)
	c.driver = newDriver(t, c.node)
	c.compiler.SetLinks([]model.Link{{Name: "eth0"}})
	return c
}

// knows applies what the node knows; of own addresses none when tunnels are to be tracked.
func (c *carrying) knows(t *testing.T, own ...netip.Addr) {
	t.Helper()
	o := model.Overlay{Peers: []netip.Addr{netip.MustParseAddr(peerOf4), netip.MustParseAddr(peerOf6)}, Local: own}
	for _, f := range families {
		o.Carriers = append(o.Carriers, model.Carrier{Family: f, Protocol: model.UDP, Port: tunnelPort})
	}
	c.compiler.SetOverlay(o)
	apply(t, c.driver, c.compiler.Flush())
}

// sends has n flows of one packet each go from one address to another.
func sends(t *testing.T, ns testkit.NS, from, to string, port, n int) {
	t.Helper()
	ns.Do(t, func() error {
		for i := range n {
			conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from), Port: 20000 + i}, &net.UDPAddr{IP: net.ParseIP(to), Port: port})
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("x")) // an answer that nobody is there is no failure
			conn.Close()
		}
		return nil
	})
}

// tracked counts the node's entries of connections from one address to another.
func (c *carrying) tracked(t *testing.T, from, to string, port int) int {
	t.Helper()
	n := 0
	c.node.Do(t, func() error {
		list, err := os.ReadFile("/proc/thread-self/net/nf_conntrack")
		for l := range strings.Lines(string(list)) {
			f := strings.Fields(l)
			src, dst, toPort := "", "", ""
			for i := len(f) - 1; i >= 0; i-- { // the first of each is the original direction's
				switch k, v, _ := strings.Cut(f[i], "="); k {
				case "src":
					src = v
				case "dst":
					dst = v
				case "dport":
					toPort = v
				}
			}
			same := func(a, b string) bool { x, err := netip.ParseAddr(a); return err == nil && x == netip.MustParseAddr(b) }
			if same(src, from) && same(dst, to) && toPort == fmt.Sprint(port) {
				n++
			}
		}
		return err
	})
	return n
}

// TestTunnelsAreNotTracked counts connections: of tunnels between the node's own address and a peer's there is
// none, of everything else as many as there are flows.
func TestTunnelsAreNotTracked(t *testing.T) {
	testkit.LeakCheck(t)
	c := newCarrying(t)
	own := []netip.Addr{netip.MustParseAddr(ownOf4), netip.MustParseAddr(ownOf6)}
	const n = 50
	count := func(tunnels int, what string) {
		t.Helper()
		for _, f := range []struct {
			name     string
			ns       testkit.NS
			from, to string
			port     int
			want     int
		}{
			{"sent by IPv4", c.node, ownOf4, peerOf4, tunnelPort, tunnels},
			{"received by IPv4", c.peer, peerOf4, ownOf4, tunnelPort, tunnels},
			{"sent by IPv6", c.node, ownOf6, peerOf6, tunnelPort, tunnels},
			{"received by IPv6", c.peer, peerOf6, ownOf6, tunnelPort, tunnels},
			{"another port", c.peer, peerOf4, ownOf4, 53, n},
			{"another port, sent", c.node, ownOf4, peerOf4, 53, n},
			{"from who is no node", c.peer, strangerOf4, ownOf4, tunnelPort, n},
			{"to who is no node", c.node, ownOf4, strangerOf4, tunnelPort, n},
			{"to another address of this node", c.peer, peerOf4, "172.31.1.10", tunnelPort, n},
			{"on to elsewhere", c.peer, peerOf4, onward, tunnelPort, n},
		} {
			sends(t, f.ns, f.from, f.to, f.port, n)
			if got := c.tracked(t, f.from, f.to, f.port); got != f.want {
				t.Errorf("%s: %s: %d of %d flows are tracked, want %d", what, f.name, got, n, f.want)
			}
		}
	}
	c.knows(t, own...)
	count(0, "not tracked")
	c.knows(t) // the control
	count(n, "tracked")
}

// TestRoutersAnswerTunnels has a host endpoint that lets nothing in, and a pre-DNAT policy that denies ICMP. What routers say of a tunnel's packets, which
// no connection is related to, gets in all the same; what else looks like it does not, and nothing where tunnels
// are tracked.
func TestRoutersAnswerTunnels(t *testing.T) {
	testkit.LeakCheck(t)
	c := newCarrying(t)
	if err := c.compiler.SetHostEndpoint(&model.HostEndpoint{Name: "uplink", Node: "n1", Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if err := c.compiler.SetPolicy(&model.Policy{ID: model.PolicyID{Name: "no-icmp"}, Selector: "all()", PreDNAT: true, ApplyOnForward: true,
		Ingress: []model.Rule{{Action: model.Deny, Protocol: model.ICMP}}}); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, c.node, "nft", "add table inet after; add chain inet after input { type filter hook input priority 100 ; }; "+
		"add rule inet after input meta l4proto { icmp, icmpv6 } counter")
	passed := func() (n int) {
		f := strings.Fields(testkit.Run(t, c.node, "nft", "list", "table", "inet", "after"))
		_, _ = fmt.Sscan(f[slices.Index(f, "packets")+1], &n)
		return n
	}
	const udp, n = 17, 20
	own, peer, other := netip.MustParseAddr(ownOf4), netip.MustParseAddr(peerOf4), netip.MustParseAddr(strangerOf4)
	tunnels := model.Packet{Src: own, Dst: peer, Protocol: udp, SrcPort: 33333, DstPort: tunnelPort}
	for _, tc := range []struct {
		name       string
		kind, code byte
		about      model.Packet
		want       int
	}{
		{"too big", 3, 4, tunnels, n},
		{"port unreachable", 3, 3, tunnels, n},
		{"about another port", 3, 4, model.Packet{Src: own, Dst: peer, Protocol: udp, SrcPort: 33333, DstPort: 53}, 0},
		{"about who is no node", 3, 4, model.Packet{Src: own, Dst: other, Protocol: udp, SrcPort: 33333, DstPort: tunnelPort}, 0},
		{"about another's packet", 3, 4, model.Packet{Src: other, Dst: peer, Protocol: udp, SrcPort: 33333, DstPort: tunnelPort}, 0},
		{"about TCP", 3, 4, model.Packet{Src: own, Dst: peer, Protocol: model.TCP, SrcPort: 33333, DstPort: tunnelPort}, 0},
		{"a ping that looks like it", 8, 0, tunnels, 0},
	} {
		c.knows(t, own)
		was := passed()
		answer(t, c.peer, peer, own, tc.kind, tc.code, &tc.about, n)
		if got := passed() - was; got != tc.want {
			t.Errorf("%s: %d of %d passed, want %d", tc.name, got, n, tc.want)
		}
	}
	c.knows(t)
	was := passed()
	answer(t, c.peer, peer, own, 3, 4, &tunnels, n)
	if got := passed() - was; got != 0 {
		t.Errorf("where tunnels are tracked, %d of %d passed that are of no connection", got, n)
	}
}

// answer sends ICMP about a packet.
func answer(t *testing.T, ns testkit.NS, from, to netip.Addr, kind, code byte, about *model.Packet, n int) {
	t.Helper()
	b := append([]byte{kind, code, 0, 0, 0, 0, 0x05, 0}, ipPacket(about, 0, 7)...)
	s := ^sum(b)
	b[2], b[3] = byte(s>>8), byte(s)
	ns.Do(t, func() error {
		conn, err := net.DialIP("ip4:icmp", &net.IPAddr{IP: from.AsSlice()}, &net.IPAddr{IP: to.AsSlice()})
		if err != nil {
			return err
		}
		defer conn.Close()
		for range n {
			if _, err := conn.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
}

package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/internal/traffic"
	"weft/node/status"
)

// The addresses of the router between the racks.
const reflector4, reflector6 = "172.31.1.254", "fd00:31:1::fffe"

// TestBGPReflectors: pods of both families talk all the time, whatever the pools' encapsulation, while the mesh gives
// way to BIRD as route reflector, that to a node with routeReflectorClusterID, and that to the mesh. What BIRD reflects
// or makes up about the blocks of nodes is not believed, and the kernel's routes to them are the store's.
func TestBGPReflectors(t *testing.T) {
	c := bgpCluster(t, "e2ebgprr")
	c.dualPods(vxlanAlways)
	bird := router.StartBird(t, testkit.NS{Name: c.lab.Netns("router"), Path: c.nodeNetns("router").Path}, reflectorOf(c))
	c.birdFor("")
	c.sessions(18)
	c.blocksAt(bird, "n1", "n2", "n3")
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	for _, m := range []poolMode{vxlanAlways, ipipAlways, noneMode} {
		t.Run(m.String(), func(t *testing.T) {
			c := c.in(t)
			c.dual(m)
			c.settle(m, labNodes, nil)
			r := c.loadEvery(hosts, 5*time.Millisecond)

			c.bgpConfig("nodeToNodeMeshEnabled: false")
			c.sessions(6)
			c.disbelieves(m)
			c.reflects("n1", "244.0.0.1")
			c.apply("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: to-reflector}, spec: {peerSelector: has(reflector)}}\n")
			c.sessions(14)
			for _, n := range []string{"n2", "n3"} {
				testkit.Eventually(t, 20*time.Second, "n1 reflects the block of "+n+" to BIRD", func() bool {
					return strings.Contains(bird.Ask(t, "show route protocol n1 "+netip.PrefixFrom(c.addrs[n], 26).Masked().String()), c.nodeAddresses(n)[0].String()) &&
						strings.Contains(bird.Ask(t, "show route protocol n1x6 "+netip.PrefixFrom(c.every[n][1], 122).Masked().String()), "via")
				})
			}
			c.birdFor("n1")
			c.sessions(10)
			c.knows("n3", netip.PrefixFrom(c.addrs["n2"], 26).Masked(), "the store has a route")
			c.knows("n3", netip.PrefixFrom(c.every["n2"][1], 122).Masked(), "the store has a route")
			c.knows("n3", netip.MustParsePrefix(edgePrefix), "") // as n1 has it from BIRD
			c.disbelieves(m)

			c.birdFor("")
			c.sessions(14)
			c.blocksAt(bird, "n1", "n2", "n3")
			c.bgpConfig("nodeToNodeMeshEnabled: true")
			c.reflects("n1", "")
			if out, err := c.weft("", "delete", "bgppeer", "to-reflector"); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			c.sessions(18)
			after := r.Mark()
			testkit.Eventually(t, 20*time.Second, "packets after it", func() bool { return r.Mark() >= after+chances })
			c.whole(m.String()+": mesh, BIRD, n1, mesh", r.Stop())
		})
	}
}

// reflectorOf is a BIRD between the racks that reflects between all nodes, announces a network outside, and what
// nobody must believe: a default route, half of n1's block, and the pod of n2 by itself.
func reflectorOf(c *cluster) string {
	var b strings.Builder
	half := func(i int) netip.Prefix {
		a := c.every["n1"][i]
		return netip.PrefixFrom(a, []int{27, 123}[i]).Masked()
	}
	fmt.Fprintf(&b, `router id 172.31.1.254;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; learn off; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; learn off; }
protocol static { ipv4; route %s blackhole; route 0.0.0.0/0 blackhole; route %v blackhole; route %v/32 blackhole; }
protocol static { ipv6; route 2001:db8:7::/48 blackhole; route ::/0 blackhole; route %v blackhole; route %v/128 blackhole; }
`, edgePrefix, half(0), c.every["n2"][0], half(1), c.every["n2"][1])
	for _, n := range labNodes {
		a := c.nodeAddresses(n)
		fmt.Fprintf(&b, `protocol bgp %s { local %s as 64512; neighbor %v as 64512; rr client; ipv4 { import all; export where source ~ [RTS_BGP, RTS_STATIC]; }; }
protocol bgp %sx6 { local %s as 64512; neighbor %v as 64512; rr client; ipv6 { import all; export where source ~ [RTS_BGP, RTS_STATIC]; }; }
`, n, reflector4, a[0], n, reflector6, a[1])
	}
	return b.String()
}

// birdFor makes BIRD a peer of a node, "" for all.
func (c *cluster) birdFor(node string) {
	c.t.Helper()
	more := ""
	if node != "" {
		more = ", node: " + node
	}
	for name, a := range map[string]string{"bird4": reflector4, "bird6": reflector6} {
		c.apply("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: " + name + "}, spec: {peerIP: '" + a + "', asNumber: 64512" + more + "}}\n")
	}
}

// reflects makes a node a route reflector of a cluster id, "" for none.
func (c *cluster) reflects(node, id string) {
	c.t.Helper()
	c.must(node, func(n *v3.Node) {
		n.Spec.BGP.RouteReflectorClusterID = id
		if n.Labels = nil; id != "" {
			n.Labels = map[string]string{"reflector": "yes"}
		}
	})
}

// blocksAt waits until BIRD has the blocks of nodes from themselves.
func (c *cluster) blocksAt(bird *router.Bird, nodes ...string) {
	c.t.Helper()
	for _, n := range nodes {
		testkit.Eventually(c.t, 20*time.Second, "BIRD has the blocks of "+n, func() bool {
			return strings.Contains(bird.Ask(c.t, "show route protocol "+n+" "+netip.PrefixFrom(c.addrs[n], 26).Masked().String()), "via") &&
				strings.Contains(bird.Ask(c.t, "show route protocol "+n+"x6 "+netip.PrefixFrom(c.every[n][1], 122).Masked().String()), "via")
		})
	}
}

// disbelieves wants every node with a session with BIRD to have taken of what that says no more than the network
// outside, and the kernel's routes into the pools to be as the mode wants them.
func (c *cluster) disbelieves(m poolMode) {
	c.t.Helper()
	for _, n := range labNodes {
		for _, p := range c.bgpPeers(n) {
			if p.Address != reflector4 && p.Address != reflector6 {
				continue
			}
			testkit.Eventually(c.t, 20*time.Second, fmt.Sprintf("%s has heard four or more prefixes of %s and taken one", n, p.Address), func() bool {
				return slices.ContainsFunc(c.bgpPeers(n), func(q status.BGPPeer) bool { return q.Address == p.Address && q.Received >= 4 && q.Accepted == 1 })
			})
		}
		for _, family := range []string{"-4", "-6"} {
			for l := range strings.Lines(testkit.Run(c.t, c.nodeNetns(n), "ip", family, "route")) {
				dst, _, _ := strings.Cut(l, " ")
				p, err := netip.ParsePrefix(dst)
				single, _ := netip.ParseAddr(dst) // a whole block can begin with the same address
				if err == nil && (c.half(p, 27, 0) || c.half(p, 123, 1)) || n != "n2" && slices.Contains(c.every["n2"][:], single) {
					c.t.Errorf("%s: %s has a route that BIRD made up: %s", m, n, l)
				}
			}
		}
	}
	if wrong := c.wrongPaths(m, labNodes, nil); len(wrong) > 0 {
		c.t.Errorf("%v: %v", m, wrong)
	}
}

func (c *cluster) half(p netip.Prefix, bits, i int) bool {
	return p.Bits() == bits && p.Contains(c.every["n1"][i])
}

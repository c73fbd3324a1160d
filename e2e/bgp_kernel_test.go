package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/internal/testkit/router"
	"weft/lab"
	"weft/node/datastore"
	"weft/node/status"
)

// TestBGPMesh: all nodes speak BGP with each other, over both families, and know each other's blocks. A node service
// that is killed is no event for the others: its sessions are as old as before.
func TestBGPMesh(t *testing.T) {
	c := bgpCluster(t, "e2ebgpmesh")
	c.pool("Never")
	c.pods()
	took := c.sessions(12)
	figures.Write(t, "bgp", figures.Seconds("mesh", "12 sessions", took)...)
	t.Logf("12 of 12 sessions established %v after the last node was ready and the pods were there", took.Round(time.Millisecond))
	for _, n := range labNodes {
		for _, o := range labNodes {
			if n != o {
				c.knows(n, netip.PrefixFrom(c.addrs[o], 26).Masked(), "the store has a route")
			}
		}
	}
	if out, err := c.weft("", "bgp", "peers", "--all-nodes", "-o", "json"); err != nil || strings.Count(out, `"state": "Established"`) != 12 {
		t.Errorf("weft bgp peers --all-nodes: %v\n%s", err, out)
	}
	c.answers("n3")
	before := c.bgpPeers("n1")
	r := c.loadEvery(slices.Concat(c.hosts("n1"), c.hosts("n2")), time.Millisecond)
	for range 5 {
		if _, err := c.lab.Stop(t.Context(), "n2", unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := c.lab.Start(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
	}
	c.sessions(12)
	c.whole("5 kills of a node service, BGP mesh", r.Stop())
	after := c.bgpPeers("n1")
	for i, p := range after {
		if !p.Since.Equal(before[i].Since) || p.Flaps != before[i].Flaps {
			t.Errorf("n2 was killed 5 times, and n1's session with %s is of %v with %d flaps, before %v with %d", p.Address, p.Since, p.Flaps, before[i].Since, before[i].Flaps)
		}
	}
	st, err := status.Fetch(t.Context(), c.lab.NodeRunDir("n1"))
	if err != nil || st.BGP == nil || st.BGP.Established != 4 || len(st.BGP.Problems) > 0 {
		t.Errorf("n1 says %+v of BGP, %v", st.BGP, err)
	}
}

// TestBGPTopOfRack: without any encapsulation, pods of different racks reach each other once the router between them
// learns the blocks by BGP, and what it announces is reached by the pods. What it must not announce is not taken.
func TestBGPTopOfRack(t *testing.T) {
	c := bgpCluster(t, "e2ebgptor")
	c.pool("Never")
	c.pods()
	cross := [][2]string{{"n1", "n3"}, {"n3", "n1"}, {"n2", "n3"}, {"n3", "n2"}}
	if ok := c.mesh(cross); ok > 0 {
		t.Errorf("control: %d of %d pairs of pods of two racks reach each other before the router knows their blocks", ok, len(cross))
	}
	ns := testkit.NS{Name: c.lab.Netns("router"), Path: c.nodeNetns("router").Path}
	outside := testkit.NewNetns(t) // a host behind the router
	testkit.Wire(t, ns, "to-outside", outside, "eth0")
	testkit.Run(t, ns, "ip", "address", "add", "198.51.100.1/24", "dev", "to-outside")
	outside.AddAddress(t, "eth0", "198.51.100.2/24")
	testkit.Run(t, outside, "ip", "route", "add", "default", "via", "198.51.100.1")
	bird := router.StartBird(t, ns, birdOf(c))
	var peers []string
	for _, n := range labNodes {
		tor := netip.PrefixFrom(c.nodeAddresses(n)[0], 24).Masked().Addr().As4()
		tor[3] = 254
		peers = append(peers, fmt.Sprintf("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor-%s}, spec: {peerIP: %v, asNumber: 64513, node: %s}}\n", n, netip.AddrFrom4(tor), n))
	}
	c.apply(strings.Join(peers, "---\n"))
	begin := time.Now()
	testkit.Eventually(t, 30*time.Second, "pods of two racks reach each other by the router", func() bool { return c.mesh(cross) == len(cross) })
	t.Logf("%d of %d pairs across the racks %v after the peers were written", len(cross), len(cross), time.Since(begin).Round(time.Millisecond))
	for _, n := range labNodes {
		if text := bird.Route(t, netip.PrefixFrom(c.addrs[n], 26).Masked().String()); !strings.Contains(text, "via "+c.nodeAddresses(n)[0].String()) {
			t.Errorf("BIRD has of %s's block: %q", n, text)
		}
	}
	c.knows("n1", netip.MustParsePrefix("198.51.100.0/24"), "")
	testkit.Eventually(t, 10*time.Second, "a pod reaches the host behind the router", func() bool {
		_, err := testkit.Try(t, c.netns("n1"), "ping", "-n", "-c", "1", "-W", "1", "198.51.100.2")
		return err == nil
	})
	for _, n := range labNodes { // what the rogue announcements were: BIRD says so, and so do the counts
		testkit.Eventually(t, 20*time.Second, n+" has got all four announcements and taken one", func() bool {
			return slices.ContainsFunc(c.bgpPeers(n), func(p status.BGPPeer) bool {
				return p.Type == v3.PeerTypeNodePeer && p.Received == 4 && p.Accepted == 1
			})
		})
		for _, r := range c.bgpRoutes(n) {
			p := netip.MustParsePrefix(r.Prefix)
			if r.Origin == "Learned" && (p.Bits() == 0 || p.Bits() == 32 || p.Overlaps(netip.MustParsePrefix("172.31.0.0/16"))) {
				t.Errorf("%s took %s from %s", n, r.Prefix, r.Peer)
			}
		}
	}
	bird.Kill(t)
	testkit.Run(t, ns, "ip", "route", "flush", "proto", "bird")
	testkit.Eventually(t, 10*time.Second, "n3 says that its peer is down", func() bool {
		st, err := status.Fetch(t.Context(), c.lab.NodeRunDir("n3"))
		return err == nil && st.Ready && st.BGP != nil && slices.ContainsFunc(st.BGP.Problems, func(s string) bool {
			return strings.Contains(s, "tor-n3") && strings.Contains(s, "172.31.2.254")
		})
	})
}

// bgpCluster is a lab whose nodes speak BGP, as they do by default.
func bgpCluster(t *testing.T, name string) *cluster {
	t.Helper()
	config := lab.DefaultConfig()
	for i := range config.Nodes {
		config.Nodes[i].Args = []string{"--bgp"}
	}
	return newClusterOf(t, name, config)
}

// birdOf is the configuration of the router between the racks: it learns from every node, and announces to them the
// network behind it, and what nobody must believe it.
func birdOf(c *cluster) string {
	var b strings.Builder
	rogue := netip.PrefixFrom(c.addrs["n1"], 32)
	fmt.Fprintf(&b, `router id 172.31.1.254;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; learn off; }
protocol static { ipv4; route 198.51.100.0/24 blackhole; route 0.0.0.0/0 blackhole; route %v blackhole; route 172.31.1.0/28 blackhole; }
`, rogue)
	for i, n := range labNodes {
		fmt.Fprintf(&b, `protocol bgp node%d { local as 64513; neighbor %v as 64512; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
`, i+1, c.nodeAddresses(n)[0])
	}
	return b.String()
}

// sessions waits until so many sessions of the nodes are established, and none is not.
func (c *cluster) sessions(want int) time.Duration {
	c.t.Helper()
	begin := time.Now()
	testkit.Eventually(c.t, 30*time.Second, fmt.Sprintf("%d sessions are established", want), func() bool {
		up, all := 0, 0
		for _, n := range labNodes {
			for _, p := range c.bgpPeers(n) {
				all++
				if p.State == "Established" {
					up++
				}
			}
		}
		return up == want && all == want
	})
	return time.Since(begin)
}

func (c *cluster) bgpPeers(node string) []status.BGPPeer {
	c.t.Helper()
	var doc status.BGPPeers
	c.ask(node, status.BGPPeersPath, &doc)
	return doc.Peers
}

func (c *cluster) bgpRoutes(node string) []status.BGPRoute {
	c.t.Helper()
	var doc status.BGPRoutes
	c.ask(node, status.BGPRoutesPath, &doc)
	return doc.Routes
}

func (c *cluster) ask(node, path string, doc any) {
	c.t.Helper()
	code, body, err := status.Ask(c.t.Context(), c.lab.NodeRunDir(node), path)
	if err == nil {
		err = json.Unmarshal(body, doc)
	}
	if err != nil {
		c.t.Fatalf("ask %s for %s: %d, %v", node, path, code, err)
	}
}

// answers asks a node by a CalicoNodeStatus.
func (c *cluster) answers(node string) {
	c.t.Helper()
	c.apply("{apiVersion: projectcalico.org/v3, kind: CalicoNodeStatus, metadata: {name: ask}, spec: {node: " + node + ", classes: [Agent, BGP, Routes]}}")
	var st v3.CalicoNodeStatusStatus
	testkit.Eventually(c.t, 10*time.Second, node+" answers a CalicoNodeStatus", func() bool {
		o, err := c.store.Get(c.t.Context(), datastore.Key{Kind: v3.KindCalicoNodeStatus, Name: "ask"})
		if err != nil {
			c.t.Fatal(err)
		}
		st = o.(*v3.CalicoNodeStatus).Status
		return st.LastUpdated != nil
	})
	if st.Agent.BIRDV4.State != "Ready" || st.BGP.NumberEstablishedV4 != 2 || st.BGP.NumberEstablishedV6 != 2 || len(st.BGP.PeersV6) != 2 || len(st.Routes.RoutesV4) != 3 {
		c.t.Errorf("%s answers %+v", node, st)
	}
}

// knows waits until a node has learned a prefix, and says so of it.
func (c *cluster) knows(node string, p netip.Prefix, why string) {
	c.t.Helper()
	testkit.Eventually(c.t, 20*time.Second, fmt.Sprintf("%s learns %v", node, p), func() bool {
		return slices.ContainsFunc(c.bgpRoutes(node), func(r status.BGPRoute) bool {
			return r.Prefix == p.String() && r.Origin == "Learned" && strings.Contains(r.Why, why) && r.Installed == (why == "")
		})
	})
}

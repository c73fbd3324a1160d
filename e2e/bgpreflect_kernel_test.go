package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v3 "weft/api/v3"
	"weft/internal/testkit"
	"weft/internal/testkit/router"
	"weft/internal/traffic"
	"weft/node/datastore"
	"weft/node/status"
	"weft/routing"
)

// edgePrefix is behind the router that only n2 speaks with.
const edgePrefix = "203.0.113.0/24"

// TestBGPMeshToReflectors: a prefix that n1 has from n2 by BGP only, first by the mesh, then by n3 that reflects for
// the two, and again by the mesh, is reached all the time, and the kernel's routes do not change. Control: without
// the waiting for what n3 reflects, it is not.
func TestBGPMeshToReflectors(t *testing.T) {
	c, r, events := meshCluster(t, "e2ebgprefl")
	mesh, reflectors := "the mesh", "reflectors n3"
	// n3 does not know yet that it is to reflect.
	c.stop("n3")
	c.bgpConfig("shareLearnedRoutes: true, routeReflectorThreshold: 2")
	testkit.Eventually(t, 60*time.Second, "n1 says what it waits for", func() bool {
		st, err := status.Fetch(t.Context(), c.lab.NodeRunDir("n1"))
		return err == nil && st.BGP != nil && slices.ContainsFunc(st.BGP.Problems, func(s string) bool { return strings.Contains(s, "do not come that way yet") })
	})
	c.start("n3")
	t.Logf("to reflectors in %v", c.relies(reflectors, "n1", "n2"))
	c.sessions(9)
	toReflectors := r.Mark()
	c.bgpConfig("shareLearnedRoutes: true, routeReflectorThreshold: 3")
	t.Logf("to the mesh in %v", c.relies(mesh, "n1", "n2", "n3"))
	c.sessions(13)
	toMesh := r.Mark()
	testkit.Eventually(t, 20*time.Second, "packets after the change", func() bool { return r.Mark() >= toMesh+chances })
	rep := r.Stop()
	for what, at := range map[string][2]uint64{"to reflectors": {0, toReflectors}, "back to the mesh": {toReflectors, toMesh + chances}} {
		sent, lost := rep.Between(at[0], at[1])
		t.Logf("%s: %d of %d packets lost", what, lost, sent)
	}
	c.whole("mesh, reflectors, mesh", rep)
	if all := events.Settle(t); len(all) > 0 {
		t.Errorf("routes of n1 changed %d times, want none: %v", len(all), all)
	}
}

// TestBGPMeshToReflectorsControl: where everybody says, before it is so, that n3 reflects, packets are lost.
func TestBGPMeshToReflectorsControl(t *testing.T) {
	c, r, events := meshCluster(t, "e2ebgprefl0")
	c.stop("n3")
	c.bgpConfig("shareLearnedRoutes: true, routeReflectorThreshold: 2")
	for _, n := range []string{"n1", "n2"} {
		c.must(n, func(n *v3.Node) { n.Status.BGP = &v3.NodeBGPStatus{ReliesOnReflectors: []string{"n3"}} })
	}
	testkit.Eventually(t, 30*time.Second, "n1 has lost the route", func() bool {
		return !strings.Contains(testkit.Run(t, c.nodeNetns("n1"), "ip", "route"), edgePrefix)
	})
	without := r.Mark()
	testkit.Eventually(t, 20*time.Second, "packets without the route", func() bool { return r.Mark() >= without+chances })
	total := r.Stop().Total()
	changes := len(events.Settle(t))
	t.Logf("%d of %d packets lost and %d changes of routes where nobody waits", total.Lost, total.Sent, changes)
	if total.Lost == 0 || changes == 0 {
		t.Errorf("%d of %d packets lost, %d changes of routes: want some of each", total.Lost, total.Sent, changes)
	}
	c.start("n3")
	c.knows("n1", netip.MustParsePrefix(edgePrefix), "")
}

// meshCluster is a cluster in the mesh, with a router that only n2 speaks with, traffic between a pod of n1 and what
// is behind that, and an eye on the routes of n1. Of the nodes only n3 may reflect.
func meshCluster(t *testing.T, name string) (*cluster, *traffic.Run, *router.Events) {
	c := bgpCluster(t, name)
	c.apply(strings.ReplaceAll(noneMode.manifest(), "natOutgoing: true", "natOutgoing: false"))
	c.pods()
	for n, label := range map[string]string{"n1": "false", "n2": "false", "n3": "true"} {
		c.must(n, func(n *v3.Node) { n.Labels = map[string]string{routing.ReflectorLabel: label} })
	}
	c.bgpConfig("shareLearnedRoutes: true")
	edge := c.edge(t)
	c.knows("n1", netip.MustParsePrefix(edgePrefix), "")
	c.relies("the mesh", "n1", "n2", "n3")
	c.sessions(13)
	events := router.WatchRoutes(t, c.nodeNetns("n1"))
	return c, c.loadEvery(append(c.hosts("n1"), edge), time.Millisecond), events
}

// must changes a Node record, whoever else writes it meanwhile.
func (c *cluster) must(node string, change func(*v3.Node)) {
	c.t.Helper()
	testkit.Eventually(c.t, 10*time.Second, "the record of "+node+" is changed", func() bool {
		err := c.edit(node, change)
		if err != nil && !errors.Is(err, datastore.ErrConflict) {
			c.t.Fatalf("change Node %s: %v", node, err)
		}
		return err == nil
	})
}

// edge adds a router to rack 1 that speaks BGP with n2, and knows the way back to n1's pods. It returns a host
// behind it.
func (c *cluster) edge(t *testing.T) traffic.Host {
	ns := testkit.NewNetns(t)
	c.attach(t, ns, "rack1", "edge", "172.31.1.200/24")
	testkit.Run(t, ns, "ip", "link", "set", "lo", "up")
	testkit.Run(t, ns, "ip", "address", "add", "203.0.113.2/32", "dev", "lo")
	testkit.Run(t, ns, "ip", "route", "add", netip.PrefixFrom(c.addrs["n1"], 26).Masked().String(), "via", c.nodeAddresses("n1")[0].String())
	router.StartBird(t, ns, fmt.Sprintf(`router id 172.31.1.200;
protocol device {}
protocol static { ipv4; route %s blackhole; }
protocol bgp n2 { local as 64513; neighbor %v as 64512; ipv4 { import all; export where source = RTS_STATIC; next hop self; }; }
`, edgePrefix, c.nodeAddresses("n2")[0]))
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: edge}, spec: {peerIP: 172.31.1.200, asNumber: 64513, node: n2}}\n")
	return traffic.Host{Name: "edge", Netns: ns.Path, Addr: netip.MustParseAddr("203.0.113.2")}
}

// attach puts a namespace on a subnet of the lab, as eth0 with an address.
func (c *cluster) attach(t *testing.T, ns testkit.NS, subnet, name, address string) {
	t.Helper()
	lab := c.nodeNetns("router")
	testkit.Wire(t, lab, "to-"+name, ns, "eth0")
	bridge := ""
	for l := range strings.Lines(testkit.Run(t, lab, "ip", "-o", "link", "show", "type", "bridge")) {
		if f := strings.Fields(l); strings.Contains(f[1], subnet) {
			bridge = strings.TrimSuffix(f[1], ":")
		}
	}
	testkit.Run(t, lab, "ip", "link", "set", "to-"+name, "master", bridge)
	ns.AddAddress(t, "eth0", address)
}

// bgpConfig writes the configuration of BGP.
func (c *cluster) bgpConfig(spec string) {
	c.t.Helper()
	c.apply("{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {" + spec + "}}\n")
}

// relies waits until the records of nodes say that they rely on somebody for routes.
func (c *cluster) relies(on string, nodes ...string) time.Duration {
	c.t.Helper()
	want := &v3.NodeBGPStatus{ReliesOnMesh: true}
	if list, is := strings.CutPrefix(on, "reflectors "); is {
		want = &v3.NodeBGPStatus{ReliesOnReflectors: strings.Split(list, ", ")}
	}
	return testkit.Eventually(c.t, 60*time.Second, fmt.Sprintf("%v rely on %s", nodes, on), func() bool {
		for _, n := range nodes {
			o, err := c.store.Get(c.t.Context(), datastore.Key{Kind: v3.KindNode, Name: n})
			if err != nil {
				c.t.Fatal(err)
			}
			if b := o.(*v3.Node).Status.BGP; b == nil || b.ReliesOnMesh != want.ReliesOnMesh || !slices.Equal(b.ReliesOnReflectors, want.ReliesOnReflectors) {
				return false
			}
		}
		return true
	})
}

func (c *cluster) stop(node string) {
	c.t.Helper()
	if _, err := c.lab.Stop(c.t.Context(), node, unix.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) start(node string) {
	c.t.Helper()
	if _, err := c.lab.Start(c.t.Context(), node); err != nil {
		c.t.Fatal(err)
	}
}

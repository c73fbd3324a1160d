package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/traffic"
)

const (
	bothEncrypted  = "wireguardEnabled: true, wireguardEnabledV6: true"
	hostsEncrypted = "{" + bothEncrypted + ", wireguardHostEncryptionEnabled: true}"
)

// nodeHosts returns the nodes as ends of streams, one for each of their addresses.
func (c *cluster) nodeHosts() (hosts []traffic.Host) {
	for _, n := range labNodes {
		for _, a := range c.nodeAddresses(n) {
			hosts = append(hosts, traffic.Host{Name: n, Netns: c.nodeNetns(n).Path, Addr: a})
		}
	}
	return hosts
}

// hostRoutes waits until every node leads so many addresses of other nodes to its encrypting device.
func (c *cluster) hostRoutes(want int) time.Duration {
	c.t.Helper()
	var last string
	defer func() {
		if c.t.Failed() {
			c.t.Log(last)
		}
	}()
	return testkit.Eventually(c.t, 30*time.Second, fmt.Sprintf("every node has %d routes to encrypted hosts", want), func() bool {
		for _, n := range labNodes {
			out, err := c.weft("", "plan", "routing", "--run-dir", c.lab.NodeRunDir(n))
			have := 0
			for l := range strings.Lines(out) {
				if strings.Contains(l, " table 8787") && strings.Contains(l, " dev weft-wg") {
					have++
				}
			}
			if last = fmt.Sprintf("%s: %v\n%s", n, err, out); err != nil || have != want || strings.Count(out, " table 8787") != want {
				return false
			}
		}
		return true
	})
}

// leftOfHosts returns the rules and routes that the encryption of hosts has on a node.
func (c *cluster) leftOfHosts(node string) (left []string) {
	c.t.Helper()
	for _, family := range []string{"-4", "-6"} {
		for l := range strings.Lines(testkit.Run(c.t, c.nodeNetns(node), "ip", "-N", family, "rule", "show")) {
			if strings.Contains(l, "87") {
				left = append(left, strings.TrimSpace(l))
			}
		}
		out, _ := testkit.Try(c.t, c.nodeNetns(node), "ip", "-N", family, "route", "show", "table", "8787")
		for l := range strings.Lines(out) {
			if !strings.HasPrefix(l, "Error") && !strings.HasPrefix(l, "Dump") && strings.TrimSpace(l) != "" {
				left = append(left, strings.TrimSpace(l))
			}
		}
	}
	return left
}

// TestHostEncryption switches the encryption of hosts on and off under traffic between the nodes' own addresses of
// both families: nothing is lost; while it is on nothing of it is in clear on any uplink, as it is without; pods and
// hosts reach each other; and nothing is left when it is off.
func TestHostEncryption(t *testing.T) {
	c := newCluster(t, "e2ehostenc")
	c.dualPods(vxlanCross)
	c.apply(felix("{" + bothEncrypted + "}"))
	c.reaches("WireGuard")
	c.forGood()
	hosts := c.nodeHosts()
	if len(hosts) != 6 {
		t.Fatalf("%d addresses of nodes, want 6: %v", len(hosts), hosts)
	}
	r, stop := c.encryptedLoad(hosts), c.tap()
	time.Sleep(time.Second)
	c.whole("control, without", r.Stop())
	if seen := stop(); seen.Clear < 1000 {
		t.Errorf("control: %d of %d packets in clear, want all of them to be", seen.Clear, seen.Packets)
	} else {
		t.Logf("control: %d of %d packets in clear", seen.Clear, seen.Packets)
	}

	way := func(what, spec string, routes int) step {
		return step{what: what, manifest: felix(spec), settle: func() time.Duration { return c.hostRoutes(routes) }}
	}
	on, off := way("on", hostsEncrypted, 4), way("off", "{"+bothEncrypted+"}", 0)
	c.whole("hosts on, off and on", c.through(c.encryptedLoad(hosts), []step{on, off, on}))

	all := slices.Concat(hosts, c.hosts("n1"), c.hosts("n2"), c.hosts("n3"))
	// A pod may not speak to the node that it is on (defaultEndpointToHostAction), and is not encrypted to it.
	elsewhere := func(from, to traffic.Host) bool { return from.Name != to.Name }
	r, err := traffic.Start(t.Context(), traffic.Config{Hosts: all, Pair: elsewhere, Interval: apart, TCP: true, Warm: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	stop = c.tap()
	time.Sleep(2 * time.Second)
	c.whole("hosts and pods", r.Stop())
	c.nothingInClear("hosts and pods", stop())
	c.hostsAndPods()

	c.whole("all off", c.through(c.encryptedLoad(hosts), []step{way("all off", "{}", 0)}))
	for _, n := range labNodes {
		if left := c.leftOfHosts(n); len(left) > 0 {
			t.Errorf("%s is left with\n%s", n, strings.Join(left, "\n"))
		}
	}
}

// hostsAndPods pings in all directions between them.
func (c *cluster) hostsAndPods() {
	c.t.Helper()
	for _, from := range labNodes {
		for _, to := range labNodes {
			if from == to {
				continue
			}
			for i, a := range c.every[to] {
				own := c.nodeAddresses(to)[i]
				c.pings("from node "+from+" to node "+to, c.nodeNetns(from), own)
				c.pings("from node "+from+" to the pod of "+to, c.nodeNetns(from), a)
				c.pings("from the pod of "+from+" to node "+to, c.netns(from), own)
			}
		}
		c.pings("from node "+from+" to the outside", c.nodeNetns(from), netip.MustParseAddr("172.31.1.254"))
		c.pings("from the pod of "+from+" to the outside", c.netns(from), netip.MustParseAddr("172.31.1.254"))
	}
}

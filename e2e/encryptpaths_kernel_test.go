package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/status"
)

// TestEncryptedPaths: with encryption of both families on, in every mode of the pools, pods reach pods, other
// nodes, and what is outside of the cluster; nodes reach pods of other nodes; and nothing between pods is in clear.
func TestEncryptedPaths(t *testing.T) {
	c := newCluster(t, "e2ecryptpaths")
	c.dualPods(vxlanCross)
	c.apply(felix("{wireguardEnabled: true, wireguardEnabledV6: true}"))
	c.reaches("WireGuard")
	c.forGood()
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	for _, m := range []poolMode{vxlanCross, noneMode} {
		c.dual(m)
		c.reaches("WireGuard")
		r, stop := c.encryptedLoad(hosts), c.tap()
		time.Sleep(time.Second)
		rep := r.Stop()
		if len(rep.Pairs) != 12 {
			t.Errorf("%d pairs, want 6 of each family", len(rep.Pairs))
		}
		c.whole(m.String()+", both families", rep)
		c.nothingInClear(m.String(), stop())
	}
	for _, from := range labNodes {
		for _, to := range labNodes {
			if from == to {
				continue
			}
			for i, a := range c.every[to] {
				c.pings("from node "+from+" to the pod of "+to, c.nodeNetns(from), a)
				c.pings("from the pod of "+from+" to node "+to, c.netns(from), c.nodeAddresses(to)[i])
			}
		}
		// The router is outside of the cluster: the pool translates what leaves it.
		c.pings("from the pod of "+from+" to the outside", c.netns(from), netip.MustParseAddr("172.31.1.254"))
	}
}

// pings wants three of three answers.
func (c *cluster) pings(what string, from testkit.NS, to netip.Addr) {
	c.t.Helper()
	out, err := testkit.Try(c.t, from, "ping", "-n", "-q", "-c", "3", "-i", "0.05", "-W", "2", to.String())
	if err != nil || !strings.Contains(out, " 3 received") {
		c.t.Errorf("%s (%s): %v\n%s", what, to, err, out)
	}
}

// nodeAddresses are those of a lab's node, IPv4 first.
func (c *cluster) nodeAddresses(node string) []netip.Addr {
	c.t.Helper()
	st, err := status.Fetch(c.t.Context(), c.lab.NodeRunDir(node))
	if err != nil {
		c.t.Fatal(err)
	}
	var out []netip.Addr
	for _, s := range strings.Split(st.Address, ", ") {
		out = append(out, netip.MustParsePrefix(s).Addr())
	}
	return out
}

// TestEncryptedOverTheOtherFamily: where nodes have addresses of one family only, the other family's pod traffic
// travels inside that.
func TestEncryptedOverTheOtherFamily(t *testing.T) {
	for _, tc := range []struct {
		name  string
		four  bool
		outer string
	}{{"v6in4", true, "172.31."}, {"v4in6", false, "[fd00:31:"}} {
		t.Run(tc.name, func(t *testing.T) {
			c := newClusterOf(t, "e2e"+tc.name, oneFamily(tc.four))
			c.apply(felix("{wireguardEnabled: true, wireguardEnabledV6: true}"))
			c.dual(noneMode)
			c.pods()
			c.reaches("WireGuard")
			c.forGood()
			var hosts []traffic.Host
			for _, n := range labNodes {
				hosts = append(hosts, c.hosts(n)...)
			}
			r, stop := c.encryptedLoad(hosts), c.tap()
			time.Sleep(time.Second)
			rep := r.Stop()
			if len(rep.Pairs) != 12 {
				t.Errorf("%d pairs, want 6 of each family", len(rep.Pairs))
			}
			c.whole(tc.name, rep)
			c.nothingInClear(tc.name, stop())
			plan, err := c.weft("", "plan", "encryption", "--run-dir", c.lab.NodeRunDir("n1"))
			if err != nil || strings.Count(plan, "device ") != 1 || !strings.Contains(plan, "at "+tc.outer) {
				t.Errorf("want one device, whose peers are at %s...: %v\n%s", tc.outer, err, plan)
			}
		})
	}
}

// oneFamily is the lab with addresses of one family only on the underlay.
func oneFamily(four bool) lab.Config {
	c := lab.DefaultConfig()
	for i := range c.Subnets {
		if four {
			c.Subnets[i].CIDR6 = netip.Prefix{}
		} else {
			c.Subnets[i].CIDR = netip.Prefix{}
		}
	}
	for i := range c.Nodes {
		if four {
			c.Nodes[i].IP6 = netip.Addr{}
		} else {
			c.Nodes[i].IP = netip.Addr{}
		}
	}
	return c
}

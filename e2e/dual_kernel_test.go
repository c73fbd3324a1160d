package e2e

import (
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/traffic"
)

// TestDualStack carries both families at once: pods have an address of each, from blocks of /26 and
// /122, and talk over VXLAN on an underlay of their own family, in a rack and across.
func TestDualStack(t *testing.T) {
	c := newCluster(t, "e2edual")
	c.dualPods(vxlanAlways)
	blocks, err := c.weft("", "ipam", "show", "--blocks")
	if n := strings.Count(blocks, "/122"); err != nil || n < 3 {
		t.Errorf("%d IPv6 blocks of /122, want one for each node (%v):\n%s", n, err, blocks)
	}
	for _, m := range []poolMode{vxlanAlways, vxlanCross} {
		c.dual(m)
		c.settle(m, labNodes, nil)
		var hosts []traffic.Host
		for _, n := range labNodes {
			hosts = append(hosts, c.hosts(n)...)
		}
		r := c.load(hosts)
		time.Sleep(time.Second)
		rep := r.Stop()
		if len(rep.Pairs) != 12 {
			t.Errorf("%d pairs, want 6 of each family", len(rep.Pairs))
		}
		c.whole(m.String()+", both families", rep)
		for _, p := range everyPair() {
			for i := range c.every[p[0]] {
				from, to := c.every[p[0]][i].String(), c.every[p[1]][i].String()
				if out, err := testkit.Try(t, c.netns(p[0]), "ping", "-q", "-c", "3", "-i", "0.05", "-W", "1", "-I", from, to); err != nil {
					t.Errorf("%v: ping from %s to %s: %v\n%s", m, from, to, err, out)
				}
			}
		}
	}
	c.outer(t)
	c.gateway(t)
}

// outer looks at the wire: IPv4 travels in IPv4, IPv6 in IPv6.
func (c *cluster) outer(t *testing.T) {
	t.Helper()
	c.dual(vxlanAlways)
	c.settle(vxlanAlways, labNodes, nil)
	for _, tc := range []struct{ filter, to, outer string }{
		{"udp port 4789 and ip", c.every["n3"][0].String(), "172.31.2.1.4789"},
		{"udp port 4789 and ip6", c.every["n3"][1].String(), "fd00:31:2::1.4789"},
	} {
		ping := make(chan error, 1)
		go func() {
			time.Sleep(300 * time.Millisecond)
			_, err := testkit.Try(t, c.netns("n1"), "ping", "-q", "-c", "10", "-i", "0.1", "-W", "1", tc.to)
			ping <- err
		}()
		out, err := testkit.Try(t, c.nodeNetns("n1"), "timeout", "5", "tcpdump", "-nli", "eth0", "-c", "1", tc.filter+" and dst port 4789 and outbound")
		if err != nil || !strings.Contains(out, tc.outer) || !strings.Contains(out, tc.to) {
			t.Errorf("on the wire of n1 for %s: %q (%v), want the outer destination %s", tc.to, out, err, tc.outer)
		}
		if err := <-ping; err != nil {
			t.Error(err)
		}
	}
}

// gateway asks for the pod's IPv6 gateway anew, as a pod does that lost its neighbour entry.
func (c *cluster) gateway(t *testing.T) {
	t.Helper()
	pod := c.netns("n1")
	route := strings.Fields(testkit.Run(t, pod, "ip", "-6", "route", "show", "default"))
	if len(route) < 5 || !strings.HasPrefix(route[2], "fe80:") {
		t.Fatalf("the pod's IPv6 default route is %v", route)
	}
	testkit.Run(t, pod, "ip", "neigh", "del", route[2], "dev", "eth0")
	testkit.Run(t, pod, "ping", "-q", "-c", "2", "-W", "1", c.every["n3"][1].String())
	neigh := testkit.Run(t, pod, "ip", "-6", "neigh", "show", route[2])
	if !strings.Contains(neigh, "ee:ee:ee:ee:ee:ee") || strings.Contains(neigh, "PERMANENT") {
		t.Errorf("the gateway %s answered as %q", route[2], neigh)
	}
}

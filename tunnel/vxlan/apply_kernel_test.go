package vxlan

import (
	"context"
	"strings"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/tunnel"
)

func TestPodsReachEachOther(t *testing.T) {
	testkit.LeakCheck(t)
	hosts := cluster(t, 3)
	join(t, hosts)
	pairs, good := 0, 0
	for _, a := range hosts {
		for _, b := range hosts {
			if a != b {
				pairs++
				if !ping(t, a, b) {
					t.Errorf("pod on %s does not reach pod on %s", a.name, b.name)
					continue
				}
				good++
			}
		}
	}
	t.Logf("%d of %d pairs of pods reach each other", good, pairs)
	n1 := hosts[0]
	if d := testkit.Run(t, n1.NS, "ip", "-d", "link", "show", kernel.VXLANDevice); !strings.Contains(d, "vxlan id 4096 local 172.31.1.1 dev eth0") ||
		!strings.Contains(d, "nolearning") || !strings.Contains(d, "dstport 4789") || !strings.Contains(d, tunnel.VTEPMAC("n1").String()) || !strings.Contains(d, "mtu 1450") {
		t.Errorf("the device is not as wanted:\n%s", d)
	}
	// A second Apply of the same plan changes nothing, and one with fewer peers removes only them.
	if res, err := n1.driver.Apply(context.Background(), plan(t, n1, hosts)); err != nil || !res.Zero() {
		t.Errorf("second Apply: %v, %v", res, err)
	}
	apply(t, n1, plan(t, n1, hosts[:2]))
	if ping(t, hosts[2], n1) {
		t.Errorf("n3 still reaches n1, which does not know it any more")
	}
	if !ping(t, hosts[1], n1) {
		t.Errorf("n2 lost n1 when n3 went")
	}
	for _, h := range hosts {
		apply(t, h, tunnel.Plan{})
		if l := testkit.Links(t, h.NS); strings.Contains(l, "vxlan") {
			t.Errorf("the zero plan leaves on %s:\n%s", h.name, l)
		}
		if n := testkit.Run(t, h.NS, "nft", "list", "ruleset"); strings.TrimSpace(n) != "" {
			t.Errorf("the zero plan leaves on %s:\n%s", h.name, n)
		}
	}
}

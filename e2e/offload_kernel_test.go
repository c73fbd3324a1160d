package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/node/status"
)

const offloading = "nftablesFlowTableOffload: Enabled"

// offloadingCluster is one whose nodes offload, with the pods between which traffic flows.
func offloadingCluster(t *testing.T, name string) (*cluster, []traffic.Host) {
	c := newCluster(t, name)
	c.apply(vxlanAlways.manifest())
	c.pods()
	c.settle(vxlanAlways, labNodes, nil)
	c.apply(felix("{" + offloading + "}"))
	var hosts []traffic.Host
	for _, n := range labNodes {
		hosts = append(hosts, c.hosts(n)...)
	}
	return c, hosts
}

// offloaded waits until every node offloads all established TCP connections of the hosts.
func (c *cluster) offloaded(hosts []traffic.Host, way string) {
	t := c.t
	t.Helper()
	testkit.Eventually(t, 20*time.Second, "all TCP connections of pods are offloaded on every node by "+way, func() bool {
		for _, n := range labNodes {
			in, other := 0, 0
			for _, entry := range strings.Split(testkit.Run(t, c.nodeNetns(n), "cat", "/proc/net/nf_conntrack"), "\n") {
				switch ours := slices.ContainsFunc(hosts, func(h traffic.Host) bool { return strings.Contains(entry, "src="+h.Addr.String()+" ") }); {
				case ours && strings.Contains(entry, "[OFFLOAD]"):
					in++
				case ours && strings.Contains(entry, " ESTABLISHED "):
					other++
				}
			}
			if in == 0 || other > 0 {
				return false
			}
		}
		return true
	})
	st, err := status.Fetch(t.Context(), c.lab.NodeRunDir("n1"))
	if err != nil || !strings.HasPrefix(st.Policy.Offload, "flow offload between ") {
		t.Errorf("by %s, the status says of it %q, %v", way, st.Policy.Offload, err)
	}
}

// TestFlowOffload changes modes under traffic whose connections the kernel's flow tables carry: nothing is lost, and they
// are offloaded again by the new way.
func TestFlowOffload(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.IPIP, testkit.FlowTable)
	c, hosts := offloadingCluster(t, "e2eoffload")
	r, err := traffic.Start(t.Context(), traffic.Config{Hosts: hosts, Interval: 5 * time.Millisecond, TCP: true, Warm: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	modes := []poolMode{vxlanAlways, vxlanCross, vxlanAlways, ipipAlways, vxlanCross}
	for i, m := range modes[1:] {
		s := modeStep(c, modes[i], m)
		settle := s.settle
		s.settle = func() time.Duration { d := settle(); c.offloaded(hosts, s.what); return d }
		steps = append(steps, s)
	}
	c.offloaded(hosts, "VXLAN")
	c.whole("4 changes of mode with flow offload", c.through(r, steps))
}

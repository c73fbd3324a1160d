package node

import (
	"net/netip"
	"testing"

	"weft/model"
)

func TestNATSettings(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	if got := c.natSettings(); got != (model.NATConfig{}) {
		t.Errorf("nothing is set: got %+v", got)
	}
	felix := func(name, spec string) {
		feed(t, c, "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: "+name+"}\nspec: "+spec)
	}
	felix("default", `{natOutgoingExclusions: IPPoolsAndHostIPs, natPortRange: "20000:29999", natOutgoingAddress: 192.0.2.7, iptablesNATOutgoingInterfaceFilter: eth+}`)
	want := model.NATConfig{SpareHosts: true, Ports: model.PortRange{First: 20000, Last: 29999}, Address: netip.MustParseAddr("192.0.2.7"), Interface: "eth+"}
	if got := c.natSettings(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	felix("node.n1", `{natOutgoingExclusions: IPPoolsOnly, natPortRange: 30000, natOutgoingAddress: 192.0.2.8}`)
	want.SpareHosts, want.Ports, want.Address = false, model.PortRange{First: 30000, Last: 30000}, netip.MustParseAddr("192.0.2.8")
	if got := c.natSettings(); got != want {
		t.Errorf("this node's own goes first: got %+v, want %+v", got, want)
	}
	s := snapshotOf(t, c)
	if s.NAT != want {
		t.Errorf("the snapshot has %+v, want %+v", s.NAT, want)
	}
}

func snapshotOf(t *testing.T, c *cluster) *model.Snapshot {
	t.Helper()
	c.mu.Lock()
	c.everSynced = true
	c.mu.Unlock()
	s, _, ok := c.snapshot()
	if !ok {
		t.Fatal("no snapshot")
	}
	return s
}

func TestFlowOffloadSetting(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	felix := func(name, value string) {
		feed(t, c, "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: "+name+"}\nspec: {"+value+"}")
	}
	for _, step := range []struct {
		name, value string
		want        bool
	}{
		{"default", "", false},
		{"default", "nftablesFlowTableOffload: Enabled", true},
		{"node.n1", "nftablesFlowTableOffload: Disabled", false},
		{"default", "nftablesFlowTableOffload: All", false},
		{"node.n1", "", true},
	} {
		felix(step.name, step.value)
		if got := snapshotOf(t, c).FlowOffload; got != step.want {
			t.Errorf("after {%s} of %s: got %v, want %v", step.value, step.name, got, step.want)
		}
	}
}

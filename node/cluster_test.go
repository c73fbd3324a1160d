package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// feed decodes manifests and hands them to the cluster as the store would.
func feed(t *testing.T, c *cluster, manifests string) {
	t.Helper()
	objects, err := v3.Decode([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		v3.Default(o)
		c.OnChanges([]datastore.Change{{Key: datastore.KeyOf(o), Object: o}})
	}
}

func newTestCluster() *cluster {
	return newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
}

const manifests = `
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1, labels: {rack: a}}
spec:
  bgp: {ipv4Address: 172.31.1.1/24}
  ipv4VXLANTunnelAddr: 10.244.0.1
  vxlanTunnelMACAddr: "66:00:00:00:00:01"
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n2}
spec:
  bgp: {ipv4Address: 172.31.2.1}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.244.0.0/16, vxlanMode: CrossSubnet}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {vxlanVNI: 5000, vxlanPort: 4790}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: racks}
spec: {nodeSelector: "rack == 'a'", vxlanVNI: 5001}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: node.n1}
spec: {vxlanMTU: 1400}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: node.n2}
spec: {vxlanMTU: 1300}
`

func TestNothingBeforeInSync(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	if _, _, ok := c.snapshot(); ok {
		t.Error("a snapshot was given out before the first complete one had arrived")
	}
	c.OnState(datastore.StateInSync, nil)
	if _, _, ok := c.snapshot(); !ok {
		t.Error("no snapshot although in sync")
	}
	c.OnState(datastore.StateWait, errors.New("connection refused"))
	if _, _, ok := c.snapshot(); !ok {
		t.Error("the last snapshot was forgotten when the store went away")
	}
}

func TestSnapshot(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	c.OnState(datastore.StateInSync, nil)
	s, _, _ := c.snapshot()
	want := &model.Node{Name: "n1", Labels: map[string]string{"rack": "a"},
		Addresses:       []netip.Prefix{netip.MustParsePrefix("172.31.1.1/24")},
		TunnelAddresses: []netip.Addr{netip.MustParseAddr("10.244.0.1")},
		VXLANMAC:        model.MAC{0x66, 0, 0, 0, 0, 1}}
	byString := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, s.Nodes["n1"], byString, addrs); d != "" {
		t.Errorf("node n1 (-want +got):\n%s", d)
	}
	if got := s.Nodes["n2"].Addresses[0].String(); got != "172.31.2.1/32" {
		t.Errorf("an address without a mask became %s, want /32", got)
	}
	if d := cmp.Diff(model.VXLANConfig{VNI: 5001, Port: 4790}, s.VXLAN); d != "" {
		t.Errorf("FelixConfigurations merged to (-want +got):\n%s", d)
	}
	if len(s.Pools) != 1 || s.Pools[0].Encap != model.EncapVXLAN || !s.Pools[0].CrossSubnet {
		t.Errorf("pools %+v", s.Pools)
	}
}

func TestRejectedKeepsTheLastGood(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	c.OnState(datastore.StateInSync, nil)
	before := c.currentGeneration()
	c.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: "IPPool", Name: "pool"}, Err: errors.New("spec.cidr: bad")}})
	s, _, _ := c.snapshot()
	if len(s.Pools) != 1 || c.currentGeneration() != before {
		t.Errorf("a rejected pool changed the snapshot: %+v", s.Pools)
	}
	if got := c.problems(); len(got) != 1 {
		t.Errorf("problems %q, want the rejected pool", got)
	}
	feed(t, c, manifests)
	if got := c.problems(); len(got) != 0 {
		t.Errorf("problems %q after the pool was mended", got)
	}
}

func TestBlockOwnersAndBorrowers(t *testing.T) {
	zero, one := 0, 1
	affinity, handle := "host:n1", "h"
	o := &v3.IPAMBlock{Spec: v3.IPAMBlockSpec{CIDR: "10.244.0.0/30", Affinity: &affinity,
		Allocations: []*int{nil, &zero, &one, nil},
		Attributes: []v3.AllocationAttribute{
			{HandleID: &handle, ActiveOwnerAttrs: map[string]string{"node": "n1"}},
			{HandleID: &handle, ActiveOwnerAttrs: map[string]string{"node": "n2"}}}}}
	b, err := blockOf(o)
	if err != nil {
		t.Fatal(err)
	}
	if b.Node != "n1" || len(b.Borrowed) != 1 || b.Borrowed[netip.MustParseAddr("10.244.0.2")] != "n2" {
		t.Errorf("got %+v, want n1's block with 10.244.0.2 borrowed by n2", b)
	}
	// An allocation that points nowhere must not crash the node.
	bad := 7
	o.Spec.Allocations[0] = &bad
	if _, err := blockOf(o); err != nil {
		t.Error(err)
	}
}

func TestUnchangedRecordsDoNotRecompile(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	before := c.currentGeneration()
	feed(t, c, "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n2, annotations: {heartbeat: '7'}}\nspec: {bgp: {ipv4Address: 172.31.2.1}}\n")
	if c.currentGeneration() != before {
		t.Error("an annotation that no compiler reads made everything compile again")
	}
}

func TestPrefixOfBlockName(t *testing.T) {
	for name, want := range map[string]string{"10-244-0-64-26": "10.244.0.64/26", "fd00-10-244--40-122": "fd00:10:244::40/122"} {
		if p, err := prefixOfBlockName(name); err != nil || p.String() != want {
			t.Errorf("%s: got %v, %v, want %s", name, p, err, want)
		}
	}
	for _, name := range []string{"", "x", "10-244-0-64", "10-244-0-64-99"} {
		if p, err := prefixOfBlockName(name); err == nil {
			t.Errorf("%q was read as %s", name, p)
		}
	}
}

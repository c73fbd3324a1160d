package node

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
	"weft/node/config"
	"weft/node/datastore"
	"weft/tunnel"
)

// newTestEngine applies nothing: it keeps the plans that it would apply.
func newTestEngine(t *testing.T, c *cluster, pods map[model.EndpointID]model.Endpoint) (*engine, *[]*plans) {
	t.Helper()
	var applied []*plans
	eth0 := netip.MustParsePrefix("172.31.1.1/24")
	e := &engine{log: slog.New(slog.DiscardHandler), cluster: c, compiler: topology.NewCompiler(tunnel.Drivers()),
		underlay: &underlay{read: func(context.Context) (model.Underlay, error) {
			return model.Underlay{Links: []model.Link{{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{eth0}}},
				Routes: []model.UnderlayRoute{{Dst: eth0.Masked(), Device: "eth0"}}}, nil
		}},
		endpoints: func() map[model.EndpointID]model.Endpoint { return maps.Clone(pods) },
		metrics:   newMetrics("test", func() int { return 0 }, func() map[string]int { return nil })}
	e.parts = []part{{name: "test", apply: func(_ context.Context, p *plans) (reconcile.Result, error) {
		applied = append(applied, p)
		return reconcile.Result{}, nil
	}, resync: func() {}}}
	e.announcer = &announcer{kick: func() {}, again: func() {}, now: time.Now}
	e.encryptor = newEncryptor(&config.Config{DataDir: t.TempDir()}, nil, e.log, func() {}, func() {})
	e.init(time.Hour)
	return e, &applied
}

const twoBlocks = `
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n1}
spec: {bgp: {ipv4Address: 172.31.1.1/24}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n2}
spec: {bgp: {ipv4Address: 172.31.1.2/24}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool}
spec: {cidr: 10.244.0.0/16, vxlanMode: Always}
---
apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {name: 10-244-2-0-26}
spec: {cidr: 10.244.2.0/26, affinity: "host:n2"}
`

// TestOwnRecordRemoved: somebody deletes this node's record while it runs. The routes to others
// stay, and a pod that comes meanwhile gets its own.
func TestOwnRecordRemoved(t *testing.T) {
	c := newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
	pods := map[model.EndpointID]model.Endpoint{}
	e, applied := newTestEngine(t, c, pods)
	if err := e.run(t.Context(), false); err != nil || len(*applied) != 0 {
		t.Fatalf("%d plans applied before the first snapshot, %v", len(*applied), err)
	}
	feed(t, c, twoBlocks)
	c.OnState(datastore.StateInSync, nil)
	if err := e.run(t.Context(), false); err != nil || len(*applied) != 1 {
		t.Fatalf("%d plans applied, want 1, %v", len(*applied), err)
	}
	before := (*applied)[0].routing.Format()
	if !strings.Contains(before, "10.244.2.0/26 via 172.31.1.2 dev weft-vxlan") {
		t.Fatalf("no route to the other node:\n%s", before)
	}
	c.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: "Node", Name: "n1"}}})
	id := model.EndpointID{Namespace: "default", Pod: "late", Interface: "eth0"}
	pods[id] = model.Endpoint{ID: id, Device: "weft00000000001", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.5")}}
	if err := e.run(t.Context(), false); err != nil || len(*applied) != 2 {
		t.Fatalf("%d plans applied, want 2, %v", len(*applied), err)
	}
	after := (*applied)[1].routing.Format()
	if !strings.Contains(after, strings.TrimSpace(before)) || !strings.Contains(after, "10.244.1.5/32 dev weft00000000001") {
		t.Errorf("without the record the routes are\n%s", after)
	}
	if len((*applied)[1].tunnel.Links) != 1 {
		t.Errorf("without the record the tunnel devices are %v", (*applied)[1].tunnel.Links)
	}
	if _, told := e.errs["topology"]; !told {
		t.Error("status does not tell that the record is missing")
	}
}

// TestDuplicateAddressOfPeers: two other nodes with one address are named in the status; the run is
// no failure, so that nothing on this node waits for somebody to mend them.
func TestDuplicateAddressOfPeers(t *testing.T) {
	c := newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
	e, applied := newTestEngine(t, c, nil)
	feed(t, c, twoBlocks+`
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n3}
spec: {bgp: {ipv4Address: 172.31.1.2/24}}
`)
	c.OnState(datastore.StateInSync, nil)
	if err := e.run(t.Context(), false); err != nil || len(*applied) != 1 {
		t.Fatalf("%d plans applied, want 1, %v", len(*applied), err)
	}
	if got := e.errs["tunnel"].Text; !strings.Contains(got, "n2 and n3 share 172.31.1.2") {
		t.Errorf("status tells %q, want the two nodes and their address", got)
	}
}

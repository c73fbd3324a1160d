package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/encryption/guard"
	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
	"weft/node/config"
	"weft/policy/offload"
)

// What is offloaded: connections of pods by uplinks and tunnels; nothing while something is encrypted.
func TestOffloadPlan(t *testing.T) {
	asked := &model.Snapshot{FlowOffload: true}
	pods := map[model.EndpointID]model.Endpoint{{Pod: "b"}: {Device: "weftb"}, {Pod: "a"}: {Device: "wefta"}}
	encrypting := topology.Tunnel{Device: "weft-wg", End: model.TunnelEnd{Encap: model.EncapWireGuard}}
	for name, c := range map[string]struct {
		plans plans
		want  offload.Plan
		why   bool
	}{
		"nobody asks": {plans{snapshot: &model.Snapshot{}, view: &topology.View{Uplinks: []string{"eth0"}}, endpoints: pods}, offload.Plan{}, false},
		"asked": {plans{snapshot: asked, view: &topology.View{Uplinks: []string{"eth0"}, Tunnels: []topology.Tunnel{{Device: "weft-vxlan"}}}, endpoints: pods},
			offload.Plan{Pods: []string{"wefta", "weftb"}, Other: []string{"eth0", "weft-vxlan"}}, false},
		"encrypted": {plans{snapshot: asked, view: &topology.View{Tunnels: []topology.Tunnel{encrypting}}, endpoints: pods}, offload.Plan{}, true},
		"guarded":   {plans{snapshot: asked, view: &topology.View{Guard: topology.Guard{Pools: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}, endpoints: pods}, offload.Plan{}, true},
	} {
		got, why := (&offloader{}).plan(&c.plans)
		if d := cmp.Diff(c.want, got); d != "" || (why != "") != c.why {
			t.Errorf("%s: %s\nwhy: %q", name, d, why)
		}
	}
}

// The flow table goes before rules are relied on that its packets do not meet, and comes when all else stands.
func TestOffloadOrder(t *testing.T) {
	s := &service{cfg: &config.Config{}, offload: &offloader{driver: offload.New(nil, slog.New(slog.DiscardHandler))}, guard: guard.New(nil), log: slog.New(slog.DiscardHandler)}
	var names []string
	for _, p := range s.parts(nil) {
		names = append(names, p.name)
	}
	gone, guarded := slices.Index(names, "policy/offload"+removal), slices.Index(names, "encryption/guard")
	if gone < 0 || gone > guarded || names[len(names)-1] != "policy/offload" {
		t.Errorf("the order is %v", names)
	}
}

// The flow table is emptied after what changed routes, and after an error that may hide a change; not again for the same one.
func TestOffloadAfterRoutes(t *testing.T) {
	changed, one, other := reconcile.Result{Changed: 1}, errors.New("one"), errors.New("other")
	o := &offloader{}
	for i, c := range []struct {
		r     reconcile.Result
		err   error
		stale bool
	}{
		{},
		{changed, nil, true},
		{},
		{reconcile.Result{}, one, true},
		{reconcile.Result{}, one, false},
		{changed, one, true},
		{reconcile.Result{}, other, true},
		{reconcile.Result{}, other, false},
		{},
		{reconcile.Result{}, other, true},
	} {
		if o.rerouted(c.r, c.err); o.stale != c.stale {
			t.Errorf("run %d (%+v, %v): stale is %v", i, c.r, c.err, o.stale)
		}
		o.stale = false // emptied
	}
}

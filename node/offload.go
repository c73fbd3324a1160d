package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"weft/internal/reconcile"
	"weft/policy"
	"weft/policy/offload"
)

// flowOffload tells whether the FelixConfigurations of this node ask for flow offload (nftablesFlowTableOffload): what the
// strongest says that says something.
func (c *cluster) flowOffload() bool {
	asked := ""
	for _, f := range c.felixChain() { // the weakest first
		asked = cmp.Or(f.Spec.NftablesFlowTableOffload, asked)
	}
	return asked == "Enabled" || asked == "All"
}

// offloader decides whose connections may be in the kernel's flow table, and has the driver put them there.
type offloader struct {
	driver *offload.Driver

	mu  sync.Mutex
	why string // nothing is offloaded although it is asked for; empty: it is, or is not asked for
	on  bool   // by the last run

	stale  bool   // routes changed since the flow table was empty; of the engine's run
	failed string // why routes could not all be written, the last time
}

// rerouted notes that routes changed. The kernel itself sees that what it cached is old, but not while it puts a connection
// into the flow table. An error may hide a change, but the same one again hides none.
func (o *offloader) rerouted(r reconcile.Result, err error) {
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	o.stale = o.stale || !r.Zero() || failed != "" && failed != o.failed
	o.failed = failed
}

// plan is what the flow table takes. What is to be encrypted is guarded by rules that packets of the flow table would
// not meet (encryption/guard), so that there is none meanwhile.
func (o *offloader) plan(p *plans) (plan offload.Plan, why string) {
	switch {
	case p.snapshot == nil || !p.snapshot.FlowOffload:
		return plan, ""
	case encrypts(p.view) || len(p.view.Guard.Pools) > 0:
		return plan, "what goes between nodes is encrypted"
	}
	for _, e := range p.endpoints {
		plan.Pods = append(plan.Pods, e.Device)
	}
	slices.Sort(plan.Pods)
	plan.Other = slices.Clone(p.view.Uplinks)
	for _, t := range p.view.Tunnels {
		plan.Other = append(plan.Other, t.Device)
	}
	return plan, ""
}

// stop removes the flow table before something relies on rules that see every packet.
func (o *offloader) stop(ctx context.Context, p *plans) (reconcile.Result, error) {
	plan, why := o.plan(p)
	o.mu.Lock()
	o.why, o.on = why, p.snapshot != nil && p.snapshot.FlowOffload
	o.mu.Unlock()
	if len(plan.Pods) > 0 {
		return reconcile.Result{}, nil // applied below
	}
	return o.driver.Apply(ctx, plan)
}

func (o *offloader) apply(ctx context.Context, p *plans) (reconcile.Result, error) {
	plan, _ := o.plan(p)
	if len(plan.Pods) == 0 {
		return reconcile.Result{}, nil // removed above
	}
	r, err := o.driver.Apply(ctx, plan)
	if err == nil && o.stale {
		err = o.driver.Flush(ctx)
		o.stale = err != nil
	}
	return r, err
}

// follow is told of a program before the kernel enforces it.
func (o *offloader) follow(ctx context.Context, p *policy.Program) error {
	return o.driver.Follow(ctx, p)
}

// describe says for status what is offloaded, or why nothing is; empty when nobody asks for it.
func (o *offloader) describe() string {
	o.mu.Lock()
	why, on := o.why, o.on
	o.mu.Unlock()
	switch err := o.driver.Lacks(); {
	case !on:
		return ""
	case err != nil:
		return fmt.Sprintf("no flow offload: %v", err)
	case why != "":
		return "no flow offload: " + why
	case o.driver.Refuses():
		return "no flow offload: an untracked policy asks about every packet"
	}
	return fmt.Sprintf("flow offload between %d devices", o.driver.Devices())
}

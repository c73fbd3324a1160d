package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/routing"
)

// Ruled is the driver of one routing table of ours, and of the rules with our protocol number that are about it
// (kernel.Rule.Of).
type Ruled struct {
	table  int
	routes *FIB
	rules  *reconcile.Syncer[kernel.Rule, struct{}]
}

// NewRuled returns a driver of kernel.HostTable or kernel.ServiceTable that has not touched the kernel yet.
func NewRuled(h *kernel.Handle, log *slog.Logger, table int) *Ruled {
	return &Ruled{
		table:  table,
		routes: newTable(h, log, table),
		// Rules that stay although they should not could lead anywhere.
		rules: reconcile.NewSyncer(kernel.RuleTable(h, table), reconcile.DeleteAlways),
	}
}

// Apply makes rules and routes equal to the plan. Nothing is looked up in a table that is not filled: the
// routes come before the rules, and go after them. The zero value removes both.
func (d *Ruled) Apply(ctx context.Context, p routing.Ruled) (reconcile.Result, error) {
	want := make(map[kernel.Rule]struct{}, len(p.Rules))
	for _, r := range p.Rules {
		k, err := kernelRule(r)
		if err != nil {
			return reconcile.Result{}, fmt.Errorf("rule %s: %w", r, err)
		}
		want[k] = struct{}{}
	}
	apply := []func() (reconcile.Result, error){
		func() (reconcile.Result, error) { return d.routes.Apply(ctx, routing.Plan{Routes: p.Routes}) },
		func() (reconcile.Result, error) {
			res, err := d.rules.Sync(ctx, want)
			if err != nil {
				err = fmt.Errorf("apply routing rules: %w", err)
			}
			return res, err
		},
	}
	if len(p.Rules) == 0 {
		apply[0], apply[1] = apply[1], apply[0]
	}
	first, err1 := apply[0]()
	second, err2 := apply[1]()
	return first.Add(second), errors.Join(err1, err2)
}

func kernelRule(r routing.Rule) (kernel.Rule, error) {
	if r.Priority < 0 || r.Priority > math.MaxInt32 || r.Table <= 0 {
		return kernel.Rule{}, errors.New("want a priority of 0 or more, and a table")
	}
	k := kernel.Rule{Family: r.Family, Priority: r.Priority, Not: r.Unmarked != 0, Mark: r.Unmarked, Mask: r.Unmarked,
		Protocol: int(r.Protocol), SourcePort: r.SourcePort, DestPort: r.DestPort, Table: r.Table}
	if r.Received {
		k = kernel.Rule{Family: r.Family, Priority: r.Priority, Not: true, Input: "lo", Table: r.Table}
	}
	if r.Family != model.IPv4 && r.Family != model.IPv6 {
		return k, fmt.Errorf("family %d: want 4 or 6", int(r.Family))
	}
	return k, nil
}

// Resync makes the next Apply read the kernel again.
func (d *Ruled) Resync() {
	d.routes.Resync()
	d.rules.Invalidate()
}

// Observe takes one kernel event and tells whether Apply should be called again. It never blocks.
func (d *Ruled) Observe(e kernel.Event) bool {
	switch {
	case e.Kind == kernel.EventLost:
		d.rules.Invalidate()
	case e.Kind == kernel.EventRule:
		return e.Protocol == kernel.RouteProtocol && e.Rule.Of() == d.table && d.rules.Observe(e.Rule, struct{}{}, e.Removed)
	}
	return d.routes.Observe(e)
}

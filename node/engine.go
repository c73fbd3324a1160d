package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"weft/encryption"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
	"weft/nat"
	"weft/node/status"
	"weft/routing"
	"weft/tunnel"
)

// part is one driver in the order of application. wire.go lists them, each with its reason.
type part struct {
	name    string
	why     string // why it stands in this place
	apply   func(context.Context, *plans) (reconcile.Result, error)
	observe func(kernel.Event) bool // tells whether an event undid something of ours
	resync  func()                  // read the kernel again at the next apply
	// watch, optional, reports what the route netlink events do not cover, until ctx ends.
	watch func(ctx context.Context, kick func()) error
}

// plans is what one run makes the kernel look like.
type plans struct {
	view       *topology.View
	tunnel     tunnel.Plan
	encryption encryption.Plan
	nat        nat.Plan
	routing    routing.Plan
	hosts      routing.Ruled
	services   *routing.Ruled // nil: not known yet, the kernel keeps what it has

	endpoints map[model.EndpointID]model.Endpoint // that routing was compiled with
	snapshot  *model.Snapshot                     // that the view was compiled from
}

// keep takes over what an earlier run compiled from the same.
func (p *plans) keep(last *plans) {
	p.view, p.tunnel, p.encryption, p.nat, p.hosts, p.snapshot = last.view, last.tunnel, last.encryption, last.nat, last.hosts, last.snapshot
}

// engine turns the cluster's state into plans and plans into kernel state.
type engine struct {
	log       *slog.Logger
	cluster   *cluster
	underlay  *underlay
	compiler  *topology.Compiler
	tunnels   tunnel.Compiler
	routes    routing.Compiler
	learned   routing.LearnedCompiler
	speaker   *speaker                                   // nil: nothing is learned
	endpoints func() map[model.EndpointID]model.Endpoint // a copy for the caller
	parts     []part
	metrics   *metrics
	runner    *reconcile.Runner
	collector *collector
	announcer *announcer
	encryptor *encryptor
	store     []uint16            // TCP ports of the store
	onLinks   func([]model.Link)  // optional: this host's interfaces are others than before
	onOverlay func(model.Overlay) // optional: of every new view

	mu       sync.Mutex
	plans    *plans // of the last run; nil before the first
	inputs   inputs
	linksGen uint64 // of the interfaces that onLinks was told of
	errs     map[string]status.Error
	applied  time.Time // of the last run without error
	repairs  uint64
}

// inputs tells whether the view must be computed again.
type inputs struct {
	cluster    uint64
	underlay   uint64
	encryption uint64
}

const (
	retryMin = 200 * time.Millisecond
	retryMax = 10 * time.Second
)

func (e *engine) init(resync time.Duration) {
	e.errs = map[string]status.Error{}
	e.collector = newCollector()
	e.runner = reconcile.NewRunner(e.run, reconcile.RunnerOptions{RetryMin: retryMin, RetryMax: retryMax, Resync: resync})
}

// run is one pass: read what changed, compile, apply in order, report. Before the first complete
// snapshot it does nothing: a partial view never deletes a route.
func (e *engine) run(ctx context.Context, full bool) error {
	defer e.collector.kick()
	if full {
		e.underlay.invalidate()
		for _, p := range e.parts {
			p.resync()
		}
	}
	started := time.Now()
	e.announcer.running.Lock()
	defer e.announcer.running.Unlock()
	p, err := e.compile(ctx)
	if p == nil {
		return err
	}
	changed, applyErr := e.apply(ctx, p)
	settled := applyErr == nil || onlyLearned(applyErr)
	e.encryptor.ran(p, settled)
	e.announce(p, settled)
	err = errors.Join(err, applyErr)
	e.mu.Lock()
	e.plans = p
	if err == nil {
		e.applied = time.Now()
	}
	e.repairs += uint64(changed.Repaired)
	e.mu.Unlock()
	if !changed.Zero() {
		e.log.Info("applied", "change", changed.String(), "paths", len(p.view.Paths),
			"routes", len(p.routing.Routes)+len(p.routing.Pods), "took", time.Since(started).Round(time.Microsecond))
	}
	return err
}

// compile returns the plans, or nil when nothing can be decided yet. What a compiler could not place
// (two nodes with one address, say) is noted and left out: it is no failure of this run, trying again
// would not help, and one bad record must not keep pods from being attached elsewhere.
func (e *engine) compile(ctx context.Context) (*plans, error) {
	under, underGen, err := e.underlay.get(ctx)
	if err != nil {
		e.note("underlay", err)
		return nil, err
	}
	e.note("underlay", nil)
	e.mu.Lock()
	last, lastInputs := e.plans, e.inputs
	e.mu.Unlock()

	p := &plans{}
	now := inputs{e.cluster.currentGeneration(), underGen, e.encryptor.generation()}
	if last != nil && now == lastInputs {
		p.keep(last)
	} else {
		err := e.encryptor.wait(e.cluster.unread())
		if e.note("encryption/settings", err); err != nil {
			return nil, nil // its arrival kicks the next run
		}
		snap, gen, ok := e.cluster.next()
		if !ok {
			return nil, nil
		}
		now.cluster = gen
		snap.Underlay, p.snapshot = under, snap
		snap.EncryptionState, now.encryption = e.encryptor.state(ctx, snap)
		if self := e.announcer.restrict(snap.Nodes[snap.Self]); self != snap.Nodes[snap.Self] {
			snap.Nodes = maps.Clone(snap.Nodes) // they are the next snapshot's, too
			snap.Nodes[snap.Self] = self
		}
		p.view, err = e.compiler.Compute(snap)
		e.note("topology", err)
		if err == nil && e.onOverlay != nil {
			e.onOverlay(p.view.Overlay())
		}
		// After the overlay: with the links, policy has all that it waits for.
		if e.onLinks != nil && underGen != e.linksGen {
			e.linksGen = underGen
			e.onLinks(under.Links)
		}
		switch {
		case err != nil && last == nil:
			return nil, nil // the record is on its way: its arrival kicks the next run
		case err != nil:
			// Somebody removed the record, which is being written anew. Until it is there the
			// other nodes' routes stay as they are, and pods of this host come and go.
			p.keep(last)
			now = lastInputs
		default:
			p.tunnel, err = e.tunnels.Compile(p.view)
			e.note("tunnel", err)
			p.encryption, err = e.encryptor.plan(snap, p.view)
			e.note("encryption", err)
			p.nat, err = nat.Compile(snap.NAT, snap.Pools, snap.Nodes, p.view.Tunnels)
			e.note("nat", err)
			p.hosts = routing.CompileHosts(p.view, e.hostRouting(snap.Encryption.Priority))
		}
	}
	p.endpoints = e.endpoints()
	p.routing, err = e.routes.Compile(p.view, p.endpoints)
	e.note("routing", err)
	if e.speaker != nil {
		p.routing, err = e.speaker.add(&e.learned, p.routing, p.snapshot)
		e.note("routing/learned", err)
	}
	p.services = e.announcedServices(p.snapshot.Underlay)
	e.mu.Lock()
	e.inputs = now
	e.mu.Unlock()
	return p, nil
}

// announce says what this node's record is to say of its tunnels after this run.
func (e *engine) announce(p *plans, settled bool) {
	ready := func(driver string) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		_, failed := e.errs[tunnelPart(driver)]
		return !failed
	}
	e.announcer.ran(p.snapshot.Nodes[p.snapshot.Self], topology.Announce(p.snapshot, p.view, ready, settled))
}

// apply goes through the parts in order; one that fails does not keep the others from their work.
func (e *engine) apply(ctx context.Context, p *plans) (reconcile.Result, error) {
	var sum reconcile.Result
	var errs []error
	for _, part := range e.parts {
		start := time.Now()
		r, err := part.apply(ctx, p)
		e.metrics.applied(part.name, time.Since(start), r, err)
		e.note(part.name, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.name, err))
			e.log.Debug("apply failed, will retry", "part", part.name, "err", err)
		}
		if r.Repaired > 0 {
			e.log.Info("repaired what somebody else changed", "part", part.name, "change", r.String())
		}
		sum = sum.Add(r)
	}
	return sum, errors.Join(errs...)
}

// onlyLearned tells whether the parts failed in nothing but routes that others announced.
func onlyLearned(err error) bool {
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // as apply joined it
	return ok && !slices.ContainsFunc(joined.Unwrap(), func(e error) bool {
		var l *routing.LearnedError
		return !errors.As(e, &l)
	})
}

// note keeps the last error of a part for status, and logs it once; nil clears it.
func (e *engine) note(part string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		delete(e.errs, part)
		return
	}
	if e.errs[part].Text != err.Error() {
		e.log.Warn("cannot be done", "part", part, "err", err)
	}
	e.errs[part] = status.Error{Part: part, Time: time.Now(), Text: err.Error()}
}

// onEvent takes one kernel event: what undid our work is repaired, what changed the underlay is
// taken into account. It never blocks.
func (e *engine) onEvent(ev kernel.Event) {
	if ev.Kind == kernel.EventLost {
		e.log.Warn("kernel events were lost, comparing everything")
		e.runner.KickFull()
		return
	}
	kick := e.underlay.observe(ev)
	for _, p := range e.parts {
		if p.observe(ev) {
			kick = true
		}
	}
	if kick {
		e.runner.Kick()
	}
}

// current returns the plans of the last run; nil before the first.
func (e *engine) current() *plans {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.plans
}

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
	"weft/node/status"
	"weft/policy"
)

// policyDriver is what a folder under policy/ brings.
type policyDriver interface {
	// Apply makes the kernel enforce an Update; one without a Program takes all away.
	Apply(context.Context, policy.Update) (reconcile.Result, error)
	// Barrier keeps pods closed until the first Apply, unless rules of an earlier process are there.
	Barrier(context.Context) error
	Watch(ctx context.Context, kick func()) error
	Observe(kernel.Event) bool
	Invalidate()
	Close()
}

// connectionEnder ends what a change of policy denies although it was allowed when it began.
type connectionEnder interface {
	// Follow notes what an Update may deny, at once; Cut ends it, which may take its time.
	Follow(policy.Update)
	Cut(context.Context) error
	Watch(ctx context.Context, kick func()) error
	Invalidate()
	Close()
}

// enforcer has policy in the kernel. It is apart from the engine: a change of policy waits for no
// route, and a route for no policy.
type enforcer struct {
	self    model.NodeName
	kinds   map[string]bool // that policy depends on
	log     *slog.Logger
	metrics *metrics
	runner  *reconcile.Runner
	backend *backend
	ender   connectionEnder                              // nil: there is none
	cuts    *reconcile.Runner                            // of ender: no change of policy waits for it
	told    func(policy.Update)                          // of every program before it is applied; nil: nobody
	before  func(context.Context, *policy.Program) error // takes out of its way what the next program has to see; nil: nothing

	running  sync.Mutex // held during a run, by whoever reads the program, and by ender for moments
	compiler *policy.Compiler
	feeder   *policies.Feeder
	waiting  []time.Time // of changes that are not in the kernel yet
	last     policy.Update

	mu      sync.Mutex // guards what follows; never held for long
	queue   []func() time.Time
	overlay model.Overlay // that the compiler knows, or will before its next program
	synced  bool
	linked  bool // this host's interfaces are known
	state   status.Policy
	failed  [2]error // of the last runs, by who made them
	wrong   []policies.Problem
	closed  bool // a barrier or a program stands
	tried   bool // the first program was given to the driver
	mended  uint64
	at      time.Time

	observed atomic.Pointer[policyDriver] // the one in force
	stands   atomic.Bool                  // the barrier does, as far as anybody noticed
}

// Who an error in failed is of.
const (
	byDriver = iota
	byEnder
)

// maxWaiting bounds how many changes are timed when the kernel takes none.
const maxWaiting = 10_000

func newEnforcer(self model.NodeName, b *backend, ender connectionEnder, m *metrics, log *slog.Logger, resync time.Duration) *enforcer {
	c := policy.NewCompiler(self)
	kinds := map[string]bool{}
	for _, k := range policies.Kinds() {
		kinds[k] = true
	}
	e := &enforcer{self: self, kinds: kinds, log: log, metrics: m, backend: b, ender: ender, compiler: c, feeder: policies.NewFeeder(self, c, true)}
	timing := reconcile.RunnerOptions{RetryMin: retryMin, RetryMax: retryMax, Resync: resync}
	e.runner, e.cuts = reconcile.NewRunner(e.run, timing), reconcile.NewRunner(e.cut, timing)
	return e
}

// Run enforces until ctx ends; the kernel keeps what it has.
func (e *enforcer) Run(ctx context.Context) error {
	defer e.backend.close()
	e.runner.Kick() // the barrier comes before anything else
	if e.ender == nil {
		return e.runner.Run(ctx)
	}
	defer e.ender.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.runner.Run(ctx) })
	g.Go(func() error { return e.cuts.Run(ctx) })
	g.Go(func() error { return watchOn(ctx, e.log, "ended connections", e.ender.Watch, e.cuts.Kick) })
	return g.Wait()
}

// watchOn keeps a watch alive until ctx ends, whose cause it returns.
func watchOn(ctx context.Context, log *slog.Logger, what string, watch func(context.Context, func()) error, kick func()) error {
	for ctx.Err() == nil {
		if err := watch(ctx, kick); ctx.Err() == nil {
			log.Warn("cannot listen to what others change, trying again", "of", what, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryMax):
			kick()
		}
	}
	return context.Cause(ctx)
}

// later has f done at the beginning of the next run. f returns when what it does happened; zero: that
// is not timed.
func (e *enforcer) later(f func() time.Time) {
	e.mu.Lock()
	e.queue = append(e.queue, f)
	e.mu.Unlock()
}

// OnState implements datastore.Sink.
func (e *enforcer) OnState(s datastore.State, _ error) {
	if s != datastore.StateInSync {
		return
	}
	e.mu.Lock()
	first := !e.synced
	e.synced = true
	e.mu.Unlock()
	if first {
		e.runner.Kick()
	}
}

// OnChanges implements datastore.Sink.
func (e *enforcer) OnChanges(all []datastore.Change) {
	var changes []datastore.Change
	for _, ch := range all {
		if e.kinds[ch.Key.Kind] {
			changes = append(changes, ch)
		}
	}
	if len(changes) == 0 {
		return
	}
	now := time.Now()
	e.later(func() time.Time {
		for _, ch := range changes {
			if err := e.feeder.Change(ch); err != nil {
				e.log.Warn("resource not understood", "resource", ch.Key.String(), "err", err)
			}
		}
		return now
	})
	e.runner.Kick()
}

// Attach implements cni.Enforcer.
func (e *enforcer) Attach(a policies.Attachment, record *v3.WorkloadEndpoint) {
	e.later(func() time.Time {
		if err := e.feeder.Attach(a, record); err != nil {
			e.log.Warn("pod not understood, nothing passes to or from it", "pod", a.ID.String(), "err", err)
		}
		return time.Time{}
	})
}

// Detach implements cni.Enforcer.
func (e *enforcer) Detach(id model.EndpointID) {
	e.later(func() time.Time { e.feeder.Detach(id); return time.Time{} })
	e.runner.Kick()
}

// setLinks tells of this host's interfaces.
func (e *enforcer) setLinks(links []model.Link) {
	e.later(func() time.Time { e.compiler.SetLinks(links); return time.Time{} })
	e.mu.Lock()
	e.linked = true
	e.mu.Unlock()
	e.runner.Kick()
}

// setOverlay tells of the other nodes and the tunnels to them.
func (e *enforcer) setOverlay(o model.Overlay) {
	e.mu.Lock()
	same := reflect.DeepEqual(e.overlay, o)
	e.overlay = o
	e.mu.Unlock()
	if !same {
		e.later(func() time.Time { e.compiler.SetOverlay(o); return time.Time{} })
		e.runner.Kick()
	}
}

const (
	// enforceTimeout is how long a new pod waits for its policy, enforcePatience how long when the
	// driver reports errors meanwhile.
	enforceTimeout, enforcePatience = 5 * time.Second, time.Second
	enforcePause                    = 20 * time.Millisecond
)

// Enforced implements cni.Enforcer. The pods may have no program when it returns nil: then nothing
// passes to or from them until they have one.
func (e *enforcer) Enforced(ctx context.Context) error {
	start := time.Now()
	defer func() { e.metrics.policyQuarantine.Observe(time.Since(start).Seconds()) }()
	if e.backend.none() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, enforceTimeout)
	defer cancel()
	for {
		err := e.runner.Await(ctx)
		if err == nil || e.inForce() {
			return nil
		}
		if ctx.Err() != nil || time.Since(start) > enforcePatience {
			return e.isolated(err)
		}
		select {
		case <-time.After(enforcePause):
		case <-ctx.Done():
		}
	}
}

// inForce tells that the kernel has the program of the last run, whatever else is wrong: a rule that it
// refuses, say.
func (e *enforcer) inForce() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tried && e.state.Programmed == e.state.Generation
}

// isolated is the end of a wait in vain: a pod without a program is cut off by what stands.
func (e *enforcer) isolated(why error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		return fmt.Errorf("policy cannot be enforced: %w", why)
	}
	e.log.Warn("a pod starts without waiting longer for its policy; nothing passes to or from it until it has one", "err", why)
	return nil
}

// onEvent takes one kernel event.
func (e *enforcer) onEvent(ev kernel.Event) {
	if ev.Kind == kernel.EventLost {
		e.runner.KickFull()
		return
	}
	if d := e.observed.Load(); d != nil && (*d).Observe(ev) {
		e.kick()
	}
}

// run is one pass: take in what changed, compile, apply, report.
func (e *enforcer) run(ctx context.Context, full bool) error {
	e.running.Lock()
	defer e.running.Unlock()
	e.mu.Lock()
	queue, known, tried := e.queue, e.synced && e.linked, e.tried
	e.queue = nil
	e.mu.Unlock()
	for _, f := range queue {
		if at := f(); !at.IsZero() && tried && len(e.waiting) < maxWaiting {
			e.waiting = append(e.waiting, at)
		}
	}
	if full {
		e.backend.invalidate()
		e.cuts.KickFull()
	}
	if !known { // without the links no host endpoint would match by its address
		return e.barrier(ctx, full)
	}
	u := e.compiler.Flush()
	e.last = u
	if e.told != nil {
		e.told(u)
	}
	var late error
	if e.before != nil {
		late = e.before(ctx, u.Program)
	}
	started := time.Now()
	r, inForce, err := e.backend.apply(ctx, e.feeder.Settings(), u, e.kick)
	err = errors.Join(e.named(err), late)
	took := time.Since(started)
	if e.ender != nil { // also after an error: it may be about one rule
		e.ender.Follow(u)
		e.cuts.Kick()
	}
	e.report(&u, r, inForce, err, took)
	return err
}

// kick has the driver look again at what somebody else may have changed.
func (e *enforcer) kick() {
	e.stands.Store(false)
	e.runner.Kick()
}

// cut ends the connections that the programs so far deny.
func (e *enforcer) cut(ctx context.Context, full bool) error {
	if full {
		e.ender.Invalidate()
	}
	err := e.ender.Cut(ctx)
	if err != nil {
		err = fmt.Errorf("end connections that policy denies: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noteError(byEnder, err)
	return err
}

// barrier closes pods while policy is not known, unless an earlier process left rules in force. Every page that the store
// tells is a run, and to find the rules of the earlier process takes as long as there are many: it looks once, and again
// after a kick.
func (e *enforcer) barrier(ctx context.Context, full bool) error {
	if e.stands.Swap(true) && !full {
		return nil
	}
	err := e.named(e.backend.barrier(ctx, e.kick))
	if err != nil {
		e.stands.Store(false)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = err == nil && !e.backend.none()
	e.state.Driver = e.backend.name()
	e.noteError(byDriver, err)
	return err
}

func (e *enforcer) named(err error) error {
	if err != nil && e.backend.name() != "" {
		return fmt.Errorf("policy/%s: %w", e.backend.name(), err)
	}
	return err
}

// noteError keeps the error of somebody's last run for status, and logs it when it is another; mu is held.
func (e *enforcer) noteError(by int, err error) {
	e.failed[by] = err
	text := ""
	if all := errors.Join(e.failed[:]...); all != nil {
		text = all.Error()
	}
	if text == e.state.Error {
		return
	}
	e.state.Error = text
	if err != nil {
		e.log.Warn("policy cannot be enforced as it should", "err", err)
		e.at = time.Now()
	}
}

// report keeps what status and metrics tell of a run.
func (e *enforcer) report(u *policy.Update, r reconcile.Result, inForce bool, err error, took time.Duration) {
	d := e.backend.current()
	if d != nil {
		e.observed.Store(&d)
	}
	name := e.backend.name()
	if name != "" {
		e.metrics.applied("policy/"+name, took, r, err)
		if r.Repaired > 0 {
			e.log.Info("repaired what somebody else changed", "part", "policy/"+name, "change", r.String())
		}
	}
	if inForce {
		now := time.Now()
		for _, at := range e.waiting {
			e.metrics.policyLatency.Observe(now.Sub(at).Seconds())
		}
		e.waiting = e.waiting[:0]
	}
	wrong := e.feeder.Problems()
	unknown := e.feeder.Unrecorded()
	e.mu.Lock()
	defer e.mu.Unlock()
	first := !e.tried
	e.tried, e.wrong = true, wrong
	e.mended += uint64(r.Repaired)
	if inForce {
		e.closed = true
		e.state.Programmed = u.Generation
	}
	e.state.Driver, e.state.Generation = name, u.Generation
	e.state.Pods, e.state.Sets, e.state.Chains, e.state.Hosts = len(u.Program.Endpoints), len(u.Program.Sets), len(u.Program.Chains), len(u.Program.Hosts)
	if first || len(u.Delta.ChainsChanged)+len(u.Delta.ChainsRemoved) > 0 {
		e.state.Policies = activePolicies(u.Program)
	}
	e.state.Isolated = nil
	for _, id := range unknown {
		e.state.Isolated = append(e.state.Isolated, id.String())
	}
	e.noteError(byDriver, err)
	if first && err == nil && name != "" {
		e.log.Info("policy is enforced", "driver", name, "policies", e.state.Policies, "pods", e.state.Pods, "took", took.Round(time.Microsecond))
	}
}

// activePolicies counts the policies that select something here, staged ones left out.
func activePolicies(p *policy.Program) int {
	seen := map[string]struct{}{}
	for id, c := range p.Chains {
		if name := string(id); !c.Staged && !strings.HasPrefix(name, "Profile ") {
			seen[name[:strings.LastIndexByte(name, ' ')]] = struct{}{}
		}
	}
	return len(seen)
}

// status returns what is known of policy, with what could not be understood as sentences.
func (e *enforcer) status() (status.Policy, []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var problems []string
	for _, p := range e.wrong {
		problems = append(problems, p.Error())
	}
	for _, id := range e.state.Isolated {
		problems = append(problems, fmt.Sprintf("pod %s is attached, but the store has no WorkloadEndpoint of it: nothing passes to or from it; delete the pod", id))
	}
	return e.state, problems
}

// repairs counts what somebody else had changed and was put back.
func (e *enforcer) repairs() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mended
}

// lastError returns the error of the last run, and since when.
func (e *enforcer) lastError() (string, time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state.Error, e.at
}

// ready tells whether policy has been programmed; if not, why.
func (e *enforcer) ready() error {
	if e.backend.none() {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.tried:
		return nil
	case e.state.Error != "":
		return errors.New(e.state.Error)
	}
	return fmt.Errorf("the node has not programmed policy yet")
}

// format prints the program that was compiled last; ok is false before the first.
func (e *enforcer) format() (text string, ok bool) {
	e.running.Lock()
	defer e.running.Unlock()
	if e.last.Program == nil {
		return "", false
	}
	return e.last.Program.Format(), true
}

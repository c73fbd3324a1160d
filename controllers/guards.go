package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/node/accept"
	"weft/node/datastore"
	"weft/node/ipam"
)

// The finalizers of pools and tiers, on stores that have finalizers.
const (
	PoolFinalizer = "projectcalico.org/ippool-finalizer"
	TierFinalizer = "projectcalico.org/tier-controller"
)

const (
	guardsSettle   = 200 * time.Millisecond
	guardsRetryMax = 5 * time.Second // while something that is deleted is in use
	// poolSettle is for how long after the deletion of a pool a node may give out an address of it, not knowing of that.
	poolSettle = 2 * time.Second
)

// guards keep pools and tiers that are deleted for as long as they are in use, and say in their status what is the
// matter with them.
type guards struct {
	follower
	store     datastore.Store
	log       *slog.Logger
	finalizes bool
	sayer     datastore.ConditionWriter // nil: what cannot be understood has no status

	pools   map[string]*v3.IPPool
	tiers   map[string]*v3.Tier
	refused map[datastore.Key]datastore.Change
	said    map[datastore.Key]string // of those that are refused
}

func newGuards(cfg Config) *guards {
	g := &guards{store: cfg.Store, log: cfg.Log, pools: map[string]*v3.IPPool{}, tiers: map[string]*v3.Tier{}, refused: map[datastore.Key]datastore.Change{}, said: map[datastore.Key]string{}}
	g.sayer, g.finalizes = conditionsOf(cfg.Store)
	g.runner = reconcile.NewRunner(g.run, reconcile.RunnerOptions{Settle: guardsSettle, RetryMin: retryMin, RetryMax: guardsRetryMax, Resync: hostsResync})
	return g
}

func (g *guards) follow(ctx context.Context, from datastore.Store) error {
	return datastore.Follow(ctx, from, []string{v3.KindIPPool, v3.KindTier}, g, datastore.FollowOptions{Logger: g.log})
}

// OnChanges implements datastore.Sink.
func (g *guards) OnChanges(changes []datastore.Change) {
	g.mu.Lock()
	for _, c := range changes {
		if delete(g.refused, c.Key); c.Err != nil {
			g.refused[c.Key] = c
		} else {
			delete(g.said, c.Key)
		}
		switch c.Key.Kind { // of what cannot be understood nothing is known
		case v3.KindIPPool:
			note(g.pools, c)
		case v3.KindTier:
			note(g.tiers, c)
		}
	}
	g.mu.Unlock()
	g.runner.Kick()
}

// errInUse makes the Runner come back.
var errInUse = errors.New("something that is deleted is in use")

// run writes what is to be said. Somebody who was faster is no error: his change arrives.
func (g *guards) run(ctx context.Context, _ bool) error {
	g.mu.Lock()
	synced, pools, tiers := g.synced, maps.Clone(g.pools), maps.Clone(g.tiers)
	refused := maps.Clone(g.refused)
	g.mu.Unlock()
	if !synced {
		return nil
	}
	use, err := g.usage(ctx, pools, tiers)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		next, later := nextPool(pools[name], pools, use, g.finalizes, time.Now())
		errs = append(errs, g.put(ctx, next), later)
	}
	for _, name := range slices.Sorted(maps.Keys(tiers)) {
		next, later := nextTier(tiers[name], use, g.finalizes)
		errs = append(errs, g.put(ctx, next), later)
	}
	if g.finalizes {
		for _, t := range v3.BuiltinTiers() {
			if _, bad := refused[datastore.KeyOf(t)]; tiers[t.Name] == nil && !bad {
				_, err := g.store.Create(ctx, t)
				errs = append(errs, harmless(err))
			}
		}
		errs = append(errs, g.refuse(ctx, refused))
	}
	err = errors.Join(errs...)
	if err != nil && !errors.Is(err, errInUse) {
		g.log.Warn("pools and tiers do not say what is the matter with them, will try again", "err", err)
	}
	return err
}

// harmless is err, unless somebody was faster.
func harmless(err error) error {
	if errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrAlreadyExists) || errors.Is(err, datastore.ErrNotFound) {
		return nil
	}
	return err
}

// put writes what is to change: finalizers, then the status.
func (g *guards) put(ctx context.Context, next v3.Object) error {
	if next == nil {
		return nil
	}
	_, err := g.store.Update(ctx, next)
	return harmless(err)
}

// refuse says in the status of what only these rules refuse why they do; once for each reason, since saying it changes it.
func (g *guards) refuse(ctx context.Context, refused map[datastore.Key]datastore.Change) error {
	var errs []error
	for key, r := range refused {
		why := r.Err.Error()
		g.mu.Lock()
		same := g.said[key] == why
		g.said[key] = why
		g.mu.Unlock()
		if same {
			continue
		}
		c := accept.Condition(accept.Refused(r.Err).Problems, 0)
		if _, err := g.sayer.WriteConditions(ctx, key, r.Revision, []metav1.Condition{c}); err != nil { // who changed it may have changed this, too
			g.mu.Lock()
			delete(g.said, key)
			g.mu.Unlock()
			errs = append(errs, harmless(err))
		}
	}
	return errors.Join(errs...)
}

// usage is what keeps pools and tiers from going.
type usage struct {
	addresses map[string]int // of pods, by pool
	policies  map[string]int // by tier
}

// usage asks the store only when something is being deleted.
func (g *guards) usage(ctx context.Context, pools map[string]*v3.IPPool, tiers map[string]*v3.Tier) (usage, error) {
	u := usage{map[string]int{}, map[string]int{}}
	leaving := slices.DeleteFunc(slices.Collect(maps.Values(pools)), func(p *v3.IPPool) bool { return p.DeletionTimestamp == nil })
	if g.finalizes && len(leaving) > 0 {
		l, err := g.store.List(ctx, v3.KindIPAMBlock)
		if err != nil {
			return u, err
		}
		for _, r := range l.Rejected { // it may be of any pool
			return u, fmt.Errorf("read %v: %w", r.Key, r.Err)
		}
		for _, p := range leaving {
			if u.addresses[p.Name], err = ipam.PodAddressesIn(p.Spec.CIDR, l); err != nil {
				return u, err
			}
		}
	}
	if g.finalizes && slices.ContainsFunc(slices.Collect(maps.Values(tiers)), func(t *v3.Tier) bool { return t.DeletionTimestamp != nil }) {
		l, err := g.store.List(ctx, v3.TieredKinds()...)
		if err != nil {
			return u, err
		}
		for _, r := range l.Rejected {
			return u, fmt.Errorf("read %v: %w", r.Key, r.Err)
		}
		for _, o := range l.Items {
			if p := v3.PolicyOf(o); p != nil {
				u.policies[p.Tier]++
			}
		}
	}
	return u, nil
}

// nextPool returns what is to be stored of a pool, nil for what is; later when it is to be looked at again. It is pure.
func nextPool(p *v3.IPPool, pools map[string]*v3.IPPool, u usage, finalizes bool, now time.Time) (next v3.Object, later error) {
	out := p.DeepCopy()
	c := metav1.Condition{Type: v3.PoolConditionAllocatable, Status: metav1.ConditionFalse}
	keep := true
	problems := accept.Judge(p).Problems
	overlap, overlaps := accept.Overlap(p, pools)
	if overlaps {
		problems = append([]accept.Problem{overlap}, problems...)
	}
	switch {
	case p.DeletionTimestamp != nil:
		c.Reason = v3.PoolReasonTerminating
		c.Message = fmt.Sprintf("the pool is being deleted; pods have %d of its addresses", u.addresses[p.Name])
		keep = u.addresses[p.Name] > 0 || now.Sub(p.DeletionTimestamp.Time) < poolSettle
		if keep && finalizes {
			later = errInUse
		}
	case p.Spec.Disabled:
		c.Reason = v3.PoolReasonDisabled
	case overlaps:
		c.Reason, c.Message = v3.PoolReasonCIDROverlap, overlap.Message
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v3.PoolReasonOK
	}
	changed := set(&out.Status.Conditions, c, p.Generation)
	changed = set(&out.Status.Conditions, accept.Condition(problems, p.Generation), p.Generation) || changed
	if finalizes && finalize(out, PoolFinalizer, keep) || changed {
		return out, later
	}
	return nil, later
}

// nextTier is nextPool of a tier.
func nextTier(t *v3.Tier, u usage, finalizes bool) (next v3.Object, later error) {
	out := t.DeepCopy()
	ready := metav1.Condition{Type: v3.TierConditionReady, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted}
	keep := true
	if t.DeletionTimestamp != nil {
		ready.Status, ready.Reason = metav1.ConditionFalse, v3.PoolReasonTerminating
		ready.Message = fmt.Sprintf("the tier is being deleted; %d policies are in it", u.policies[t.Name])
		if keep = u.policies[t.Name] > 0; keep && finalizes {
			later = errInUse
		}
	}
	changed := set(&out.Status.Conditions, ready, t.Generation)
	changed = set(&out.Status.Conditions, accept.Condition(accept.Judge(t).Problems, t.Generation), t.Generation) || changed
	if finalizes && finalize(out, TierFinalizer, keep) || changed {
		return out, later
	}
	return nil, later
}

// set sets a condition, also where it says the same of an older generation: who waits for a condition waits for that.
func set(conditions *[]metav1.Condition, c metav1.Condition, generation int64) bool {
	c.ObservedGeneration = generation
	return meta.SetStatusCondition(conditions, c)
}

// finalize has o keep a finalizer or not. One cannot be added to what is being deleted.
func finalize(o v3.Object, name string, keep bool) (changed bool) {
	have := o.GetFinalizers()
	there := slices.Contains(have, name)
	switch {
	case keep && !there && o.GetDeletionTimestamp() == nil:
		o.SetFinalizers(append(slices.Clone(have), name))
		return true
	case !keep && there:
		o.SetFinalizers(slices.DeleteFunc(slices.Clone(have), func(f string) bool { return f == name }))
		return true
	}
	return false
}

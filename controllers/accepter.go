package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/node/accept"
	"weft/node/datastore"
)

// Every condition written is a change that all nodes read, and when they are told for the first time it is all of them.
const (
	accepterWriters = 4  // at once
	accepterRate    = 50 // a second
	accepterBurst   = 50
)

// accepter says in the status of every resource whether it is honoured, all of it (package accept). Pools and tiers are the
// guards' matter.
type accepter struct {
	follower
	store   datastore.Store
	log     *slog.Logger
	metrics *metrics
	limit   *rate.Limiter
	writer  datastore.ConditionWriter // nil: a status is written like all else, and that of what cannot be understood not at all

	book  *accept.Book
	seen  map[datastore.Key]seen
	dirty map[datastore.Key]uint64 // since which change
	count uint64                   // of changes
}

// seen is what is known of a resource, beside what is in the book.
type seen struct {
	version    string
	generation int64              // 0: of what cannot be understood it is not known
	conditions []metav1.Condition // that it has; not to be changed
}

func newAccepter(cfg Config, m *metrics) *accepter {
	a := &accepter{store: cfg.Store, log: cfg.Log, metrics: m, limit: rate.NewLimiter(accepterRate, accepterBurst),
		seen: map[datastore.Key]seen{}, dirty: map[datastore.Key]uint64{}}
	_, kubernetes := cfg.inventory()
	a.book = accept.NewBook(kubernetes)
	a.writer, _ = conditionsOf(cfg.Store)
	a.runner = reconcile.NewRunner(a.run, reconcile.RunnerOptions{Settle: guardsSettle, RetryMin: retryMin, RetryMax: retryMax, Resync: hostsResync})
	return a
}

// accepted are the kinds whose condition Accepted the accepter writes.
func accepted(kind string) bool {
	return kind != v3.KindIPPool && kind != v3.KindTier && slices.Contains(accept.Kinds(), kind)
}

func (a *accepter) follow(ctx context.Context, from datastore.Store) error {
	kinds := append(accept.Kinds(), accept.Needed()...)
	kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == v3.KindIPPool })
	return datastore.Follow(ctx, from, kinds, a, datastore.FollowOptions{Logger: a.log})
}

// OnChanges implements datastore.Sink.
func (a *accepter) OnChanges(changes []datastore.Change) {
	a.book.OnChanges(changes)
	a.mu.Lock()
	for _, c := range changes {
		a.count++
		switch {
		case !accepted(c.Key.Kind):
			for _, k := range a.book.Naming(c.Key) {
				a.dirty[k] = a.count
			}
		case c.Object == nil && (c.Err == nil || a.writer == nil): // it is gone, or no status of it can be written
			delete(a.seen, c.Key)
			delete(a.dirty, c.Key)
		default:
			s := seen{version: c.Revision}
			if c.Object != nil {
				s = seen{c.Object.GetResourceVersion(), c.Object.GetGeneration(), *v3.ConditionsOf(c.Object)}
			}
			a.seen[c.Key] = s
			a.dirty[c.Key] = a.count
		}
	}
	a.mu.Unlock()
	a.runner.Kick()
}

// words are what is to be written of a resource.
type words struct {
	key        datastore.Key
	version    string
	conditions []metav1.Condition
}

// run writes what is to be said of what changed. Somebody who was faster is no error: his change arrives.
func (a *accepter) run(ctx context.Context, _ bool) error {
	for ctx.Err() == nil {
		todo := a.next(accepterBurst)
		if len(todo) == 0 {
			return nil
		}
		if err := a.write(ctx, todo); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// next takes what is to be written out of what changed, at most so many: the newest first, which somebody may wait for
// while all the others have their turn.
func (a *accepter) next(most int) (out []words) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.synced { // a tier may be on its way
		return nil
	}
	newest := func(k, l datastore.Key) int { return cmp.Compare(a.dirty[l], a.dirty[k]) }
	for _, k := range slices.SortedFunc(maps.Keys(a.dirty), newest) {
		if len(out) == most {
			break
		}
		delete(a.dirty, k)
		s, there := a.seen[k]
		if !there {
			continue // what names a tier that came may be unreadable
		}
		if conditions, changed := nextAccepted(s, a.book.Problems(k)); changed {
			out = append(out, words{k, s.version, conditions})
		}
	}
	return out
}

// write says it, and puts back what could not be said.
func (a *accepter) write(ctx context.Context, todo []words) error {
	errs := make([]error, len(todo))
	var g errgroup.Group
	g.SetLimit(accepterWriters)
	for i, w := range todo {
		g.Go(func() error {
			if errs[i] = a.limit.Wait(ctx); errs[i] == nil {
				errs[i] = harmless(a.say(ctx, w))
			}
			return nil
		})
	}
	_ = g.Wait()
	failed := 0
	a.mu.Lock()
	for i, w := range todo {
		if errs[i] == nil {
			continue
		}
		failed++
		if _, there := a.seen[w.key]; there {
			a.dirty[w.key] = max(a.dirty[w.key], 1)
		}
	}
	a.mu.Unlock()
	err := errors.Join(errs...)
	if err != nil && ctx.Err() == nil {
		first := errs[slices.IndexFunc(errs, func(e error) bool { return e != nil })]
		a.log.Warn("resources do not say whether they are honoured, will try again", "of", len(todo), "failed", failed, "err", first)
	}
	return err
}

// nextAccepted returns the conditions that a resource is to have; false where it has them. It is pure but for the time
// of a change.
func nextAccepted(s seen, problems []accept.Problem) ([]metav1.Condition, bool) {
	next := slices.Clone(s.conditions)
	return next, meta.SetStatusCondition(&next, accept.Condition(problems, s.generation))
}

// say writes the conditions of a version of a resource.
func (a *accepter) say(ctx context.Context, w words) error {
	var written bool
	var err error
	if a.writer != nil {
		written, err = a.writer.WriteConditions(ctx, w.key, w.version, w.conditions)
	} else {
		written, err = a.put(ctx, w)
	}
	if err == nil && written {
		a.metrics.conditions.Inc()
	}
	return err
}

// put is WriteConditions of a store whose statuses are not apart.
func (a *accepter) put(ctx context.Context, w words) (bool, error) {
	o, err := a.store.Get(ctx, w.key)
	if err != nil {
		return false, fmt.Errorf("write the conditions of %v: %w", w.key, err)
	}
	if have := o.GetResourceVersion(); have != w.version {
		return false, fmt.Errorf("write the conditions of %v: resource version is %s, not %s: %w", w.key, have, w.version, datastore.ErrConflict)
	}
	*v3.ConditionsOf(o) = w.conditions
	_, err = a.store.Update(ctx, o)
	return err == nil, err
}

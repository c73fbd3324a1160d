// Package reconcile makes one class of kernel objects look like a wanted map, and runs the loop
// that keeps it so. It knows neither netlink nor the project's resources: a driver brings a Table.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
)

// Table is the part of one kernel object class that we own: routes with our protocol number,
// neighbours of our device, and so on. Implementations hold no state of their own.
type Table[K comparable, V any] interface {
	// List returns owned entries only, all of them: an interrupted dump is retried, never
	// returned in part.
	List(ctx context.Context) (map[K]V, error)
	// Put creates the entry or replaces what is there, without a moment of absence.
	Put(ctx context.Context, k K, v V) error
	// Delete removes the entry; an absent one is not an error.
	Delete(ctx context.Context, k K, v V) error
	// Equal tells whether the kernel's form of a is what b asks for.
	Equal(have, want V) bool
}

// DeletePolicy says when entries that are not wanted are removed.
type DeletePolicy int

const (
	// DeleteAfterCleanPuts removes only when every Put succeeded: for what others hang from,
	// such as routes, where the old entry is better than none.
	DeleteAfterCleanPuts DeletePolicy = iota
	// DeleteAlways removes even when a Put failed: for what grants access, such as peers and set
	// elements, where a refused entry must not keep a revoked one alive.
	DeleteAlways
)

// Result counts what one Sync changed.
type Result struct {
	Added, Changed, Removed int
	// Repaired counts entries that were as wanted at the last Sync and that somebody else
	// removed or changed since.
	Repaired int
}

// Add returns the sum of both.
func (r Result) Add(o Result) Result {
	return Result{r.Added + o.Added, r.Changed + o.Changed, r.Removed + o.Removed, r.Repaired + o.Repaired}
}

// Zero tells whether nothing was changed.
func (r Result) Zero() bool { return r == Result{} }

// String prints the counts that are not zero, or "no change".
func (r Result) String() string {
	if r.Zero() {
		return "no change"
	}
	s := fmt.Sprintf("%d added, %d changed, %d removed", r.Added, r.Changed, r.Removed)
	if r.Repaired > 0 {
		s += fmt.Sprintf(", %d of them repaired", r.Repaired)
	}
	return s
}

// Syncer keeps one Table as wanted. It reads the kernel at its first Sync and whenever
// Invalidate or Observe said that somebody else touched it; otherwise it compares with what it
// wrote itself, so that one changed entry among thousands costs one write and no dump.
// Sync is called by one goroutine; Invalidate and Observe by any.
type Syncer[K comparable, V any] struct {
	table  Table[K, V]
	policy DeletePolicy

	mu    sync.Mutex
	have  map[K]V // nil: unknown, List before the next comparison
	stale bool    // set while a List is under way: its outcome may be out of date

	last map[K]V // what the last clean Sync wanted; only Sync uses it
}

// NewSyncer returns a Syncer that has not read the kernel yet.
func NewSyncer[K comparable, V any](t Table[K, V], p DeletePolicy) *Syncer[K, V] {
	return &Syncer[K, V]{table: t, policy: p}
}

// Invalidate makes the next Sync read the kernel again.
func (s *Syncer[K, V]) Invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.have, s.stale = nil, true
}

// Observe compares a kernel event with what the last Sync left there and tells whether somebody
// else changed it; if so, the next Sync reads the kernel again. gone means the entry was removed.
// Events of our own writes agree with what we hold and cost nothing.
func (s *Syncer[K, V]) Observe(k K, v V, gone bool) (foreign bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		s.stale = true
		return true
	}
	have, ok := s.have[k]
	switch {
	case gone && !ok, !gone && ok && s.table.Equal(v, have):
		return false
	}
	s.have, s.stale = nil, true
	return true
}

// Sync makes the table equal to want: puts first, then deletes by the delete policy. It returns
// what it changed and every error joined; the next call is the retry. want is kept and must not
// be changed afterwards.
func (s *Syncer[K, V]) Sync(ctx context.Context, want map[K]V) (Result, error) {
	have, err := s.load(ctx)
	if err != nil {
		return Result{}, err
	}
	var res Result
	var errs []error
	for k, w := range want {
		h, ok := have[k]
		if ok && s.table.Equal(h, w) {
			continue
		}
		s.note(k, w, true)
		if err := s.table.Put(ctx, k, w); err != nil {
			s.note(k, h, ok)
			errs = append(errs, fmt.Errorf("put %v: %w", k, err))
			continue
		}
		if ok {
			res.Changed++
		} else {
			res.Added++
		}
		if l, was := s.last[k]; was && s.table.Equal(l, w) {
			res.Repaired++
		}
	}
	if len(errs) > 0 && s.policy == DeleteAfterCleanPuts {
		s.Invalidate()
		return res, errors.Join(errs...)
	}
	for k, h := range have {
		if _, ok := want[k]; ok {
			continue
		}
		var zero V
		s.note(k, zero, false)
		if err := s.table.Delete(ctx, k, h); err != nil {
			errs = append(errs, fmt.Errorf("delete %v: %w", k, err))
			continue
		}
		res.Removed++
	}
	if len(errs) > 0 {
		s.Invalidate()
		return res, errors.Join(errs...)
	}
	s.last = want
	return res, nil
}

// load returns what the kernel holds, reading it when that is unknown.
func (s *Syncer[K, V]) load(ctx context.Context) (map[K]V, error) {
	s.mu.Lock()
	if s.have != nil {
		defer s.mu.Unlock()
		return maps.Clone(s.have), nil
	}
	s.stale = false
	s.mu.Unlock()

	listed, err := s.table.List(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stale {
		s.have = maps.Clone(listed)
	}
	return listed, nil
}

// note records what we are about to make true, before the write, so that the kernel's echo of
// our own write is never taken for somebody else's.
func (s *Syncer[K, V]) note(k K, v V, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		return
	}
	if present {
		s.have[k] = v
	} else {
		delete(s.have, k)
	}
}

// Package reconcile makes one class of kernel objects look like a wanted map, and runs the loop
// that keeps it so. It knows neither netlink nor the project's resources: a driver brings a Table.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	// Equal tells whether have is what want asks for; have is the kernel's form of an entry or
	// what an earlier Sync wrote.
	Equal(have, want V) bool
}

// Change is one entry that Sync writes or removes.
type Change[K comparable, V any] struct {
	Key    K
	Exists bool // the table holds an entry of ours under Key: Have
	Have   V
	Want   V // of a put
}

// BatchTable is an optional power of a Table: to write many entries in few exchanges with the
// kernel. Both methods return one error for each change, nil where it was made; one that failed
// does not stop the others.
type BatchTable[K comparable, V any] interface {
	PutMany(ctx context.Context, puts []Change[K, V]) []error
	DeleteMany(ctx context.Context, deletes []Change[K, V]) []error
}

// HoldTable is an optional power of a Table under DeleteAfterCleanPuts: to say which old entries
// must stay because a put failed. Without it, one failed put keeps all of them.
type HoldTable[K comparable] interface {
	// Holds tells whether old may not be removed while failed could not be written.
	Holds(failed, old K) bool
}

// DeletePolicy says when entries that are not wanted are removed.
type DeletePolicy int

const (
	// DeleteAfterCleanPuts removes only when every Put succeeded (or, in a HoldTable, every one
	// that matters to the entry): for what others hang from, such as routes, where the old entry
	// is better than none.
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

// Syncer keeps one Table as wanted. It reads the kernel at its first Sync, after an error and after
// Invalidate; otherwise it compares with what it wrote itself and what Observe and Forget told
// since, so that one changed entry among thousands costs one write and no dump.
// Sync and Patch are called by one goroutine; Invalidate, Observe, Forget and Wants by any.
type Syncer[K comparable, V any] struct {
	table  Table[K, V]
	policy DeletePolicy

	mu    sync.Mutex
	have  map[K]V    // nil: unknown, List before the next comparison
	stale bool       // set while a List is under way: its outcome may be out of date
	gone  map[K]bool // keys of have that others removed, as told
	want  map[K]V    // of the last Sync; changed by its goroutine only

	last map[K]V // what is as the last Sync wanted it; want itself if all is; only Sync uses it
}

// NewSyncer returns a Syncer that has not read the kernel yet.
func NewSyncer[K comparable, V any](t Table[K, V], p DeletePolicy) *Syncer[K, V] {
	return &Syncer[K, V]{table: t, policy: p}
}

// Invalidate makes the next Sync read the kernel again.
func (s *Syncer[K, V]) Invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetAll()
}

// Sync makes the table equal to want: puts first, then deletes by the delete policy. It returns
// what it changed and every error joined; the next call is the retry. want belongs to the Syncer
// from then on.
func (s *Syncer[K, V]) Sync(ctx context.Context, want map[K]V) (Result, error) {
	s.mu.Lock()
	s.want = want
	s.mu.Unlock()
	have, lost, err := s.load(ctx)
	if err != nil {
		return Result{}, err
	}
	var res Result
	errs, failed := s.put(ctx, s.puts(have, want), s.last, &res)
	var deletes []Change[K, V]
	for k, h := range have {
		if !has(want, k) {
			deletes = append(deletes, Change[K, V]{Key: k, Exists: true, Have: h})
		}
	}
	for k, v := range lost { // events come late: it may be there again
		if !has(want, k) {
			deletes = append(deletes, Change[K, V]{Key: k, Exists: true, Have: v})
		}
	}
	errs = append(errs, s.delete(ctx, s.unheld(deletes, failed), &res)...)
	s.remember(s.last, failed)
	return s.settle(ctx, lost, res, errs)
}

// puts returns what is missing or different.
func (s *Syncer[K, V]) puts(have, want map[K]V) []Change[K, V] {
	var puts []Change[K, V]
	for k, w := range want {
		h, ok := have[k]
		if !ok || !s.table.Equal(h, w) {
			puts = append(puts, Change[K, V]{Key: k, Exists: ok, Have: h, Want: w})
		}
	}
	return puts
}

// put writes, counts in res, and returns the errors and the keys that they are about. What is put
// as it was in last is a repair.
func (s *Syncer[K, V]) put(ctx context.Context, puts []Change[K, V], last map[K]V, res *Result) (errs []error, failed []K) {
	for _, c := range puts {
		s.note(c.Key, c.Want, true)
	}
	for i, err := range putMany(ctx, s.table, puts) {
		c := puts[i]
		if err != nil {
			s.note(c.Key, c.Have, c.Exists)
			errs = append(errs, &EntryError{"put", c.Key, err})
			failed = append(failed, c.Key)
			continue
		}
		if c.Exists {
			res.Changed++
		} else {
			res.Added++
		}
		if l, was := last[c.Key]; was && s.table.Equal(l, c.Want) {
			res.Repaired++
		}
	}
	return errs, failed
}

// unheld returns the deletes that may be made although some puts failed.
func (s *Syncer[K, V]) unheld(deletes []Change[K, V], failed []K) []Change[K, V] {
	if len(failed) == 0 || s.policy != DeleteAfterCleanPuts {
		return deletes
	}
	t, ok := s.table.(HoldTable[K])
	if !ok {
		return nil
	}
	return slices.DeleteFunc(deletes, func(c Change[K, V]) bool {
		return slices.ContainsFunc(failed, func(f K) bool { return t.Holds(f, c.Key) })
	})
}

func (s *Syncer[K, V]) delete(ctx context.Context, deletes []Change[K, V], res *Result) (errs []error) {
	for _, c := range deletes {
		s.note(c.Key, c.Have, false)
	}
	for i, err := range deleteMany(ctx, s.table, deletes) {
		if err != nil {
			errs = append(errs, &EntryError{"delete", deletes[i].Key, err})
			continue
		}
		res.Removed++
	}
	return errs
}

// remember keeps what is now as wanted, to tell repairs from changes; of what failed, what was so
// before.
func (s *Syncer[K, V]) remember(before map[K]V, failed []K) {
	if len(failed) == 0 {
		s.last = s.want
		return
	}
	last := maps.Clone(s.want)
	for _, k := range failed {
		if l, ok := before[k]; ok {
			last[k] = l
		} else {
			delete(last, k)
		}
	}
	s.last = last
}

func putMany[K comparable, V any](ctx context.Context, t Table[K, V], puts []Change[K, V]) []error {
	if b, ok := t.(BatchTable[K, V]); ok && len(puts) > 0 {
		return b.PutMany(ctx, puts)
	}
	errs := make([]error, len(puts))
	for i, c := range puts {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = t.Put(ctx, c.Key, c.Want)
		}
	}
	return errs
}

func deleteMany[K comparable, V any](ctx context.Context, t Table[K, V], deletes []Change[K, V]) []error {
	if b, ok := t.(BatchTable[K, V]); ok && len(deletes) > 0 {
		return b.DeleteMany(ctx, deletes)
	}
	errs := make([]error, len(deletes))
	for i, c := range deletes {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = t.Delete(ctx, c.Key, c.Have)
		}
	}
	return errs
}

// EntryError is about one entry of a Table.
type EntryError struct {
	Verb string // put or delete
	Key  any
	Err  error
}

// Error implements error.
func (e *EntryError) Error() string { return fmt.Sprintf("%s %v: %v", e.Verb, e.Key, e.Err) }

// Unwrap implements errors.Is and errors.As.
func (e *EntryError) Unwrap() error { return e.Err }

// more are errors that are counted, not told.
type more []error

// Error implements error.
func (m more) Error() string { return fmt.Sprintf("and %d more errors", len(m)) }

// Unwrap implements errors.Is and errors.As.
func (m more) Unwrap() []error { return m }

// maxErrors is how many errors of one Sync are told apart; a table of thousands can fail as a whole.
const maxErrors = 20

// joinErrors joins errors in a stable order, so that the same failure reads the same each time.
func joinErrors(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if n := len(errs) - maxErrors; n > 0 {
		errs = append(errs[:maxErrors:maxErrors], more(errs[maxErrors:]))
	}
	return errors.Join(errs...)
}

// load returns what the kernel holds, reading it when that is unknown. The map is also s.have: only
// Sync's goroutine changes it, under the lock and never while it ranges over it; Observe reads it
// under the lock.
func (s *Syncer[K, V]) load(ctx context.Context) (have, lost map[K]V, err error) {
	s.mu.Lock()
	if s.have != nil {
		defer s.mu.Unlock()
		lost = s.fold()
		return s.have, lost, nil
	}
	s.stale = false
	s.mu.Unlock()

	listed, err := s.table.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	if listed == nil {
		listed = make(map[K]V) // nil is "unknown" in s.have
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stale {
		s.have = listed
	}
	return listed, nil, nil
}

// note records what we are about to make true, before the write, so that the kernel's echo of
// our own write is never taken for somebody else's.
func (s *Syncer[K, V]) note(k K, v V, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		return
	}
	delete(s.gone, k) // older than what we write now
	if present {
		s.have[k] = v
	} else {
		delete(s.have, k)
	}
}

package reconcile

import (
	"context"
	"maps"
)

// Patch is Sync of what the last Sync or Patch wanted, with puts added to it or replaced in it, and
// without deletes; a key that is in both is put. While the kernel is as the last one left it, but
// for what Observe and Forget told, the cost is that of the difference; else, and after an error, it
// is a whole Sync.
func (s *Syncer[K, V]) Patch(ctx context.Context, puts map[K]V, deletes []K) (Result, error) {
	s.mu.Lock()
	have := s.have
	s.mu.Unlock()
	switch {
	case len(s.want) == 0:
		return s.Sync(ctx, puts)
	case have == nil:
		return s.Sync(ctx, s.patched(puts, deletes))
	}
	s.mu.Lock()
	lost := s.fold()
	s.mu.Unlock()
	// have is known only after a Sync without errors: it is what s.want asks for, but for what was
	// lost, so that only that is repaired.
	before := s.revise(puts, deletes)
	last := make(map[K]V, len(lost))
	toPut := s.puts(have, puts)
	gone := make(map[K]V, len(deletes))
	for k, v := range lost {
		w, wanted := s.want[k]
		if b, ok := before[k]; ok {
			last[k] = b
		} else if wanted && !has(puts, k) {
			last[k] = w
			toPut = append(toPut, Change[K, V]{Key: k, Want: w})
		}
		if !wanted {
			gone[k] = v
		}
	}
	for _, k := range deletes {
		if h, ok := have[k]; ok && !has(puts, k) {
			gone[k] = h
		}
	}
	var res Result
	errs, failed := s.put(ctx, toPut, last, &res)
	errs = append(errs, s.delete(ctx, s.unheld(changes(gone), failed), &res)...)
	s.remember(before, failed)
	return s.settle(ctx, lost, res, errs)
}

// changes makes deletes of entries.
func changes[K comparable, V any](gone map[K]V) []Change[K, V] {
	all := make([]Change[K, V], 0, len(gone))
	for k, v := range gone {
		all = append(all, Change[K, V]{Key: k, Exists: true, Have: v})
	}
	return all
}

// patched returns what Patch wants as a map of its own.
func (s *Syncer[K, V]) patched(puts map[K]V, deletes []K) map[K]V {
	if len(puts)+len(deletes) == 0 {
		return s.want
	}
	want := maps.Clone(s.want)
	for _, k := range deletes {
		delete(want, k)
	}
	maps.Copy(want, puts)
	return want
}

// revise changes s.want in place and returns what it held under the keys of puts.
func (s *Syncer[K, V]) revise(puts map[K]V, deletes []K) (before map[K]V) {
	before = make(map[K]V, len(puts))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range deletes {
		if !has(puts, k) {
			delete(s.want, k)
		}
	}
	for k, v := range puts {
		if w, ok := s.want[k]; ok {
			before[k] = w
		}
		s.want[k] = v
	}
	return before
}

// Wants tells whether the last Sync or Patch wanted an entry under k. Any goroutine may call it.
func (s *Syncer[K, V]) Wants(k K) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return has(s.want, k)
}

package reconcile

import (
	"context"
	"maps"
)

// Patch is Sync of what the last Sync or Patch wanted, with puts added to it or replaced in it, and
// without deletes; a key that is in both is put. While the kernel is as the last one left it, the
// cost is that of the difference; else, and after an error, it is a whole Sync.
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
	// have is known only after a Sync without errors: it is what s.want asks for, so that no put
	// repairs anything.
	toPut := s.puts(have, puts)
	var toDelete []Change[K, V]
	for _, k := range deletes {
		if h, ok := have[k]; ok && !has(puts, k) {
			toDelete = append(toDelete, Change[K, V]{Key: k, Exists: true, Have: h})
		}
	}
	before := s.revise(puts, deletes)
	var res Result
	errs, failed := s.put(ctx, toPut, nil, &res)
	errs = append(errs, s.delete(ctx, s.unheld(toDelete, failed), &res)...)
	s.remember(before, failed)
	if len(errs) > 0 {
		s.Invalidate()
	}
	return res, joinErrors(errs)
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

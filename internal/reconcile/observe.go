package reconcile

import "context"

// Observe compares a kernel event with what is known to be there and tells whether somebody else
// changed it; if so, the next Sync or Patch puts back what is gone, or reads the kernel again where
// something is there that we did not write. gone means the entry was removed. Events of our own
// writes agree with what we hold and cost nothing.
func (s *Syncer[K, V]) Observe(k K, v V, gone bool) (foreign bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		s.stale = true
		return true
	}
	have, ok := s.have[k]
	switch {
	case gone && (!ok || s.gone[k]):
		return false
	case gone:
		s.lose(k)
	case ok && s.table.Equal(v, have):
		delete(s.gone, k) // it was gone before we wrote it: events come late
		return false
	default:
		s.forgetAll()
	}
	return true
}

// Forget says that the table has lost the entries for which lost returns true, such as routes with
// their device, and returns how many it held. The next Sync or Patch puts them again where they are
// still wanted.
func (s *Syncer[K, V]) Forget(lost func(K, V) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		s.stale = true
		return 0
	}
	var keys []K
	for k, v := range s.have {
		if !s.gone[k] && lost(k, v) {
			keys = append(keys, k)
		}
	}
	if len(s.gone)+len(keys) > manyGone {
		s.forgetAll()
		return len(keys)
	}
	for _, k := range keys {
		s.lose(k)
	}
	return len(keys)
}

// manyGone is how many entries may go before the kernel is read: somebody is removing all of them,
// and is ahead of the events.
const manyGone = 256

// lose notes that an entry of have is gone; the lock is held.
func (s *Syncer[K, V]) lose(k K) {
	if len(s.gone) >= manyGone {
		s.forgetAll()
		return
	}
	if s.gone == nil {
		s.gone = map[K]bool{}
	}
	s.gone[k] = true
}

// forgetAll makes the next Sync or Patch read the kernel; the lock is held.
func (s *Syncer[K, V]) forgetAll() { s.have, s.stale, s.gone = nil, true, nil }

// fold takes what events told out of have, and returns what was there; the lock is held, have is
// known, and only Sync's goroutine calls it.
func (s *Syncer[K, V]) fold() map[K]V {
	if len(s.gone) == 0 {
		return nil
	}
	lost := make(map[K]V, len(s.gone))
	for k := range s.gone {
		lost[k] = s.have[k]
		delete(s.have, k)
	}
	s.gone = nil
	return lost
}

// settle is the end of a Sync or Patch: after errors the next one reads the kernel, and if events
// had told that entries were lost, so does this one: they may have been overtaken.
func (s *Syncer[K, V]) settle(ctx context.Context, lost map[K]V, res Result, errs []error) (Result, error) {
	if len(errs) == 0 {
		return res, nil
	}
	s.Invalidate()
	if len(lost) == 0 {
		return res, joinErrors(errs)
	}
	again, err := s.Sync(ctx, s.want)
	return res.Add(again), err
}

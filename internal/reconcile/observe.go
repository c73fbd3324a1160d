package reconcile

import "context"

// seen is what an event told of one entry.
type seen[V any] struct {
	v    V
	gone bool
}

// Observe compares a kernel event with what is known to be there and tells whether somebody else
// changed it; if so, the next Sync or Patch puts this entry right, or reads the kernel again where
// the entry was none of ours. gone means the entry was removed. Events of our own writes agree with
// what we hold and cost nothing.
func (s *Syncer[K, V]) Observe(k K, v V, gone bool) (foreign bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		s.stale = true
		return true
	}
	have, ok := s.have[k]
	last, told := s.seen[k]
	if told {
		have, ok = last.v, !last.gone
	}
	switch {
	case gone && !ok, !gone && ok && s.table.Equal(v, have):
		return false
	case ok || told:
		s.see(k, seen[V]{v, gone})
	default: // nobody asked for it: whether it is one that List would tell is List's to say
		s.forgetAll()
	}
	return true
}

// Forget says that the table has lost the entries for which lost returns true, such as routes with
// their device, and returns how many it held. The next Sync or Patch puts them again where they are
// still wanted.
func (s *Syncer[K, V]) Forget(lost func(K, V) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have == nil {
		s.stale = true
		return 0
	}
	for k, v := range s.have {
		if !s.seen[k].gone && lost(k, v) {
			s.see(k, seen[V]{gone: true})
			n++
		}
	}
	return n
}

// see notes what an event told; the lock is held.
func (s *Syncer[K, V]) see(k K, v seen[V]) {
	if s.seen == nil {
		s.seen = map[K]seen[V]{}
	}
	s.seen[k] = v
}

// forgetAll makes the next Sync or Patch read the kernel; the lock is held.
func (s *Syncer[K, V]) forgetAll() { s.have, s.stale, s.seen = nil, true, nil }

// doubt is an entry that somebody else touched, as far as events tell. They come late, and those of
// our own writes among them: what is in doubt is written again, whatever it seems to be.
type doubt[V any] struct {
	last V // what was known to be there
}

// fold takes what events told into have, and returns what is in doubt; the lock is held, have is
// known, and only Sync's goroutine calls it.
func (s *Syncer[K, V]) fold() map[K]doubt[V] {
	if len(s.seen) == 0 {
		return nil
	}
	doubts := make(map[K]doubt[V], len(s.seen))
	for k, e := range s.seen {
		if e.gone {
			doubts[k] = doubt[V]{s.have[k]}
			delete(s.have, k)
		} else {
			doubts[k] = doubt[V]{e.v}
			s.have[k] = e.v
		}
	}
	s.seen = nil
	return doubts
}

// settle is the end of a Sync or Patch that met errors: what was in doubt may have been overtaken,
// and then the kernel knows better.
func (s *Syncer[K, V]) settle(ctx context.Context, doubts map[K]doubt[V], res Result, errs []error) (Result, error) {
	if len(errs) == 0 {
		return res, nil
	}
	s.Invalidate()
	if len(doubts) == 0 {
		return res, joinErrors(errs)
	}
	again, err := s.Sync(ctx, s.want)
	return res.Add(again), err
}

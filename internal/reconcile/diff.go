package reconcile

import (
	"context"
	"maps"
	"slices"
)

// Diff returns which elements of have are not in want, and which of want are not in have; an
// element that changed is in both results. Both slices are in the order of compare, which may tell
// less apart than == does. What the two have in common at either end costs one == each, and
// nothing where they are the same memory.
func Diff[E comparable](have, want []E, compare func(a, b E) int) (gone, come []E) {
	if sameMemory(have, want) {
		return nil, nil
	}
	for len(have) > 0 && len(want) > 0 && have[0] == want[0] {
		have, want = have[1:], want[1:]
	}
	for len(have) > 0 && len(want) > 0 && have[len(have)-1] == want[len(want)-1] {
		have, want = have[:len(have)-1], want[:len(want)-1]
	}
	for len(have) > 0 && len(want) > 0 {
		order := 0
		if have[0] != want[0] {
			order = compare(have[0], want[0])
			if order <= 0 {
				gone = append(gone, have[0])
			}
			if order >= 0 {
				come = append(come, want[0])
			}
		}
		if order <= 0 {
			have = have[1:]
		}
		if order >= 0 {
			want = want[1:]
		}
	}
	return append(gone, have...), append(come, want...)
}

func sameMemory[E any](a, b []E) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// SliceSyncer is a Syncer for wants that come as slices in a fixed order, as plans have them. It
// hands on only what differs from the slice before: the same slice again costs nothing, and one
// more entry among thousands no more than to compare the slices.
type SliceSyncer[E, K comparable, V any] struct {
	*Syncer[K, V]
	entry   func(E) (K, V)
	compare func(a, b E) int

	last [][]E // only SyncSlice uses it
}

// NewSliceSyncer returns a SliceSyncer that has not read the kernel yet. entry says what an element
// asks for; compare is the order of the slices.
func NewSliceSyncer[E, K comparable, V any](s *Syncer[K, V], entry func(E) (K, V), compare func(a, b E) int) *SliceSyncer[E, K, V] {
	return &SliceSyncer[E, K, V]{Syncer: s, entry: entry, compare: compare}
}

// SyncSlice is Sync of the entries of want, in one slice or several, which are kept and must not be
// changed afterwards. Of several under one key the last counts.
func (s *SliceSyncer[E, K, V]) SyncSlice(ctx context.Context, want ...[]E) (Result, error) {
	var gone, come []E
	total := 0
	for i := range max(len(want), len(s.last)) {
		g, c := Diff(at(s.last, i), at(want, i), s.compare)
		gone, come = append(gone, g...), append(come, c...)
		total += len(at(want, i))
	}
	s.last = want
	count := len(s.want) // of keys after the Patch
	puts := make(map[K]V, len(come))
	for _, e := range come {
		k, v := s.entry(e)
		if !has(puts, k) && !has(s.want, k) {
			count++
		}
		puts[k] = v
	}
	deletes := make(map[K]bool, len(gone))
	for _, e := range gone {
		if k, _ := s.entry(e); !has(puts, k) && !deletes[k] {
			deletes[k] = true
			count--
		}
	}
	if count == total {
		return s.Patch(ctx, puts, slices.Collect(maps.Keys(deletes)))
	}
	// Elements share keys, so that what goes may still be wanted.
	all := make(map[K]V, total)
	for _, part := range want {
		for _, e := range part {
			k, v := s.entry(e)
			all[k] = v
		}
	}
	return s.Sync(ctx, all)
}

func at[E any](all [][]E, i int) []E {
	if i < len(all) {
		return all[i]
	}
	return nil
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

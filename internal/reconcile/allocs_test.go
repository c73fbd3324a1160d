package reconcile

import (
	"slices"
	"testing"

	"weft/internal/testkit/allocs"
)

// One entry that comes or goes among 5,000 costs nothing for each of the others.
func TestAllocsOfOneMore(t *testing.T) {
	var less []entry
	for i := range 5001 {
		less = append(less, entry{i, i, "value"})
	}
	more := slices.Clone(less)
	less = slices.Delete(less, 2500, 2501)
	s := NewSliceSyncer(NewSyncer(Table[int, string](newFake(nil)), DeleteAlways), func(e entry) (int, string) { return e.key, e.value }, byOrder)
	i := 0
	change := func() {
		if _, err := s.SyncSlice(t.Context(), [][]entry{more, less}[i%2]); err != nil {
			t.Fatal(err)
		}
		i++
	}
	change()
	allocs.Most(t, 8, change)
}

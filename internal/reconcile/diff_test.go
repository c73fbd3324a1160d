package reconcile

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// entry is an element of a plan: order decides its place, which need not be its key.
type entry struct {
	order, key int
	value      string
}

func byOrder(a, b entry) int { return a.order - b.order }

func entriesOf(maxKey int) *rapid.Generator[[]entry] {
	one := rapid.Custom(func(t *rapid.T) entry {
		return entry{rapid.IntRange(0, 20).Draw(t, "order"), rapid.IntRange(0, maxKey).Draw(t, "key"),
			rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "value")}
	})
	return rapid.Map(rapid.SliceOfN(one, 0, 12), func(s []entry) []entry {
		slices.SortStableFunc(s, byOrder)
		return s
	})
}

// TestDiffProperty: taking gone from have and adding come gives want, as multisets.
func TestDiffProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := entriesOf(9).Draw(t, "have"), entriesOf(9).Draw(t, "want")
		if rapid.Bool().Draw(t, "similar") {
			i := rapid.IntRange(0, len(have)).Draw(t, "at")
			want = slices.Insert(slices.Clone(have), i, want[:min(1, len(want))]...)
			slices.SortStableFunc(want, byOrder)
		}
		gone, come := Diff(have, want, byOrder)
		count := map[entry]int{}
		for _, e := range slices.Concat(have, come) {
			count[e]++
		}
		for _, e := range slices.Concat(want, gone) {
			count[e]--
		}
		for e, n := range count {
			if n != 0 {
				t.Fatalf("%v: %d too many; gone %v, come %v", e, n, gone, come)
			}
		}
	})
}

func TestDiffTellsOnlyWhatDiffers(t *testing.T) {
	var have []entry
	for i := range 100 {
		have = append(have, entry{i, i, "x"})
	}
	want := slices.Clone(have)
	want[10].value, want[90].value = "y", "z"
	want = slices.Delete(want, 50, 51)
	want = append(want, entry{100, 100, "new"})
	gone, come := Diff(have, want, byOrder)
	if d := cmp.Diff([]entry{have[10], have[50], have[90]}, gone, cmp.AllowUnexported(entry{})); d != "" {
		t.Errorf("gone (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]entry{{10, 10, "y"}, {90, 90, "z"}, {100, 100, "new"}}, come, cmp.AllowUnexported(entry{})); d != "" {
		t.Errorf("come (-want +got):\n%s", d)
	}
}

// TestPatchCost: a Patch writes what it names and reads nothing.
func TestPatchCost(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	mustSync(t, s, map[int]string{1: "a", 2: "b", 3: "c"})
	f.lists, f.puts, f.deletes = 0, 0, 0
	r, err := s.Patch(t.Context(), map[int]string{1: "A", 2: "new", 4: "d"}, []int{2, 3, 9})
	if err != nil || r != (Result{Added: 1, Changed: 1, Removed: 1}) {
		t.Errorf("got %+v, %v", r, err)
	}
	if f.lists != 0 || f.puts != 2 || f.deletes != 1 {
		t.Errorf("%d lists, %d puts, %d deletes, want 0, 2, 1", f.lists, f.puts, f.deletes)
	}
	if d := cmp.Diff(map[int]string{1: "a", 2: "new", 4: "d"}, f.entries); d != "" {
		t.Errorf("kernel (-want +got):\n%s", d)
	}
	for k, want := range map[int]bool{1: true, 3: false, 4: true} {
		if s.Wants(k) != want {
			t.Errorf("Wants(%d) is %v", k, !want)
		}
	}
}

// TestPatchRepairs: repairs and refusals are told apart as Sync does.
func TestPatchRepairs(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	mustSync(t, s, map[int]string{1: "a", 2: "b", 3: "c"})
	delete(f.entries, 1)
	f.entries[2] = "z"
	s.Invalidate()
	r, err := s.Patch(t.Context(), map[int]string{2: "new"}, nil)
	if err != nil || r != (Result{Added: 1, Changed: 1, Repaired: 1}) {
		t.Errorf("got %+v, %v: a wanted change is no repair", r, err)
	}
	f.refuse[2], f.refuse[4] = true, true
	if r, err := s.Patch(t.Context(), map[int]string{2: "newer", 4: "d"}, []int{3}); !errors.Is(err, errRefused) || !r.Zero() {
		t.Errorf("got %+v, %v: an old entry must stay while a put fails", r, err)
	}
	f.refuse = nil
	if r, err := s.Patch(t.Context(), nil, nil); err != nil || r != (Result{Added: 1, Changed: 1, Removed: 1}) {
		t.Errorf("got %+v, %v: the retry does what is left, which is no repair", r, err)
	}
	if d := cmp.Diff(map[int]string{1: "a", 2: "newer", 4: "d"}, f.entries); d != "" {
		t.Errorf("kernel (-want +got):\n%s", d)
	}
}

// TestSliceSyncerProperty: over any sequence of wants, of changes by others, of events and of
// failures, a SliceSyncer does to its kernel what a Syncer does to its own: the same entries, the
// same counts and the same errors. Two elements may share a key.
func TestSliceSyncerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leftovers := rapid.MapOf(rapid.IntRange(0, 30), rapid.SampledFrom([]string{"a", "b"})).Draw(t, "leftovers")
		policy := rapid.SampledFrom([]DeletePolicy{DeleteAlways, DeleteAfterCleanPuts}).Draw(t, "policy")
		kind := rapid.IntRange(0, 2).Draw(t, "table")
		make := func() (*fakeKernel, *Syncer[int, string]) {
			f := newFake(leftovers)
			return f, NewSyncer([]Table[int, string]{f, fakeBatch{f}, fakeHold{f}}[kind], policy)
		}
		f1, whole := make()
		f2, s := make()
		slice := NewSliceSyncer(s, func(e entry) (int, string) { return e.key, e.value }, byOrder)
		var want []entry
		ctx := context.Background()
		sync := func(t *rapid.T) {
			m := map[int]string{}
			for _, e := range want {
				m[e.key] = e.value
			}
			r1, err1 := whole.Sync(ctx, m)
			cut := rapid.IntRange(0, len(want)).Draw(t, "cut")
			r2, err2 := slice.SyncSlice(ctx, want[:cut], want[cut:])
			if kind == 1 && (err1 != nil || err2 != nil) {
				return // fakeBatch refuses what others changed unseen: that differs by what is written when
			}
			if d := cmp.Diff(f1.entries, f2.entries); d != "" {
				t.Fatalf("kernels (-Sync +SyncSlice):\n%s", d)
			}
			if (err1 == nil) != (err2 == nil) || err1 != nil && err1.Error() != err2.Error() {
				t.Fatalf("errors differ: %v, %v", err1, err2)
			}
			if r1 != r2 {
				t.Fatalf("results differ: %+v, %+v", r1, r2)
			}
		}
		both := func(act func(*fakeKernel, *Syncer[int, string])) { act(f1, whole); act(f2, slice.Syncer) }
		key := rapid.IntRange(0, 30)
		t.Repeat(map[string]func(*rapid.T){
			"want": func(t *rapid.T) { want = entriesOf(30).Draw(t, "want") },
			"one more": func(t *rapid.T) {
				want = append(slices.Clone(want), entriesOf(30).Draw(t, "more")...)
				slices.SortStableFunc(want, byOrder)
			},
			"one less": func(t *rapid.T) {
				if len(want) > 0 {
					i := rapid.IntRange(0, len(want)-1).Draw(t, "at")
					want = slices.Delete(slices.Clone(want), i, i+1)
				}
			},
			"sync": sync,
			"foreign change, told": func(t *rapid.T) {
				k, v := key.Draw(t, "k"), rapid.SampledFrom([]string{"a", "z", ""}).Draw(t, "v")
				both(func(f *fakeKernel, s *Syncer[int, string]) {
					if f.entries[k] = v; v == "" {
						delete(f.entries, k)
					}
					s.Observe(k, v, v == "")
				})
			},
			"invalidate": func(t *rapid.T) { both(func(_ *fakeKernel, s *Syncer[int, string]) { s.Invalidate() }) },
			"refuse": func(t *rapid.T) {
				k := key.Draw(t, "k")
				both(func(f *fakeKernel, _ *Syncer[int, string]) { f.refuse[k] = true })
			},
			"stuck": func(t *rapid.T) {
				k := key.Draw(t, "k")
				both(func(f *fakeKernel, _ *Syncer[int, string]) { f.stuck[k] = true })
			},
			"list fails": func(t *rapid.T) {
				both(func(f *fakeKernel, _ *Syncer[int, string]) { f.listErr = errRefused })
			},
			"accept": func(t *rapid.T) {
				both(func(f *fakeKernel, _ *Syncer[int, string]) { clear(f.refuse); clear(f.stuck); f.listErr = nil })
			},
			"": func(t *rapid.T) {},
		})
		both(func(f *fakeKernel, _ *Syncer[int, string]) { clear(f.refuse); clear(f.stuck); f.listErr = nil })
		sync(t)
		sync(t)
		wanted := map[int]string{}
		for _, e := range want {
			wanted[e.key] = e.value
		}
		if d := cmp.Diff(wanted, f2.entries, cmp.Comparer(f2.Equal)); d != "" {
			t.Fatalf("kernel (-want +got):\n%s", d)
		}
	})
}

func BenchmarkSyncSliceOneMore5000(b *testing.B) {
	var less []entry
	for i := range 5001 {
		less = append(less, entry{i, i, "value"})
	}
	more := slices.Clone(less)
	less = slices.Delete(less, 2500, 2501)
	s := NewSliceSyncer(NewSyncer(Table[int, string](newFake(nil)), DeleteAlways), func(e entry) (int, string) { return e.key, e.value }, byOrder)
	b.ReportAllocs()
	for i := range b.N {
		if _, err := s.SyncSlice(b.Context(), [][]entry{more, less}[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

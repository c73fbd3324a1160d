package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var errRefused = errors.New("refused")

// fakeKernel is a table that holds state as the kernel does, counts what is asked of it, and
// refuses what it is told to. onList, onWrite let others act in the middle.
type fakeKernel struct {
	entries          map[int]string
	refuse           map[int]bool // keys that cannot be put
	stuck            map[int]bool // keys that cannot be deleted
	listErr          error
	lists            int
	puts             int
	deletes          int
	onList           func()
	onWrite          func()
	wrote            func(k int, v string, gone bool) // the event of a write, as others hear it
	deletedBeforePut bool
}

func newFake(entries map[int]string) *fakeKernel {
	if entries = maps.Clone(entries); entries == nil {
		entries = map[int]string{}
	}
	return &fakeKernel{entries: entries, refuse: map[int]bool{}, stuck: map[int]bool{}}
}

func (f *fakeKernel) List(context.Context) (map[int]string, error) {
	f.lists++
	if f.listErr != nil {
		return nil, f.listErr
	}
	var res map[int]string // nil where there is nothing
	if len(f.entries) > 0 {
		res = maps.Clone(f.entries)
	}
	if f.onList != nil {
		f.onList()
	}
	return res, nil
}

func (f *fakeKernel) Put(_ context.Context, k int, v string) error {
	f.puts++
	if f.deletes > 0 {
		f.deletedBeforePut = true
	}
	if f.refuse[k] {
		return errRefused
	}
	f.entries[k] = v
	if f.wrote != nil {
		f.wrote(k, v, false)
	}
	if f.onWrite != nil {
		f.onWrite()
	}
	return nil
}

func (f *fakeKernel) Delete(_ context.Context, k int, _ string) error {
	f.deletes++
	if f.stuck[k] {
		return errRefused
	}
	if v, there := f.entries[k]; there && f.wrote != nil {
		f.wrote(k, v, true)
	}
	delete(f.entries, k)
	return nil
}

// Equal ignores case: the kernel's form of an entry need not be ours byte for byte.
func (f *fakeKernel) Equal(have, want string) bool { return strings.EqualFold(have, want) }

// fakeBatch is fakeKernel that writes many at once.
type fakeBatch struct{ *fakeKernel }

func (f fakeBatch) PutMany(ctx context.Context, puts []Change[int, string]) []error {
	errs := make([]error, len(puts))
	for i, c := range puts {
		if _, there := f.entries[c.Key]; there != c.Exists {
			errs[i] = fmt.Errorf("Exists is %v for key %d, the kernel says %v", c.Exists, c.Key, there)
			continue
		}
		errs[i] = f.Put(ctx, c.Key, c.Want)
	}
	return errs
}

func (f fakeBatch) DeleteMany(ctx context.Context, deletes []Change[int, string]) []error {
	errs := make([]error, len(deletes))
	for i, c := range deletes {
		errs[i] = f.Delete(ctx, c.Key, c.Have)
	}
	return errs
}

// fakeHold is fakeKernel where a failed put holds back only keys of the same ten.
type fakeHold struct{ *fakeKernel }

func (fakeHold) Holds(failed, old int) bool { return failed/10 == old/10 }

func mustSync(t *testing.T, s *Syncer[int, string], want map[int]string) Result {
	t.Helper()
	r, err := s.Sync(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSyncFromLeftovers(t *testing.T) {
	f := newFake(map[int]string{1: "a", 2: "OLD", 3: "stale"})
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	want := map[int]string{1: "A", 2: "new", 4: "d"}
	if got, w := mustSync(t, s, want), (Result{Added: 1, Changed: 1, Removed: 1}); got != w {
		t.Errorf("got %+v, want %+v", got, w)
	}
	if diff := cmp.Diff(map[int]string{1: "a", 2: "new", 4: "d"}, f.entries); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
	if f.deletedBeforePut {
		t.Error("a delete came before a put")
	}
	writes := f.puts + f.deletes
	for range 3 {
		if r := mustSync(t, s, want); !r.Zero() {
			t.Errorf("second Sync: %v", r)
		}
	}
	if f.lists != 1 || f.puts+f.deletes != writes {
		t.Errorf("syncing again cost %d lists and %d writes, want none", f.lists-1, f.puts+f.deletes-writes)
	}
}

func TestObserve(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	if !s.Observe(1, "x", false) {
		t.Error("an event before the first Sync: want true, what is there is unknown")
	}
	want := map[int]string{1: "a", 2: "b"}
	mustSync(t, s, want)
	for _, c := range []struct {
		what    string
		k       int
		v       string
		gone    bool
		foreign bool
		reads   bool
	}{
		{"echo of our put", 1, "A", false, false, false},
		{"echo of a delete", 9, "", true, false, false},
		{"changed by another", 1, "z", false, true, true},
		{"removed by another", 1, "", true, true, false},
		{"added by another", 7, "z", false, true, true},
	} {
		mustSync(t, s, want)
		lists := f.lists
		if f.entries[c.k] = c.v; c.gone {
			delete(f.entries, c.k)
		}
		if got := s.Observe(c.k, c.v, c.gone); got != c.foreign {
			t.Errorf("%s: foreign is %v, want %v", c.what, got, c.foreign)
		}
		mustSync(t, s, want)
		if read := f.lists > lists; read != c.reads {
			t.Errorf("%s: the next Sync read the kernel: %v, want %v", c.what, read, c.reads)
		}
		if diff := cmp.Diff(want, f.entries, cmp.Comparer(f.Equal)); diff != "" {
			t.Errorf("%s: kernel (-want +got):\n%s", c.what, diff)
		}
	}
}

// TestForget: what went with something else is put again, without a look at the rest.
func TestForget(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	if n := s.Forget(func(int, string) bool { return true }); n != 0 {
		t.Errorf("%d forgotten before anything was known", n)
	}
	want := map[int]string{1: "a", 2: "b", 3: "b", 4: "b"}
	mustSync(t, s, want)
	for _, patch := range []bool{false, true} {
		for k, v := range f.entries {
			if v == "b" {
				delete(f.entries, k)
			}
		}
		lists := f.lists
		if n := s.Forget(func(_ int, v string) bool { return v == "b" }); n != len(want)-1 {
			t.Errorf("%d forgotten, want %d", n, len(want)-1)
		}
		var r Result
		expect := Result{Added: 3, Repaired: 3}
		if patch {
			delete(want, 4)
			r, _ = s.Patch(t.Context(), map[int]string{}, []int{4})
			expect = Result{Added: 2, Removed: 1, Repaired: 2}
		} else {
			r = mustSync(t, s, maps.Clone(want))
		}
		if r != expect || f.lists != lists {
			t.Errorf("got %v after %d lists, want %v without one", r, f.lists-lists, expect)
		}
		if diff := cmp.Diff(want, f.entries); diff != "" {
			t.Errorf("kernel (-want +got):\n%s", diff)
		}
	}
	// What was told and is not so: the kernel has the last word.
	s = NewSyncer(Table[int, string](fakeBatch{f}), DeleteAfterCleanPuts)
	mustSync(t, s, want)
	s.Forget(func(k int, _ string) bool { return k == 2 })
	if r, err := s.Patch(t.Context(), nil, nil); err != nil || !r.Zero() {
		t.Errorf("got %v, %v", r, err)
	}
}

func TestRepaired(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	want := map[int]string{1: "a", 2: "b", 3: "c"}
	mustSync(t, s, want)
	delete(f.entries, 1)
	f.entries[2] = "z"
	s.Invalidate()
	if got, w := mustSync(t, s, map[int]string{1: "a", 2: "b", 3: "new"}), (Result{Added: 1, Changed: 2, Repaired: 2}); got != w {
		t.Errorf("got %+v, want %+v: a wanted change is no repair", got, w)
	}
	// Repairs are counted while another entry keeps failing.
	want = map[int]string{1: "a", 2: "b", 3: "new", 4: "never"}
	f.refuse[4] = true
	if _, err := s.Sync(t.Context(), want); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	delete(f.entries, 1)
	r, err := s.Sync(t.Context(), want)
	if !errors.Is(err, errRefused) || r != (Result{Added: 1, Repaired: 1}) {
		t.Errorf("got %+v, %v", r, err)
	}
	// What could not be written until now was never there, so that it is no repair.
	f.refuse = nil
	if got, w := mustSync(t, s, want), (Result{Added: 1}); got != w {
		t.Errorf("got %+v, want %+v", got, w)
	}
}

// TestChangeDuringList: what another does while we read may be missing from what we read, and
// makes the next Sync read again.
func TestChangeDuringList(t *testing.T) {
	f := newFake(map[int]string{1: "a"})
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	f.onList = func() {
		f.onList = nil
		delete(f.entries, 1)
		if !s.Observe(1, "", true) {
			t.Error("an event during List: want true")
		}
	}
	want := map[int]string{1: "a"}
	mustSync(t, s, want) // believes in the list, as it must
	if mustSync(t, s, want); f.entries[1] != "a" || f.lists != 2 {
		t.Errorf("kernel %v after %d lists, want the entry back after 2", f.entries, f.lists)
	}
}

// TestChangeDuringWrites: what another does while we write is not lost among our own echoes.
func TestChangeDuringWrites(t *testing.T) {
	f := newFake(nil)
	s := NewSyncer(Table[int, string](f), DeleteAfterCleanPuts)
	f.onWrite = func() {
		f.onWrite = nil
		f.entries[9] = "stranger"
		if !s.Observe(9, "stranger", false) {
			t.Error("a stranger's entry during Sync: want true")
		}
	}
	want := map[int]string{1: "a", 2: "b"}
	mustSync(t, s, want)
	mustSync(t, s, want)
	if diff := cmp.Diff(want, f.entries); diff != "" {
		t.Errorf("kernel (-want +got):\n%s", diff)
	}
}

func TestDeletePolicies(t *testing.T) {
	old := map[int]string{1: "keep", 11: "old", 12: "old"}
	want := map[int]string{1: "keep", 2: "refused", 3: "new"}
	for _, c := range []struct {
		name   string
		wrap   func(*fakeKernel) Table[int, string]
		policy DeletePolicy
		stays  []int
	}{
		{"after clean puts", func(f *fakeKernel) Table[int, string] { return f }, DeleteAfterCleanPuts, []int{11, 12}},
		{"always", func(f *fakeKernel) Table[int, string] { return f }, DeleteAlways, nil},
		{"holds nothing of another ten", func(f *fakeKernel) Table[int, string] { return fakeHold{f} }, DeleteAfterCleanPuts, nil},
		{"batch", func(f *fakeKernel) Table[int, string] { return fakeBatch{f} }, DeleteAfterCleanPuts, []int{11, 12}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(old)
			f.refuse[2] = true
			s := NewSyncer(c.wrap(f), c.policy)
			r, err := s.Sync(t.Context(), want)
			if !errors.Is(err, errRefused) || !strings.Contains(err.Error(), "put 2") {
				t.Errorf("error %v does not name the key", err)
			}
			kernel := map[int]string{1: "keep", 3: "new"}
			for _, k := range c.stays {
				kernel[k] = "old"
			}
			if diff := cmp.Diff(kernel, f.entries); diff != "" {
				t.Errorf("kernel (-want +got):\n%s", diff)
			}
			if r.Added != 1 || r.Removed != 2-len(c.stays) {
				t.Errorf("result %+v", r)
			}
			f.refuse = nil
			mustSync(t, s, want)
			if diff := cmp.Diff(want, f.entries); diff != "" {
				t.Errorf("kernel after the retry (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("holds its own ten", func(t *testing.T) {
		f := newFake(old)
		f.refuse[13] = true
		s := NewSyncer(Table[int, string](fakeHold{f}), DeleteAfterCleanPuts)
		if _, err := s.Sync(t.Context(), map[int]string{13: "refused"}); err == nil {
			t.Error("no error")
		}
		if diff := cmp.Diff(map[int]string{11: "old", 12: "old"}, f.entries); diff != "" {
			t.Errorf("kernel (-want +got):\n%s", diff)
		}
	})
}

func TestErrors(t *testing.T) {
	f := newFake(map[int]string{100: "stuck"})
	f.listErr = errors.New("dump interrupted")
	s := NewSyncer(Table[int, string](f), DeleteAlways)
	if _, err := s.Sync(t.Context(), nil); !errors.Is(err, f.listErr) || len(f.entries) != 1 {
		t.Errorf("a failed List: error %v, kernel %v", err, f.entries)
	}
	f.listErr = nil
	want := map[int]string{}
	for k := range 50 {
		want[k], f.refuse[k] = "x", true
	}
	f.stuck[100] = true
	_, err := s.Sync(t.Context(), want)
	if err == nil {
		t.Fatal("no error")
	}
	_, again := s.Sync(t.Context(), want)
	if again == nil || err.Error() != again.Error() {
		t.Errorf("the same failure reads differently:\n%v\n%v", err, again)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != maxErrors+1 || !strings.Contains(err.Error(), "and 31 more") {
		t.Errorf("51 errors print as %d lines: %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.refuse, f.puts = nil, 0
	if _, err := s.Sync(ctx, want); !errors.Is(err, context.Canceled) || f.puts > 0 {
		t.Errorf("after cancel: %d puts, %v", f.puts, err)
	}
}

// TestSyncProperty: whatever others do between the Syncs, as long as their events arrive at some
// time, and whatever fails for a while, two calm Syncs make the kernel as wanted; and an event of
// our own writes never asks for work once those are over.
func TestSyncProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.IntRange(0, 9)
		value := rapid.SampledFrom([]string{"a", "b", "c"})
		entries := rapid.MapOf(key, value)
		f := newFake(entries.Draw(t, "leftovers"))
		tables := []Table[int, string]{f, fakeBatch{f}, fakeHold{f}}
		policy := rapid.SampledFrom([]DeletePolicy{DeleteAlways, DeleteAfterCleanPuts}).Draw(t, "policy")
		s := NewSyncer(tables[rapid.IntRange(0, 2).Draw(t, "table")], policy)
		want := map[int]string{}
		type event struct {
			k     int
			v     string
			gone  bool
			third bool // every third entry went, and the kernel says so once for all
		}
		var pending []event
		f.wrote = func(k int, v string, gone bool) { pending = append(pending, event{k: k, v: v, gone: gone}) }
		hear := func() {
			e := pending[0]
			pending = pending[1:]
			if e.third {
				s.Forget(func(k int, _ string) bool { return k%3 == 0 })
				return
			}
			s.Observe(e.k, e.v, e.gone)
		}
		ctx := context.Background()
		t.Repeat(map[string]func(*rapid.T){
			"want": func(t *rapid.T) { want = entries.Draw(t, "want") },
			"sync": func(t *rapid.T) { _, _ = s.Sync(ctx, maps.Clone(want)) },
			"patch": func(t *rapid.T) {
				var deletes []int
				for k := range s.want {
					if !has(want, k) {
						deletes = append(deletes, k)
					}
				}
				_, _ = s.Patch(ctx, maps.Clone(want), deletes)
			},
			"foreign put": func(t *rapid.T) {
				e := event{k: key.Draw(t, "k"), v: value.Draw(t, "v")}
				f.entries[e.k] = e.v
				pending = append(pending, e)
			},
			"foreign delete": func(t *rapid.T) {
				e := event{k: key.Draw(t, "k"), gone: true}
				if v, ok := f.entries[e.k]; ok {
					e.v = v
					delete(f.entries, e.k)
					pending = append(pending, e)
				}
			},
			"third": func(t *rapid.T) {
				maps.DeleteFunc(f.entries, func(k int, _ string) bool { return k%3 == 0 })
				pending = append(pending, event{third: true})
			},
			"refuse": func(t *rapid.T) { f.refuse[key.Draw(t, "k")] = true },
			"stuck":  func(t *rapid.T) { f.stuck[key.Draw(t, "k")] = true },
			"accept": func(t *rapid.T) { clear(f.refuse); clear(f.stuck) },
			"event": func(t *rapid.T) {
				if len(pending) > 0 {
					hear()
				}
			},
			"": func(t *rapid.T) {},
		})
		clear(f.refuse)
		clear(f.stuck)
		// One that is overtaken by events learns that, and needs another.
		for range 4 {
			_, _ = s.Sync(ctx, maps.Clone(want))
			for len(pending) > 0 {
				hear()
			}
		}
		if diff := cmp.Diff(want, f.entries); diff != "" {
			t.Fatalf("kernel (-want +got):\n%s", diff)
		}
		lists := f.lists
		for k, v := range want {
			if s.Observe(k, v, false) {
				t.Fatalf("the echo of our own %d = %s was taken for another's", k, v)
			}
		}
		if r, err := s.Sync(ctx, want); err != nil || !r.Zero() || f.lists != lists {
			t.Fatalf("a calm Sync: %v, %v, %d lists", r, err, f.lists-lists)
		}
	})
}

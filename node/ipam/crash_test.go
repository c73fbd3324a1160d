package ipam

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// dying is the store as a process sees it that is killed: after so many writes nothing it asks
// for happens any more. When the last write is made but its answer lost, torn is set.
type dying struct {
	datastore.Store
	left atomic.Int64
	torn bool
}

var errKilled = errors.New("the process is dead")

func (d *dying) allow() (ok, answer bool) {
	n := d.left.Add(-1)
	return n >= 0, n > 0 || n == 0 && !d.torn
}

func (d *dying) Create(ctx context.Context, o v3.Object) (v3.Object, error) {
	ok, answer := d.allow()
	if !ok {
		return nil, errKilled
	}
	o, err := d.Store.Create(ctx, o)
	if !answer {
		return nil, errKilled
	}
	return o, err
}

func (d *dying) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	ok, answer := d.allow()
	if !ok {
		return nil, errKilled
	}
	o, err := d.Store.Update(ctx, o)
	if !answer {
		return nil, errKilled
	}
	return o, err
}

func (d *dying) Delete(ctx context.Context, k datastore.Key, p datastore.Precondition) error {
	ok, answer := d.allow()
	if !ok {
		return errKilled
	}
	err := d.Store.Delete(ctx, k, p)
	if !answer {
		return errKilled
	}
	return err
}

// TestCrash kills the allocator after the k-th write, for every k, in each of its stories. A fresh
// allocator then finishes the story (the runtime deletes the pod, and another one comes), and
// nothing may be left over.
func TestCrash(t *testing.T) {
	t.Parallel()
	store := startEtcd(t, false)
	for name, story := range map[string]func(context.Context, *testing.T, datastore.Store, Options) []string{
		"first pod of a node": storyFirst,
		"assign and release":  storyRelease,
		"borrow":              storyBorrow,
		"reclaim":             storyReclaim,
		"second block":        storySecondBlock,
	} {
		for _, torn := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, answer lost %v", name, torn), func(t *testing.T) {
				points := 0
				for k := int64(0); ; k++ {
					d := &dying{Store: store, torn: torn}
					if !crashAfter(t, d, k, story) {
						break
					}
					points++
				}
				if points < 3 {
					t.Errorf("died at %d points only", points)
				}
				t.Logf("0 left over after dying at each of %d points", points)
			})
		}
	}
}

// crashAfter plays a story on a store that dies after k writes; it returns false when the story
// has fewer.
func crashAfter(t *testing.T, d *dying, k int64, story func(context.Context, *testing.T, datastore.Store, Options) []string) bool {
	t.Helper()
	ctx := context.Background()
	wipe(t, d.Store)
	addPool(t, d.Store, "four", "10.0.0.0/28", func(s *v3.IPPoolSpec) { s.BlockSize = 29 })
	addPool(t, d.Store, "six", "fd00::/125", func(s *v3.IPPoolSpec) { s.BlockSize = 125 })
	now := time.Now()
	clock := Options{Now: func() time.Time { return now }, Timeout: 2 * time.Second}
	d.left.Store(k)
	handles := story(ctx, t, d, clock)
	died := d.left.Load() < 0 || d.torn && d.left.Load() == 0

	now = now.Add(2 * time.Minute) // the node comes back, the runtime deletes what failed
	a := New(d.Store, "n1", clock)
	defer a.Close()
	again := pod()
	if as, err := a.Assign(ctx, again); err != nil || len(as.Addresses) != 2 {
		t.Errorf("died after %d writes: the next pod got %v, %v", k, as, err)
	}
	for _, h := range append(handles, again.HandleID) {
		if _, err := a.Release(ctx, h); err != nil {
			t.Errorf("died after %d writes: release %s: %v", k, h, err)
		}
	}
	s, err := readState(ctx, d.Store)
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(time.Hour)
	report := s.check()
	for _, p := range report.Problems {
		t.Errorf("died after %d writes: %s: %s", k, p.Kind, p.Detail)
	}
	if report.Allocations != 0 || report.Handles != 0 {
		t.Errorf("died after %d writes: %d addresses and %d handles are left", k, report.Allocations, report.Handles)
	}
	return died && !t.Failed()
}

func storyFirst(ctx context.Context, _ *testing.T, store datastore.Store, o Options) []string {
	a := New(store, "n1", o)
	defer a.Close()
	r := pod()
	_, _ = a.Assign(ctx, r)
	return []string{r.HandleID}
}

func storyRelease(ctx context.Context, _ *testing.T, store datastore.Store, o Options) []string {
	a := New(store, "n1", o)
	defer a.Close()
	r := pod()
	_, _ = a.Assign(ctx, r)
	_, _ = a.Release(ctx, r.HandleID)
	return []string{r.HandleID}
}

func storyBorrow(ctx context.Context, t *testing.T, store datastore.Store, o Options) []string {
	n2 := newAllocator(t, store.(*dying).Store, "n2", o)
	mustAssign(t, n2, Request{HandleID: "keep", Families: nil})
	mustAssign(t, n2, Request{HandleID: "keep2", Families: nil})
	a := New(store, "n1", o)
	defer a.Close()
	r := pod()
	_, _ = a.Assign(ctx, r)
	_, _ = a.Release(ctx, r.HandleID)
	return []string{r.HandleID, "keep", "keep2"}
}

func storyReclaim(ctx context.Context, t *testing.T, store datastore.Store, o Options) []string {
	past := o
	past.Now = func() time.Time { return o.Now().Add(-time.Hour) }
	n2 := newAllocator(t, store.(*dying).Store, "n2", past)
	mustAssign(t, n2, Request{HandleID: "gone"})
	if _, err := n2.Release(ctx, "gone"); err != nil {
		t.Fatal(err)
	}
	a := New(store, "n1", o)
	defer a.Close()
	r := pod()
	_, _ = a.Assign(ctx, r)
	return []string{r.HandleID}
}

func storySecondBlock(ctx context.Context, t *testing.T, store datastore.Store, o Options) []string {
	n1 := newAllocator(t, store.(*dying).Store, "n1", o)
	handles := []string{}
	four := func(r *Request) { r.Families = []model.Family{model.IPv4} }
	for range 7 {
		r := pod(four)
		mustAssign(t, n1, r)
		handles = append(handles, r.HandleID)
	}
	a := New(store, "n1", o)
	defer a.Close()
	for range 2 {
		r := pod(four)
		_, _ = a.Assign(ctx, r)
		handles = append(handles, r.HandleID)
	}
	return handles
}

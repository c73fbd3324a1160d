package ipam

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// A pool that has not come to View yet is no reason to refuse a pod: Fresh is asked then, and only then.
func TestFreshPools(t *testing.T) {
	store := startEtcd(t, false)
	named := func(names ...string) func(*Request) {
		return func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: names} }
	}
	for _, c := range []struct {
		name    string
		request Request
		before  func(view *Cluster) // what View has of the pools
		want    string              // the address begins so; empty: refused
		asked   int                 // how often Fresh is
		refusal string
	}{
		{"known", pod(named("late")), nil, "10.2.", 0, ""},
		{"made just now, and named", pod(named("late")), without("late"), "10.2.", 1, ""},
		{"named by its CIDR", pod(named("10.2.0.0/24")), without("late"), "10.2.", 1, ""},
		{"a fixed address in it", pod(func(r *Request) { r.Addresses = append(r.Addresses, addr("10.2.0.9")) }), without("late"), "10.2.0.9", 1, ""},
		{"no pool at all", pod(), without("early", "late"), "10.", 1, ""},
		{"another one will do", pod(), without("late"), "10.1.", 0, ""},
		{"enabled just now", pod(named("late")), func(v *Cluster) { v.Pools = disabled(v.Pools, "late") }, "10.2.", 1, ""},
		{"not there either", pod(named("never")), nil, "", 1, "no IPv4 pool has this name"},
		{"gone meanwhile", pod(named("never")), func(v *Cluster) { v.Pools = disabled(append(v.Pools, v.Pools[0].DeepCopy()), "never") }, "", 1, "no IPv4 pool has this name"},
		{"a tunnel's, which waits for the pools", Request{HandleID: "tunnel", Use: UseTunnel, Families: []model.Family{model.IPv4}}, without("early", "late"), "", 0, "there is no IPv4 pool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wipe(t, store)
			addPool(t, store, "early", "10.1.0.0/24", nil)
			addPool(t, store, "late", "10.2.0.0/24", nil)
			view := viewNow(t, store)
			if c.before != nil {
				c.before(view)
			}
			asked := 0
			a := newAllocator(t, store, "n1", Options{
				View:  func(context.Context) (*Cluster, error) { return view, nil },
				Fresh: func(ctx context.Context) (*Cluster, error) { asked++; return StoreView(store, "n1")(ctx) }})
			got, err := a.Assign(t.Context(), c.request)
			if asked != c.asked {
				t.Errorf("asked %d times, want %d", asked, c.asked)
			}
			if c.want == "" {
				var refused *ExhaustedError
				if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.refusal) {
					t.Errorf("got %v, %v, want a refusal with %q", got, err, c.refusal)
				}
				noProblems(t, store, 0)
				return
			}
			if err != nil || len(got.Addresses) != 1 || !strings.HasPrefix(got.Addresses[0].Addr.String(), c.want) {
				t.Fatalf("got %v, %v, want an address %s", got, err, c.want)
			}
			noProblems(t, store, 1)
		})
	}
	t.Run("full, and another one made just now", func(t *testing.T) { testFreshWhenFull(t, store) })
	t.Run("the store does not answer", func(t *testing.T) {
		wipe(t, store)
		a := newAllocator(t, store, "n1", Options{
			View:  func(context.Context) (*Cluster, error) { return &Cluster{}, nil },
			Fresh: func(context.Context) (*Cluster, error) { return nil, datastore.ErrUnavailable }})
		var refused *ExhaustedError
		if _, err := a.Assign(t.Context(), pod()); !errors.As(err, &refused) {
			t.Errorf("got %v, want what View says", err)
		}
	})
}

// Many at once find their pool full, and share what was made for them.
func testFreshWhenFull(t *testing.T, store datastore.Store) {
	wipe(t, store)
	addPool(t, store, "small", "10.3.0.0/30", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	view := viewNow(t, store)
	addPool(t, store, "made", "10.4.0.0/26", nil)
	a := newAllocator(t, store, "n1", Options{
		View: func(context.Context) (*Cluster, error) { return view, nil }, Fresh: StoreView(store, "n1")})
	var mu sync.Mutex
	var wg sync.WaitGroup
	have := map[string]int{}
	const pods = 32
	for range pods {
		wg.Go(func() {
			got, err := a.Assign(t.Context(), pod())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			have[got.Addresses[0].Pool]++
		})
	}
	wg.Wait()
	if fmt.Sprint(have) != fmt.Sprintf("map[made:%d small:4]", pods-4) {
		t.Errorf("addresses by pool: %v", have)
	}
	noProblems(t, store, pods)
}

// A view that is behind takes addresses of pools that are disabled or gone by now. Nobody else gets them, and what was
// taken goes back.
func TestStalePools(t *testing.T) {
	store := startEtcd(t, false)
	addPool(t, store, "old", "10.5.0.0/24", nil)
	view := viewNow(t, store)
	if err := store.Delete(t.Context(), datastore.Key{Kind: v3.KindIPPool, Name: "old"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	stale := newAllocator(t, store, "n1", Options{View: func(context.Context) (*Cluster, error) { return view, nil }, Fresh: StoreView(store, "n1")})
	r := pod()
	got := mustAssign(t, stale, r)
	addPool(t, store, "anew", "10.5.0.0/24", func(s *v3.IPPoolSpec) { s.BlockSize = 28 })
	other := newAllocator(t, store, "n2", Options{})
	for range 100 {
		if next := mustAssign(t, other, pod()); next.Addresses[0].Addr == got.Addresses[0].Addr {
			t.Fatalf("%v is given out twice", got.Addresses[0].Addr)
		}
	}
	view = viewNow(t, store)
	if _, err := stale.Release(t.Context(), r.HandleID); err != nil {
		t.Fatal(err)
	}
	noProblems(t, store, 100)
}

func viewNow(t *testing.T, store datastore.Store) *Cluster {
	t.Helper()
	v, err := StoreView(store, "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// without takes pools out of a view.
func without(names ...string) func(*Cluster) {
	return func(v *Cluster) {
		var left []*v3.IPPool
		for _, p := range v.Pools {
			if !strings.Contains(strings.Join(names, " "), p.Name) {
				left = append(left, p)
			}
		}
		v.Pools = left
	}
}

// disabled returns pools of which the last is disabled, in an older version, under this name.
func disabled(pools []*v3.IPPool, name string) []*v3.IPPool {
	last := pools[len(pools)-1].DeepCopy()
	last.Name, last.Spec.Disabled, last.ResourceVersion = name, true, "1"
	return append(pools[:len(pools)-1:len(pools)-1], last)
}

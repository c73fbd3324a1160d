package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// poolStore has pools, and counts who asks for them. Of a store it has List alone.
type poolStore struct {
	datastore.Store
	pools  []v3.Object
	broken map[string]error // by name
	asked  int
	err    error
	onList func()
}

func (s *poolStore) List(context.Context, ...string) (*datastore.List, error) {
	s.asked++
	if s.onList != nil {
		s.onList()
	}
	l := &datastore.List{Items: slices.Clone(s.pools)}
	for name, err := range s.broken {
		l.Rejected = append(l.Rejected, datastore.Rejection{Key: datastore.Key{Kind: v3.KindIPPool, Name: name}, Err: err})
	}
	return l, s.err
}

func aPool(name, version string) *v3.IPPool {
	p := &v3.IPPool{}
	p.Name, p.ResourceVersion, p.Spec.CIDR = name, version, "10.1.0.0/16"
	return p
}

// poolService is a service whose watch has brought pool a, in Kubernetes or etcd.
func poolService(kubernetes bool, store *poolStore) *service {
	s := &service{store: store, cluster: newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})}
	if kubernetes {
		s.host = &kubeHost{}
	}
	s.bring(aPool("a", "5"))
	s.cluster.OnState(datastore.StateInSync, nil)
	return s
}

func (s *service) bring(pools ...*v3.IPPool) {
	for _, p := range pools {
		s.cluster.OnChanges([]datastore.Change{{Key: datastore.KeyOf(p), Object: p}})
	}
}

// An ADD lists no pools in Kubernetes while the watch is in sync.
func TestADDListsNoPools(t *testing.T) {
	for _, c := range []struct {
		name       string
		kubernetes bool
		state      datastore.State
		want       int
	}{
		{"Kubernetes", true, datastore.StateInSync, 0},
		{"Kubernetes, the watch is broken", true, datastore.StateWait, 1},
		{"Kubernetes, listing again", true, datastore.StateResync, 1},
		{"etcd", false, datastore.StateInSync, 1},
	} {
		store := &poolStore{pools: []v3.Object{aPool("a", "5")}}
		s := poolService(c.kubernetes, store)
		s.cluster.OnState(c.state, nil)
		if s.hearOfPools(t.Context()); store.asked != c.want {
			t.Errorf("%s: pools were listed %d times, want %d", c.name, store.asked, c.want)
		}
	}
}

// What the store has counts, whether the watch brings it or not.
func TestFreshPools(t *testing.T) {
	names := func(t *testing.T, s *service) (out []string) {
		t.Helper()
		v, err := s.freshPools(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range v.Pools {
			out = append(out, p.Name+p.ResourceVersion)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		name   string
		store  poolStore
		during func(s *service, asked int) // each list
		want   []string
		asked  int
		took   time.Duration
	}{
		{"as the watch has it", poolStore{pools: []v3.Object{aPool("a", "5")}}, nil, []string{"a5"}, 1, 0},
		{"the watch brings it", poolStore{pools: []v3.Object{aPool("a", "5"), aPool("b", "7")}},
			func(s *service, _ int) { time.AfterFunc(20*time.Millisecond, func() { s.bring(aPool("b", "7")) }) }, []string{"a5", "b7"}, 1, 20 * time.Millisecond},
		{"the watch brings it, and more", poolStore{pools: []v3.Object{aPool("a", "5"), aPool("b", "7")}},
			func(s *service, _ int) { s.bring(aPool("b", "9")) }, []string{"a5", "b9"}, 1, 0},
		{"the watch stands still", poolStore{pools: []v3.Object{aPool("a", "6"), aPool("b", "7")}}, nil, []string{"a6", "b7"}, 2, 2 * heardWait},
		{"one is gone, and the watch stands still", poolStore{}, nil, nil, 2, 2 * heardWait},
		{"one that cannot be read stays as it was", poolStore{pools: []v3.Object{aPool("b", "7")}, broken: map[string]error{"a": errors.New("no")}}, nil, []string{"a5", "b7"}, 2, 2 * heardWait},
		{"the watch stands still, and the store answers once", poolStore{pools: []v3.Object{aPool("a", "6"), aPool("b", "7")}},
			func(s *service, asked int) {
				if asked == 2 {
					s.store.(*poolStore).err = datastore.ErrUnavailable
				}
			}, []string{"a6", "b7"}, 2, heardWait},
		{"the store does not answer", poolStore{err: datastore.ErrUnavailable}, nil, []string{"a5"}, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := poolService(true, &c.store)
				if c.during != nil {
					c.store.onList = func() { c.during(s, c.store.asked) }
				}
				begin := time.Now()
				if got := names(t, s); !slices.Equal(got, c.want) {
					t.Errorf("got %v, want %v", got, c.want)
				}
				if took := time.Since(begin); c.store.asked != c.asked || took < c.took || took > c.took+10*time.Millisecond {
					t.Errorf("asked %d times, took %v; want %d, %v", c.store.asked, took, c.asked, c.took)
				}
			})
		})
	}
	// A pool that is deleted again after the list: the second list says so.
	synctest.Test(t, func(t *testing.T) {
		store := &poolStore{pools: []v3.Object{aPool("a", "5"), aPool("b", "7")}}
		s := poolService(true, store)
		store.onList = func() {
			if store.asked == 2 {
				store.pools = store.pools[:1]
			}
		}
		if got := names(t, s); !slices.Equal(got, []string{"a5"}) || store.asked != 2 {
			t.Errorf("got %v by %d lists, want a5 by 2", got, store.asked)
		}
	})
	// Nothing is known of reservations and settings before the first snapshot.
	s := poolService(true, &poolStore{})
	s.cluster = newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
	if v, err := s.freshPools(t.Context()); err == nil {
		t.Errorf("before the first snapshot: %v", v)
	}
}

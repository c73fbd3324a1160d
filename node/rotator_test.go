package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/rotation"
)

// rotorStore is a store of one FelixConfiguration and some nodes, which tells clusters of each write.
type rotorStore struct {
	datastore.Store
	mu       sync.Mutex
	objects  map[string]v3.Object
	revision int
	lists    int
	clusters []*cluster
	writes   []time.Time // of the FelixConfiguration
}

func (s *rotorStore) List(context.Context, ...string) (*datastore.List, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	var l datastore.List
	for _, o := range s.objects {
		l.Items = append(l.Items, o.DeepCopyObject().(v3.Object))
	}
	return &l, nil
}

func (s *rotorStore) Update(_ context.Context, o v3.Object) (v3.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.GetResourceVersion() != s.objects["default"].GetResourceVersion() {
		return nil, datastore.ErrConflict
	}
	s.writes = append(s.writes, time.Now())
	s.put(o)
	return o, nil
}

// put writes and tells; the lock is held.
func (s *rotorStore) put(o v3.Object) {
	s.revision++
	o = o.DeepCopyObject().(v3.Object)
	o.SetResourceVersion(fmt.Sprint(s.revision))
	s.objects[o.GetName()] = o
	kind := "Node"
	if _, ok := o.(*v3.FelixConfiguration); ok {
		kind = v3.KindFelixConfiguration
	}
	for _, c := range s.clusters {
		c.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: kind, Name: o.GetName()}, Object: o}})
	}
}

// keys gives every node the key of an epoch, and the one before where that is not done with.
func (s *rotorStore) keys(epoch int, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.clusters {
		n := &v3.Node{}
		n.Name = fmt.Sprint("n", i)
		n.Status.WireguardKeys = []v3.NodeKey{{Epoch: epoch, PublicKey: testKey(byte(10*i + epoch + 1)).String()}}
		if !done {
			n.Status.WireguardKeys = append(n.Status.WireguardKeys, v3.NodeKey{Epoch: epoch - 1, PublicKey: testKey(byte(10*i + epoch)).String()})
		}
		s.put(n)
	}
}

func (s *rotorStore) felix() *v3.FelixConfiguration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects["default"].(*v3.FelixConfiguration)
}

// TestRotator: three nodes whose clock runs for days rotate the keys once each period, whichever does; while a rotation is
// under way, or encryption not on for good, none does and status says why.
func TestRotator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &rotorStore{objects: map[string]v3.Object{}}
		over := true
		var nodes []*rotator
		for i := range 3 {
			c := newCluster(model.NodeName(fmt.Sprint("n", i)), slog.New(slog.DiscardHandler), func(bool) {})
			c.OnState(datastore.StateInSync, nil)
			s.clusters = append(s.clusters, c)
			nodes = append(nodes, &rotator{log: slog.New(slog.DiscardHandler), store: s, cluster: c, over: func() bool { return over }})
		}
		f, err := v3.Decode([]byte("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {wireguardEnabled: true, wireguardKeyRotationPeriod: 24h}\n"))
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		s.put(f[0])
		s.mu.Unlock()
		s.keys(0, true)
		var done sync.WaitGroup
		for _, r := range nodes {
			done.Go(func() {
				if err := r.run(ctx); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		check := func(what string, epoch, writes int, trouble string) {
			t.Helper()
			got := 0
			if e := s.felix().Spec.WireguardKeyEpoch; e != nil {
				got = *e
			}
			if got != epoch || len(s.writes) != writes {
				t.Errorf("%s: epoch %d, %d writes at %v; want %d, %d", what, got, len(s.writes), s.writes, epoch, writes)
			}
			for _, r := range nodes {
				if told := strings.Join(r.problems(), "; "); (told == "") != (trouble == "") || !strings.Contains(told, trouble) {
					t.Errorf("%s: status tells %q, want %q", what, told, trouble)
				}
			}
		}
		time.Sleep(5 * time.Minute)
		check("at first it is noted since when", 0, 1, "")
		time.Sleep(23 * time.Hour)
		check("within the period", 0, 1, "")
		time.Sleep(time.Hour)
		check("after it", 1, 2, "")
		s.keys(1, false)
		time.Sleep(25 * time.Hour)
		check("while a key of before is in use", 1, 2, "still has the key of epoch 0")
		s.keys(1, true)
		over = false
		time.Sleep(10 * time.Minute)
		check("while encryption is not on for good", 1, 2, "not on for good")
		over = true
		time.Sleep(10 * time.Minute)
		check("when all is over", 2, 3, "")
		s.keys(2, true)
		time.Sleep(24*time.Hour + 2*time.Minute)
		check("a period later", 3, 4, "")
		if since, known := rotation.Since(s.felix()); !known || time.Since(since) > 15*time.Minute {
			t.Errorf("it says that the keys are used since %v, %v", since, known)
		}
		if s.lists > 3*4+3 { // each node once for each write, and a few that came late
			t.Errorf("the store was read %d times", s.lists)
		}
		cancel()
		done.Wait()
	})
}

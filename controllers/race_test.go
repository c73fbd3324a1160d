package controllers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/node/cni/rpc"
	"weft/node/datastore"
	"weft/node/ipam"
)

// life is what is known of one container, from outside.
type life struct {
	host     string
	answered bool      // its ADD did
	leaving  time.Time // its DEL began, or its host was lost
}

// world is a cluster of hosts, and what the controllers gave back in it.
type world struct {
	t     *testing.T
	store datastore.Store
	view  ipam.View
	grace time.Duration
	kept  atomic.Int64
	adds  atomic.Int64
	kube  *kubeWorld   // nil: the store is etcd
	slow  atomic.Int64 // what took so long, on a busy machine, that the grace may rightly be over

	mu    sync.Mutex
	lives map[string]*life // by container
	freed []freed
}

type freed struct {
	container string
	addr      netip.Addr
	at        time.Time
}

// watch returns the store of the controllers, with what it knows of hosts.
func watch(store datastore.Store, w *world) datastore.Store {
	s := &watched{store, w}
	if i, ok := store.(datastore.Inventory); ok {
		return &struct {
			*watched
			datastore.Inventory
		}{s, i}
	}
	return s
}

// watched is the store of the controllers: it notes whose addresses they free.
type watched struct {
	datastore.Store
	world *world
}

func (s *watched) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	b, isBlock := o.(*v3.IPAMBlock)
	if !isBlock {
		return s.Store.Update(ctx, o)
	}
	before, err := s.Get(ctx, datastore.KeyOf(o))
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	out, err := s.Store.Update(ctx, o) // conditional: nothing was written since before, or it fails
	if err != nil || b.ResourceVersion == "" || before.GetResourceVersion() != b.ResourceVersion {
		return out, err
	}
	_, had, _ := ipam.Holders(before.(*v3.IPAMBlock))
	_, has, _ := ipam.Holders(b)
	s.world.mu.Lock()
	defer s.world.mu.Unlock()
	for a, handle := range had {
		if has[a] != handle {
			s.world.freed = append(s.world.freed, freed{handle[len("weft."):], a, begun})
		}
	}
	return out, err
}

// pods is a container runtime: ADD and DEL, one after the other.
func (w *world) pods(ctx context.Context, h *host, n int, alive *sync.RWMutex) {
	r := rand.New(rand.NewPCG(uint64(n), 3))
	var mine []string
	for i := 0; ctx.Err() == nil; i++ {
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		if len(mine) > 20 || len(mine) > 0 && r.IntN(10) == 0 {
			k := r.IntN(len(mine))
			w.mu.Lock()
			if l := w.lives[mine[k]]; l.leaving.IsZero() {
				l.leaving = time.Now()
			}
			w.mu.Unlock()
			for ctx.Err() == nil && h.call(rpc.Del, mine[k]) != nil {
				time.Sleep(20 * time.Millisecond) // as a runtime does
			}
			w.kube.deletePod(mine[k])
			mine = append(mine[:k], mine[k+1:]...)
			continue
		}
		name := fmt.Sprintf("%s-%d-%d", h.name, n, i)
		l := &life{host: h.name}
		w.mu.Lock()
		w.lives[name] = l
		w.mu.Unlock()
		if err := w.kube.makePod(h.name, name); err != nil {
			w.t.Error(err)
			return
		}
		begun := time.Now()
		alive.RLock() // a runtime does not ask a service that is down
		err := h.call(rpc.Add, name)
		alive.RUnlock()
		if err == nil {
			w.adds.Add(1)
		}
		w.mu.Lock()
		l.answered = err == nil
		if late := time.Since(begun) > w.grace/2; !l.answered || late {
			l.leaving = begun
			if late {
				w.slow.Add(1)
			}
		}
		w.mu.Unlock()
		mine = append(mine, name)
	}
}

// wrong returns what was freed of attachments that live, and how many were freed of those that do not.
func (w *world) wrong() (bad []freed, fine int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.freed {
		l := w.lives[f.container]
		if l != nil && l.answered && (l.leaving.IsZero() || f.at.Before(l.leaving)) {
			bad = append(bad, f)
		} else {
			fine++
		}
	}
	return bad, fine
}

// race runs hosts, two controllers, and somebody who deletes what he should not, on etcd.
func race(t *testing.T, keep, hasty bool, grace, d time.Duration) *world {
	store := startEtcd(t)
	return raceOn(t, store, store, nil, keep, hasty, grace, d)
}

// raceOn is race on a store; looks is that of the controllers.
func raceOn(t *testing.T, store, looks datastore.Store, k *kubeWorld, keep, hasty bool, grace, d time.Duration) *world {
	create(t, store, pool("p", "10.0.0.0/22"))
	cluster, err := ipam.StoreView(store, "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: store, kube: k, grace: grace, lives: map[string]*life{}, view: func(context.Context) (*ipam.Cluster, error) { return cluster, nil }}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	begun := time.Now()
	go func() { // longer on a busy machine, until enough has happened
		for time.Since(begun) < d || w.adds.Load() < 100 && time.Since(begun) < testkit.Patient(2*d) {
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
	}()
	var wg sync.WaitGroup
	var hosts []*host
	for i := range 8 {
		h := &host{world: w, name: fmt.Sprint("n", i), dir: shortDir(t), keep: keep, devices: map[string]kernel.Link{}}
		if err := k.join(h.name); err != nil {
			t.Fatal(err)
		}
		h.start()
		hosts = append(hosts, h)
		var alive sync.RWMutex
		for k := range 3 {
			wg.Go(func() { w.pods(ctx, h, k, &alive) })
		}
		wg.Go(func() { w.dies(ctx, h, i, &alive) })
	}
	wg.Go(func() { w.sabotage(ctx) })
	controllersEnd, endControllers := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			cfg := Config{Store: watch(looks, w), Grace: grace, Interval: 200 * time.Millisecond, settle: grace, hasty: hasty}
			if hasty {
				cfg.settle = time.Nanosecond
			}
			if err := Run(controllersEnd, cfg); err != nil {
				t.Errorf("controllers: %v", err)
			}
		})
	}
	wg.Wait()
	// The last host is lost for good: what it has is to go.
	lost := hosts[len(hosts)-1]
	lost.stop()
	w.lose(lost, time.Now())
	if k != nil {
		k.lost(t, lost.name) // the record goes too
	} else {
		remove(t, store, datastore.Key{Kind: v3.KindNode, Name: lost.name})
	}
	if !hasty && keep {
		eventually(t, testkit.Patient(60*time.Second)+4*grace, func() error { return nothingOf(store, lost.name) })
	}
	endControllers()
	running.Wait()
	for _, h := range hosts[:len(hosts)-1] {
		h.stop()
	}
	return w
}

// dies ends a node service now and then, for less than the grace, and has its record deleted meanwhile.
func (w *world) dies(ctx context.Context, h *host, n int, alive *sync.RWMutex) {
	r := rand.New(rand.NewPCG(uint64(n), 5))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(500+r.IntN(1500)) * time.Millisecond):
		}
		if r.IntN(2) == 0 { // else in the midst of ADDs, which fail
			alive.Lock()
			h.stop()
			alive.Unlock()
		} else {
			h.stop()
		}
		down := time.Now()
		_ = w.store.Delete(ctx, datastore.Key{Kind: v3.KindNode, Name: h.name}, datastore.Precondition{})
		time.Sleep(time.Duration(r.IntN(400)) * time.Millisecond)
		h.start()
		if time.Since(down) > w.grace/2 {
			w.slow.Add(1)
			w.lose(h, down)
		}
	}
}

// lose notes that nothing is said any more of what a host has.
func (w *world) lose(h *host, since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lives {
		if l.host == h.name && l.leaving.IsZero() {
			l.leaving = since
		}
	}
}

// sabotage deletes records of pods and nodes that live; no record of a pod more than once, since a node does not fight.
func (w *world) sabotage(ctx context.Context) {
	r := rand.New(rand.NewPCG(1, 2))
	done := map[string]bool{}
	for ctx.Err() == nil {
		time.Sleep(30 * time.Millisecond)
		l, err := w.store.List(ctx, v3.KindWorkloadEndpoint)
		if err != nil || len(l.Items) == 0 {
			continue
		}
		o := l.Items[r.IntN(len(l.Items))]
		if !done[o.GetName()] {
			done[o.GetName()] = true
			_ = w.store.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{})
		}
		_ = w.store.Delete(ctx, datastore.Key{Kind: v3.KindNode, Name: fmt.Sprint("n", r.IntN(8))}, datastore.Precondition{})
	}
}

// nothingOf tells what a node still has.
func nothingOf(store datastore.Store, node string) error {
	l, err := store.List(context.Background(), ipam.StateKinds()...)
	if err != nil {
		return err
	}
	for _, o := range l.Items {
		if n, ok := o.(*v3.Node); ok && n.Name == node {
			return fmt.Errorf("node %s has a record", node)
		}
	}
	for _, x := range leftBy(l) {
		return fmt.Errorf("of node %s: %+v", node, x)
	}
	return nil
}

func TestNothingInUseIsFreed(t *testing.T) {
	raceIsWon(t, race(t, true, false, testkit.Patient(3*time.Second), 12*time.Second))
}

// raceIsWon: nothing in use was freed, and enough happened.
func raceIsWon(t *testing.T, w *world) {
	t.Helper()
	bad, fine := w.wrong()
	t.Logf("%d of %d attachments lost an address while they lived; %d addresses of others were given back; nodes put back %d records and addresses; %d times something took too long to be counted",
		len(bad), w.adds.Load(), fine, w.kept.Load(), w.slow.Load())
	for _, f := range bad {
		t.Errorf("%v of %s was freed", f.addr, f.container)
	}
	if w.adds.Load() < 100 || fine == 0 || w.kube == nil && w.kept.Load() == 0 {
		t.Errorf("%d attachments, %d addresses freed, %d put back: the test tests nothing", w.adds.Load(), fine, w.kept.Load())
	}
}

// The controls: without a second look, and without nodes that keep their records, addresses in use are freed.
func TestControlsFreeWhatIsInUse(t *testing.T) {
	for _, c := range []struct {
		name        string
		keep, hasty bool
	}{{"at the first look", true, true}, {"nodes that keep no records", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := race(t, c.keep, c.hasty, 1500*time.Millisecond, 8*time.Second)
			bad, fine := w.wrong()
			t.Logf("%d of %d attachments lost an address while they lived; %d addresses of others were given back", len(bad), w.adds.Load(), fine)
			if len(bad) == 0 {
				t.Error("nothing in use was freed: the test would find nothing")
			}
		})
	}
}

package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	v3 "weft/api/v3"
	"weft/internal/kernel"
	"weft/model"
	"weft/node/cni"
	"weft/node/cni/rpc"
	"weft/node/datastore"
	"weft/node/ipam"
)

// host is a machine without a kernel: its pods' links outlive its node service.
type host struct {
	world *world
	name  string
	dir   string
	keep  bool // its node keeps its records

	mu      sync.Mutex
	devices map[string]kernel.Link
	stop    func() // ends the node service and waits
}

func (h *host) CheckNamespace(*os.File) error { return nil }
func (h *host) Create(_ context.Context, _ *os.File, l kernel.PodLink) (model.MAC, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices[l.Device] = kernel.Link{Name: l.Device}
	return model.MAC{2, 0, 0, 0, 0, 1}, nil
}
func (h *host) Configure(context.Context, kernel.PodLink) error          { return nil }
func (h *host) Routed(context.Context, kernel.PodLink) error             { return nil }
func (h *host) Activate(context.Context, *os.File, kernel.PodLink) error { return nil }
func (h *host) Check(context.Context, *os.File, kernel.PodLink) error    { return nil }
func (h *host) Delete(_ context.Context, device string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.devices, device)
	return nil
}
func (h *host) Devices(context.Context) (map[string]kernel.Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string]kernel.Link{}
	for k, v := range h.devices {
		all[k] = v
	}
	return all, nil
}

// record is the part of the node service that publishes its Node: it is there again as soon as it was deleted.
type record struct {
	store datastore.Store
	node  string
	again chan struct{}
}

func (r *record) OnState(datastore.State, error) {}
func (r *record) OnChanges(changes []datastore.Change) {
	for _, c := range changes {
		if c.Key == (datastore.Key{Kind: v3.KindNode, Name: r.node}) && c.Object == nil {
			select {
			case r.again <- struct{}{}:
			default:
			}
		}
	}
}

func (r *record) run(ctx context.Context) error {
	for {
		n := newObject(v3.KindNode, r.node)
		if _, err := r.store.Create(ctx, n); err != nil && !errors.Is(err, datastore.ErrAlreadyExists) && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.again:
		}
	}
}

type sinks []datastore.Sink

func (s sinks) OnState(st datastore.State, err error) {
	for _, x := range s {
		x.OnState(st, err)
	}
}

func (s sinks) OnChanges(c []datastore.Change) {
	for _, x := range s {
		x.OnChanges(c)
	}
}

// start runs the node service: the real allocator, CNI server, journal and Keeper.
func (h *host) start() {
	w := h.world
	ctx, cancel := context.WithCancel(context.Background())
	reg, err := cni.OpenRegistry(filepath.Join(h.dir, "endpoints"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	alloc := ipam.New(w.store, h.name, ipam.Options{View: w.view, InUse: reg.InUse})
	slow := rand.New(rand.NewPCG(uint64(len(h.name)), uint64(time.Now().UnixNano())))
	var mu sync.Mutex
	srv, err := cni.New(cni.Config{Node: h.name, Socket: h.socket(), Registry: reg, Links: h, IPAM: cni.FromAllocator(alloc), Store: w.store,
		MTU: func() (int, error) { return 1450, nil }, Ready: func() error { return nil }, Apply: func(context.Context) error { return nil },
		Step: func(step string) error { // an ADD takes its time between address and record
			mu.Lock()
			pause := time.Duration(slow.IntN(60)) * time.Millisecond
			mu.Unlock()
			if step == "record" {
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
			return ctx.Err()
		}})
	if err != nil {
		w.t.Fatal(err)
	}
	rec := &record{store: w.store, node: h.name, again: make(chan struct{}, 1)}
	follow := sinks{rec}
	g, gctx := errgroup.WithContext(ctx)
	if h.keep {
		keeper := cni.NewKeeper(srv, cni.KeeperOptions{Kept: func(string) { w.kept.Add(1) }})
		follow = append(follow, keeper)
		g.Go(func() error { return keeper.Run(gctx) })
	}
	g.Go(func() error { return rec.run(gctx) })
	g.Go(func() error {
		return datastore.Follow(gctx, w.store, []string{v3.KindNode, v3.KindIPAMBlock, v3.KindWorkloadEndpoint}, follow, datastore.FollowOptions{})
	})
	g.Go(func() error { return srv.Run(gctx) })
	h.stop = func() {
		cancel()
		_ = g.Wait()
		alloc.Close()
	}
	for range 1000 {
		if _, err := os.Stat(h.socket()); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Errorf("node %s does not listen", h.name)
}

func (h *host) socket() string { return filepath.Join(h.dir, "cni.sock") }

// call makes a CNI call.
func (h *host) call(command, container string) error {
	c, err := net.Dial("unix", h.socket())
	if err != nil {
		return err
	}
	defer c.Close()
	req := rpc.Request{Command: command, ContainerID: container, Netns: "/proc/self/ns/net", IfName: "eth0",
		Args:   "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + container,
		Config: json.RawMessage(`{"cniVersion":"1.1.0","name":"weft","type":"weft-cni"}`)}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		return err
	}
	var resp rpc.Response
	out, err := io.ReadAll(c)
	if err == nil {
		err = json.Unmarshal(out, &resp)
	}
	if err == nil && resp.Error != nil {
		err = resp.Error
	}
	return err
}

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
			mine = append(mine[:k], mine[k+1:]...)
			continue
		}
		name := fmt.Sprintf("%s-%d-%d", h.name, n, i)
		l := &life{host: h.name}
		w.mu.Lock()
		w.lives[name] = l
		w.mu.Unlock()
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

// race runs hosts, two controllers, and somebody who deletes what he should not.
func race(t *testing.T, keep, hasty bool, grace, d time.Duration) *world {
	store := startEtcd(t)
	create(t, store, pool("p", "10.0.0.0/22"))
	cluster, err := ipam.StoreView(store, "")(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: store, grace: grace, lives: map[string]*life{}, view: func(context.Context) (*ipam.Cluster, error) { return cluster, nil }}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var wg sync.WaitGroup
	var hosts []*host
	for i := range 8 {
		h := &host{world: w, name: fmt.Sprint("n", i), dir: shortDir(t), keep: keep, devices: map[string]kernel.Link{}}
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
			cfg := Config{Store: &watched{store, w}, Grace: grace, Interval: 200 * time.Millisecond, settle: grace, hasty: hasty}
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
	remove(t, store, datastore.Key{Kind: v3.KindNode, Name: lost.name})
	if !hasty && keep {
		eventually(t, 60*time.Second, func() error { return nothingOf(store, lost.name) })
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
	for _, x := range leftBy(l) {
		return fmt.Errorf("of node %s: %+v", node, x)
	}
	return nil
}

func TestNothingInUseIsFreed(t *testing.T) {
	w := race(t, true, false, 3*time.Second, 12*time.Second)
	bad, fine := w.wrong()
	t.Logf("%d of %d attachments lost an address while they lived; %d addresses of others were given back; nodes put back %d records and addresses; %d times something took too long to be counted",
		len(bad), w.adds.Load(), fine, w.kept.Load(), w.slow.Load())
	for _, f := range bad {
		t.Errorf("%v of %s was freed", f.addr, f.container)
	}
	if w.adds.Load() < 100 || fine == 0 || w.kept.Load() == 0 {
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

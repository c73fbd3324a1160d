package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
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
	kube  bool
	again chan struct{}
}

// OnState has the record looked for: one that was deleted before the first list is no change after it.
func (r *record) OnState(datastore.State, error) { r.kick() }

func (r *record) OnChanges(changes []datastore.Change) {
	for _, c := range changes {
		if c.Key == (datastore.Key{Kind: v3.KindNode, Name: r.node}) && c.Object == nil {
			r.kick()
		}
	}
}

func (r *record) kick() {
	select {
	case r.again <- struct{}{}:
	default:
	}
}

func (r *record) run(ctx context.Context) error {
	for {
		n := newObject(v3.KindNode, r.node).(*v3.Node)
		if r.kube {
			n.Spec.OrchRefs = []v3.OrchRef{{NodeName: r.node, Orchestrator: "k8s"}}
		}
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
	var describe func(context.Context, string, string) (*v3.WorkloadEndpoint, error)
	if w.kube != nil {
		describe = w.kube.nodes.DescribePod
	}
	alloc := ipam.New(w.store, h.name, ipam.Options{View: w.view, InUse: reg.InUse})
	slow := rand.New(rand.NewPCG(uint64(len(h.name)), uint64(time.Now().UnixNano())))
	var mu sync.Mutex
	srv, err := cni.New(cni.Config{Node: h.name, Socket: h.socket(), Registry: reg, Links: h, IPAM: cni.FromAllocator(alloc), Store: w.store, Describe: describe,
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
	rec := &record{store: w.store, node: h.name, kube: w.kube != nil, again: make(chan struct{}, 1)}
	follow := sinks{rec}
	g, gctx := errgroup.WithContext(ctx)
	if h.keep {
		keeper := cni.NewKeeper(srv, cni.KeeperOptions{Derived: w.kube != nil, Kept: func(string) { w.kept.Add(1) }})
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

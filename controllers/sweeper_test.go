package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam"
)

func TestSightings(t *testing.T) {
	at := func(minutes int) time.Time {
		return time.Unix(1_700_000_000, 0).Add(time.Duration(minutes) * time.Minute)
	}
	s := sightings[string]{}
	for _, c := range []struct {
		minute int
		seen   []string
		ripe   []string
	}{
		{0, []string{"a"}, nil},
		{20, []string{"a", "b"}, []string{"a"}},
		{21, []string{"b", "b"}, nil}, // seen twice at one look is once
		{34, []string{"a", "b"}, nil}, // a is another one: it had been gone
		{35, []string{"b"}, []string{"b"}},
	} {
		if got := s.observe(at(c.minute), c.seen, 15*time.Minute); !slices.Equal(got, c.ripe) {
			t.Errorf("minute %d: got %v, want %v", c.minute, got, c.ripe)
		}
	}
}

// Once is never enough.
func TestSightingsTwice(t *testing.T) {
	s, now := sightings[int]{}, time.Now()
	if got := s.observe(now, []int{1}, 0); len(got) != 0 {
		t.Errorf("at the first look: got %v", got)
	}
	if got := s.observe(now, []int{1}, 0); len(got) != 1 {
		t.Errorf("at the second: got %v", got)
	}
}

// cluster is a store with two nodes that have pods, borrowed addresses and tunnels.
type cluster struct {
	t      *testing.T
	store  datastore.Store
	allocs map[string]*ipam.Allocator
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, store: startEtcd(t), allocs: map[string]*ipam.Allocator{}}
	p := pool("p", "10.0.0.0/27") // two blocks
	create(t, c.store, p)
	for _, n := range []string{"n1", "n2"} {
		c.join(n)
	}
	return c
}

func (c *cluster) join(node string) {
	create(c.t, c.store, newObject(v3.KindNode, node))
	if c.allocs[node] == nil {
		c.allocs[node] = ipam.New(c.store, node, ipam.Options{})
		c.t.Cleanup(c.allocs[node].Close)
	}
}

// pod attaches a pod; one without an endpoint is a leak.
func (c *cluster) pod(node, name string, endpoint bool) netip.Addr {
	c.t.Helper()
	got, err := c.allocs[node].Assign(context.Background(), ipam.Request{HandleID: "weft." + name, Namespace: "default", Pod: name,
		Families: []model.Family{model.IPv4}})
	if err != nil {
		c.t.Fatal(err)
	}
	a := got.Addresses[0].Addr
	if endpoint {
		w := newObject(v3.KindWorkloadEndpoint, node+"-k8s-"+name+"-eth0").(*v3.WorkloadEndpoint)
		w.Namespace = "default"
		w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: node, ContainerID: name, Pod: name, Endpoint: "eth0",
			InterfaceName: "weft1", IPNetworks: []string{a.String() + "/32"}}
		create(c.t, c.store, w)
	}
	return a
}

// has counts what the store has of each kind, and addresses by handle.
func (c *cluster) has() map[string]int {
	c.t.Helper()
	l, err := c.store.List(context.Background(), append(ipam.StateKinds(), v3.KindCalicoNodeStatus, v3.KindHostEndpoint)...)
	if err != nil {
		c.t.Fatal(err)
	}
	n := map[string]int{}
	for _, o := range l.Items {
		n[datastore.KeyOf(o).Kind]++
		if b, ok := o.(*v3.IPAMBlock); ok {
			_, holders, _ := ipam.Holders(b)
			n["address"] += len(holders)
		}
	}
	return n
}

func (c *cluster) look(s *sweeper, at time.Duration) {
	c.t.Helper()
	if _, err := s.look(context.Background(), time.Now().Add(at)); err != nil {
		c.t.Fatal(err)
	}
}

func TestNodeGone(t *testing.T) {
	c := newCluster(t)
	for i := range 14 {
		c.pod("n1", fmt.Sprint("a", i), true)
		if i < 10 {
			c.pod("n2", fmt.Sprint("b", i), true)
		}
	}
	if _, err := c.allocs["n1"].Assign(context.Background(), ipam.Request{HandleID: "vxlan-tunnel-addr-n1", Use: ipam.UseTunnel,
		Attributes: map[string]string{ipam.AttrType: "vxlanTunnelAddress"}}); err != nil {
		t.Fatal(err)
	}
	for i := 14; i < 17; i++ { // the second and third are borrowed from n2's block
		c.pod("n1", fmt.Sprint("a", i), true)
	}
	for _, n := range []string{"n1", "n2"} {
		st := newObject(v3.KindCalicoNodeStatus, "status-"+n).(*v3.CalicoNodeStatus)
		st.Spec = v3.CalicoNodeStatusSpec{Node: n, Classes: []string{"Agent"}}
		auto, own := newObject(v3.KindHostEndpoint, n+"-auto-hep").(*v3.HostEndpoint), newObject(v3.KindHostEndpoint, n+"-eth0").(*v3.HostEndpoint)
		auto.Labels = map[string]string{CreatedBy: ByController}
		auto.Spec, own.Spec = v3.HostEndpointSpec{Node: n, InterfaceName: "*"}, v3.HostEndpointSpec{Node: n, InterfaceName: "eth0"}
		create(t, c.store, st, auto, own)
	}
	s := sweeperOf(Config{Store: c.store})
	before := c.has()
	remove(t, c.store, datastore.Key{Kind: v3.KindNode, Name: "n1"})
	c.look(s, 0)
	c.look(s, 14*time.Minute)
	if diff := cmp.Diff(map[string]int{v3.KindNode: 1}, minus(before, c.has())); diff != "" {
		t.Errorf("before the grace is over (-want +gone):\n%s", diff)
	}
	// The node is back for a moment: all begins anew.
	c.join("n1")
	c.look(s, 15*time.Minute)
	remove(t, c.store, datastore.Key{Kind: v3.KindNode, Name: "n1"})
	c.look(s, 16*time.Minute)
	if diff := cmp.Diff(map[string]int{v3.KindNode: 1}, minus(before, c.has())); diff != "" {
		t.Errorf("of a node that had returned (-want +gone):\n%s", diff)
	}
	c.look(s, 32*time.Minute)
	want := map[string]int{v3.KindNode: 1, v3.KindWorkloadEndpoint: 17, "address": 18, v3.KindIPAMHandle: 18, v3.KindIPAMBlock: 1,
		v3.KindBlockAffinity: 1, v3.KindCalicoNodeStatus: 1, v3.KindHostEndpoint: 1}
	if diff := cmp.Diff(want, minus(before, c.has())); diff != "" {
		t.Errorf("(-want +gone):\n%s", diff)
	}
	if r, err := ipam.Check(context.Background(), c.store); err != nil || len(r.Problems) > 0 {
		t.Errorf("afterwards: %v, %v", r.Problems, err)
	}
}

// minus returns what there is less of.
func minus(before, after map[string]int) map[string]int {
	less := map[string]int{}
	for k, n := range before {
		if d := n - after[k]; d != 0 {
			less[k] = d
		}
	}
	return less
}

// returning is a store in which a node is back after some deletions.
type returning struct {
	datastore.Store
	after int
	back  func()
}

func (r *returning) Delete(ctx context.Context, k datastore.Key, p datastore.Precondition) error {
	if r.after--; r.after == 0 {
		r.back()
	}
	return r.Store.Delete(ctx, k, p)
}

// A node that returns while its things are removed keeps the rest.
func TestNodeReturnsMeanwhile(t *testing.T) {
	c := newCluster(t)
	for i := range 10 {
		c.pod("n1", fmt.Sprint("a", i), true)
	}
	before := c.has()
	remove(t, c.store, datastore.Key{Kind: v3.KindNode, Name: "n1"})
	s := sweeperOf(Config{Store: &returning{c.store, 3, func() { c.join("n1") }}})
	c.look(s, 0)
	c.look(s, time.Hour)
	if diff := cmp.Diff(map[string]int{v3.KindWorkloadEndpoint: 3}, minus(before, c.has())); diff != "" {
		t.Errorf("(-want +gone):\n%s", diff)
	}
}

func TestLeaks(t *testing.T) {
	c := newCluster(t)
	kept := c.pod("n1", "kept", true)
	c.pod("n1", "leak", false)
	again := c.pod("n1", "again", false)
	s := sweeperOf(Config{Store: c.store, settle: time.Millisecond})
	c.look(s, 2*time.Second)
	// What is given out again is another allocation, although it is the same address of the same owner.
	if _, err := c.allocs["n1"].Release(context.Background(), "weft.again"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.allocs["n1"].Assign(context.Background(), ipam.Request{HandleID: "weft.again", Addresses: []netip.Addr{again}}); err != nil {
		t.Fatal(err)
	}
	c.look(s, 20*time.Minute)
	if n := c.has(); n["address"] != 2 || n[v3.KindIPAMHandle] != 2 {
		t.Errorf("after the grace there is %v, want two addresses", n)
	}
	// The endpoint came between the two looks of one collection: see ipam.Repair.
	r := ipam.CheckList(list(t, c.store), time.Now().Add(time.Hour), 0)
	w := newObject(v3.KindWorkloadEndpoint, "n1-k8s-again-eth0").(*v3.WorkloadEndpoint)
	w.Namespace = "default"
	w.Spec = v3.WorkloadEndpointSpec{Orchestrator: "k8s", Node: "n1", Pod: "again", Endpoint: "eth0", InterfaceName: "weft2", IPNetworks: []string{again.String() + "/32"}}
	create(t, c.store, w)
	if repaired, err := ipam.Repair(context.Background(), c.store, r); err != nil || len(repaired) > 0 {
		t.Errorf("of an address that has an endpoint by now: %v, %v", repaired, err)
	}
	if n := c.has(); n["address"] != 2 {
		t.Errorf("there is %v; %v is to be there", n, kept)
	}
}

func list(t *testing.T, store datastore.Store) *datastore.List {
	t.Helper()
	l, err := store.List(context.Background(), ipam.StateKinds()...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A store that is away is no observation, and not ready.
func TestStoreAway(t *testing.T) {
	c := newControllers(Config{Store: away{}})
	_, err := newSweeper(c.cfg, c.metrics).look(t.Context(), time.Now())
	c.note(err)
	if !errors.Is(err, datastore.ErrUnavailable) || c.checks()[0].OK {
		t.Errorf("got %v, %v", err, c.checks())
	}
}

type away struct{ datastore.Store }

func (away) List(context.Context, ...string) (*datastore.List, error) {
	return nil, datastore.ErrUnavailable
}

func TestClusterInformation(t *testing.T) {
	store := startEtcd(t)
	look := func(version string) *v3.ClusterInformation {
		t.Helper()
		if _, err := sweeperOf(Config{Store: store, Version: version}).look(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		o, err := store.Get(t.Context(), datastore.Key{Kind: v3.KindClusterInformation, Name: "default"})
		if err != nil {
			t.Fatal(err)
		}
		return o.(*v3.ClusterInformation)
	}
	first := look("1")
	if len(first.Spec.ClusterGUID) != 32 || first.Spec.CalicoVersion != "1" || !*first.Spec.DatastoreReady {
		t.Errorf("got %+v", first.Spec)
	}
	first.Spec.DatastoreReady = new(false)
	if _, err := store.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	second := look("2")
	if second.Spec.ClusterGUID != first.Spec.ClusterGUID || second.Spec.CalicoVersion != "2" || *second.Spec.DatastoreReady {
		t.Errorf("got %+v, want the same ID, version 2 and not ready", second.Spec)
	}
	if third := look("2"); third.ResourceVersion != second.ResourceVersion {
		t.Error("it is written although nothing changes")
	}
}

// What Prometheus and probes read, at one address.
func TestServe(t *testing.T) {
	cl := newCluster(t)
	cl.pod("n1", "leak", false)
	c := newControllers(Config{Store: cl.store, Health: "x", Metrics: "x", settle: time.Millisecond})
	c.election = nil // whatever leads, this test looks
	s := newSweeper(c.cfg, c.metrics)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		c.handlers()["x"].ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	if code, text := get("/readyz"); code != 503 || !strings.Contains(text, "not been looked at yet") {
		t.Errorf("at first: %d %s", code, text)
	}
	for _, at := range []time.Duration{2 * time.Second, time.Hour} {
		_, err := s.look(t.Context(), time.Now().Add(at))
		c.note(err)
	}
	for path, want := range map[string]string{"/livez": "ok", "/readyz": "ok", "/readyz?verbose": "looked at 2",
		"/metrics": `weft_controllers_released_total{reason="allocation-without-endpoint"} 1`} {
		if code, text := get(path); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d, without %q: %s", path, code, want, text)
		}
	}
	if _, text := get("/metrics"); !strings.Contains(text, `weft_controllers_candidates{reason="allocation-without-endpoint"} 1`) || !strings.Contains(text, `weft_controllers_runs_total{result="ok"} 2`) {
		t.Error(text)
	}
}

// A look at a large cluster takes seconds, not minutes.
func TestLookAtLargeCluster(t *testing.T) {
	const nodes, pods = 5000, 30
	l := &datastore.List{}
	p := pool("p", "10.0.0.0/8")
	p.Spec.BlockSize = 26
	l.Items = append(l.Items, p)
	at := netip.MustParseAddr("10.0.0.0")
	for n := range nodes {
		node := fmt.Sprint("n", n)
		if n > 0 { // the first is gone
			l.Items = append(l.Items, newObject(v3.KindNode, node))
		}
		cidr := netip.PrefixFrom(at, 26)
		b := newObject(v3.KindIPAMBlock, strings.NewReplacer(".", "-", "/", "-").Replace(cidr.String())).(*v3.IPAMBlock)
		b.Spec.CIDR, b.Spec.Affinity = cidr.String(), new("host:"+node)
		b.Spec.Allocations, b.Spec.SequenceNumberForAllocation = make([]*int, 64), map[string]uint64{}
		for i := range 64 {
			if i >= pods {
				b.Spec.Unallocated = append(b.Spec.Unallocated, i)
			}
		}
		for i := range pods {
			name := fmt.Sprintf("%s-%d", node, i)
			b.Spec.Allocations[i] = new(i)
			b.Spec.Attributes = append(b.Spec.Attributes, v3.AllocationAttribute{HandleID: new("weft." + name), ActiveOwnerAttrs: map[string]string{ipam.AttrNode: node}})
			h, w := &v3.IPAMHandle{}, &v3.WorkloadEndpoint{}
			h.Name, w.Name, w.Namespace = "weft."+name, name, "default"
			h.Spec.HandleID, h.Spec.Block = "weft."+name, map[string]int{cidr.String(): 1}
			w.Spec.Node, w.Spec.IPNetworks = node, []string{at.String() + "/32"}
			l.Items = append(l.Items, h, w)
			at = at.Next()
		}
		l.Items = append(l.Items, b)
		for range 64 - pods {
			at = at.Next()
		}
	}
	start := time.Now()
	gone := leftBy(l)
	report := ipam.CheckList(l, time.Now(), 0)
	took := time.Since(start)
	t.Logf("%d nodes, %d allocations, %d endpoints: %v", nodes, report.Allocations, report.Endpoints, took)
	if report.Allocations != nodes*pods || len(gone) != 1 || len(gone["n0"].objects) != pods || len(gone["n0"].ipam.Addresses) != pods {
		t.Errorf("%d allocations, %d nodes gone", report.Allocations, len(gone))
	}
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

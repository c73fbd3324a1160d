package ipam

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

func endpoint(name, address string) *v3.WorkloadEndpoint {
	w := &v3.WorkloadEndpoint{TypeMeta: typeMeta(v3.KindWorkloadEndpoint)}
	w.Namespace, w.Name = "default", "n1-k8s-"+name+"-eth0"
	w.Spec.Orchestrator, w.Spec.Node, w.Spec.Pod, w.Spec.Endpoint = "k8s", "n1", name, "eth0"
	w.Spec.InterfaceName = "weft0123456789a"
	w.Spec.IPNetworks = []string{address}
	return w
}

func testShowAndCheck(t *testing.T, store datastore.Store) {
	ctx := context.Background()
	addPool(t, store, "four", "10.0.0.0/24", nil)
	addPool(t, store, "six", "fd00::/64", nil)
	a := newAllocator(t, store, "n1", Options{Now: func() time.Time { return time.Now().Add(-time.Hour) }})
	four := func(r *Request) { r.Families = []model.Family{model.IPv4} }
	used, leaked, unlisted := pod(four), pod(four), pod(four)
	good := mustAssign(t, a, used).Addresses[0]
	leak := mustAssign(t, a, leaked).Addresses[0]
	lost := mustAssign(t, a, unlisted).Addresses[0]
	tunnel := mustAssign(t, a, Request{HandleID: "vxlan-tunnel-addr-n1", Use: UseTunnel, Families: []model.Family{model.IPv6},
		Attributes: map[string]string{AttrType: "vxlanTunnelAddress"}}).Addresses[0]
	create(t, store, endpoint("one", good.Addr.String()+"/32"))
	create(t, store, endpoint("two", good.Addr.String()+"/32"))
	create(t, store, endpoint("three", "10.0.0.200/32"))
	if err := store.Delete(ctx, handleKey(unlisted.HandleID), datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	stale := a.newAffinity(netip.MustParsePrefix("10.0.0.192/26"), v3.AffinityPending)
	create(t, store, stale)

	s, err := readState(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(2 * time.Minute) // the affinity is old by then
	r := s.check()
	found := map[string]int{}
	for _, p := range r.Problems {
		found[p.Kind]++
	}
	for kind, want := range map[string]int{
		ProblemDuplicate: 1, ProblemLeak: 2, ProblemUnallocated: 1, ProblemNoHandle: 1, ProblemNoBlock: 1, ProblemUnknownNode: 1,
	} {
		if found[kind] != want {
			t.Errorf("%d problems %s, want %d", found[kind], kind, want)
		}
		delete(found, kind)
	}
	if len(found) > 0 {
		t.Errorf("also found %v", found)
	}
	var text bytes.Buffer
	if err := r.Write(&text); err != nil {
		t.Fatal(err)
	}
	if want := "Checked 2 pools, 2 blocks, 3 affinities, 3 handles, 4 allocations, 3 endpoints.\n"; !strings.HasPrefix(text.String(), want) {
		t.Errorf("got %s\nwant it to begin with %s", text.String(), want)
	}

	// A report survives being written and read, and repairs what it names.
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back CheckReport
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if n, err := repairAll(store, &back); n != 4 || err != nil {
		t.Errorf("repaired %d, %v, want 4: two leaks, the tunnel address, the affinity", n, err)
	}
	if n, err := repairAll(store, &back); n != 0 || err != nil {
		t.Errorf("repaired %d more, %v, want 0", n, err)
	}
	for _, gone := range []netip.Addr{leak.Addr, lost.Addr, tunnel.Addr} {
		rep, err := Show(ctx, store, ShowOptions{Addr: gone})
		if err != nil || rep.Address.State != "free" {
			t.Errorf("%v is %q after the repair (%v), want free", gone, rep.Address.State, err)
		}
	}

	// By hand: an address that is used needs force.
	if n, err := Release(ctx, store, []netip.Addr{good.Addr, addr("10.0.0.250")}, false); n != 0 || err == nil || !strings.Contains(err.Error(), "default/n1-k8s-") {
		t.Errorf("released %d, %v, want a refusal that names the endpoint", n, err)
	}
	if n, err := Release(ctx, store, []netip.Addr{good.Addr}, true); n != 1 || err != nil {
		t.Errorf("forced release: %d, %v", n, err)
	}
	if _, err := a.readHandle(ctx, used.HandleID); err == nil {
		t.Error("the handle is still there after its last address was released")
	}
}

func TestShowText(t *testing.T) {
	b, err := block.New(netip.MustParsePrefix("10.0.0.0/26"), "host:n1", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	for i, node := range []string{"n1", "n1", "n2"} {
		o := &block.Owner{Handle: "h" + node, Attributes: map[string]string{AttrNode: node, AttrPod: "evil\x1b[2J"}}
		if _, err := b.AssignNext(o, block.Policy{}); err != nil {
			t.Fatal(i, err)
		}
	}
	pools := []*v3.IPPool{{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/16"}}, {Spec: v3.IPPoolSpec{CIDR: "fd00::/48", Disabled: true}}}
	pools[0].Name, pools[1].Name = "four", "six"
	s := &state{pools: pools, blocks: []blockState{{block: b}}, reserved: reservedBy([]*v3.IPReservation{{Spec: v3.IPReservationSpec{ReservedCIDRs: []string{"10.0.0.62/31"}}}})}
	var text bytes.Buffer
	if err := s.show(ShowOptions{Blocks: true}).Write(&text); err != nil {
		t.Fatal(err)
	}
	want := `POOL            CIDR         ADDRESSES  USED  %     BORROWED  COOLING  RESERVED  BLOCKS
four            10.0.0.0/16  65536      3     0.0%  1         0        2         1
six (disabled)  fd00::/48    2^80       0     0.0%  0         0        0         0

BLOCK        POOL  AFFINITY  ADDRESSES  USED  BORROWED  COOLING  RESERVED  FREE
10.0.0.0/26  four  host:n1   64         3     1         0        2         59
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
	text.Reset()
	if err := s.show(ShowOptions{Addr: netip.MustParseAddr("10.0.0.2")}).Write(&text); err != nil {
		t.Fatal(err)
	}
	want = `Address:       10.0.0.2
State:         in use
Pool:          four
Block:         10.0.0.0/26
Affinity:      host:n1
Handle:        hn2
Borrowed:      yes: n2 uses an address of another node's block
Owner's node:  n2
Owner's pod:   evil?[2J
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
}

func repairAll(store datastore.Store, r *CheckReport) (n int, err error) {
	repaired, err := Repair(context.Background(), store, r)
	for _, of := range repaired {
		n += of
	}
	return n, err
}

// A handle that says no node, as one that something else wrote, says it once its node writes it.
func testHandleOfNoNode(t *testing.T, store datastore.Store) {
	ctx := context.Background()
	addPool(t, store, "four", "10.0.0.0/24", nil)
	addPool(t, store, "six", "fd00::/64", nil)
	a := newAllocator(t, store, "n1", Options{})
	r := pod(func(r *Request) { r.Families = []model.Family{model.IPv4} })
	mustAssign(t, a, r)
	h, err := a.readHandle(ctx, r.HandleID)
	if err != nil {
		t.Fatal(err)
	}
	h = h.DeepCopy()
	h.Annotations = nil
	if _, err := store.Update(ctx, h); err != nil {
		t.Fatal(err)
	}
	r.Families = []model.Family{model.IPv4, model.IPv6}
	mustAssign(t, a, r)
	if h, err = a.readHandle(ctx, r.HandleID); err != nil || h.Annotations[AnnotationNode] != "n1" || len(h.Spec.Block) != 2 {
		t.Errorf("the handle is %+v, %v, want annotation %s of n1 and two blocks", h, err, AnnotationNode)
	}
}

package ipam

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

func TestAllocator(t *testing.T) {
	t.Parallel()
	store := startEtcd(t, false)
	for name, f := range map[string]func(*testing.T, datastore.Store){
		"dual stack and release":    testDualStack,
		"idempotent":                testIdempotent,
		"pools":                     testPools,
		"exhaustion says why":       testExhaustion,
		"strict affinity":           testStrictAffinity,
		"borrowing":                 testBorrowing,
		"limit of blocks":           testMaxBlocks,
		"no automatic blocks":       testNoAutoAllocate,
		"reclaims idle blocks":      testReclaim,
		"reservations":              testReservations,
		"cooldown":                  testCooldown,
		"in use on the host":        testInUse,
		"pools asked for":           testAskedFamily,
		"pool deleted":              testPoolDeleted,
		"pool with new block size":  testNewBlockSize,
		"fixed addresses":           testFixed,
		"partial dual stack":        testPartial,
		"release by address":        testReleaseAddresses,
		"one claim for many":        testClaimOnce,
		"adopts after restart":      testAdopt,
		"another block size":        testOtherBlockSize,
		"handle names":              testHandleNames,
		"show and check":            testShowAndCheck,
		"a handle of no node":       testHandleOfNoNode,
		"cancelled before it began": testCancelled,
	} {
		t.Run(name, func(t *testing.T) {
			wipe(t, store)
			f(t, store)
		})
	}
}

func testDualStack(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/16", nil)
	addPool(t, store, "six", "fd00:10::/64", nil)
	a := newAllocator(t, store, "n1", Options{})
	r := pod()
	as := mustAssign(t, a, r)
	if len(as.Addresses) != 2 || !as.Addresses[0].Addr.Is4() || !as.Addresses[1].Addr.Is6() {
		t.Fatalf("got %+v, want one address of each family, IPv4 first", as)
	}
	if as.Addresses[0].Pool != "four" || as.Addresses[0].Block.Bits() != 26 || as.Addresses[1].Block.Bits() != 122 {
		t.Errorf("got %+v, want blocks of /26 and /122", as)
	}
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.affinities {
		if f.Spec.State != v3.AffinityConfirmed || f.Spec.Node != "n1" {
			t.Errorf("affinity %+v, want it confirmed", f.Spec)
		}
	}
	held, _ := s.blocks[0].block.Find(as.Addresses[0].Addr)
	if got := held.Owner.Attributes; got[AttrPod] != r.Pod || got[AttrNamespace] != "default" || got[AttrNode] != "n1" || got[AttrTime] == "" {
		t.Errorf("stored attributes %v", got)
	}
	noProblems(t, store, 2)
	if n, err := a.Release(context.Background(), r.HandleID); n != 2 || err != nil {
		t.Errorf("Release gave back %d, %v, want 2", n, err)
	}
	if n, err := a.Release(context.Background(), r.HandleID); n != 0 || err != nil {
		t.Errorf("Release again gave back %d, %v, want 0 and success", n, err)
	}
	noProblems(t, store, 0)
}

func testIdempotent(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/16", nil)
	addPool(t, store, "six", "fd00:10::/64", nil)
	a := newAllocator(t, store, "n1", Options{})
	r := pod(func(r *Request) { r.Families = []model.Family{model.IPv4} })
	first := mustAssign(t, a, r)
	again := mustAssign(t, a, r)
	if first.Addresses[0] != again.Addresses[0] {
		t.Errorf("got %v, then %v, want the same", first, again)
	}
	// After a restart, and with one family more.
	r.Families = nil
	both := mustAssign(t, newAllocator(t, store, "n1", Options{}), r)
	if both.Addresses[0] != first.Addresses[0] || len(both.Addresses) != 2 {
		t.Errorf("got %v, want %v and an IPv6 address", both, first.Addresses[0])
	}
	noProblems(t, store, 2)
}

func testPools(t *testing.T, store datastore.Store) {
	n := &v3.Node{TypeMeta: typeMeta(v3.KindNode)}
	n.Name, n.Labels = "n1", map[string]string{"rack": "r1"}
	create(t, store, n)
	addPool(t, store, "a-other-rack", "10.1.0.0/16", func(s *v3.IPPoolSpec) { s.NodeSelector = "rack == 'r2'" })
	addPool(t, store, "b-disabled", "10.2.0.0/16", func(s *v3.IPPoolSpec) { s.Disabled = true })
	addPool(t, store, "c-manual", "10.3.0.0/16", func(s *v3.IPPoolSpec) { s.AssignmentMode = v3.AssignManual })
	addPool(t, store, "d-tunnels", "10.4.0.0/16", func(s *v3.IPPoolSpec) { s.AllowedUses = []v3.AllowedUse{v3.UseTunnel} })
	addPool(t, store, "e-namespace", "10.5.0.0/16", func(s *v3.IPPoolSpec) {
		s.NamespaceSelector, s.AllowedUses = "team == 'blue'", []v3.AllowedUse{v3.UseWorkload}
	})
	addPool(t, store, "f-rack", "10.6.0.0/16", func(s *v3.IPPoolSpec) {
		s.NodeSelector, s.AllowedUses = "rack == 'r1'", []v3.AllowedUse{v3.UseWorkload}
	})
	a := newAllocator(t, store, "n1", Options{})
	for name, tc := range map[string]struct {
		change func(*Request)
		want   string // pool, or part of the error
	}{
		"by node": {func(*Request) {}, "f-rack"},
		"by namespace": {func(r *Request) {
			r.NamespaceLabels = map[string]string{"team": "blue"}
			r.Pools = map[model.Family][]string{model.IPv4: {"e-namespace"}}
		}, "e-namespace"},
		"tunnel":        {func(r *Request) { r.Use = UseTunnel }, "d-tunnels"},
		"manual asked":  {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"c-manual"}} }, "c-manual"},
		"by CIDR":       {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"10.3.0.0/16"}} }, "c-manual"},
		"disabled":      {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"b-disabled"}} }, "b-disabled (10.2.0.0/16): the pool is disabled"},
		"other rack":    {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"a-other-rack"}} }, "nodeSelector rack == 'r2' does not select this node"},
		"unknown":       {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"nope"}} }, "nope: asked for, but no IPv4 pool has this name or CIDR"},
		"bad namespace": {func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"e-namespace"}} }, `namespaceSelector team == 'blue' does not select namespace "default"`},
		"no IPv6 pool":  {func(r *Request) { r.Families = []model.Family{model.IPv6} }, "there is no IPv6 pool"},
	} {
		as, err := a.Assign(context.Background(), pod(tc.change))
		var exhausted *ExhaustedError
		switch {
		case err == nil && as.Addresses[0].Pool != tc.want:
			t.Errorf("%s: got an address of %s, want %s", name, as.Addresses[0].Pool, tc.want)
		case err != nil && (!strings.Contains(err.Error(), tc.want) || !errors.As(err, &exhausted)):
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		case err != nil && tc.want != "there is no IPv6 pool" && strings.Contains(err.Error(), "IPv6"):
			t.Errorf("%s: got %v: the pod has not asked for IPv6", name, err)
		}
	}
}

// fillPool assigns until the allocator has no more, and returns the handles and the error.
func fillPool(t *testing.T, a *Allocator, limit int) (handles []string, err error) {
	t.Helper()
	for range limit {
		r := pod()
		if _, err = a.Assign(context.Background(), r); err != nil {
			return handles, err
		}
		handles = append(handles, r.HandleID)
	}
	return handles, nil
}

func testExhaustion(t *testing.T, store datastore.Store) {
	addPool(t, store, "small", "10.0.0.0/29", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	addPool(t, store, "off", "10.0.1.0/24", func(s *v3.IPPoolSpec) { s.Disabled = true })
	handles, err := fillPool(t, newAllocator(t, store, "n1", Options{}), 20)
	if len(handles) != 8 {
		t.Errorf("%d addresses of a /29, want 8", len(handles))
	}
	want := "on node n1: no usable pool has a free address: off (10.0.1.0/24): the pool is disabled; small (10.0.0.0/29): " +
		"2 of 2 blocks exist, 2 of them this node's with 8 of 8 addresses in use, 0 cooling down, 0 reserved or in use on this host, 0 available; " +
		"no other block is free, or idle for a minute; other nodes' blocks have 0"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v\nwant ... %s", err, want)
	}
	noProblems(t, store, 8)
}

func testStrictAffinity(t *testing.T, store datastore.Store) {
	addPool(t, store, "small", "10.0.0.0/29", func(s *v3.IPPoolSpec) { s.BlockSize = 29 })
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true})
	mustAssign(t, newAllocator(t, store, "n1", Options{}), pod())
	_, err := newAllocator(t, store, "n2", Options{}).Assign(context.Background(), pod())
	if err == nil || !strings.Contains(err.Error(), "other nodes' blocks have 7 that strictAffinity keeps from this node") {
		t.Errorf("got %v, want it to name strictAffinity", err)
	}
	noProblems(t, store, 1)
}

func testBorrowing(t *testing.T, store datastore.Store) {
	addPool(t, store, "small", "10.0.0.0/29", func(s *v3.IPPoolSpec) { s.BlockSize = 29 })
	mustAssign(t, newAllocator(t, store, "n1", Options{}), pod())
	r := pod()
	n2 := newAllocator(t, store, "n2", Options{})
	got := mustAssign(t, n2, r).Addresses[0]
	report, err := Show(context.Background(), store, ShowOptions{Addr: got.Addr})
	if err != nil {
		t.Fatal(err)
	}
	if !report.Address.Borrowed || report.Address.Affinity != "host:n1" || report.Address.Attributes[AttrNode] != "n2" {
		t.Errorf("borrowed address: %+v", report.Address)
	}
	if n, err := n2.Release(context.Background(), r.HandleID); n != 1 || err != nil {
		t.Errorf("release of a borrowed address: %d, %v", n, err)
	}
	noProblems(t, store, 1)
}

func testMaxBlocks(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/24", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true, MaxBlocksPerHost: 2})
	handles, err := fillPool(t, newAllocator(t, store, "n1", Options{}), 20)
	if len(handles) != 8 || err == nil || !strings.Contains(err.Error(), "this node has 2 IPv4 blocks of at most 2") {
		t.Errorf("got %d addresses, then %v, want 8 and the limit", len(handles), err)
	}
	// Without a setting the limit is 20 blocks.
	wipe(t, store)
	addPool(t, store, "p", "10.0.0.0/26", func(s *v3.IPPoolSpec) { s.BlockSize = 32 })
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true})
	handles, err = fillPool(t, newAllocator(t, store, "n1", Options{}), 30)
	if len(handles) != 20 || err == nil {
		t.Errorf("got %d addresses, then %v, want 20", len(handles), err)
	}
}

func testNoAutoAllocate(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/24", nil)
	no := false
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true, AutoAllocateBlocks: &no})
	a := newAllocator(t, store, "n1", Options{})
	for _, change := range []func(*Request){func(*Request) {}, func(r *Request) { r.Addresses = []netip.Addr{addr("10.0.0.9")} }} {
		if _, err := a.Assign(context.Background(), pod(change)); err == nil || !strings.Contains(err.Error(), "autoAllocateBlocks is false") {
			t.Errorf("got %v, want it to name autoAllocateBlocks", err)
		}
	}
	noProblems(t, store, 0)
}

func testReclaim(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/29", func(s *v3.IPPoolSpec) { s.BlockSize = 29 })
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true})
	now := time.Now()
	clock := Options{Now: func() time.Time { return now }}
	n1, n2 := newAllocator(t, store, "n1", clock), newAllocator(t, store, "n2", clock)
	r := pod()
	mustAssign(t, n1, r)
	if _, err := n1.Release(context.Background(), r.HandleID); err != nil {
		t.Fatal(err)
	}
	now = now.Add(59 * time.Second)
	if _, err := n2.Assign(context.Background(), pod()); err == nil {
		t.Error("an empty block was taken after 59 s, want it to stay for a minute")
	}
	now = now.Add(2 * time.Second)
	got := mustAssign(t, n2, pod()).Addresses[0]
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.blocks) != 1 || s.blocks[0].block.Affinity() != "host:n2" || len(s.affinities) != 1 {
		t.Errorf("after the reclaim: %d blocks, %d affinities, want one of n2", len(s.blocks), len(s.affinities))
	}
	// The node that lost it notices, and does not give out of it.
	if as, err := n1.Assign(context.Background(), pod()); err == nil {
		t.Errorf("n1 gave out %v of a block that is n2's (who has %v)", as, got)
	}
	noProblems(t, store, 1)
}

func testReservations(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/29", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	res := &v3.IPReservation{TypeMeta: typeMeta(v3.KindIPReservation)}
	res.Name, res.Spec.ReservedCIDRs = "gateways", []string{"10.0.0.0/30", "10.0.0.7/32"}
	create(t, store, res)
	a := newAllocator(t, store, "n1", Options{})
	handles, err := fillPool(t, a, 20)
	if len(handles) != 3 || err == nil {
		t.Errorf("got %d addresses, then %v, want 3 of the 8", len(handles), err)
	}
	// The block that is reserved as a whole was not claimed for nothing.
	if s, err := readState(context.Background(), store); err != nil || len(s.blocks) != 1 {
		t.Errorf("%d blocks, %v, want 1", len(s.blocks), err)
	}
	_, err = a.Assign(context.Background(), pod(func(r *Request) { r.Addresses = []netip.Addr{addr("10.0.0.7")} }))
	if err == nil || !strings.Contains(err.Error(), "reserved by IPReservation gateways") {
		t.Errorf("fixed reserved address: got %v", err)
	}
	noProblems(t, store, 3)
}

func testCooldown(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/32", func(s *v3.IPPoolSpec) { s.BlockSize = 32 })
	addConfig(t, store, v3.IPAMConfigurationSpec{IPCooldownSeconds: 60})
	now := time.Now()
	a := newAllocator(t, store, "n1", Options{Now: func() time.Time { return now }})
	r := pod()
	mustAssign(t, a, r)
	if _, err := a.Release(context.Background(), r.HandleID); err != nil {
		t.Fatal(err)
	}
	now = now.Add(59 * time.Second)
	if _, err := a.Assign(context.Background(), pod()); err == nil || !strings.Contains(err.Error(), "1 cooling down") {
		t.Errorf("59 s after the release: got %v, want it to name the cooldown", err)
	}
	now = now.Add(3 * time.Second)
	mustAssign(t, a, pod())
	noProblems(t, store, 1)
}

func testInUse(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/30", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	a := newAllocator(t, store, "n1", Options{InUse: func(a netip.Addr) bool { return a == addr("10.0.0.0") || a == addr("10.0.0.2") }})
	got := mustAssign(t, a, pod()).Addresses[0].Addr
	if got != addr("10.0.0.1") {
		t.Errorf("got %v, want 10.0.0.1", got)
	}
	if _, err := fillPool(t, a, 5); err == nil || !strings.Contains(err.Error(), "2 reserved or in use on this host") {
		t.Errorf("got %v, want it to name the addresses in use", err)
	}
	noProblems(t, store, 2)
}

func testFixed(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/24", nil)
	addPool(t, store, "m", "10.9.0.0/24", func(s *v3.IPPoolSpec) { s.AssignmentMode = v3.AssignManual })
	n1, n2 := newAllocator(t, store, "n1", Options{}), newAllocator(t, store, "n2", Options{})
	want := func(s string) func(*Request) { return func(r *Request) { r.Addresses = []netip.Addr{addr(s)} } }
	if got := mustAssign(t, n1, pod(want("10.0.0.77"))).Addresses[0]; got.Addr != addr("10.0.0.77") || got.Block.String() != "10.0.0.64/26" {
		t.Errorf("got %+v", got)
	}
	mustAssign(t, n1, pod(want("10.9.0.1")))
	_, err := n2.Assign(context.Background(), pod(want("10.0.0.77")))
	if !errors.Is(err, block.ErrTaken) {
		t.Errorf("taken address: got %v", err)
	}
	if got := mustAssign(t, n2, pod(want("10.0.0.78"))).Addresses[0]; got.Addr != addr("10.0.0.78") {
		t.Errorf("borrowed fixed address: got %+v", got)
	}
	for s, part := range map[string]string{
		"192.168.0.1": "no pool holds this address",
	} {
		if _, err := n1.Assign(context.Background(), pod(want(s))); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got %v, want %s", s, err, part)
		}
	}
	for _, bad := range [][]netip.Addr{{addr("10.0.0.1"), addr("10.0.0.2")}, {{}}, {addr("::ffff:10.0.0.1")}} {
		if _, err := n1.Assign(context.Background(), pod(func(r *Request) { r.Addresses = bad })); err == nil {
			t.Errorf("addresses %v: want an error", bad)
		}
	}
	noProblems(t, store, 3)
}

func testPartial(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/24", nil)
	addPool(t, store, "six", "fd00::/128", func(s *v3.IPPoolSpec) { s.BlockSize = 128 })
	a := newAllocator(t, store, "n1", Options{})
	mustAssign(t, a, pod())
	if as, err := a.Assign(context.Background(), pod()); err == nil {
		t.Errorf("got %v although there is no second IPv6 address", as)
	}
	noProblems(t, store, 2)
	// The same when the IPv6 address is gone only when it is about to be taken.
	mustAssign(t, newAllocator(t, store, "n2", Options{}), pod(func(r *Request) { r.Families = []model.Family{model.IPv4} }))
	both := func(r *Request) { r.Addresses = []netip.Addr{addr("10.0.0.9"), addr("fd00::")} }
	if _, err := a.Assign(context.Background(), pod(both)); !errors.Is(err, block.ErrTaken) {
		t.Errorf("got %v, want the address to be taken", err)
	}
	noProblems(t, store, 3)
}

func testReleaseAddresses(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/24", nil)
	a := newAllocator(t, store, "n1", Options{})
	r := pod()
	got := mustAssign(t, a, r).Addresses[0]
	for name, ref := range map[string]AddressRef{
		"another handle":   {got.Addr, "other", 0},
		"another sequence": {got.Addr, r.HandleID, got.Sequence + 1},
		"no block":         {addr("10.77.0.1"), r.HandleID, 0},
	} {
		if n, err := a.ReleaseAddresses(context.Background(), []AddressRef{ref}); n != 0 || err != nil {
			t.Errorf("%s: gave back %d, %v, want nothing", name, n, err)
		}
	}
	noProblems(t, store, 1)
	if n, err := a.ReleaseAddresses(context.Background(), []AddressRef{{got.Addr, r.HandleID, got.Sequence}}); n != 1 || err != nil {
		t.Errorf("gave back %d, %v, want 1", n, err)
	}
	noProblems(t, store, 0)
}

func testClaimOnce(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/16", nil)
	a := newAllocator(t, store, "n1", Options{})
	var wg sync.WaitGroup
	seen := sync.Map{}
	for range 64 {
		wg.Go(func() {
			as, err := a.Assign(context.Background(), pod())
			if err != nil {
				t.Error(err)
				return
			}
			if _, twice := seen.LoadOrStore(as.Addresses[0].Addr, true); twice {
				t.Errorf("%v was given out twice", as.Addresses[0].Addr)
			}
		})
	}
	wg.Wait()
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.blocks) != 1 {
		t.Errorf("64 pods at once made the node claim %d blocks of 64, want 1", len(s.blocks))
	}
	noProblems(t, store, 64)
}

func testAdopt(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/16", nil)
	first := mustAssign(t, newAllocator(t, store, "n1", Options{}), pod()).Addresses[0]
	second := mustAssign(t, newAllocator(t, store, "n1", Options{}), pod()).Addresses[0]
	if first.Block != second.Block {
		t.Errorf("after a restart the node uses %v, before %v, want the same block", second.Block, first.Block)
	}
	noProblems(t, store, 2)
}

// A pool that was made anew with another block size: blocks of the old size still hold addresses.
func testOtherBlockSize(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/25", func(s *v3.IPPoolSpec) { s.BlockSize = 26 })
	old := mustAssign(t, newAllocator(t, store, "n1", Options{}), pod()).Addresses[0]
	if err := store.Delete(context.Background(), datastore.Key{Kind: v3.KindIPPool, Name: "p"}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
	addPool(t, store, "p", "10.0.0.0/25", func(s *v3.IPPoolSpec) { s.BlockSize = 28 })
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true})
	a := newAllocator(t, store, "n2", Options{})
	handles, _ := fillPool(t, a, 200)
	if len(handles) != 64 {
		t.Errorf("the other half of the pool gave %d addresses, want 64", len(handles))
	}
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range s.blocks {
		if b.block.CIDR() != old.Block && b.block.CIDR().Overlaps(old.Block) {
			t.Errorf("block %v overlaps %v, which holds %v", b.block.CIDR(), old.Block, old.Addr)
		}
	}
}

func testHandleNames(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/24", nil)
	a := newAllocator(t, store, "n1", Options{})
	ids := []string{"My_Net.0123abc", "my_net.0123abc", "net..x", "net.-x", "-net", strings.Repeat("x", 400), strings.Repeat("é", 200), "plain.handle"}
	seen := map[string]string{}
	for _, id := range ids {
		name := handleName(id)
		if other, twice := seen[name]; twice {
			t.Errorf("handles %q and %q both have the name %s", id, other, name)
		}
		seen[name] = id
		mustAssign(t, a, Request{HandleID: id})
	}
	noProblems(t, store, len(ids))
	for _, id := range ids {
		if n, err := a.Release(context.Background(), id); n != 1 || err != nil {
			t.Errorf("release of %.20q: %d, %v", id, n, err)
		}
	}
	noProblems(t, store, 0)
}

func testCancelled(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/24", nil)
	a := newAllocator(t, store, "n1", Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := pod()
	if _, err := a.Assign(ctx, r); err == nil {
		t.Error("a cancelled request got an address")
	}
	if _, err := a.Release(context.Background(), r.HandleID); err != nil {
		t.Error(err)
	}
	noProblems(t, store, 0)
	a.Close()
	if _, err := a.Assign(context.Background(), pod()); !errors.Is(err, datastore.ErrUnavailable) {
		t.Errorf("a closed allocator: got %v, want ErrUnavailable", err)
	}
}

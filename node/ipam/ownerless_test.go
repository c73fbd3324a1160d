package ipam

import (
	"context"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// With pools of both families, an owner that names pools of one that it cannot have gets neither.
func testAskedFamily(t *testing.T, store datastore.Store) {
	addPool(t, store, "four", "10.0.0.0/16", nil)
	addPool(t, store, "rack2", "10.2.0.0/16", func(s *v3.IPPoolSpec) { s.NodeSelector = "rack == 'r2'" })
	addPool(t, store, "six", "fd00:10::/64", nil)
	a := newAllocator(t, store, "n1", Options{})
	for pool, want := range map[string]string{
		"nope":  "nope: asked for, but no IPv4 pool has this name or CIDR",
		"six":   "six: asked for, but no IPv4 pool has this name or CIDR",
		"rack2": "nodeSelector rack == 'r2' does not select this node",
	} {
		got, err := a.Assign(context.Background(), pod(func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {pool}} }))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "IPv6") {
			t.Errorf("IPv4 pools %s: got %v, %v; want an error with %q", pool, got, err, want)
		}
	}
	noProblems(t, store, 0)
	if got := mustAssign(t, a, pod(func(r *Request) { r.Pools = map[model.Family][]string{model.IPv4: {"four"}} })); len(got.Addresses) != 2 {
		t.Errorf("got %v, want an address of each family", got)
	}
}

func deletePool(t *testing.T, store datastore.Store, name string) {
	t.Helper()
	if err := store.Delete(context.Background(), datastore.Key{Kind: v3.KindIPPool, Name: name}, datastore.Precondition{}); err != nil {
		t.Fatal(err)
	}
}

// blocksIn returns the CIDRs of the blocks, and checks that there are as many affinities.
func blocksIn(t *testing.T, store datastore.Store) string {
	t.Helper()
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range s.blocks {
		names = append(names, b.block.CIDR().String())
	}
	if len(s.affinities) != len(names) {
		t.Errorf("%d affinities beside %d blocks", len(s.affinities), len(names))
	}
	return strings.Join(names, " ")
}

func problemsOf(t *testing.T, store datastore.Store, kind string) (n int, detail string) {
	t.Helper()
	s, err := readState(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.check().Problems {
		if p.Kind == kind {
			n, detail = n+1, p.Detail
		}
	}
	return n, detail
}

// testPoolDeleted: the blocks of a pool that is gone go with their last address, and those that were empty
// already when their node needs a block; a block in use stays, and is told of.
func testPoolDeleted(t *testing.T, store datastore.Store) {
	addConfig(t, store, v3.IPAMConfigurationSpec{StrictAffinity: true, MaxBlocksPerHost: 2})
	addPool(t, store, "old", "10.1.0.0/24", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	a := newAllocator(t, store, "n1", Options{})
	handles, _ := fillPool(t, a, 8)
	release := func(of ...string) {
		t.Helper()
		for _, h := range of {
			if _, err := a.Release(context.Background(), h); err != nil {
				t.Fatal(err)
			}
		}
	}
	release(handles[:4]...) // one of the two blocks is empty, while its pool is there
	if n, _ := problemsOf(t, store, ProblemNoPool); n != 0 || len(handles) != 8 {
		t.Fatalf("%d problems and %d addresses before the pool goes, want 0 and 8", n, len(handles))
	}
	deletePool(t, store, "old")
	if n, _ := problemsOf(t, store, ProblemNoPool); n != 2 {
		t.Errorf("%d blocks outside every pool are told of, want 2", n)
	}
	addPool(t, store, "new", "10.2.0.0/24", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	mustAssign(t, a, pod())
	if n, why := problemsOf(t, store, ProblemNoPool); n != 1 || !strings.Contains(why, "4 of its addresses are in use") {
		t.Errorf("after the node needed a block: %d blocks outside every pool (%s), want the one in use", n, why)
	}
	release(handles[4:]...)
	if got := blocksIn(t, store); strings.Contains(got, "10.1.") || !strings.HasPrefix(got, "10.2.") {
		t.Errorf("after the last release there are the blocks %s, want one of 10.2.0.0/24", got)
	}
	noProblems(t, store, 1)

	// Of a node that is gone, an operator deletes them by the report.
	mustAssign(t, newAllocator(t, store, "n2", Options{}), Request{HandleID: "h2"})
	deletePool(t, store, "new")
	n2 := newAllocator(t, store, "", Options{})
	if _, err := n2.Release(context.Background(), "h2"); err != nil {
		t.Fatal(err)
	}
	report, err := Check(context.Background(), store)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := repairAll(store, report); n != 1 || err != nil {
		t.Errorf("repaired %d, %v; want the empty one of 2 blocks", n, err)
	}
	if got := blocksIn(t, store); strings.Contains(got, " ") || got == "" {
		t.Errorf("the blocks are %q, want the one in use", got)
	}
}

// testNewBlockSize: a pool that was made anew with other blocks uses none of the old ones, which make room
// as soon as they are empty.
func testNewBlockSize(t *testing.T, store datastore.Store) {
	addPool(t, store, "p", "10.0.0.0/28", func(s *v3.IPPoolSpec) { s.BlockSize = 30 })
	now := time.Now()
	a := newAllocator(t, store, "n1", Options{Now: func() time.Time { return now }})
	old := mustAssign(t, a, Request{HandleID: "old"}).Addresses[0]
	deletePool(t, store, "p")
	addPool(t, store, "p", "10.0.0.0/28", func(s *v3.IPPoolSpec) { s.BlockSize = 29 })
	handles, err := fillPool(t, a, 16)
	if len(handles) != 8 || err == nil || !strings.Contains(err.Error(), "blocks of another size than /29 that are in the way until they are empty: 1") {
		t.Errorf("%d addresses beside the old block %v, then %v; want 8, and an error that names it", len(handles), old.Block, err)
	}
	if n, why := problemsOf(t, store, ProblemBlockSize); n != 1 || !strings.Contains(why, "not of the size that IPPool p has; 1 of its addresses") {
		t.Errorf("%d blocks of another size (%s), want 1", n, why)
	}
	if _, err := a.Release(context.Background(), "old"); err != nil {
		t.Fatal(err)
	}
	if more, _ := fillPool(t, a, 16); len(more) != 8 {
		t.Errorf("%d addresses after the old block went, want 8", len(more))
	}
	noProblems(t, store, 16)
}

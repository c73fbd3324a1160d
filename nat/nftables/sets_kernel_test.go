package nftables

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/nat"
)

// TestIntervalsFollow walks through random pools that overlap, touch and cover each other, and compares
// the kernel's sets with the plan after each step.
func TestIntervalsFollow(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.NFTables, testkit.IPRoute2)
	ns := testkit.NewNetns(t)
	d := New(ns.Open(t), slog.New(slog.DiscardHandler))
	t.Cleanup(d.Close)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	bases := []netip.Addr{netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("255.255.255.0"), netip.MustParseAddr("fd00::"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00")}
	steps := 150
	if testkit.Emulated() {
		steps = 40
	}
	compared := 0
	for step := range steps {
		var pools []model.Pool
		for range r.IntN(20) {
			b := bases[r.IntN(len(bases))].AsSlice()
			b[len(b)-1] = byte(r.IntN(256))
			a, _ := netip.AddrFromSlice(b)
			pools = append(pools, model.Pool{CIDR: netip.PrefixFrom(a, a.BitLen()-r.IntN(7)).Masked(), NATOutgoing: r.IntN(2) == 0})
		}
		p, err := nat.Compile(model.NATConfig{}, pools, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(context.Background(), p); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, o := range p.Outgoing {
			for set, want := range map[string][]nat.Range{setFrom(o.Family): o.From, setSpared(o.Family): o.Spared} {
				if got := kernelSet(t, ns, set); !slices.Equal(got, want) {
					t.Fatalf("step %d: set %s has %v, want %v", step, set, got, want)
				}
				compared += len(want)
			}
		}
	}
	t.Logf("%d ranges compared in %d steps", compared, steps)
}

// kernelSet reads the ranges of a set, as nft tells them.
func kernelSet(t *testing.T, ns testkit.NS, set string) []nat.Range {
	t.Helper()
	var out struct {
		Nftables []struct {
			Set struct {
				Elem []json.RawMessage `json:"elem"`
			} `json:"set"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(testkit.Run(t, ns, "nft", "-j", "list", "set", "inet", "weft", set)), &out); err != nil {
		t.Fatal(err)
	}
	var ranges []nat.Range
	for _, o := range out.Nftables {
		for _, e := range o.Set.Elem {
			r, err := parseElement(e)
			if err != nil {
				t.Fatalf("element %s: %v", e, err)
			}
			ranges = append(ranges, r)
		}
	}
	return ranges
}

func parseElement(e json.RawMessage) (nat.Range, error) {
	var single netip.Addr
	if json.Unmarshal(e, &single) == nil {
		return nat.Range{First: single, Last: single}, nil
	}
	var v struct {
		Range  []netip.Addr `json:"range"`
		Prefix struct {
			Addr netip.Addr `json:"addr"`
			Len  int        `json:"len"`
		} `json:"prefix"`
	}
	if err := json.Unmarshal(e, &v); err != nil {
		return nat.Range{}, err
	}
	if len(v.Range) == 2 {
		return nat.Range{First: v.Range[0], Last: v.Range[1]}, nil
	}
	m := nat.Merge([]netip.Prefix{netip.PrefixFrom(v.Prefix.Addr, v.Prefix.Len)})
	if len(m) != 1 {
		return nat.Range{}, fmt.Errorf("no range")
	}
	return m[0], nil
}

func TestScale(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.NFTables, testkit.IPRoute2)
	ns := testkit.NewNetns(t)
	d := New(ns.Open(t), slog.New(slog.DiscardHandler))
	t.Cleanup(d.Close)
	nodes := map[model.NodeName]*model.Node{}
	node := func(i int) {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}), 16)
		nodes[model.NodeName(fmt.Sprintf("n%d", i))] = &model.Node{Addresses: []netip.Prefix{a}}
	}
	many := 5000
	if testkit.Emulated() {
		many = 500
	}
	for i := range many {
		node(i)
	}
	var pools []model.Pool
	pool := func(i int) {
		pools = append(pools, model.Pool{CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 7), byte(i << 1), 0}), 24), NATOutgoing: true})
	}
	for i := range many {
		pool(i)
	}
	step := func(what string, want int) {
		t.Helper()
		start := time.Now()
		p, err := nat.Compile(model.NATConfig{SpareHosts: true}, pools, nodes, nil)
		if err != nil {
			t.Fatal(err)
		}
		compiled := time.Now()
		res, err := d.Apply(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Added + res.Removed; got != want {
			t.Errorf("%s: %d elements were sent, want %d", what, got, want)
		}
		t.Logf("%s: compile %v, apply %v", what, compiled.Sub(start).Round(time.Microsecond), time.Since(compiled).Round(time.Microsecond))
	}
	step(fmt.Sprintf("%d nodes and %d pools that do not touch", many, many), 3*many)
	step("the same again", 0)
	node(many)
	step("one more node", 1)
	pool(many)
	step("one more pool", 2) // a source, and a destination that is spared
	pools = append(pools, model.Pool{CIDR: netip.MustParsePrefix("10.0.1.0/24")})
	step("a pool that joins two", 3) // two ranges go, one comes
	delete(nodes, "n7")
	step("one node less", 1)
}

package fib

import (
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/routing"
)

// TestManyLearned: with a hundred thousand routes that BGP learned, ten thousand on an emulated processor, every
// third over two next hops, one more costs a small part of what all of them did.
func TestManyLearned(t *testing.T) {
	n := testkit.Count(100_000)
	r := newRig(t)
	in := routing.LearnedInput{Underlay: model.Underlay{Links: []model.Link{{Name: "eth0", Up: true}},
		Routes: []model.UnderlayRoute{{Dst: prefix("172.31.1.0/24"), Device: "eth0"}}}}
	for i := range n + 1 {
		l := routing.Learned{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{20 + byte(i>>16), byte(i >> 8), byte(i), 0}), 24),
			Way: &routing.Way{Peer: addr("172.31.1.2"), NextHops: []netip.Addr{addr("172.31.1.2")}}}
		if i%3 == 0 {
			l.NextHops = append(l.NextHops, addr("172.31.1.3"))
		}
		in.Routes = append(in.Routes, l)
	}
	more := in
	in.Routes = slices.Clone(in.Routes[:n])
	var c routing.LearnedCompiler
	run := func(in routing.LearnedInput) (string, time.Duration) {
		runtime.GC()
		start := time.Now()
		p, err := c.Compile(routing.Plan{Routes: smallPlan().Routes}, in)
		if err != nil {
			t.Fatal(err)
		}
		return r.apply(t, p), time.Since(start)
	}
	all, first := run(in)
	one, second := run(more)
	same, third := run(more)
	_, gone := run(in)
	t.Logf("%d routes: %s in %v; one more: %s in %v; the same: %s in %v; one less in %v", n, all, first, one, second, same, third, gone)
	if one != "1 added, 0 changed, 0 removed" || same != "no change" {
		t.Errorf("one more: %s, the same again: %s", one, same)
	}
	if min(second, gone) > first/4 {
		t.Errorf("one more took %v and one less %v, all of them %v", second, gone, first)
	}
	r.apply(t, routing.Plan{})
	r.check(t, "")
}

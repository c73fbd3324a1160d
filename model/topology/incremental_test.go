package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/model"
)

// TestCompilerEqualsCompute draws sequences of changes and holds the incremental compiler to the
// one that computes everything.
func TestCompilerEqualsCompute(t *testing.T) {
	steps := 0
	rapid.Check(t, func(t *rapid.T) {
		s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN, CrossSubnet: true})
		k := NewCompiler(testDrivers())
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			s = number(t, s, change(t, s))
			got, gotErr := k.Compute(s)
			want, wantErr := Compute(s, testDrivers())
			if (gotErr == nil) != (wantErr == nil) {
				t.Fatalf("errors differ: %v, want %v", gotErr, wantErr)
			}
			if wantErr != nil {
				continue
			}
			steps++
			opts := []cmp.Option{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
			if d := cmp.Diff(want, got, opts...); d != "" {
				t.Fatalf("the incremental view differs (-want +got):\n%s", d)
			}
		}
	})
	if steps < 100 {
		t.Errorf("only %d steps were compared", steps)
	}
	t.Logf("%d views compared, 0 differ", steps)
}

// number numbers a snapshot and, mostly, lets it say what differs from the one before: more than need
// be, never less.
func number(t *rapid.T, before, s *model.Snapshot) *model.Snapshot {
	s.Generation, s.Since = before.Generation+1, nil
	if rapid.IntRange(0, 4).Draw(t, "silent") == 0 {
		return s
	}
	d := differences(before, s)
	s.Since = &model.Since{Generation: before.Generation, Nodes: append(slices.Collect(maps.Keys(d.nodes)), "n2", "nobody"),
		Blocks: append(slices.Collect(maps.Keys(d.blocks)), prefix("10.244.2.0/26"), prefix("10.1.0.0/26"))}
	if rapid.IntRange(0, 4).Draw(t, "skipped") == 0 {
		s.Generation++ // one that the compiler did not see lies between
	}
	return s
}

// change returns a copy of s with a few things changed, as a stream of events changes them.
func change(t *rapid.T, s *model.Snapshot) *model.Snapshot {
	c := *s
	c.Nodes, c.Blocks, c.Pools = maps.Clone(s.Nodes), maps.Clone(s.Blocks), slices.Clone(s.Pools)
	names := []string{"n1", "n2", "n3", "n4", "n5", "n6"}
	blocks := []string{"10.244.0.0/26", "10.244.1.0/26", "10.244.2.0/26", "10.244.3.0/26", "10.244.1.0/28", "10.244.0.0/24", "10.99.0.0/26", "10.244.1.9/32"}
	for i := range rapid.IntRange(1, 3).Draw(t, "changes") {
		name := func(what string) string { return rapid.SampledFrom(names).Draw(t, fmt.Sprint(what, i)) }
		switch rapid.IntRange(0, 9).Draw(t, fmt.Sprint("kind", i)) {
		case 0, 1, 2: // a node comes or changes
			n := node(name("node"), fmt.Sprintf("172.31.%d.%d/%d", rapid.IntRange(1, 2).Draw(t, "net"), rapid.IntRange(1, 9).Draw(t, "host"), rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "bits")))
			n.VXLANMAC = model.MAC{0x66, byte(rapid.IntRange(1, 9).Draw(t, "mac"))}
			if rapid.Bool().Draw(t, "tunnel") {
				n.TunnelAddresses = []netip.Addr{netip.MustParseAddr("10.244.2.7")}
			}
			c.Nodes[n.Name] = n
		case 3: // a node goes; n1 is this host
			delete(c.Nodes, model.NodeName(rapid.SampledFrom(names[1:]).Draw(t, "gone")))
		case 4, 5, 6, 7: // a block comes, changes or goes
			p := prefix(rapid.SampledFrom(blocks).Draw(t, "block"))
			b := &model.Block{CIDR: p, Node: model.NodeName(name("owner"))}
			if rapid.Bool().Draw(t, "borrowed") {
				b.Borrowed = map[netip.Addr]model.NodeName{p.Addr().Next(): model.NodeName(name("borrower"))}
			}
			c.Blocks[p] = b
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				delete(c.Blocks, p)
			}
		case 8: // the pool changes
			c.Pools[0].CrossSubnet = !c.Pools[0].CrossSubnet
		case 9: // the underlay changes
			c.Underlay.Routes = append(slices.Clone(s.Underlay.Routes), model.UnderlayRoute{
				Dst: prefix("172.31.2.0/25"), Device: "eth0", Metric: rapid.IntRange(0, 3).Draw(t, "metric")})
		}
	}
	return &c
}

// BenchmarkOneMore is a node with its block that joins 5,000: two events.
func BenchmarkOneMore(b *testing.B) {
	s := manyNodes(5000)
	k := NewCompiler(testDrivers())
	if _, err := k.Compute(s); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		b.StopTimer() // the source of snapshots does this
		i++
		c := *s
		c.Nodes, c.Blocks = maps.Clone(s.Nodes), maps.Clone(s.Blocks)
		c.Generation = uint64(i)
		c.Since = &model.Since{Generation: c.Generation - 1, Nodes: []model.NodeName{"late"}, Blocks: []netip.Prefix{prefix("10.99.1.0/26")}}
		n := node("late", fmt.Sprintf("172.20.200.%d/24", i%250+1))
		p := prefix("10.99.1.0/26")
		c.Nodes[n.Name], c.Blocks[p] = n, &model.Block{CIDR: p, Node: n.Name}
		b.StartTimer()
		v, err := k.Compute(&c)
		if err != nil || len(v.Paths) < 5001 {
			b.Fatal(err, len(v.Paths))
		}
		s = &c
	}
}

package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
)

// A node with its block that changes among 5,000 costs what it costs among 500: nothing for each of the others.
func TestAllocsOfOneChange(t *testing.T) {
	s := manyNodes(5000)
	k := NewCompiler(testDrivers())
	if _, err := k.Compute(s); err != nil {
		t.Fatal(err)
	}
	var next []*model.Snapshot
	for i := range 21 {
		c := *s
		c.Nodes, c.Blocks = maps.Clone(s.Nodes), maps.Clone(s.Blocks)
		c.Generation = uint64(i + 1)
		c.Since = &model.Since{Generation: c.Generation - 1, Nodes: []model.NodeName{"late"}, Blocks: []netip.Prefix{prefix("10.99.1.0/26")}}
		n := node("late", fmt.Sprintf("172.20.200.%d/24", i%250+1))
		c.Nodes[n.Name], c.Blocks[prefix("10.99.1.0/26")] = n, &model.Block{CIDR: prefix("10.99.1.0/26"), Node: n.Name}
		next = append(next, &c)
		s = &c
	}
	allocs.Most(t, 70, func() {
		if v, err := k.Compute(next[0]); err != nil || len(v.Paths) < 5001 {
			t.Fatal(err, len(v.Paths))
		}
		next = next[1:]
	})
}

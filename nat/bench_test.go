package nat

import (
	"fmt"
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
)

// wide is what NAT is compiled from where the addresses of n nodes are spared.
func wide(n int) input {
	in := inputs()["all"]
	in.nodes = map[model.NodeName]*model.Node{}
	for i := range n {
		for name, node := range nodes(fmt.Sprintf("n%d/172.20.%d.%d/16", i, i/250, i%250+1)) {
			in.nodes[name] = node
		}
	}
	return in
}

func BenchmarkCompile5000(b *testing.B) {
	in := wide(5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(in.cfg, in.pools, in.nodes, in.tunnels); err != nil {
			b.Fatal(err)
		}
	}
}

// Nodes whose addresses are spared are collected into one list, without allocations for each.
func TestAllocs(t *testing.T) {
	in := wide(5000)
	allocs.Most(t, 42, func() {
		if _, err := Compile(in.cfg, in.pools, in.nodes, in.tunnels); err != nil {
			t.Fatal(err)
		}
	})
}

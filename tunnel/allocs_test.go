package tunnel

import (
	"slices"
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model/topology"
)

func TestAllocsOfOneMore(t *testing.T) {
	views := []*topology.View{peers5000(5000), peers5000(5000)}
	for i := range views[1].Peers {
		views[1].Peers[i].Prefixes = views[0].Peers[i].Prefixes // as the topology's Compiler does
	}
	views[1].Peers = slices.Delete(views[1].Peers, 2500, 2501)
	var c Compiler
	i := 0
	change := func() {
		if _, err := c.Compile(views[i%2]); err != nil {
			t.Fatal(err)
		}
		i++
	}
	change()
	change()
	allocs.Most(t, 12, change)
}

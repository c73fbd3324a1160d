package routing

import (
	"fmt"
	"maps"
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
	"weft/model/topology"
)

func TestAllocsOfOnePod(t *testing.T) {
	view := &topology.View{}
	for i := range 10000 {
		view.Paths = append(view.Paths, vxlan(fmt.Sprintf("10.%d.%d.%d/26", i>>10, i>>2&255, i&3<<6), "n2", "172.31.1.2"))
	}
	eps := map[model.EndpointID]model.Endpoint{}
	for i := range 100 {
		e := endpoint(fmt.Sprint("p", i), fmt.Sprint("weft", i), fmt.Sprintf("10.200.0.%d", i))
		eps[e.ID] = e
	}
	more := maps.Clone(eps)
	e := endpoint("more", "weftmore", "10.200.1.1")
	more[e.ID] = e
	var c Compiler
	i := 0
	change := func() {
		if _, err := c.Compile(view, []map[model.EndpointID]model.Endpoint{eps, more}[i%2]); err != nil {
			t.Fatal(err)
		}
		i++
	}
	change()
	allocs.Most(t, 5, change)
}

package nft

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A flow table that gains devices stays; one that loses a device is written anew, as its flows have to go.
func TestDiffFlowTables(t *testing.T) {
	table := func(devices ...string) []FlowTable { return []FlowTable{{"t", devices}} }
	for _, c := range []struct {
		have, want, come []FlowTable
		ok               bool
	}{
		{nil, nil, nil, true},
		{nil, table("a"), nil, false},
		{table("a"), nil, nil, false},
		{table("a"), table("a"), nil, true},
		{table("b"), table("a", "b", "c"), table("a", "c"), true},
		{table("a", "b"), table("a", "c"), nil, false},
		{[]FlowTable{{"s", []string{"a"}}}, table("a"), nil, false},
	} {
		come, ok := diffFlowTables(c.have, c.want)
		if d := cmp.Diff(c.come, come); ok != c.ok || d != "" {
			t.Errorf("from %v to %v: %v %s", c.have, c.want, ok, d)
		}
	}
}

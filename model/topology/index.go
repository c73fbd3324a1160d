package topology

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"weft/model"
)

// index finds blocks by what they have to do with.
type index struct {
	cidrs *bart.Lite                        // of all blocks
	of    map[model.NodeName][]netip.Prefix // those that a node holds, or has borrowed an address of
}

func newIndex(s *model.Snapshot) *index {
	x := &index{cidrs: &bart.Lite{}, of: make(map[model.NodeName][]netip.Prefix, len(s.Nodes))}
	for _, b := range s.Blocks {
		x.add(b)
	}
	return x
}

func (x *index) add(b *model.Block) {
	x.cidrs.Insert(b.CIDR)
	eachNode(b, func(n model.NodeName) { x.of[n] = append(x.of[n], b.CIDR) })
}

func (x *index) remove(b *model.Block) {
	x.cidrs.Delete(b.CIDR)
	eachNode(b, func(n model.NodeName) {
		rest := slices.DeleteFunc(x.of[n], func(p netip.Prefix) bool { return p == b.CIDR })
		if x.of[n] = rest; len(rest) == 0 {
			delete(x.of, n)
		}
	})
}

// eachNode calls f once for each node that a block has to do with.
func eachNode(b *model.Block, f func(model.NodeName)) {
	if b.Node != "" {
		f(b.Node)
	}
	if len(b.Borrowed) == 0 {
		return
	}
	told := map[model.NodeName]bool{b.Node: true}
	for _, n := range b.Borrowed {
		if !told[n] {
			told[n] = true
			f(n)
		}
	}
}

// update takes in that the blocks named came, went or changed between two snapshots.
func (x *index) update(a, b *model.Snapshot, cidrs map[netip.Prefix]bool) {
	for cidr := range cidrs {
		if old := a.Blocks[cidr]; old != nil {
			x.remove(old)
		}
		if now := b.Blocks[cidr]; now != nil {
			x.add(now)
		}
	}
}

// overlapping returns the blocks that overlap one of some prefixes, those prefixes included.
func (x *index) overlapping(prefixes *bart.Lite) map[netip.Prefix]bool {
	found := map[netip.Prefix]bool{}
	for p := range prefixes.All() {
		for s := range x.cidrs.Subnets(p) {
			found[s] = true
		}
		for s := range x.cidrs.Supernets(p) {
			found[s] = true
		}
	}
	return found
}

package topology

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/gaissmai/bart"

	"weft/model"
)

// Compiler is Compute with a memory: after a change of a few nodes or blocks it decides only what
// these touch. It gives the same View as Compute would. A change of anything that all paths
// depend on (this node, pools, underlay, VXLAN settings) computes everything. Not for concurrent
// use; nodes and blocks of a snapshot must be replaced, never changed in place.
type Compiler struct {
	drivers []Driver
	last    *compiler // nil before the first success
	view    *View
}

// NewCompiler returns a Compiler for this host's tunnel drivers.
func NewCompiler(drivers []Driver) *Compiler { return &Compiler{drivers: drivers} }

// Compute is Compute of this package.
func (k *Compiler) Compute(s *model.Snapshot) (*View, error) {
	if k.last == nil || !sameGround(k.last.s, s) {
		return k.all(s)
	}
	changed := changedNodes(k.last.s, s)
	if k.last.keepsOther(s, changed) {
		return k.all(s)
	}
	touched := touchedBlocks(k.last.s, s, changed)
	if len(changed)+touched.Size() > len(s.Blocks)/4 {
		return k.all(s)
	}
	c := *k.last
	c.s = s
	for n := range changed {
		delete(c.decided, n)
	}
	k.last, k.view = &c, c.view(c.revise(k.view, touched, changed))
	return k.view, nil
}

func (k *Compiler) all(s *model.Snapshot) (*View, error) {
	c, v, err := compute(s, k.drivers)
	if err != nil {
		return nil, err
	}
	k.last, k.view = c, v
	return v, nil
}

// sameGround tells whether what all paths depend on is the same.
func sameGround(a, b *model.Snapshot) bool {
	return a.Self == b.Self && a.Nodes[a.Self] == b.Nodes[b.Self] && a.VXLAN == b.VXLAN && a.MTU == b.MTU && a.IgnoreReadiness == b.IgnoreReadiness &&
		slices.Equal(a.Pools, b.Pools) && reflect.DeepEqual(a.Underlay, b.Underlay)
}

// keepsOther tells whether a changed node says or said something that decides which devices are kept.
func (c *compiler) keepsOther(s *model.Snapshot, changed map[model.NodeName]bool) bool {
	holds := func(n *model.Node) bool {
		return n != nil && n.Tunnels != nil && slices.ContainsFunc(n.Tunnels.Sends, func(e model.TunnelEnd) bool {
			return e.Encap != model.EncapNone && !c.wants(e)
		})
	}
	for name := range changed {
		if holds(c.s.Nodes[name]) || holds(s.Nodes[name]) {
			return true
		}
	}
	return false
}

// changedNodes returns the nodes that came, went or changed.
func changedNodes(a, b *model.Snapshot) map[model.NodeName]bool {
	changed := map[model.NodeName]bool{}
	for name, n := range b.Nodes {
		if a.Nodes[name] != n {
			changed[name] = true
		}
	}
	for name := range a.Nodes {
		if b.Nodes[name] == nil {
			changed[name] = true
		}
	}
	return changed
}

// touchedBlocks returns the blocks that came, went or changed, or that a changed node has to do
// with; and whatever overlaps one of these.
func touchedBlocks(a, b *model.Snapshot, changed map[model.NodeName]bool) *bart.Lite {
	touched := &bart.Lite{}
	for cidr, bl := range b.Blocks {
		if a.Blocks[cidr] != bl || concerns(bl, changed) {
			touched.Insert(cidr)
		}
	}
	for cidr := range a.Blocks {
		if b.Blocks[cidr] == nil {
			touched.Insert(cidr)
		}
	}
	return touched
}

func concerns(b *model.Block, changed map[model.NodeName]bool) bool {
	if len(changed) == 0 {
		return false
	}
	if changed[b.Node] {
		return true
	}
	for _, n := range b.Borrowed {
		if changed[n] {
			return true
		}
	}
	return false
}

// revise returns the paths and peers of old with those replaced that touched and changed are about.
// A slice in which nothing had to be replaced is the same slice.
func (c *compiler) revise(old *View, touched *bart.Lite, changed map[model.NodeName]bool) ([]Path, []Peer) {
	if touched.Size() == 0 {
		return old.Paths, c.revisePeers(old.Peers, old.Paths, changed)
	}
	affected := maps.Clone(changed) // nodes whose Peer may differ
	var fresh []Path
	for cidr, b := range c.s.Blocks {
		if touched.OverlapsPrefix(cidr) {
			fresh = c.appendPaths(fresh, b)
		}
	}
	for _, p := range fresh {
		affected[p.Node] = true
	}
	slices.SortFunc(fresh, comparePaths)
	paths := make([]Path, 0, len(old.Paths)+len(fresh))
	for i := range old.Paths {
		p := &old.Paths[i]
		if touched.OverlapsPrefix(p.Dst) {
			affected[p.Node] = true
			continue
		}
		for len(fresh) > 0 && comparePaths(fresh[0], *p) < 0 {
			paths, fresh = append(paths, fresh[0]), fresh[1:]
		}
		if len(fresh) > 0 && comparePaths(fresh[0], *p) == 0 {
			fresh = fresh[1:] // an outer block that overlaps a touched one lends an address elsewhere
		}
		paths = append(paths, *p)
	}
	paths = append(paths, fresh...)
	return paths, c.revisePeers(old.Peers, paths, affected)
}

func (c *compiler) revisePeers(old []Peer, paths []Path, affected map[model.NodeName]bool) []Peer {
	if len(affected) == 0 {
		return old
	}
	holds := map[model.NodeName][]netip.Prefix{}
	for i := range paths {
		if affected[paths[i].Node] {
			c.hold(holds, &paths[i])
		}
	}
	var fresh []Peer
	for name := range affected {
		fresh = c.appendPeers(fresh, name, holds[name])
	}
	slices.SortFunc(fresh, comparePeers)
	peers := make([]Peer, 0, len(old)+len(fresh))
	for _, p := range old {
		if affected[p.Node] {
			continue
		}
		for len(fresh) > 0 && comparePeers(fresh[0], p) < 0 {
			peers, fresh = append(peers, fresh[0]), fresh[1:]
		}
		peers = append(peers, p)
	}
	return append(peers, fresh...)
}

package topology

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sort"

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
	index   *index    // of last's blocks
	view    *View
}

// NewCompiler returns a Compiler for this host's tunnel drivers.
func NewCompiler(drivers []Driver) *Compiler { return &Compiler{drivers: drivers} }

// Compute is Compute of this package.
func (k *Compiler) Compute(s *model.Snapshot) (*View, error) {
	if k.last == nil || !sameGround(k.last.s, s) {
		return k.all(s)
	}
	d := differences(k.last.s, s)
	if k.last.keepsOther(s, d.nodes) || k.last.keysDiffer(s, d.nodes) {
		return k.all(s)
	}
	touched := k.index.touched(d)
	if len(d.nodes)+touched.Size() > len(s.Blocks)/4 {
		return k.all(s)
	}
	c := *k.last
	c.s = s
	for n := range d.nodes {
		delete(c.decided, n)
	}
	k.index.update(k.last.s, s, d.blocks)
	k.last, k.view = &c, c.view(c.revise(k.view, k.index, touched, d.nodes))
	return k.view, nil
}

func (k *Compiler) all(s *model.Snapshot) (*View, error) {
	c, v, err := compute(s, k.drivers)
	if err != nil {
		return nil, err
	}
	k.last, k.view, k.index = c, v, newIndex(s)
	return v, nil
}

// sameGround tells whether what all paths depend on is the same.
func sameGround(a, b *model.Snapshot) bool {
	return a.Self == b.Self && a.Nodes[a.Self] == b.Nodes[b.Self] && a.VXLAN == b.VXLAN && a.MTU == b.MTU && sameEncryption(a, b) && a.IgnoreReadiness == b.IgnoreReadiness &&
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

// difference names the nodes and blocks that came, went or changed.
type difference struct {
	nodes  map[model.NodeName]bool
	blocks map[netip.Prefix]bool
}

// differences takes b's word for what differs from a, if it says so, or compares the two.
func differences(a, b *model.Snapshot) difference {
	d := difference{map[model.NodeName]bool{}, map[netip.Prefix]bool{}}
	if b.Since != nil && a.Generation != 0 && b.Since.Generation == a.Generation {
		for _, n := range b.Since.Nodes {
			if a.Nodes[n] != b.Nodes[n] {
				d.nodes[n] = true
			}
		}
		for _, p := range b.Since.Blocks {
			if a.Blocks[p] != b.Blocks[p] {
				d.blocks[p] = true
			}
		}
		return d
	}
	for name, n := range b.Nodes {
		if a.Nodes[name] != n {
			d.nodes[name] = true
		}
	}
	for name := range a.Nodes {
		if b.Nodes[name] == nil {
			d.nodes[name] = true
		}
	}
	for cidr, bl := range b.Blocks {
		if a.Blocks[cidr] != bl {
			d.blocks[cidr] = true
		}
	}
	for cidr := range a.Blocks {
		if b.Blocks[cidr] == nil {
			d.blocks[cidr] = true
		}
	}
	return d
}

// touched returns the blocks that differ, or that a changed node has to do with.
func (x *index) touched(d difference) *bart.Lite {
	touched := &bart.Lite{}
	for cidr := range d.blocks {
		touched.Insert(cidr)
	}
	for n := range d.nodes {
		for _, cidr := range x.of[n] {
			touched.Insert(cidr)
		}
	}
	return touched
}

// revise returns the paths and peers of old with those replaced that touched and changed are about.
// A slice in which nothing had to be replaced is the same slice.
func (c *compiler) revise(old *View, x *index, touched *bart.Lite, changed map[model.NodeName]bool) ([]Path, []Peer) {
	if touched.Size() == 0 {
		return old.Paths, c.revisePeers(old.Peers, x, changed)
	}
	affected := maps.Clone(changed) // nodes whose Peer may differ
	overlapping := x.overlapping(touched)
	var fresh []Path
	for cidr := range overlapping {
		fresh = c.appendPaths(fresh, c.s.Blocks[cidr])
	}
	for i := range fresh {
		affected[fresh[i].Node] = true
	}
	slices.SortFunc(fresh, comparePaths)
	cuts := pathsOf(old.Paths, touched, overlapping)
	for _, cut := range cuts {
		for i := cut.from; i < cut.to; i++ {
			affected[old.Paths[i].Node] = true
		}
	}
	return replace(old.Paths, cuts, fresh), c.revisePeers(old.Peers, x, affected)
}

// span is a part of a slice.
type span struct{ from, to int }

// pathsOf returns where the paths are that overlap a touched prefix, in order and apart: those within
// it are next to each other, those around it are other blocks' own.
func pathsOf(paths []Path, touched *bart.Lite, overlapping map[netip.Prefix]bool) []span {
	var found []span
	add := func(from, to func(Path) bool) { // both tell whether a path comes at or after the end
		f := sort.Search(len(paths), func(i int) bool { return from(paths[i]) })
		t := f + sort.Search(len(paths)-f, func(i int) bool { return to(paths[f+i]) })
		if f < t {
			found = append(found, span{f, t})
		}
	}
	for p := range touched.All() {
		last := lastAddr(p)
		add(func(q Path) bool { return comparePrefix(q.Dst, p) >= 0 }, func(q Path) bool { return q.Dst.Addr().Compare(last) > 0 })
	}
	for p := range overlapping {
		if touched.OverlapsPrefix(p) && !touched.Get(p) {
			add(func(q Path) bool { return comparePrefix(q.Dst, p) >= 0 }, func(q Path) bool { return comparePrefix(q.Dst, p) > 0 })
		}
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	apart := found[:0]
	for _, s := range found {
		if n := len(apart); n > 0 && s.from <= apart[n-1].to {
			apart[n-1].to = max(apart[n-1].to, s.to)
		} else {
			apart = append(apart, s)
		}
	}
	return apart
}

// lastAddr returns the last address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := range b {
		if host := max(0, min(8, 8*(i+1)-p.Bits())); host > 0 {
			b[i] |= byte(1<<host - 1)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// replace returns old without the cuts and with fresh; all are in order. A fresh path that old keeps
// already is one that an outer block of a touched one lends elsewhere.
func replace(old []Path, cuts []span, fresh []Path) []Path {
	paths := make([]Path, 0, len(old)+len(fresh))
	keep := func(part []Path) {
		for len(fresh) > 0 && len(part) > 0 && comparePaths(fresh[0], part[len(part)-1]) <= 0 {
			at, same := slices.BinarySearchFunc(part, fresh[0], comparePaths)
			paths, part = append(paths, part[:at]...), part[at:]
			if same {
				paths, part = append(paths, part[0]), part[1:]
			} else {
				paths = append(paths, fresh[0])
			}
			fresh = fresh[1:]
		}
		paths = append(paths, part...)
	}
	done := 0
	for _, cut := range cuts {
		keep(old[done:cut.from])
		done = cut.to
	}
	keep(old[done:])
	return append(paths, fresh...)
}

func (c *compiler) revisePeers(old []Peer, x *index, affected map[model.NodeName]bool) []Peer {
	if len(affected) == 0 {
		return old
	}
	var fresh []Peer
	for name := range affected {
		fresh = c.appendPeers(fresh, name, c.holdings(x, name))
	}
	slices.SortFunc(fresh, comparePeers)
	peers := make([]Peer, 0, len(old)+len(fresh))
	done := 0
	for _, name := range slices.Sorted(maps.Keys(affected)) {
		from, _ := slices.BinarySearchFunc(old[done:], name, func(p Peer, n model.NodeName) int { return cmp.Compare(p.Node, n) })
		from += done
		peers = append(peers, old[done:from]...)
		for len(fresh) > 0 && fresh[0].Node == name {
			peers, fresh = append(peers, fresh[0]), fresh[1:]
		}
		for done = from; done < len(old) && old[done].Node == name; {
			done++
		}
	}
	return append(peers, old[done:]...)
}

// holdings returns the prefixes that a node may send from: of those of its paths, the pooled ones.
func (c *compiler) holdings(x *index, name model.NodeName) []netip.Prefix {
	var held []netip.Prefix
	for _, cidr := range x.of[name] {
		for _, p := range c.appendPaths(nil, c.s.Blocks[cidr]) {
			if p.Node == name && c.pools.Contains(p.Dst.Addr()) {
				held = append(held, p.Dst)
			}
		}
	}
	slices.SortFunc(held, comparePrefix)
	return held
}

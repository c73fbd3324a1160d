package routing

import (
	"cmp"
	"net/netip"
	"slices"

	"weft/model"
)

// ReflectorLabel on a node makes it one of the automatic route reflectors ("true") or keeps it from
// being one ("false").
const ReflectorLabel = "weft.io/route-reflector"

// automaticReflectors is how many nodes reflect for the others, for each address family. Three: with one
// down for maintenance and one lost, routes still spread. Nodes with ReflectorLabel true all do; others
// only fill up to this number.
const automaticReflectors = 3

// automatic are the route reflectors that are chosen where nobody chose any.
type automatic struct {
	on     bool // there may be such: sessions between nodes are ready for it
	wanted bool // there are more nodes than a mesh is good for
	chosen map[model.Family]map[model.NodeName]bool
	named  map[model.NodeName]bool // somebody relies on them, chosen or not
}

// automatic chooses them: with more nodes in the mesh than the threshold, and none that is a reflector by
// its record. They are those whose names hash highest, so that a node that comes or goes changes little;
// first each from another subnet, so that no rack takes all of them; and those whose records say that they speak
// BGP, once most records do: before, in the middle of an upgrade, that is no news of a node. Every node of this
// release chooses alike.
//
// Once most nodes rely on reflectors, the mesh comes back only with a tenth fewer nodes than the threshold: a node that
// comes and goes does not make thousands of sessions come and go. A few do not count: the record of a dead
// node says for ever what it said last.
func (c *speakerCompiler) automatic() automatic {
	cfg := &c.in.BGP.Config
	a := automatic{chosen: map[model.Family]map[model.NodeName]bool{}, named: map[model.NodeName]bool{}}
	if !cfg.Mesh {
		return a
	}
	meshed, byRecord := 0, false
	said, reflected := 0, 0 // records
	for _, name := range c.names {
		n := c.in.Nodes[name]
		byRecord = byRecord || n.BGP.ClusterID.IsValid()
		if len(n.Addresses) > 0 {
			meshed++
		}
		if !n.BGP.Relies.IsZero() {
			said++
		}
		if len(n.BGP.Relies.Reflectors) > 0 {
			reflected++
		}
		for _, r := range n.BGP.Relies.Reflectors {
			a.named[r] = true
		}
	}
	a.on = cfg.ReflectorThreshold > 0 || len(a.named) > 0
	least := cfg.ReflectorThreshold
	if 2*reflected > said-c.meshedByRole(a.named) {
		least -= least / 10
	}
	if a.wanted = cfg.ReflectorThreshold > 0 && !byRecord && meshed > least; a.wanted {
		for _, f := range families {
			a.chosen[f] = c.choose(f, 2*said > meshed)
		}
	}
	return a
}

// meshedByRole counts those that rely on the mesh because they are reflectors.
func (c *speakerCompiler) meshedByRole(reflectors map[model.NodeName]bool) (count int) {
	for name := range reflectors {
		if n := c.in.Nodes[name]; n != nil && n.BGP.Relies.Mesh {
			count++
		}
	}
	return count
}

type candidate struct {
	name   model.NodeName
	hash   uint64
	asked  bool // by its label
	speaks bool // BGP, as far as records tell
	subnet netip.Prefix
}

// choose chooses those of a family. heard tells that most records say whom they rely on: who does not, speaks no BGP.
func (c *speakerCompiler) choose(f model.Family, heard bool) map[model.NodeName]bool {
	var all []candidate
	for _, name := range c.names {
		n := c.in.Nodes[name]
		a, ok := n.Address(f)
		label := n.Labels[ReflectorLabel]
		if !ok || label == "false" || c.asn(n) != c.in.BGP.Config.ASN {
			continue // reflectors are within one AS
		}
		all = append(all, candidate{name, hashName("route reflector", name), label == "true", !heard || !n.BGP.Relies.IsZero(), a.Masked()})
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(cmp.Compare(b.hash, a.hash), cmp.Compare(a.name, b.name)) })
	chosen, used := map[model.NodeName]bool{}, map[netip.Prefix]bool{}
	take := func(want func(*candidate) bool, limit int) {
		for i := range all {
			if k := &all[i]; len(chosen) < limit && !chosen[k.name] && want(k) {
				chosen[k.name], used[k.subnet] = true, true
			}
		}
	}
	take(func(k *candidate) bool { return k.asked }, len(all))
	take(func(k *candidate) bool { return k.speaks && !used[k.subnet] }, automaticReflectors)
	take(func(k *candidate) bool { return k.speaks }, automaticReflectors)
	take(func(k *candidate) bool { return !used[k.subnet] }, automaticReflectors)
	take(func(*candidate) bool { return true }, automaticReflectors)
	return chosen
}

// reflects tells whether the node reflects routes of a family.
func (c *speakerCompiler) reflects(n *model.Node, f model.Family) bool {
	return n.BGP.ClusterID.IsValid() || c.auto.chosen[f][n.Name] || c.auto.named[n.Name]
}

// client tells whether node n is a client of this host, and under which cluster id: that of the record, or the
// router id. Where reflectors may be chosen, all nodes are clients of all others at any time: what they reflect
// is up to nodeExports, for filters change while a session is up.
func (c *speakerCompiler) client(n *model.Node) (id netip.Addr, is bool) {
	switch own, theirs := c.self.BGP.ClusterID, n.BGP.ClusterID; {
	case own.IsValid() && !theirs.IsValid():
		return own, true
	case !own.IsValid() && !theirs.IsValid() && c.auto.on:
		return routerID(c.self), true
	}
	return netip.Addr{}, false
}

// meshes tells whether two nodes have a session of the mesh.
func (c *speakerCompiler) meshes(x, y *model.Node, f model.Family) bool {
	if !c.in.BGP.Config.Mesh || x.BGP.ClusterID.IsValid() || y.BGP.ClusterID.IsValid() {
		return false
	}
	a, b := &x.BGP.Relies, &y.BGP.Relies
	return c.meshesAlways(x, y, f) || a.Mesh || b.Mesh || slices.Contains(a.Reflectors, y.Name) || slices.Contains(b.Reflectors, x.Name)
}

// meshesAlways tells whether two nodes of the mesh have a session whoever relies on it.
func (c *speakerCompiler) meshesAlways(x, y *model.Node, f model.Family) bool {
	chosen, own := c.auto.chosen[f], c.in.BGP.Config.ASN
	return len(chosen) == 0 || chosen[x.Name] || chosen[y.Name] || c.asn(x) != own || c.asn(y) != own
}

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

// Reliance is where a node takes the others' routes from, as it says in its own record. It lets the mesh
// and the reflectors take over from each other without loss.
type Reliance int

// The reliances.
const (
	RelyNone       Reliance = iota // said nothing yet, and so loses nothing
	RelyMesh                       // the sessions of the mesh
	RelyReflectors                 // its reflectors have told it all that they have
)

// automatic are the route reflectors that are chosen where nobody chose any.
type automatic struct {
	wanted bool // there are more nodes than a mesh is good for
	// nodes are the reflectors by family: also where they are not wanted any more, but some nodes still
	// rely on them.
	nodes map[model.Family]map[model.NodeName]bool
}

// automatic chooses them: with more nodes in the mesh than the threshold, and none that is a reflector by
// its record. They are those whose names hash highest, so that a node that comes or goes changes little;
// first each from another subnet, so that no rack takes all of them. Every node chooses alike.
func (c *speakerCompiler) automatic() automatic {
	cfg := &c.in.BGP.Config
	if !cfg.Mesh || cfg.ReflectorThreshold <= 0 {
		return automatic{}
	}
	meshed, relied := 0, false
	for _, name := range c.names {
		n := c.in.Nodes[name]
		if n.BGP.ClusterID.IsValid() {
			return automatic{}
		}
		if len(n.Addresses) > 0 {
			meshed++
		}
		relied = relied || c.in.Relies[name] == RelyReflectors
	}
	a := automatic{wanted: meshed > cfg.ReflectorThreshold}
	if !a.wanted && !relied {
		return a
	}
	a.nodes = map[model.Family]map[model.NodeName]bool{}
	for _, f := range families {
		a.nodes[f] = c.choose(f)
	}
	return a
}

type candidate struct {
	name   model.NodeName
	hash   uint64
	asked  bool // by its label
	subnet netip.Prefix
}

func (c *speakerCompiler) choose(f model.Family) map[model.NodeName]bool {
	var all []candidate
	for _, name := range c.names {
		n := c.in.Nodes[name]
		a, ok := n.Address(f)
		label := n.Labels[ReflectorLabel]
		if !ok || label == "false" || c.asn(n) != c.in.BGP.Config.ASN {
			continue // reflectors are within one AS
		}
		all = append(all, candidate{name, hashName("route reflector", name), label == "true", a.Masked()})
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
	take(func(k *candidate) bool { return !used[k.subnet] }, automaticReflectors)
	take(func(*candidate) bool { return true }, automaticReflectors)
	return chosen
}

// reflector tells whether the node reflects routes of a family, and under which cluster id: that of its
// record, or its router id.
func (c *speakerCompiler) reflector(n *model.Node, f model.Family) (id netip.Addr, is bool) {
	if n.BGP.ClusterID.IsValid() {
		return n.BGP.ClusterID, true
	}
	return routerID(n), c.auto.nodes[f][n.Name]
}

// meshes tells whether two nodes have a session of the mesh.
func (c *speakerCompiler) meshes(x, y *model.Node, f model.Family) bool {
	if !c.in.BGP.Config.Mesh || x.BGP.ClusterID.IsValid() || y.BGP.ClusterID.IsValid() {
		return false
	}
	reflectors, own := c.auto.nodes[f], c.in.BGP.Config.ASN
	if !c.auto.wanted || len(reflectors) == 0 || reflectors[x.Name] || reflectors[y.Name] || c.asn(x) != own || c.asn(y) != own {
		return true
	}
	return c.in.Relies[x.Name] == RelyMesh || c.in.Relies[y.Name] == RelyMesh
}

// Relies says what this node's record is to say. up are the peers whose sessions stand and that have told
// all that they have (End-of-RIB, RFC 4724). A node leaves the mesh when two of its reflectors have (or
// the only one), of each family; and its reflectors when every other node has. Two nodes end their session
// of the mesh when neither relies on the mesh any more, and nobody stops reflecting while somebody relies
// on it.
func Relies(in SpeakerInput, up map[netip.Addr]bool) Reliance {
	c := newSpeakerCompiler(&in)
	was := in.Relies[in.Self]
	if c.self == nil || !in.BGP.Config.Mesh || c.self.BGP.ClusterID.IsValid() {
		return RelyNone
	}
	ready := true
	for _, f := range families {
		if _, has := c.self.Address(f); !has {
			continue
		}
		if c.auto.wanted && c.auto.nodes[f][in.Self] {
			return RelyNone // it has a session with everybody, whatever it says
		}
		heard, needed := 0, 0
		for _, name := range c.names {
			n := in.Nodes[name]
			if a, has := n.Address(f); has && name != in.Self && (!c.auto.wanted || c.auto.nodes[f][name]) && !n.BGP.ClusterID.IsValid() {
				needed++
				if up[a.Addr()] {
					heard++
				}
			}
		}
		if c.auto.wanted {
			needed = min(needed, 2)
		}
		ready = ready && heard >= needed
	}
	switch {
	case c.auto.wanted && ready:
		return RelyReflectors
	case !c.auto.wanted && (ready || was != RelyReflectors):
		return RelyMesh
	}
	return was
}

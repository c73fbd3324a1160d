package routing

import (
	"maps"
	"net/netip"
	"slices"

	"weft/model"
)

// enough is how many reflectors have to have told all that they have before a node relies on them: one may fail.
const enough = 2

// Handover is a change of whom this host relies on: from the mesh to reflectors, from them to the mesh, or to
// other reflectors. It is made by saying To in this host's record, once Ready holds and nothing would be lost.
type Handover struct {
	// From is whom this host relies on until then, as far as its record may say it.
	From, To model.Reliance
	// Hear are peers of which Enough have to have told all that they have, for each address family.
	Hear map[model.Family][]netip.Addr
	// Leaves are peers, and Reflected tells of all routes that were reflected, that this host will not rely on
	// any more: what it has by them it must have by others, too.
	Leaves    []netip.Addr
	Reflected bool
}

// NextHandover returns the one that is to be made, false where there is none. By in this host relies on all that its
// record may say; said are the words that this is made of: what the store told, and what is on its way there. All
// of them have to be To.
//
// Why nothing is lost: a session of the mesh ends only when neither end's record relies on it (meshes), and a
// node says that it relies on reflectors only when these have given it all. A node reflects as long as it is chosen,
// somebody's record relies on it, or that was so a short time ago (SpeakerInput.Reflects, for those who see
// late what the store says). Reflectors themselves rely on the mesh, for whom they have sessions with everybody.
// A node that is down holds up nobody but the end of its own sessions; one that said nothing, not even that.
func NextHandover(in SpeakerInput, said ...model.Reliance) (Handover, bool) {
	c := newSpeakerCompiler(&in)
	if c.self == nil {
		return Handover{}, false
	}
	was := c.self.BGP.Relies
	h := Handover{From: was, Hear: map[model.Family][]netip.Addr{}}
	pending := func() bool {
		return !was.Equal(h.To) || slices.ContainsFunc(said, func(r model.Reliance) bool { return !r.Equal(h.To) })
	}
	switch {
	case !in.BGP.Config.Mesh || c.self.BGP.ClusterID.IsValid():
		return h, pending()
	case !c.auto.wanted || slices.ContainsFunc(families, func(f model.Family) bool { return c.auto.chosen[f][in.Self] }):
		h.To.Mesh = true
		h.Reflected = len(was.Reflectors) > 0
		return h, pending()
	}
	all := map[model.NodeName]bool{}
	for _, f := range families {
		if _, has := c.self.Address(f); !has {
			continue
		}
		for name := range c.auto.chosen[f] {
			if a, has := in.Nodes[name].Address(f); has {
				all[name] = true
				h.Hear[f] = append(h.Hear[f], a.Addr())
			}
		}
	}
	h.To.Reflectors = slices.Sorted(maps.Keys(all))
	if len(all) == 0 {
		h.To.Mesh = true // nobody may reflect, so that the mesh stays
	}
	if !pending() {
		return h, false
	}
	for _, s := range c.sessions() {
		if n := in.Nodes[model.NodeName(s.Node)]; s.Mesh && !c.meshesAlways(c.self, n, model.FamilyOf(s.Peer)) {
			h.Leaves = append(h.Leaves, s.Peer)
		}
	}
	return h, true
}

// Ready tells whether enough was heard; up are the peers whose sessions stand and that have told all that they
// have (End-of-RIB, RFC 4724).
func (h *Handover) Ready(up map[netip.Addr]bool) bool {
	for _, peers := range h.Hear {
		heard := 0
		for _, a := range peers {
			if up[a] {
				heard++
			}
		}
		if heard < min(enough, len(peers)) {
			return false
		}
	}
	return true
}

// Reflects tells whether this host is to reflect for others by itself.
func Reflects(in SpeakerInput) bool {
	c := newSpeakerCompiler(&in)
	return c.self != nil && slices.ContainsFunc(families, func(f model.Family) bool { return !c.self.BGP.ClusterID.IsValid() && c.reflects(c.self, f) })
}

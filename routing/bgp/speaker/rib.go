package speaker

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"weft/routing"
)

// ordinary is above every local preference that operators use for preference; one above says the metric
// of a kernel route.
const ordinary = 1 << 20

// rib collects the equally good paths of each prefix. Prefixes with the same paths share them: of a hundred thousand
// from one neighbour, there is one. One goroutine uses it.
type rib struct {
	h     *hub
	paths map[netip.Prefix]*pathSet
	sets  map[string]*pathSet
	list  []path // to work with
	key   []byte // to work with
}

func newRIB(h *hub) *rib {
	return &rib{h: h, paths: map[netip.Prefix]*pathSet{}, sets: map[string]*pathSet{}}
}

// path is how a prefix is reached.
type path struct {
	peer     netip.Addr // invalid: of this host
	id       uint32
	nextHop  netip.Addr
	priority uint32
}

// pathSet are the paths of some prefixes.
type pathSet struct {
	key   string
	uses  int // by how many prefixes
	paths []path
	way   *routing.Way // that they make; nil: none
}

// update takes what GoBGP says of its best paths: those that are added, changed or withdrawn.
func (r *rib) update(paths []*apiutil.Path) {
	for _, p := range paths {
		if p == nil {
			continue
		}
		n, ok := p.Nlri.(*bgp.IPAddrPrefix)
		if !ok {
			continue
		}
		r.list = r.list[:0]
		if had := r.paths[n.Prefix]; had != nil {
			r.list = append(r.list, had.paths...)
		}
		r.list = slices.DeleteFunc(r.list, func(x path) bool { return x.peer == p.PeerAddress && x.id == p.RemoteID })
		if !p.Withdrawal {
			r.list = append(r.list, pathOf(p))
		}
		r.set(n.Prefix)
	}
}

// set gives a prefix the paths of r.list.
func (r *rib) set(prefix netip.Prefix) {
	had, now := r.paths[prefix], r.intern()
	if had == now {
		return
	}
	if had != nil {
		if had.uses--; had.uses == 0 {
			delete(r.sets, had.key)
		}
	}
	if now == nil {
		delete(r.paths, prefix)
		r.h.setRoute(prefix, nil)
		return
	}
	now.uses++
	r.paths[prefix] = now
	r.h.setRoute(prefix, now.way)
}

// intern returns the set of the paths of r.list; nil for none.
func (r *rib) intern() *pathSet {
	if len(r.list) == 0 {
		return nil
	}
	slices.SortFunc(r.list, func(a, b path) int {
		return cmp.Or(a.nextHop.Compare(b.nextHop), a.peer.Compare(b.peer), cmp.Compare(a.id, b.id))
	})
	r.key = r.key[:0]
	for _, p := range r.list {
		for _, a := range []netip.Addr{p.peer, p.nextHop} {
			before := len(r.key)
			r.key, _ = a.AppendBinary(append(r.key, 0, 0))
			binary.BigEndian.PutUint16(r.key[before:], uint16(len(r.key)-before))
		}
		r.key = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(r.key, p.id), p.priority)
	}
	if s := r.sets[string(r.key)]; s != nil {
		return s
	}
	s := &pathSet{key: string(r.key), paths: slices.Clone(r.list), way: wayOf(r.list)}
	r.sets[s.key] = s
	return s
}

// wayOf returns what sorted paths make; nil where there is nothing to be learned.
func wayOf(list []path) *routing.Way {
	var w routing.Way
	for _, p := range list {
		switch {
		case !p.peer.IsValid(): // our own is better than any
			return nil
		case !p.nextHop.IsValid() || p.nextHop.IsUnspecified():
			continue
		case !w.Peer.IsValid():
			w.Peer, w.Priority = p.peer, p.priority
		}
		if !slices.Contains(w.NextHops, p.nextHop) {
			w.NextHops = append(w.NextHops, p.nextHop)
		}
	}
	if len(w.NextHops) == 0 {
		return nil
	}
	return &w
}

func pathOf(p *apiutil.Path) path {
	x := path{peer: p.PeerAddress, id: p.RemoteID}
	for _, a := range p.Attrs {
		switch v := a.(type) {
		case *bgp.PathAttributeNextHop:
			x.nextHop = v.Value
		case *bgp.PathAttributeMpReachNLRI:
			x.nextHop = v.Nexthop
		case *bgp.PathAttributeLocalPref:
			if v.Value > ordinary && v.Value < priorityBase {
				x.priority = priorityBase - v.Value
			}
		}
	}
	// Of a next hop with two addresses (RFC 2545) GoBGP 4.8 keeps the global one only, which a peer that is known by
	// its link-local address may leave out. Then it is the next hop itself.
	if x.nextHop.IsUnspecified() && p.PeerAddress.IsLinkLocalUnicast() {
		x.nextHop = p.PeerAddress
	}
	if x.nextHop.IsLinkLocalUnicast() && x.nextHop.Zone() == "" {
		x.nextHop = x.nextHop.WithZone(p.PeerAddress.Zone())
	}
	return x
}

package speaker

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"weft/routing"
)

// ordinary is above every local preference that operators use for preference; one above says the metric
// of a kernel route.
const ordinary = 1 << 20

// rib collects the equally good paths of each prefix. One goroutine uses it.
type rib struct {
	h     *hub
	paths map[netip.Prefix][]path
}

type path struct {
	peer     netip.Addr // invalid: of this host
	id       uint32
	nextHop  netip.Addr
	priority uint32
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
		prefix := n.Prefix
		list := slices.DeleteFunc(slices.Clone(r.paths[prefix]), func(x path) bool { return x.peer == p.PeerAddress && x.id == p.RemoteID })
		if !p.Withdrawal {
			list = append(list, pathOf(p))
		}
		r.set(prefix, list)
	}
}

func (r *rib) set(prefix netip.Prefix, list []path) {
	if len(list) == 0 {
		delete(r.paths, prefix)
	} else {
		r.paths[prefix] = list
	}
	l := routing.Learned{Prefix: prefix}
	slices.SortFunc(list, func(a, b path) int { return cmp.Or(a.nextHop.Compare(b.nextHop), a.peer.Compare(b.peer)) })
	for _, p := range list {
		switch {
		case !p.peer.IsValid(): // our own is better than any
			r.h.setRoute(prefix, routing.Learned{}, false)
			return
		case !p.nextHop.IsValid() || p.nextHop.IsUnspecified():
			continue
		case !l.Peer.IsValid():
			l.Peer, l.Priority = p.peer, p.priority
		}
		if !slices.Contains(l.NextHops, p.nextHop) {
			l.NextHops = append(l.NextHops, p.nextHop)
		}
	}
	r.h.setRoute(prefix, l, len(l.NextHops) > 0)
}

func pathOf(p *apiutil.Path) path {
	x := path{peer: p.PeerAddress, id: p.RemoteID}
	for _, a := range p.Attrs {
		switch v := a.(type) {
		case *bgp.PathAttributeNextHop:
			x.nextHop = v.Value
		case *bgp.PathAttributeMpReachNLRI:
			x.nextHop = v.Nexthop
			// Where the peer is known by its link-local address, that is the way to it.
			if (!x.nextHop.IsValid() || x.nextHop.IsUnspecified() || x.nextHop.IsLinkLocalUnicast()) && v.LinkLocalNexthop.IsValid() && !v.LinkLocalNexthop.IsUnspecified() {
				x.nextHop = v.LinkLocalNexthop
			}
		case *bgp.PathAttributeLocalPref:
			if v.Value > ordinary && v.Value < priorityBase {
				x.priority = priorityBase - v.Value
			}
		}
	}
	if x.nextHop.IsLinkLocalUnicast() && x.nextHop.Zone() == "" {
		x.nextHop = x.nextHop.WithZone(p.PeerAddress.Zone())
	}
	return x
}

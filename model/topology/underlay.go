package topology

import (
	"net/netip"

	"github.com/gaissmai/bart"

	"weft/model"
)

// underlay answers how this host reaches an underlay address.
type underlay struct {
	links  map[string]model.Link
	routes bart.Table[model.UnderlayRoute]
}

// hop is the underlay's way towards one address.
type hop struct {
	via    netip.Addr // invalid: on link
	device string
	mtu    int // bytes
}

func (h hop) onLink() bool { return !h.via.IsValid() }

func newUnderlay(u model.Underlay) *underlay {
	t := &underlay{links: make(map[string]model.Link, len(u.Links))}
	for _, l := range u.Links {
		t.links[l.Name] = l
	}
	for _, r := range u.Routes {
		if old, ok := t.routes.Get(r.Dst.Masked()); ok && !better(r, old) {
			continue
		}
		t.routes.Insert(r.Dst.Masked(), r)
	}
	return t
}

// better orders two routes of one prefix, totally, so that the input's order does not matter.
func better(a, b model.UnderlayRoute) bool {
	if a.Metric != b.Metric {
		return a.Metric < b.Metric
	}
	if a.Device != b.Device {
		return a.Device < b.Device
	}
	return a.Via.Less(b.Via)
}

// towards returns the way to a. Interfaces that are down carry nothing.
func (u *underlay) towards(a netip.Addr) (hop, bool) {
	r, ok := u.routes.Lookup(a)
	if !ok {
		return hop{}, false
	}
	l, ok := u.links[r.Device]
	if !ok || !l.Up {
		return hop{}, false
	}
	h := hop{via: r.Via, device: r.Device, mtu: l.MTU}
	if r.MTU > 0 && r.MTU < h.mtu {
		h.mtu = r.MTU
	}
	return h, true
}

// carrier returns the interface that has the address a.
func (u *underlay) carrier(links []model.Link, a netip.Addr) (model.Link, bool) {
	for _, l := range links {
		for _, p := range l.Addresses {
			if p.Addr() == a {
				return l, true
			}
		}
	}
	return model.Link{}, false
}

// carriers returns the names of the interfaces that have one of addrs.
func (u *underlay) carriers(links []model.Link, addrs []netip.Prefix) map[string]bool {
	out := map[string]bool{}
	for _, a := range addrs {
		if l, ok := u.carrier(links, a.Addr()); ok {
			out[l.Name] = true
		}
	}
	return out
}

// PublishedOnLink derives, from this host's own routes, what its Node record tells the others
// about its link: every prefix that is on link on an interface that carries one of addrs, and,
// as reached by a gateway, every other route inside one of those, since a longer prefix overrules
// a shorter one. Sorted. It is never empty for a host with an address: no entry at all would say
// that nothing was published.
func PublishedOnLink(u model.Underlay, addrs []netip.Prefix) []model.OnLink {
	t := newUnderlay(u)
	devices := t.carriers(u.Links, addrs)
	direct := func(r model.UnderlayRoute) bool { return !r.Via.IsValid() && devices[r.Device] }
	var connected bart.Lite
	for _, r := range u.Routes {
		if direct(r) {
			connected.Insert(r.Dst.Masked())
		}
	}
	var out []model.OnLink
	for p, r := range t.routes.AllSorted() {
		if direct(r) || p.Bits() > 0 && connected.OverlapsPrefix(p) {
			out = append(out, model.OnLink{Prefix: p, Gateway: !direct(r)})
		}
	}
	if len(out) == 0 && len(addrs) > 0 {
		out = append(out, model.OnLink{Prefix: model.HostPrefix(addrs[0].Addr())})
	}
	return out
}

// seesOnLink tells whether node n, by what it published, reaches a without a gateway. A node that
// published nothing is judged by the prefix length of its address.
func seesOnLink(n *model.Node, a netip.Addr) bool {
	if len(n.OnLink) == 0 {
		p, ok := n.Address(model.FamilyOf(a))
		return ok && p.Masked().Contains(a)
	}
	best, onLink := -1, false
	for _, e := range n.OnLink {
		if e.Prefix.Bits() > best && e.Prefix.Contains(a) {
			best, onLink = e.Prefix.Bits(), !e.Gateway
		}
	}
	return onLink
}

package wireguard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"weft/encryption"
	"weft/internal/reconcile"
	"weft/model"
)

// handshakeFresh is how long after a handshake a peer was certainly reached where the device sends to:
// sessions end then (WireGuard's Reject-After-Time).
const handshakeFresh = 180 * time.Second

// diffPeers returns what makes the peers of a device from have to want, first what is added or changed,
// in the order of want, then what is removed. A prefix that goes from one peer to another is only added
// to the new one: the device takes it from the other in the same step. said is where the plan sent each
// peer before; a peer that is not in it was configured by an earlier process.
func diffPeers(have map[model.PublicKey]peerState, want []*encryption.Peer, said map[model.PublicKey]netip.AddrPort, now time.Time) ([]peerChange, reconcile.Result) {
	var res reconcile.Result
	var out, gone []peerChange
	wanted := make(map[model.PublicKey]bool, len(want))
	var claimed map[netip.Prefix]bool
	for _, w := range want {
		wanted[w.Key] = true
		h, there := have[w.Key]
		c := peerChange{key: w.Key, node: w.Node, added: !there, unshare: h.preshared}
		if there {
			c.endpoint = newEndpoint(h, w, said, now)
		} else {
			c.endpoint = w.Endpoint
		}
		if !there || h.keepalive != w.Keepalive {
			c.keepalive = &w.Keepalive
		}
		c.add, c.drop = diffPrefixes(h.allowed, w.AllowedIPs)
		if len(c.drop) > 0 {
			if claimed == nil {
				claimed = claims(want)
			}
			c.drop = slices.DeleteFunc(c.drop, func(p netip.Prefix) bool { return claimed[p] })
		}
		switch {
		case !there:
			res.Added++
		case c.same(len(h.allowed), len(w.AllowedIPs)):
			continue
		default:
			res.Changed++
		}
		out = append(out, c)
	}
	for k := range have {
		if !wanted[k] {
			gone = append(gone, peerChange{key: k, remove: true})
			res.Removed++
		}
	}
	slices.SortFunc(gone, func(a, b peerChange) int { return slices.Compare(a.key[:], b.key[:]) })
	return append(out, gone...), res
}

// same tells whether a change of a peer that is there changes nothing. One that only loses prefixes to
// others is a change all the same, which those others make.
func (c peerChange) same(have, want int) bool {
	return !c.endpoint.IsValid() && c.keepalive == nil && !c.unshare && len(c.add) == 0 && len(c.drop) == 0 && have == want
}

// newEndpoint returns where a peer that is there is sent to from now on; invalid leaves it.
func newEndpoint(h peerState, w *encryption.Peer, said map[model.PublicKey]netip.AddrPort, now time.Time) netip.AddrPort {
	before, known := said[w.Key]
	switch {
	case w.Endpoint == h.endpoint || !w.Endpoint.IsValid():
		return netip.AddrPort{}
	case !h.endpoint.IsValid():
		return w.Endpoint
	case known && before == w.Endpoint:
		return netip.AddrPort{} // it was heard from elsewhere
	case !known && now.Sub(h.handshake) < handshakeFresh:
		return netip.AddrPort{} // and there it was reached
	}
	return w.Endpoint
}

// diffPrefixes compares sorted prefixes.
func diffPrefixes(have, want []netip.Prefix) (add, drop []netip.Prefix) {
	for len(have) > 0 || len(want) > 0 {
		var order int
		switch {
		case len(have) == 0:
			order = 1
		case len(want) == 0:
			order = -1
		default:
			order = comparePrefixes(have[0], want[0])
		}
		if order > 0 {
			add = append(add, want[0])
		} else if order < 0 {
			drop = append(drop, have[0])
		}
		if order >= 0 {
			want = want[1:]
		}
		if order <= 0 {
			have = have[1:]
		}
	}
	return add, drop
}

func claims(want []*encryption.Peer) map[netip.Prefix]bool {
	all := make(map[netip.Prefix]bool, len(want))
	for _, w := range want {
		for _, p := range w.AllowedIPs {
			all[p] = true
		}
	}
	return all
}

// after returns what a device holds once it took the peers of a change, and where they were sent to.
func (s *state) after(want []*encryption.Peer) {
	peers := make(map[model.PublicKey]peerState, len(want))
	for _, w := range want {
		h := s.peers[w.Key]
		h.allowed, h.keepalive, h.preshared = w.AllowedIPs, w.Keepalive, false
		h.endpoint = cmp.Or(h.endpoint, w.Endpoint)
		peers[w.Key] = h
	}
	s.peers = peers
}

// holds tells whether another reading of the device found what is known to be configured. Where peers are
// sent to is not: they move.
func (s *state) holds(o *state) bool {
	if s.key != o.key || s.port != o.port || s.fwmark != o.fwmark || len(s.peers) != len(o.peers) {
		return false
	}
	for k, p := range s.peers {
		q, ok := o.peers[k]
		if !ok || p.keepalive != q.keepalive || p.preshared != q.preshared || !slices.Equal(p.allowed, q.allowed) {
			return false
		}
	}
	return true
}

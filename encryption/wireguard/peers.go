package wireguard

import (
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

// diffPeers returns what makes the peers come of a device as wanted and removes gone: first what is added
// or changed, in the order of come, then what is removed. A prefix that goes from one peer to another is
// only added to the new one: the device takes it from the other in the same step. claimed tells whether any
// peer is to have a prefix. said is where the plan sent each peer before; a peer that is not in it was
// configured by an earlier process.
func diffPeers(have map[model.PublicKey]peerState, come []*encryption.Peer, gone []model.PublicKey, claimed func(netip.Prefix) bool,
	said map[model.PublicKey]netip.AddrPort, now time.Time) ([]peerChange, reconcile.Result) {
	var res reconcile.Result
	var out []peerChange
	for _, w := range come {
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
		c.drop = slices.DeleteFunc(c.drop, claimed)
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
	for _, k := range gone {
		if _, there := have[k]; there {
			out = append(out, peerChange{key: k, remove: true})
			res.Removed++
		}
	}
	return out, res
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

// after makes s what a device holds once it took the changes that lead to the peers come, and to those gone being so.
func (s *state) after(changes []peerChange, come []*encryption.Peer, gone []model.PublicKey) {
	for _, k := range gone {
		delete(s.peers, k)
	}
	for _, w := range come {
		h := s.peers[w.Key]
		h.allowed, h.keepalive, h.preshared = w.AllowedIPs, w.Keepalive, false
		s.peers[w.Key] = h
	}
	for _, c := range changes {
		if h, there := s.peers[c.key]; there && c.endpoint.IsValid() {
			h.endpoint = c.endpoint
			s.peers[c.key] = h
		}
	}
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

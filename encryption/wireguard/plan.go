package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft/encryption"
	"weft/model"
)

// wanted is what the plan says of one device's peers, with what it takes to compare the next plan at the
// cost of what differs.
type wanted struct {
	key     model.PublicKey // of this node
	peers   []encryption.Peer
	refused error // of some of them
	byKey   map[model.PublicKey]*encryption.Peer
	owners  map[netip.Prefix]*encryption.Peer
}

// want reads the plan's peers of a device whose own public key is key.
func want(device string, key model.PublicKey, peers []encryption.Peer) *wanted {
	w := &wanted{key: key, peers: peers, byKey: make(map[model.PublicKey]*encryption.Peer, len(peers)), owners: make(map[netip.Prefix]*encryption.Peer, 2*len(peers))}
	first := make(map[model.PublicKey]*encryption.Peer, len(peers))
	twice := map[model.PublicKey]*encryption.Peer{}
	for i := range peers {
		p := &peers[i]
		if other, ok := first[p.Key]; ok {
			twice[p.Key] = other
			continue
		}
		first[p.Key] = p
	}
	var errs []error
	for i := range peers {
		p := sorted(&peers[i])
		if err := checkPeer(p, key, twice[p.Key], w.owners); err != nil {
			errs = append(errs, fmt.Errorf("WireGuard device %s: peer %s refused: %w", device, p.Node, err))
			continue
		}
		w.add(p)
	}
	w.refused = errors.Join(errs...)
	return w
}

func sorted(p *encryption.Peer) *encryption.Peer {
	if slices.IsSortedFunc(p.AllowedIPs, comparePrefixes) {
		return p
	}
	c := *p
	c.AllowedIPs = sortPrefixes(slices.Clone(p.AllowedIPs))
	return &c
}

func (w *wanted) add(p *encryption.Peer) {
	w.byKey[p.Key] = p
	for _, a := range p.AllowedIPs {
		w.owners[a] = p
	}
}

func (w *wanted) claimed(a netip.Prefix) bool { return w.owners[a] != nil }

// all returns the peers in the plan's order, and the keys that have them not.
func (w *wanted) all(have map[model.PublicKey]peerState) (come []*encryption.Peer, gone []model.PublicKey) {
	for i := range w.peers {
		if p, ok := w.byKey[w.peers[i].Key]; ok {
			come = append(come, p)
		}
	}
	for k := range have {
		if w.byKey[k] == nil {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, func(a, b model.PublicKey) int { return slices.Compare(a[:], b[:]) })
	return come, gone
}

// next makes w the next plan's peers and returns which came or changed, and which went; ok is false when
// the whole plan must be read, since a peer of either is refused.
func (w *wanted) next(peers []encryption.Peer) (come []*encryption.Peer, gone []model.PublicKey, ok bool) {
	if w.refused != nil {
		return nil, nil, false
	}
	before, after := differing(w.peers, peers)
	for _, p := range before {
		for _, a := range p.AllowedIPs {
			delete(w.owners, a)
		}
		delete(w.byKey, p.Key)
	}
	for _, p := range after {
		p = sorted(p)
		if checkPeer(p, w.key, w.byKey[p.Key], w.owners) != nil {
			w.refused = errors.New("to be read again")
			return nil, nil, false
		}
		w.add(p)
		come = append(come, p)
	}
	for _, p := range before {
		if w.byKey[p.Key] == nil {
			gone = append(gone, p.Key)
		}
	}
	w.peers = peers
	return come, gone, true
}

// differing walks two plans' peers, sorted by node, and returns those that only one of them has as they are.
func differing(a, b []encryption.Peer) (before, after []*encryption.Peer) {
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		case a[0].Node != b[0].Node:
			order = encryption.ComparePeers(a[0], b[0])
		case same(&a[0], &b[0]):
			a, b = a[1:], b[1:]
			continue
		}
		if order <= 0 {
			before, a = append(before, &a[0]), a[1:]
		}
		if order >= 0 {
			after, b = append(after, &b[0]), b[1:]
		}
	}
	return before, after
}

func same(a, b *encryption.Peer) bool {
	if a == b {
		return true
	}
	if a.Key != b.Key || a.Endpoint != b.Endpoint || a.Keepalive != b.Keepalive || len(a.AllowedIPs) != len(b.AllowedIPs) {
		return false
	}
	return len(a.AllowedIPs) == 0 || &a.AllowedIPs[0] == &b.AllowedIPs[0] || slices.Equal(a.AllowedIPs, b.AllowedIPs)
}

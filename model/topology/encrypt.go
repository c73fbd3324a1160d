package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"weft/model"
)

// wantEncryption adds the WireGuard devices: for each family of pods' addresses that is to be encrypted
// one over an underlay of that family, or of the other where this node has no such address. It goes
// by this node alone: a node of both families and one of the other only do not find together.
func (c *compiler) wantEncryption(wanted map[kind]string) {
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		if !c.s.Encryption.Enabled(f) {
			continue
		}
		setting := "wireguardEnabled"
		if f == model.IPv6 {
			setting = "wireguardEnabledV6"
		}
		for _, under := range carriersOf(f) {
			if _, ok := c.self.Address(under); ok {
				wanted[kind{model.EncapWireGuard, under}] = cmp.Or(wanted[kind{model.EncapWireGuard, under}], setting)
				break
			}
		}
	}
}

func other(f model.Family) model.Family { return model.IPv4 + model.IPv6 - f }

// carriersOf lists the underlay families that a packet of f may travel in, the preferred one first.
func carriersOf(f model.Family) []model.Family { return []model.Family{f, other(f)} }

// encrypted is the way to a peer by WireGuard: by the device of the current keys once both ends are
// ready for it, else by one that both still have. missing says what keeps it from being; then there is none.
// anyway goes by a peer's key alone: for traffic that may not go otherwise.
func (c *compiler) encrypted(peer *model.Node, f model.Family, anyway bool) (d decision, missing string) {
	missing = "this node cannot have a WireGuard device"
	best := -1
	for _, under := range carriersOf(f) {
		current := c.current(kind{model.EncapWireGuard, under})
		to, ok := peer.Address(under)
		if !ok {
			continue
		}
		for i := range c.tunnels {
			t := &c.tunnels[i]
			if t.End.Encap != model.EncapWireGuard || t.Family != under {
				continue
			}
			lacks := c.lacks(peer, t.End, anyway)
			switch {
			case lacks != "" && t.End == current:
				missing = lacks
			case lacks == "" && (best < 0 || t.End == current && c.tunnels[best].Family == under):
				best = i
			}
		}
		if best < 0 {
			continue
		}
		h, ok := c.under.towards(to.Addr())
		if !ok {
			missing = "this host has no route towards " + to.Addr().String()
			best = -1
			continue
		}
		t := &c.tunnels[best]
		why := "encrypted, " + t.End.String()
		if anyway {
			why += ", and not otherwise, although " + c.lacks(peer, t.End, false)
		}
		d = c.encapsulated(best, to.Addr(), h, why)
		d.unready = anyway
		d.via, d.source = netip.Addr{}, netip.Addr{} // the device finds the peer by itself
		if i := slices.IndexFunc(t.Addresses, func(a netip.Addr) bool { return model.FamilyOf(a) == f }); i >= 0 {
			d.source = t.Addresses[i]
		}
		return d, ""
	}
	return decision{}, missing
}

// lacks says why packets to the peer cannot travel by an end of WireGuard, or "".
func (c *compiler) lacks(peer *model.Node, e model.TunnelEnd, anyway bool) string {
	key, ok := peer.Key(e.Epoch)
	own, has := c.self.Key(e.Epoch)
	switch {
	case !has && !c.s.IgnoreReadiness:
		return "this node has no key of its own yet"
	case len(c.shared[own]) > 0:
		return fmt.Sprintf("nodes %v have published the same public key", c.shared[own])
	case !ok && len(peer.Keys) > 0:
		return fmt.Sprintf("node %s has published no public key of epoch %d", peer.Name, e.Epoch)
	case !ok:
		return fmt.Sprintf("node %s has published no public key", peer.Name)
	case len(c.shared[key]) > 0:
		return fmt.Sprintf("nodes %v have published the same public key", c.shared[key])
	case anyway || c.s.IgnoreReadiness:
		return ""
	case !peer.Receives(e):
		return fmt.Sprintf("node %s does not receive %s yet", peer.Name, e)
	case !c.self.MaySend(e):
		return fmt.Sprintf("this node has not announced yet that it sends %s", e)
	case c.s.EncryptionState.Met != nil && !c.s.EncryptionState.Met[model.Meeting{Node: peer.Name, End: e}]:
		return fmt.Sprintf("node %s has not answered by %s yet", peer.Name, e)
	}
	return ""
}

// ready returns the nodes with which all is ready to encrypt.
func (c *compiler) ready() map[model.NodeName]bool {
	var nodes map[model.NodeName]bool
	for i := range c.tunnels {
		t := &c.tunnels[i]
		if !isWireGuard(t.End) || t.Kept {
			continue
		}
		for name, n := range c.s.Nodes {
			if name != c.s.Self && c.lacks(n, t.End, false) == "" {
				if nodes == nil {
					nodes = map[model.NodeName]bool{}
				}
				nodes[name] = true
			}
		}
	}
	return nodes
}

// closed tells whether nothing may go to a node in clear any more.
func (c *compiler) closed(node model.NodeName, f model.Family) bool {
	e := &c.s.Encryption
	return e.Enabled(f) && !e.Preferred && (c.s.EncryptionState.Over || c.s.EncryptionState.Seen[node] || neverClear(c.s, c.s.Nodes[node]))
}

// neverClear tells whether this node sends nothing in clear by its record, and another one has done with that: so
// who comes later, or has lost its memory, does not begin with it.
func neverClear(s *model.Snapshot, n *model.Node) bool {
	self := s.Nodes[s.Self]
	return n != nil && n.Tunnels != nil && n.Tunnels.EncryptedOnly && !SendsClear(n) && (self == nil || self.Tunnels == nil || !SendsClear(self))
}

// inPlay tells whether this node may be sending by WireGuard: then it goes over to clear text only after
// it announced that, so that peers know when to refuse it.
func (c *compiler) inPlay() bool {
	return c.self.Tunnels != nil && slices.ContainsFunc(c.self.Tunnels.Sends, isWireGuard)
}

func isWireGuard(e model.TunnelEnd) bool { return e.Encap == model.EncapWireGuard }

// SendsClear tells whether a node may be sending in clear.
func SendsClear(n *model.Node) bool {
	return n.Tunnels == nil || slices.ContainsFunc(n.Tunnels.Sends, func(e model.TunnelEnd) bool { return !isWireGuard(e) })
}

// findShared notes keys that several nodes published: none of them can be told from the others.
func (c *compiler) findShared() {
	c.shared = nil
	who := map[model.PublicKey][]model.NodeName{}
	for name, n := range c.s.Nodes {
		for _, k := range n.Keys {
			if !slices.Contains(who[k.Key], name) { // its own keys of two epochs may be one
				who[k.Key] = append(who[k.Key], name)
			}
		}
	}
	for k, nodes := range who {
		if len(nodes) < 2 {
			continue
		}
		if c.shared == nil {
			c.shared = map[model.PublicKey][]model.NodeName{}
		}
		slices.Sort(nodes)
		c.shared[k] = nodes
		c.problem("nodes %v have published the same public key: traffic with none of them can be encrypted; remove the key file of all but one and restart these", nodes)
	}
}

// keysDiffer tells whether a changed node published other keys than before.
func (c *compiler) keysDiffer(s *model.Snapshot, changed map[model.NodeName]bool) bool {
	keys := func(n *model.Node) []model.NodeKey {
		if n == nil {
			return nil
		}
		return n.Keys
	}
	for name := range changed {
		if !slices.Equal(keys(c.s.Nodes[name]), keys(s.Nodes[name])) {
			return true
		}
	}
	return false
}

func sameEncryption(a, b *model.Snapshot) bool {
	x, y := &a.EncryptionState, &b.EncryptionState
	return a.Encryption == b.Encryption && x.Over == y.Over && maps.Equal(x.Seen, y.Seen) && maps.Equal(x.Refused, y.Refused) && maps.Equal(x.Hosts, y.Hosts) &&
		(x.Met == nil) == (y.Met == nil) && maps.Equal(x.Met, y.Met)
}

// used tells whether a node holds addresses of a pool. A disabled one that nobody has addresses of names a network
// outside of the cluster, which is not to be translated.
func (c *compiler) used(pool netip.Prefix) bool {
	for p, b := range c.s.Blocks {
		if pool.Overlaps(p) && (b.Node != "" || len(b.Borrowed) > 0) {
			return true
		}
	}
	return false
}

// guard says what must not pass the underlay in clear. A node is let through in clear as long as this
// node's record says that it takes that, and while its own record says that it may be sending it; the
// latter not for ever.
func (c *compiler) guard(peers []Peer) Guard {
	e, st := &c.s.Encryption, &c.s.EncryptionState
	var g Guard
	if e.Preferred || !e.Any() {
		return g
	}
	for _, p := range c.s.Pools {
		if _, refused := c.onLink(p.CIDR); !refused && e.Enabled(model.FamilyOf(p.CIDR.Addr())) && (!p.Disabled || c.used(p.CIDR)) {
			g.Pools = append(g.Pools, p.CIDR)
		}
	}
	for i := range peers { // wherever they are: what keeps the hosts together is not guarded
		if covered(g.Pools, peers[i].Address) {
			g.Clear = append(g.Clear, model.HostPrefix(peers[i].Address))
		}
	}
	said := c.self.Tunnels != nil && c.self.Tunnels.EncryptedOnly
	for i := range peers {
		p := &peers[i]
		if said && (neverClear(c.s, c.s.Nodes[p.Node]) || st.Refused[p.Node] || (st.Over || st.Seen[p.Node]) && !SendsClear(c.s.Nodes[p.Node])) {
			continue
		}
		for _, held := range slices.Concat(p.Prefixes, p.Other) {
			if c.pools.Contains(held.Addr()) {
				g.Clear = append(g.Clear, held)
			}
		}
	}
	slices.SortFunc(g.Pools, comparePrefix)
	slices.SortFunc(g.Clear, comparePrefix)
	g.Clear = slices.Compact(g.Clear)
	return g
}

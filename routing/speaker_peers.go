package routing

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
	"weft/model/selector"
)

// Built-in values of sessions.
const (
	bgpPort = 179
	// keepaliveSeconds are those of the mesh; a peer is gone after three of them.
	keepaliveSeconds = 60
	// nodePrefixes is the most that another node may announce, where no BGPPeer says otherwise: far more
	// than the blocks of any cluster, and few enough that a rogue node does not fill the memory.
	nodePrefixes = 100_000
)

// preparedPeer is a BGPPeer with what decides whom it is for.
type preparedPeer struct {
	*model.BGPPeer
	locals  *selector.Selector
	remotes *selector.Selector // nil: Peer
	node    *model.Node        // the cluster's node that has Peer's address; nil: none
}

// isLocal tells whether the BGPPeer is for node n.
func (p *preparedPeer) isLocal(n *model.Node) bool {
	if p.Node != "" {
		return p.Node == n.Name
	}
	return p.locals.Matches(n.Labels)
}

// isOwn tells whether its peer is node n itself.
func (p *preparedPeer) isOwn(n *model.Node) bool {
	return p.remotes == nil && p.node != nil && p.node.Name == n.Name
}

// isRemote tells whether it makes node n, in family f, a peer.
func (p *preparedPeer) isRemote(n *model.Node, f model.Family) bool {
	if p.remotes == nil {
		return p.node != nil && p.node.Name == n.Name && model.FamilyOf(p.Peer.Addr()) == f
	}
	return p.remotes.Matches(n.Labels)
}

// preparePeers leaves out what cannot be understood.
func (c *speakerCompiler) preparePeers() {
	for i := range c.in.BGP.Peers {
		p := &c.in.BGP.Peers[i]
		k := preparedPeer{BGPPeer: p}
		var err error
		if k.locals, err = selector.Parse(p.NodeSelector); err != nil {
			c.fail("BGPPeer %s: nodeSelector: %w", p.Name, err)
			continue
		}
		if p.PeerSelector != "" {
			if k.remotes, err = selector.Parse(p.PeerSelector); err != nil {
				c.fail("BGPPeer %s: peerSelector: %w", p.Name, err)
				continue
			}
		} else if a := p.Peer.Addr(); !a.IsValid() || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
			c.fail("BGPPeer %s: peer address %v: want the address of a router, or a peerSelector", p.Name, a)
			continue
		} else if a.IsLoopback() && cmp.Or(p.Peer.Port(), bgpPort) == c.in.BGP.Port(c.in.Self) {
			c.fail("BGPPeer %s: peer address %v is node %s itself: no session is made; want the address of a router, or another port", p.Name, a, c.in.Self)
			continue
		}
		k.node = c.byAddr[p.Peer.Addr()]
		if c.self != nil && k.isOwn(c.self) && c.onlyLocal(&k) {
			c.fail("BGPPeer %s: peer address %v is that of node %s itself, and the BGPPeer is for no other node: no session is made", p.Name, p.Peer.Addr(), c.in.Self)
		}
		c.peers = append(c.peers, k)
	}
	slices.SortFunc(c.peers, func(a, b preparedPeer) int { return cmp.Compare(a.Name, b.Name) })
}

// onlyLocal tells whether a BGPPeer is for this node and no other. One for all nodes, whose peer is a reflector among them, means
// the others.
func (c *speakerCompiler) onlyLocal(p *preparedPeer) bool {
	return p.isLocal(c.self) && !slices.ContainsFunc(c.names, func(n model.NodeName) bool { return n != c.in.Self && p.isLocal(c.in.Nodes[n]) })
}

// half is one node's end of a session with another node.
type half struct {
	peer    *model.BGPPeer // nil: of the mesh
	reverse bool           // peer is for the other end, and this one its counterpart
}

// half returns x's end of the session with y; others are BGPPeers for x that it goes before.
func (c *speakerCompiler) half(x, y *model.Node, f model.Family) (h half, others []string, ok bool) {
	for i := range c.peers {
		p := &c.peers[i]
		switch {
		case !p.isLocal(x) || !p.isRemote(y, f):
		case h.peer == nil:
			h.peer = p.BGPPeer
		default:
			others = append(others, p.Name)
		}
	}
	if h.peer != nil {
		return h, others, true
	}
	for i := range c.peers {
		if p := &c.peers[i]; !p.Manual && p.isLocal(y) && p.isRemote(x, f) {
			return half{peer: p.BGPPeer, reverse: true}, nil, true
		}
	}
	return h, nil, c.meshes(x, y, f)
}

// localASN is the AS number that node n shows on its half.
func (c *speakerCompiler) localASN(n *model.Node, h half) uint32 {
	if h.peer != nil && !h.reverse && h.peer.LocalASN != 0 {
		return h.peer.LocalASN
	}
	return c.asn(n)
}

// sessions returns all sessions of this host, sorted.
func (c *speakerCompiler) sessions() []Session {
	var all []Session
	for _, name := range c.names {
		n := c.in.Nodes[name]
		if name == c.in.Self {
			continue
		}
		for _, f := range families {
			if s, ok := c.nodeSession(n, f); ok {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, compareSessions)
	inside := len(all)
	by := map[netip.Addr]string{}
	for i := range c.peers {
		p := &c.peers[i]
		if p.remotes != nil || p.node != nil || !p.isLocal(c.self) {
			continue
		}
		if first, taken := by[p.Peer.Addr()]; taken {
			c.noteDouble(first, p.Name, p.Peer.Addr().String())
			continue
		}
		by[p.Peer.Addr()] = p.Name
		if s, ok := c.routerSession(p.BGPPeer); ok {
			all = append(all, s)
		}
	}
	if len(all) > inside {
		slices.SortFunc(all, compareSessions)
	}
	return all
}

func compareSessions(a, b Session) int { return a.Peer.Compare(b.Peer) }

// nodeSession is the session with another node.
func (c *speakerCompiler) nodeSession(n *model.Node, f model.Family) (s Session, ok bool) {
	own, has := c.self.Address(f)
	peer, there := n.Address(f)
	if !has || !there || own.Addr() == peer.Addr() || c.byAddr[peer.Addr()] != n {
		return s, false
	}
	h, others, ok := c.half(c.self, n, f)
	if !ok {
		return s, false
	}
	theirs, _, there := c.half(n, c.self, f)
	s = Session{Name: string(n.Name), Mesh: h.peer == nil, Node: string(n.Name), Peer: peer.Addr(), Port: c.in.BGP.Port(n.Name),
		ASN: c.asn(n), LocalASN: c.localASN(c.self, h), Source: own.Addr(), MaxPrefixes: nodePrefixes,
		// Two that connect at once have to end one of the connections, so only one end connects; this one in
		// any case where the other has no half that would.
		Passive: there && own.Addr().Compare(peer.Addr()) > 0}
	if there {
		s.ASN = c.localASN(n, theirs)
	}
	if h.peer != nil {
		s.Name = "BGPPeer " + h.peer.Name
		for _, other := range others {
			c.noteDouble(h.peer.Name, other, string(n.Name))
		}
		if a := h.peer.ASN; a != 0 && !h.reverse && a != s.ASN {
			c.fail("BGPPeer %s: asNumber %d: node %s has %d, which is in effect", h.peer.Name, a, n.Name, s.ASN)
		}
		if p := h.peer.Peer.Port(); p != 0 && !h.reverse {
			s.Port = p
		}
	}
	if !c.settings(&s, h) {
		return s, false
	}
	if s.ASN == s.LocalASN {
		s.ClusterID, s.ReflectorClient = c.client(n)
	}
	s.Import = append(c.nodeImports(n, f), c.filters(&s, h.peer, false)...)
	s.Export = append(c.nodeExports(f), c.filters(&s, h.peer, true)...)
	return s, true
}

// routerSession is the session with a router outside the cluster.
func (c *speakerCompiler) routerSession(p *model.BGPPeer) (s Session, ok bool) {
	a := p.Peer.Addr()
	own, has := c.self.Address(model.FamilyOf(a))
	if !has && !p.AnySource && !a.IsLinkLocalUnicast() {
		c.fail("BGPPeer %s: node %s has no %v address to speak with %v from", p.Name, c.in.Self, model.FamilyOf(a), a)
		return s, false
	}
	h := half{peer: p}
	s = Session{Name: "BGPPeer " + p.Name, Peer: a, Port: cmp.Or(p.Peer.Port(), bgpPort), ASN: cmp.Or(p.ASN, c.asn(c.self)), LocalASN: c.localASN(c.self, h)}
	if has && !a.IsLinkLocalUnicast() { // that is spoken with from an address of the same link
		s.Source = own.Addr()
	}
	if !c.settings(&s, h) {
		return s, false
	}
	s.Import = append(c.routerImports(a), c.filters(&s, p, false)...)
	s.Export = append(c.routerExports(), c.filters(&s, p, true)...)
	return s, true
}

// settings fills in what the configuration or the BGPPeer says; false where the password is not known.
func (c *speakerCompiler) settings(s *Session, h half) bool {
	cfg := &c.in.BGP.Config
	secret, who := cfg.MeshPassword, "BGPConfiguration default: nodeMeshPassword"
	s.RestartSeconds, s.KeepaliveSeconds = cfg.MeshRestartSeconds, keepaliveSeconds
	if p := h.peer; p != nil {
		secret, who = p.Password, fmt.Sprintf("BGPPeer %s: password", p.Name)
		s.RestartSeconds, s.KeepaliveSeconds = p.RestartSeconds, p.KeepaliveSeconds
		s.NextHop = NextHop(p.NextHop)
		s.TTLSecurityHops, s.AllowedLocalAS = p.TTLSecurityHops, p.AllowedLocalAS
		s.BFD = BFD{IntervalMillis: p.BFDIntervalMillis, Multiplier: p.BFDMultiplier}
		s.MaxPrefixes = cmp.Or(p.MaxPrefixes, s.MaxPrefixes)
		if p.AnySource {
			s.Source = netip.Addr{}
		}
		if !h.reverse {
			s.Gateway = p.ReachableBy
		}
	}
	s.HoldSeconds = uint16(min(3*int(s.KeepaliveSeconds), 65535))
	if secret == (model.SecretRef{}) {
		return true
	}
	var ok bool
	if s.Password, ok = c.in.Passwords[secret]; !ok || s.Password == "" {
		c.fail("%s: no key %q in Secret %s, so node %s does not speak with %v", who, secret.Key, secret.Name, c.in.Self, s.Peer)
		return false
	}
	return true
}

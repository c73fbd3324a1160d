package topology

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"weft/model"
)

// Compute decides every path of s. drivers is the table of the tunnel drivers that this host has
// (package tunnel); an encapsulation without a row leaves its prefixes Unreachable. The error
// tells that nothing can be decided yet: whoever asks keeps the kernel as it is.
func Compute(s *model.Snapshot, drivers []Driver) (*View, error) {
	self, ok := s.Nodes[s.Self]
	if !ok {
		return nil, fmt.Errorf("node %s has no Node record yet", s.Self)
	}
	if len(self.Addresses) == 0 {
		return nil, fmt.Errorf("node %s has no underlay address in its Node record", s.Self)
	}
	c := &compiler{s: s, self: self, drivers: drivers, under: newUnderlay(s.Underlay),
		view: &View{Self: s.Self}, decided: map[decisionKey]decision{}}
	for i := range s.Pools {
		c.addPool(&s.Pools[i])
	}
	c.tunnels()
	c.paths()
	c.peers()
	c.podMTU()
	slices.Sort(c.view.Problems)
	c.view.Problems = slices.Compact(c.view.Problems)
	return c.view, nil
}

type compiler struct {
	s       *model.Snapshot
	self    *model.Node
	drivers []Driver
	under   *underlay
	pools   bart.Table[*model.Pool]
	view    *View
	decided map[decisionKey]decision
	holds   map[model.NodeName][]netip.Prefix // what each peer may send from
}

// addPool takes a pool in. A disabled pool may share its range with the one that replaces it: then
// the enabled one says how its traffic travels, and among equals the first by name.
func (c *compiler) addPool(p *model.Pool) {
	if old, ok := c.pools.Get(p.CIDR); ok && (old.Disabled == p.Disabled && old.Name < p.Name || !old.Disabled && p.Disabled) {
		return
	}
	c.pools.Insert(p.CIDR, p)
}

func (c *compiler) problem(format string, args ...any) {
	c.view.Problems = append(c.view.Problems, fmt.Sprintf(format, args...))
}

func (c *compiler) driver(e model.Encap) (Driver, bool) {
	for _, d := range c.drivers {
		if e != model.EncapNone && d.Encap == e && d.Device != "" {
			return d, true
		}
	}
	return Driver{}, false
}

// tunnels names the devices that this host must have: one for each encapsulation and family that
// a pool asks for.
func (c *compiler) tunnels() {
	type want struct {
		encap  model.Encap
		family model.Family
	}
	wanted := map[want]string{}
	for _, p := range c.s.Pools {
		w := want{p.Encap, model.FamilyOf(p.CIDR.Addr())}
		if _, ok := wanted[w]; !ok && p.Encap != model.EncapNone {
			wanted[w] = p.Name
		}
	}
	for w, pool := range wanted {
		if t, ok := c.tunnel(w.encap, w.family, pool); ok {
			c.view.Tunnels = append(c.view.Tunnels, t)
		}
	}
	slices.SortFunc(c.view.Tunnels, func(a, b Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
}

func (c *compiler) tunnel(e model.Encap, f model.Family, pool string) (Tunnel, bool) {
	d, ok := c.driver(e)
	if !ok {
		c.problem("IPPool %s wants %s, which this node has no driver for", pool, e)
		return Tunnel{}, false
	}
	overhead, ok := d.Overhead[f]
	if !ok || !slices.Contains(d.Families, f) {
		c.problem("IPPool %s wants %s for %s, which that encapsulation does not carry", pool, e, f)
		return Tunnel{}, false
	}
	addr, ok := c.self.Address(f)
	if !ok {
		c.problem("IPPool %s wants %s over %s, but this node has no %s underlay address", pool, e, f, f)
		return Tunnel{}, false
	}
	parent, ok := c.under.carrier(c.s.Underlay.Links, addr.Addr())
	if !ok {
		c.problem("no interface of this host has the node address %s", addr.Addr())
		return Tunnel{}, false
	}
	t := Tunnel{Driver: d.Name, Device: d.DeviceOver(f), Family: f, Local: addr.Addr(), Parent: parent.Name,
		MTU: parent.MTU - overhead}
	if d.Reach == VXLAN {
		t.MAC, t.VNI, t.Port = c.self.VXLANMAC, c.s.VXLAN.VNI, c.s.VXLAN.Port
		if c.s.VXLAN.MTU > 0 {
			t.MTU = c.s.VXLAN.MTU
		}
	}
	if a, ok := c.self.TunnelAddress(f); ok {
		t.Addresses = []netip.Addr{a}
	}
	return t, true
}

// paths walks the blocks and what was borrowed from them.
func (c *compiler) paths() {
	c.holds = make(map[model.NodeName][]netip.Prefix, len(c.s.Nodes))
	c.view.Paths = make([]Path, 0, len(c.s.Blocks))
	for _, b := range c.s.Blocks {
		if b.Node != "" {
			c.path(b.CIDR, b.Node)
		}
		for a, n := range b.Borrowed {
			if n != c.s.Self {
				c.path(model.HostPrefix(a), n)
			}
		}
	}
	slices.SortFunc(c.view.Paths, func(a, b Path) int { return comparePrefix(a.Dst, b.Dst) })
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func (c *compiler) path(dst netip.Prefix, node model.NodeName) {
	p := Path{Dst: dst, Node: node}
	if node == c.s.Self {
		p.Reach, p.Why = Local, "a block of this node"
		c.view.Paths = append(c.view.Paths, p)
		return
	}
	c.holds[node] = append(c.holds[node], dst)
	var pool *model.Pool
	if found, ok := c.pools.Lookup(dst.Addr()); ok {
		pool = found
	}
	d := c.decide(node, pool, model.FamilyOf(dst.Addr()))
	p.Reach, p.Via, p.Device, p.Source = d.reach, d.via, d.device, d.source
	p.MTU, p.DeviceMTU, p.Why = d.mtu, d.deviceMTU, d.why
	c.view.Paths = append(c.view.Paths, p)
}

type decisionKey struct {
	node   model.NodeName
	pool   string
	family model.Family
}

type decision struct {
	reach          Reach
	via, source    netip.Addr
	device         string
	mtu, deviceMTU int
	why            string
}

// decide says how prefixes of one pool on one peer are reached; the many blocks that a node may
// have share the answer.
func (c *compiler) decide(node model.NodeName, pool *model.Pool, f model.Family) decision {
	key := decisionKey{node: node, family: f}
	if pool != nil {
		key.pool = pool.Name
	}
	if d, ok := c.decided[key]; ok {
		return d
	}
	d := c.decideNew(node, pool, f)
	if d.reach == Unreachable {
		c.problem("node %s is not reachable over %s: %s", node, f, d.why)
	}
	c.decided[key] = d
	return d
}

func (c *compiler) decideNew(node model.NodeName, pool *model.Pool, f model.Family) decision {
	peer, ok := c.s.Nodes[node]
	if !ok {
		return decision{why: "node " + string(node) + " has no Node record"}
	}
	to, ok := peer.Address(f)
	if !ok {
		return decision{why: fmt.Sprintf("node %s has no %s underlay address", node, f)}
	}
	h, ok := c.under.towards(to.Addr())
	if !ok {
		return decision{why: "this host has no route towards " + to.Addr().String()}
	}
	encap, cross := model.EncapNone, false
	mode := "no IPPool holds it, so as if its modes were Never"
	if pool != nil {
		encap, cross = pool.Encap, pool.CrossSubnet
		mode = modeText(pool)
	}
	link := c.linkTo(peer, to.Addr(), f, h)
	switch {
	case encap == model.EncapNone:
		return c.direct(to.Addr(), h, mode)
	case cross && link.both():
		return c.direct(to.Addr(), h, mode)
	}
	why := mode
	if cross {
		why += link.why(node, h)
	}
	return c.encapsulated(encap, f, to.Addr(), h, why)
}

func modeText(p *model.Pool) string {
	mode := "Always"
	if p.CrossSubnet {
		mode = "CrossSubnet"
	}
	switch p.Encap {
	case model.EncapVXLAN:
		return "pool " + p.Name + " has vxlanMode " + mode
	case model.EncapIPIP:
		return "pool " + p.Name + " has ipipMode " + mode
	default:
		return "pool " + p.Name + " has no encapsulation"
	}
}

// linkView is what both ends of a pair say about their link. Only when both see the other on
// link does CrossSubnet go direct: each end computes the same from the same published facts, so
// that unequal masks never make one end tunnel and the other not.
type linkView struct{ here, there bool }

func (l linkView) both() bool { return l.here && l.there }

func (l linkView) why(node model.NodeName, h hop) string {
	if !l.here {
		return " and the peer is behind gateway " + h.via.String()
	}
	return " and node " + string(node) + " does not see this node on its link"
}

func (c *compiler) linkTo(peer *model.Node, to netip.Addr, f model.Family, h hop) linkView {
	own, ok := c.self.Address(f)
	return linkView{here: h.onLink(), there: ok && seesOnLink(peer, own.Addr())}
}

func (c *compiler) direct(to netip.Addr, h hop, mode string) decision {
	d := decision{reach: Direct, via: to, device: h.device, mtu: h.mtu, deviceMTU: h.mtu}
	if l, ok := c.under.links[h.device]; ok {
		d.deviceMTU = l.MTU
	}
	if h.onLink() {
		d.why = mode + " and the peer is on link on " + h.device
		return d
	}
	d.via = h.via
	d.why = mode + "; the peer is behind gateway " + h.via.String() + ", which must know the route to its pods"
	return d
}

func (c *compiler) encapsulated(e model.Encap, f model.Family, to netip.Addr, h hop, why string) decision {
	row, ok := c.driver(e)
	if !ok {
		return decision{why: why + ", and this node has no driver for " + e.String()}
	}
	i := slices.IndexFunc(c.view.Tunnels, func(t Tunnel) bool { return t.Driver == row.Name && t.Family == f })
	if i < 0 {
		return decision{why: why + ", and this node cannot have a " + e.String() + " device over " + f.String()}
	}
	t := c.view.Tunnels[i]
	d := decision{reach: row.Reach, via: TunnelNextHop(to), device: t.Device, deviceMTU: t.MTU,
		mtu: min(t.MTU, h.mtu-row.Overhead[f]), why: why}
	if len(t.Addresses) > 0 {
		d.source = t.Addresses[0]
	}
	return d
}

// peers lists the other nodes as the tunnels see them.
func (c *compiler) peers() {
	for name, n := range c.s.Nodes {
		if name == c.s.Self {
			continue
		}
		for _, a := range n.Addresses {
			p := Peer{Node: name, Address: a.Addr(), MAC: n.VXLANMAC}
			// The peer itself may speak through its tunnel before it has a tunnel address.
			p.Prefixes = append(p.Prefixes, model.HostPrefix(a.Addr()))
			for _, h := range c.holds[name] {
				if model.FamilyOf(h.Addr()) == model.FamilyOf(a.Addr()) {
					p.Prefixes = append(p.Prefixes, h)
				}
			}
			if t, ok := n.TunnelAddress(model.FamilyOf(a.Addr())); ok && !covered(p.Prefixes, t) {
				p.Prefixes = append(p.Prefixes, model.HostPrefix(t))
			}
			slices.SortFunc(p.Prefixes, comparePrefix)
			c.view.Peers = append(c.view.Peers, p)
		}
	}
	slices.SortFunc(c.view.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), a.Address.Compare(b.Address))
	})
}

func covered(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

// podMTU finds the largest packet that every path takes, also paths to nodes that are yet to come:
// the uplink's MTU less the overhead of what the pools ask for.
func (c *compiler) podMTU() {
	set := func(mtu int, format string, args ...any) {
		if c.view.PodMTU == 0 || mtu < c.view.PodMTU {
			c.view.PodMTU, c.view.PodMTUWhy = mtu, fmt.Sprintf(format, args...)
		}
	}
	for _, a := range c.self.Addresses {
		if l, ok := c.under.carrier(c.s.Underlay.Links, a.Addr()); ok {
			set(l.MTU, "%s carries %s", l.Name, a.Addr())
		} else {
			c.problem("no interface of this host has the node address %s", a.Addr())
		}
	}
	for _, t := range c.view.Tunnels {
		set(t.MTU, "%s over %s", t.Device, t.Parent)
	}
	for _, p := range c.view.Paths {
		if p.Reach != Local && p.Reach != Unreachable {
			set(p.MTU, "the path to %s on node %s", p.Dst, p.Node)
		}
	}
}

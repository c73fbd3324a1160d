package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"weft/model"
)

// Compute decides every path of s. drivers is the table of the tunnel drivers that this host has
// (package tunnel); an encapsulation without a row leaves its prefixes Unreachable. The error
// tells that nothing can be decided yet: whoever asks keeps the kernel as it is.
func Compute(s *model.Snapshot, drivers []Driver) (*View, error) {
	_, v, err := compute(s, drivers)
	return v, err
}

func compute(s *model.Snapshot, drivers []Driver) (*compiler, *View, error) {
	c, err := newCompiler(s, drivers)
	if err != nil {
		return nil, nil, err
	}
	paths := make([]Path, 0, len(s.Blocks))
	for _, b := range s.Blocks {
		paths = c.appendPaths(paths, b)
	}
	slices.SortFunc(paths, comparePaths)
	holds := make(map[model.NodeName][]netip.Prefix, len(s.Nodes))
	for i := range paths {
		c.hold(holds, &paths[i])
	}
	peers := make([]Peer, 0, len(s.Nodes))
	for name := range s.Nodes {
		peers = c.appendPeers(peers, name, holds[name])
	}
	slices.SortFunc(peers, comparePeers)
	return c, c.view(paths, peers), nil
}

// compiler is what stays the same for all prefixes: this host, its links and routes, the pools and
// the tunnels that they ask for.
type compiler struct {
	s        *model.Snapshot
	self     *model.Node
	drivers  []Driver
	under    *underlay
	carriers map[string]bool // the interfaces that this node's addresses are on
	pools    *bart.Table[*model.Pool]
	mtu      mtuPlan
	tunnels  []Tunnel
	problems []string
	decided  map[model.NodeName][]decided
	shared   map[model.PublicKey][]model.NodeName // who published a key that others published too
}

func newCompiler(s *model.Snapshot, drivers []Driver) (*compiler, error) {
	self, ok := s.Nodes[s.Self]
	if !ok {
		return nil, fmt.Errorf("node %s has no Node record yet", s.Self)
	}
	if len(self.Addresses) == 0 {
		return nil, fmt.Errorf("node %s has no underlay address in its Node record", s.Self)
	}
	c := &compiler{s: s, self: self, drivers: drivers, under: newUnderlay(s.Underlay), pools: &bart.Table[*model.Pool]{},
		decided: make(map[model.NodeName][]decided, len(s.Nodes))}
	c.carriers = c.under.carriers(s.Underlay.Links, self.Addresses)
	for i := range s.Pools {
		c.addPool(&s.Pools[i])
	}
	c.planMTU()
	c.findShared()
	c.findTunnels()
	return c, nil
}

// view puts together what was decided; paths and peers are sorted.
func (c *compiler) view(paths []Path, peers []Peer) *View {
	v := &View{Self: c.s.Self, Paths: paths, Peers: peers, Tunnels: c.tunnels, Uplinks: slices.Sorted(maps.Keys(c.carriers))}
	v.Guard, v.Encrypted, v.Hosts = c.guard(peers), c.ready(), c.hosts()
	v.Problems = append(slices.Clone(c.problems), notReached("", paths)...)
	v.Problems = append(v.Problems, notReached("'s own address", v.Hosts)...)
	c.podMTU(v)
	slices.Sort(v.Problems)
	v.Problems = slices.Compact(v.Problems)
	return v
}

// notReached returns a sentence for each path that leads nowhere, or may; what says what of a node it leads to.
func notReached(what string, paths []Path) (problems []string) {
	for i := range paths {
		if p := &paths[i]; p.Reach == Unreachable {
			problems = append(problems, fmt.Sprintf("node %s%s is not reachable over %s: %s", p.Node, what, model.FamilyOf(p.Dst.Addr()), p.Why))
		} else if p.Unready {
			problems = append(problems, fmt.Sprintf("node %s%s may not be reachable over %s: %s", p.Node, what, model.FamilyOf(p.Dst.Addr()), p.Why))
		}
	}
	return problems
}

// addPool takes a pool in. A disabled pool may share its range with the one that replaces it: then
// the enabled one says how its traffic travels, and among equals the first by name.
func (c *compiler) addPool(p *model.Pool) {
	if link, ok := c.onLink(p.CIDR); ok {
		c.problem("IPPool %s (%s) overlaps %s, which is this host's own link: no route is made for it, since the nodes could not reach each other", p.Name, p.CIDR, link)
		return
	}
	if old, ok := c.pools.Get(p.CIDR); ok && (old.Disabled == p.Disabled && old.Name < p.Name || !old.Disabled && p.Disabled) {
		return
	}
	c.pools.Insert(p.CIDR, p)
}

// onLink returns a prefix of the interfaces that carry this node's addresses which overlaps cidr.
func (c *compiler) onLink(cidr netip.Prefix) (netip.Prefix, bool) {
	for _, l := range c.s.Underlay.Links {
		for _, a := range l.Addresses {
			if c.carriers[l.Name] && a.Masked().Overlaps(cidr) {
				return a.Masked(), true
			}
		}
	}
	return netip.Prefix{}, false
}

func (c *compiler) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

func (c *compiler) driver(e model.Encap) (Driver, bool) {
	for _, d := range c.drivers {
		if e != model.EncapNone && d.Encap == e && d.Device != "" {
			return d, true
		}
	}
	return Driver{}, false
}

// appendPaths decides a block and what was borrowed from it.
func (c *compiler) appendPaths(paths []Path, b *model.Block) []Path {
	if b.Node != "" {
		paths = append(paths, c.path(b.CIDR, b.Node))
	}
	for a, n := range b.Borrowed {
		if n != c.s.Self && b.CIDR.Contains(a) { // a block speaks for its own addresses only
			paths = append(paths, c.path(model.HostPrefix(a), n))
		}
	}
	return paths
}

func comparePaths(a, b Path) int {
	return cmp.Or(comparePrefix(a.Dst, b.Dst), cmp.Compare(a.Node, b.Node))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func (c *compiler) path(dst netip.Prefix, node model.NodeName) Path {
	pool, pooled := c.pools.Lookup(dst.Addr())
	if node == c.s.Self {
		return Path{Dst: dst, Node: node, Reach: Local, Foreign: !pooled, Why: "a block of this node"}
	}
	d := c.decide(node, pool, model.FamilyOf(dst.Addr()))
	return Path{Dst: dst, Node: node, Reach: d.reach, Via: d.via, Device: d.device, Source: d.source,
		MTU: d.mtu, DeviceMTU: d.deviceMTU, Foreign: !pooled, Unready: d.unready, Why: d.why}
}

// decided is a decision about the prefixes of one pool and family on one peer.
type decided struct {
	pool   *model.Pool // nil: none holds them
	family model.Family
	decision
}

type decision struct {
	reach          Reach
	via, source    netip.Addr
	device         string
	mtu, deviceMTU int
	why            string
	settled        bool // it is what the pool asks for, not what there is in the meantime
	unready        bool // the peer is not ready for it, and there is no other way
}

func (d decision) asWanted() decision {
	d.settled = true
	return d
}

// decide says how prefixes of one pool on one peer are reached; the many blocks that a node may
// have share the answer.
func (c *compiler) decide(node model.NodeName, pool *model.Pool, f model.Family) decision {
	for _, d := range c.decided[node] {
		if d.pool == pool && d.family == f {
			return d.decision
		}
	}
	d := c.decideNew(node, pool, f)
	c.decided[node] = append(c.decided[node], decided{pool, f, d})
	return d
}

func (c *compiler) decideNew(node model.NodeName, pool *model.Pool, f model.Family) decision {
	// An address outside every pool is nobody's to claim: whoever can write a block record must not
	// be able to draw arbitrary traffic to a node.
	if pool == nil {
		return decision{why: "no IPPool holds it"}
	}
	peer, ok := c.s.Nodes[node]
	if !ok {
		return decision{why: "node " + string(node) + " has no Node record"}
	}
	encrypted, missing := c.encrypted(peer, f, false)
	if !c.s.Encryption.Enabled(f) {
		clear := c.clear(peer, pool, f, "")
		switch {
		case missing != "" || clear.settled && !peer.Tunnels.EncryptedOnly:
		case c.s.Encryption.Any():
			encrypted.why += fmt.Sprintf(", although %s need not be: node %s refuses what is not", f, node)
			return encrypted
		default:
			encrypted.why += ", until node " + string(node) + " takes clear text again and this node has announced it"
			return encrypted
		}
		return clear
	}
	if missing == "" {
		return encrypted
	}
	if c.closed(node, f) {
		if encrypted, not := c.encrypted(peer, f, true); not == "" {
			return encrypted
		}
		return decision{why: "traffic to node " + string(node) + " must be encrypted, and " + missing}
	}
	return c.clear(peer, pool, f, "not encrypted, since "+missing+"; ")
}

// clear decides without encryption, as the pool says; why begins the sentence that explains it.
func (c *compiler) clear(peer *model.Node, pool *model.Pool, f model.Family, why string) decision {
	node := peer.Name
	to, ok := peer.Address(f)
	if !ok {
		return decision{why: why + fmt.Sprintf("node %s has no %s underlay address", node, f)}
	}
	h, ok := c.under.towards(to.Addr())
	if !ok {
		return decision{why: why + "this host has no route towards " + to.Addr().String()}
	}
	cross, mode := pool.CrossSubnet, why+modeText(pool)
	link := c.linkTo(peer, to.Addr(), f, h)
	if pool.Encap == model.EncapNone || cross && link.both() {
		if direct := (model.TunnelEnd{}); c.inPlay() && !c.self.MaySend(direct) && !c.s.IgnoreReadiness {
			mode += "; not yet: this node has not announced that it sends by " + direct.String()
			if i, _ := c.pick(peer, model.EncapNone, f); i >= 0 {
				return c.encapsulated(i, to.Addr(), h, mode)
			}
			return decision{why: mode}
		}
		return c.direct(to.Addr(), h, mode).asWanted()
	}
	if cross {
		mode += link.why(node, h)
	}
	i, missing := c.pick(peer, pool.Encap, f)
	switch {
	case i >= 0 && missing == "":
		return c.encapsulated(i, to.Addr(), h, mode).asWanted()
	case i >= 0:
		return c.encapsulated(i, to.Addr(), h, mode+"; not yet: "+missing)
	case c.mayGoDirect(pool, link):
		return c.direct(to.Addr(), h, mode+"; not yet: "+missing)
	}
	return decision{why: mode + ", and " + missing}
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
	switch {
	case !h.onLink():
		return " and the peer is behind gateway " + h.via.String()
	case !l.here:
		return " and the peer is on link on " + h.device + ", which does not carry this node's address"
	}
	return " and node " + string(node) + " does not see this node on its link"
}

func (c *compiler) linkTo(peer *model.Node, to netip.Addr, f model.Family, h hop) linkView {
	own, ok := c.self.Address(f)
	return linkView{here: h.onLink() && c.carriers[h.device], there: ok && seesOnLink(peer, own.Addr())}
}

func (c *compiler) direct(to netip.Addr, h hop, mode string) decision {
	d := decision{reach: Direct, via: to, device: h.device, mtu: c.hopMTU(h), deviceMTU: h.mtu}
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

// encapsulated is the way through the i-th tunnel device.
func (c *compiler) encapsulated(i int, to netip.Addr, h hop, why string) decision {
	t := c.tunnels[i]
	row, _ := c.driver(t.End.Encap)
	d := decision{reach: row.Reach, via: TunnelNextHop(to), device: t.Device, deviceMTU: t.MTU,
		mtu: c.insideMTU(&t, row.Overhead[t.Family], h), why: why}
	if t.Family == model.IPv6 && d.mtu < minMTU6 {
		d.why += fmt.Sprintf("; its way has room for %d bytes only, and IPv6 needs %d", d.mtu, minMTU6)
		d.mtu = minMTU6
	}
	if len(t.Addresses) > 0 {
		d.source = t.Addresses[0]
	}
	return d
}

// hold notes that p's node may send from p's prefix, if a pool holds it.
func (c *compiler) hold(holds map[model.NodeName][]netip.Prefix, p *Path) {
	if c.pools.Contains(p.Dst.Addr()) {
		holds[p.Node] = append(holds[p.Node], p.Dst)
	}
}

// appendPeers describes a node as the tunnels see it, once for each family; holds are its prefixes.
func (c *compiler) appendPeers(peers []Peer, name model.NodeName, holds []netip.Prefix) []Peer {
	n := c.s.Nodes[name]
	if n == nil || name == c.s.Self {
		return peers
	}
	for _, a := range n.Addresses {
		family := model.FamilyOf(a.Addr())
		// The peer itself may speak through its tunnel before it has a tunnel address.
		p := Peer{Node: name, Address: a.Addr(), MAC: n.VXLANMAC,
			Prefixes: append(make([]netip.Prefix, 0, len(holds)+2), model.HostPrefix(a.Addr())),
			Keys:     n.Keys, Outside: n.Outside, BehindNAT: n.BehindNAT}
		for _, h := range holds {
			if model.FamilyOf(h.Addr()) == family {
				p.Prefixes = append(p.Prefixes, h)
			} else {
				p.Other = append(p.Other, h)
			}
		}
		for _, o := range n.Addresses {
			if model.FamilyOf(o.Addr()) != family {
				p.Other = append(p.Other, model.HostPrefix(o.Addr()))
			}
		}
		for _, t := range n.TunnelAddresses {
			// One of a pool must be of a block of the node, or borrowed: no record claims another's pod.
			if model.FamilyOf(t) == family && !covered(p.Prefixes, t) && !c.pools.Contains(t) {
				p.Prefixes = append(p.Prefixes, model.HostPrefix(t))
			}
		}
		slices.SortFunc(p.Prefixes, comparePrefix)
		slices.SortFunc(p.Other, comparePrefix)
		peers = append(peers, p)
	}
	return peers
}

func comparePeers(a, b Peer) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), a.Address.Compare(b.Address))
}

func covered(ps []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(ps, func(p netip.Prefix) bool { return p.Contains(a) })
}

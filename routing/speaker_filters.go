package routing

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
)

// Names of the sets of prefixes; those of one node are "node/" and its name.
const (
	setSpecial    = "special"     // what no router may announce
	setNodeRanges = "node-ranges" // subnets of the nodes, and what contains them
	setCluster    = "cluster"     // pools, service addresses
	setNodes      = "nodes"       // what the other nodes may announce
)

// shortest is the shortest prefix that is accepted: less is a default route, or a part of one. No RIR
// and no RFC ever gave anybody more.
const shortest = 8

// special are ranges in which nothing is to be had by routing (RFC 6890), and whose hijacking would do
// harm: loopback, link-local (with the metadata services of clouds and our pods' gateway), multicast.
func special() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/32", "fe80::/10", "ff00::/8"} {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func anywhere(f model.Family) netip.Prefix {
	if f == model.IPv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// set keeps a set under its name; make is called for one that is not there yet.
func (c *speakerCompiler) set(name string, make func() PrefixSet) string {
	if _, known := c.sets[name]; !known {
		s := make()
		s.Name = name
		c.sets[name] = s
	}
	return name
}

// always are the rules before all others of every session: no default route, none of the special ranges.
func (c *speakerCompiler) always(f model.Family) []FilterRule {
	return []FilterRule{
		{By: "no default route, nor a part of one", CIDR: anywhere(f), Match: MatchIn, MaxLength: shortest - 1},
		{By: "no loopback, link-local or multicast addresses", Set: c.set(setSpecial, func() PrefixSet { return PrefixSet{Within: special()} })},
	}
}

// nodeImports are the rules in front of what another node may tell. A node may announce exactly what it
// holds by the store: its blocks, single addresses that it uses of others' blocks, and service addresses.
// A route reflector may announce what any other node holds. One that may tell of routers outside (tells) may
// announce, besides, what such a router may.
func (c *speakerCompiler) nodeImports(n *model.Node, f model.Family) []FilterRule {
	rules := c.always(f)
	only := FilterRule{By: "only what node " + string(n.Name) + " holds, and service addresses", NotInSet: true}
	if c.reflects(n, f) {
		only.By, only.Set = "only what other nodes hold, and service addresses", c.set(setNodes, c.nodesSet)
	} else {
		only.Set = c.set("node/"+string(n.Name), func() PrefixSet { return PrefixSet{Exact: c.held[n.Name], Within: c.services} })
	}
	if !c.tells(n, f) {
		return append(rules, only)
	}
	rules = append(rules, c.noNodeRanges())
	for _, p := range c.clusterRanges() {
		if model.FamilyOf(p.Addr()) == f {
			only.CIDR, only.Match = p, MatchIn
			rules = append(rules, only)
		}
	}
	return rules
}

// tells whether node n may tell other nodes of what routers announce: a reflector by its record, where a BGPPeer gives
// it one; and where nodes share what they learn, every node that has one, and who reflects for it.
func (c *speakerCompiler) tells(n *model.Node, f model.Family) bool {
	switch share := c.in.BGP.Config.ShareLearned; {
	case n.BGP.ClusterID.IsValid() || share && !c.reflects(n, f):
		return c.hasRouter(n)
	default:
		return share && c.anyRouter
	}
}

// nodesSet is what all other nodes hold.
func (c *speakerCompiler) nodesSet() PrefixSet {
	s := PrefixSet{Within: c.services}
	for n, held := range c.held {
		if n != c.in.Self && c.in.Nodes[n] != nil {
			s.Exact = append(s.Exact, held...)
		}
	}
	slices.SortFunc(s.Exact, comparePrefix)
	s.Exact = slices.Compact(s.Exact)
	return s
}

// hasRouter tells whether some BGPPeer gives node n a router outside of the cluster.
func (c *speakerCompiler) hasRouter(n *model.Node) bool {
	return slices.ContainsFunc(c.peers, func(p preparedPeer) bool {
		return p.remotes == nil && p.node == nil && p.isLocal(n)
	})
}

// routerImports are the rules in front of what a router outside may tell: nothing of the cluster.
func (c *speakerCompiler) routerImports(a netip.Addr) []FilterRule {
	return append(c.always(model.FamilyOf(a)), c.noNodeRanges(),
		FilterRule{By: "no addresses of pods or services", Set: c.clusterSet()})
}

func (c *speakerCompiler) noNodeRanges() FilterRule {
	return FilterRule{By: "no subnet of a node, nor what contains one", Set: c.set(setNodeRanges, func() PrefixSet {
		var all []netip.Prefix
		for _, name := range c.names {
			for _, a := range c.in.Nodes[name].Addresses {
				all = append(all, a.Masked())
			}
		}
		slices.SortFunc(all, comparePrefix)
		all = slices.Compact(all)
		return PrefixSet{Within: all, Covers: all}
	})}
}

func (c *speakerCompiler) clusterSet() string {
	return c.set(setCluster, func() PrefixSet { return PrefixSet{Within: c.clusterRanges()} })
}

// clusterRanges are the pools and the ranges of service addresses, and own blocks that no pool holds any
// more. Sorted.
func (c *speakerCompiler) clusterRanges() []netip.Prefix {
	all := slices.Clone(c.services)
	cfg := &c.in.BGP.Config
	all = slices.Concat(all, cfg.ClusterIPs, cfg.ExternalIPs, cfg.LoadBalancerIPs)
	for i := range c.in.Pools {
		all = append(all, c.in.Pools[i].CIDR)
	}
	for p, b := range c.in.Blocks {
		if b.Node == c.in.Self && !slices.ContainsFunc(c.in.Pools, func(pool model.Pool) bool { return contains(pool.CIDR, p) }) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, comparePrefix)
	return slices.Compact(all)
}

// nodeExports are the rules in front of what another node is told: by all but route reflectors only what
// is their own and, where nodes share what they learn, what a router outside told them.
func (c *speakerCompiler) nodeExports(f model.Family) []FilterRule {
	switch {
	case c.self.BGP.ClusterID.IsValid():
		return nil
	case c.in.Reflects || c.reflects(c.self, f):
		if c.in.BGP.Config.ShareLearned {
			return nil
		}
		return []FilterRule{c.onlyCluster()}
	case !c.tells(c.self, f):
		return []FilterRule{{By: "nothing learned: this node is no route reflector", RemotePeers: true}}
	}
	return []FilterRule{
		{By: "nothing learned from nodes: this node is no route reflector", RemotePeers: true, Internal: true},
		{By: "of what routers announce, nothing of the cluster", RemotePeers: true, Set: c.clusterSet()},
	}
}

// routerExports are the rules in front of what a router is told. A reflector by its record tells of the other
// nodes, too; one that was chosen does not, for what routers know is not to depend on who is; nobody makes the
// cluster a way from one router to another.
func (c *speakerCompiler) routerExports() []FilterRule {
	if c.self.BGP.ClusterID.IsValid() {
		return []FilterRule{c.onlyCluster()}
	}
	return []FilterRule{{By: "nothing learned: this node is no route reflector", RemotePeers: true}}
}

func (c *speakerCompiler) onlyCluster() FilterRule {
	return FilterRule{By: "of what was learned, only what is of the cluster", RemotePeers: true, Set: c.clusterSet(), NotInSet: true}
}

// filters returns the rules of the BGPFilters of a session, in order. One that does not exist refuses
// everything: what it would have kept out is not known.
func (c *speakerCompiler) filters(s *Session, p *model.BGPPeer, export bool) []FilterRule {
	if p == nil {
		return nil
	}
	f := model.FamilyOf(s.Peer)
	var rules []FilterRule
	for _, name := range p.Filters {
		filter := c.in.BGP.Filters[name]
		if filter == nil {
			if !export { // once is enough
				c.fail("BGPPeer %s: BGPFilter %s does not exist: session with %v takes and gives nothing", p.Name, name, s.Peer)
			}
			return append(rules, FilterRule{By: "BGPFilter " + name + ", which does not exist"})
		}
		from, direction := filter.Import[f], "import"
		if export {
			from, direction = filter.Export[f], "export"
		}
		for i := range from {
			if r, can := filterRule(&from[i], s.ASN != s.LocalASN); can {
				r.By = fmt.Sprintf("BGPFilter %s %s %d", name, direction, i+1)
				rules = append(rules, r)
			}
		}
	}
	return rules
}

// filterRule converts a rule; false where it never applies to a session of this kind.
func filterRule(m *model.BGPFilterRule, ebgp bool) (FilterRule, bool) {
	r := FilterRule{Accept: m.Accept, CIDR: m.CIDR, Match: MatchOperator(m.Match), RemotePeers: m.RemotePeers, Interface: m.Interface,
		EBGP: m.EBGP, IBGP: m.IBGP, Community: m.Community, ASPath: m.ASPath, Priority: m.Priority}
	if m.EBGP && !ebgp || m.IBGP && ebgp {
		return r, false
	}
	if m.MinLength != nil {
		r.MinLength = *m.MinLength
	}
	if m.MaxLength != nil {
		if r.MaxLength = *m.MaxLength; r.MaxLength == 0 { // only the default route is as short as that
			if r.CIDR.IsValid() && (r.CIDR.Bits() > 0) == (r.Match == MatchEqual || r.Match == MatchIn) || r.MinLength > 0 {
				return r, false
			}
			r.CIDR, r.Match = netip.PrefixFrom(m.CIDR.Addr(), 0), MatchEqual
		}
	}
	for _, o := range m.Operations {
		r.Operations = append(r.Operations, FilterAction(o))
	}
	return r, true
}

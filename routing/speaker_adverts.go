package routing

import (
	"net/netip"
	"slices"

	"weft/model"
)

// NoServicesLabel on a node, with any value, keeps it from advertising addresses of services. It is
// Kubernetes' own.
const NoServicesLabel = "node.kubernetes.io/exclude-from-external-load-balancers"

// adverts returns what this host originates: its blocks whole, each address that it uses of another
// node's block, the ranges of service addresses, and single addresses of services: with externalTrafficPolicy
// Local where an endpoint is ready on this host, else, in ranges that are not announced whole, where one
// is ready anywhere. A pool with disableBGPExport is announced to nobody: routers are not to know it,
// and the other nodes have it from the store.
func (c *speakerCompiler) adverts() []Advertisement {
	all := map[netip.Prefix]string{}
	for _, p := range c.held[c.in.Self] {
		if all[p] = "a block of this node"; p.IsSingleIP() && c.in.Blocks[p] == nil {
			all[p] = "an address that this node uses of another's block"
		}
	}
	services := map[netip.Prefix]string{}
	if _, no := c.self.Labels[NoServicesLabel]; !no {
		c.serviceAdverts(services)
	}
	adverts := make([]Advertisement, 0, len(all)+len(services))
	for p, why := range all {
		adverts = append(adverts, Advertisement{Prefix: p, Communities: c.communities(p), Why: why})
	}
	for p, why := range services { // no range of services overlaps with a pool
		adverts = append(adverts, Advertisement{Prefix: p, Communities: c.communities(p), Why: why, Service: true})
	}
	slices.SortFunc(adverts, func(a, b Advertisement) int { return comparePrefix(a.Prefix, b.Prefix) })
	return adverts
}

// Services returns what is announced of service addresses, sorted.
func (s *Speaker) Services() []netip.Prefix {
	var all []netip.Prefix
	for i := range s.Advertisements {
		if a := &s.Advertisements[i]; a.Service {
			all = append(all, a.Prefix)
		}
	}
	return all
}

// communities are those of all ranges that hold p.
func (c *speakerCompiler) communities(p netip.Prefix) []string {
	var all []string
	for _, a := range c.in.BGP.Config.Communities {
		if contains(a.CIDR, p) {
			all = append(all, a.Communities...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// serviceRange is a range of service addresses.
type serviceRange struct {
	cidr  netip.Prefix
	whole bool // announced whole, by every node
}

// serviceAdverts adds those of services.
func (c *speakerCompiler) serviceAdverts(all map[netip.Prefix]string) {
	cfg := &c.in.BGP.Config
	kinds := []struct {
		name    string
		ranges  []serviceRange
		address func(*model.BGPService) []netip.Addr
	}{
		{"cluster", c.ranges(cfg.ClusterIPs, false), func(s *model.BGPService) []netip.Addr { return s.ClusterIPs }},
		{"external", c.ranges(cfg.ExternalIPs, false), func(s *model.BGPService) []netip.Addr { return s.ExternalIPs }},
		{"load balancer", c.ranges(cfg.LoadBalancerIPs, cfg.EachLoadBalancerIP), func(s *model.BGPService) []netip.Addr { return s.LoadBalancerIPs }},
	}
	for _, k := range kinds {
		for _, r := range k.ranges {
			if r.whole {
				all[r.cidr] = "the range of " + k.name + " addresses of services"
			}
		}
	}
	for i := range c.in.BGP.Services {
		s := &c.in.BGP.Services[i]
		for _, k := range kinds {
			for _, a := range k.address(s) {
				if why, yes := c.advertises(s, a, k.ranges); yes {
					if p := model.HostPrefix(a); all[p] == "" || why < all[p] {
						all[p] = why
					}
				}
			}
		}
	}
}

// advertises tells whether this host announces one address of a service by itself, and why.
func (c *speakerCompiler) advertises(s *model.BGPService, a netip.Addr, ranges []serviceRange) (why string, yes bool) {
	best := serviceRange{cidr: netip.PrefixFrom(netip.Addr{}, -1)}
	for _, r := range ranges {
		if r.cidr.Contains(a) && r.cidr.Bits() > best.cidr.Bits() {
			best = r
		}
	}
	ready := s.Ready[model.FamilyOf(a)]
	switch {
	case !best.cidr.IsValid():
		return "", false
	case s.Local:
		_, here := slices.BinarySearch(ready, c.in.Self)
		return "service " + s.ID.String() + ", with an endpoint here", here
	}
	return "service " + s.ID.String(), !best.whole && len(ready) > 0
}

// ranges keeps those that are announced.
func (c *speakerCompiler) ranges(cidrs []netip.Prefix, each bool) []serviceRange {
	out := make([]serviceRange, 0, len(cidrs))
	for _, p := range cidrs {
		if c.announced(p) {
			out = append(out, serviceRange{cidr: p, whole: !each && !p.IsSingleIP()})
		}
	}
	return out
}

func (c *speakerCompiler) announced(p netip.Prefix) bool {
	_, ok := slices.BinarySearchFunc(c.services, p, comparePrefix)
	return ok
}

// serviceRanges returns the ranges of service addresses. One that overlaps with a pool, or with the
// address of a node, is an error: to announce it would draw traffic of others here.
func (c *speakerCompiler) serviceRanges() []netip.Prefix {
	cfg := &c.in.BGP.Config
	var good []netip.Prefix
	for _, p := range slices.Concat(cfg.ClusterIPs, cfg.ExternalIPs, cfg.LoadBalancerIPs) {
		if why := c.taken(p); why != "" {
			c.fail("BGPConfiguration: service range %v overlaps with %s; it is not announced", p, why)
			continue
		}
		good = append(good, p)
	}
	slices.SortFunc(good, comparePrefix)
	return slices.Compact(good)
}

// taken says what of the cluster a range of service addresses overlaps with.
func (c *speakerCompiler) taken(p netip.Prefix) string {
	for i := range c.in.Pools {
		if pool := &c.in.Pools[i]; pool.CIDR.Overlaps(p) {
			return "IPPool " + pool.Name
		}
	}
	for a, n := range c.byAddr {
		if p.Contains(a) {
			return "the address of node " + string(c.lowest(p, n.Name))
		}
	}
	return ""
}

// lowest names, the same every time, one of the nodes with an address in p.
func (c *speakerCompiler) lowest(p netip.Prefix, n model.NodeName) model.NodeName {
	for a, other := range c.byAddr {
		if p.Contains(a) && other.Name < n {
			n = other.Name
		}
	}
	return n
}

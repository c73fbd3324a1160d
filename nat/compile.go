package nat

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
	"weft/model/topology"
)

// firstPort is the lowest new source port when nothing is asked for: below are those of services.
const firstPort = 1024

// Compile says what this host translates: what pods of a pool with natOutgoing send to a
// destination outside every pool, disabled ones included, and, with cfg.SpareHosts, to none of the
// nodes; and what this host's processes send through tunnels from another address than the
// tunnel's. nodes are read only with cfg.SpareHosts.
//
// The errors, joined, name what of cfg cannot be done; the plan is good for everything else and is
// to be applied also when there is an error.
func Compile(cfg model.NATConfig, pools []model.Pool, nodes map[model.NodeName]*model.Node, tunnels []topology.Tunnel) (Plan, error) {
	// A packet of a connection that was translated must be so until its end, also when its pool no
	// longer asks for it.
	p := Plan{Hold: len(pools) > 0}
	var errs []error
	udp, err := udpPorts(cfg.Ports, tunnels)
	errs = append(errs, err)
	if cfg.Address.IsValid() && !cfg.Address.Is4() {
		errs = append(errs, fmt.Errorf("natOutgoingAddress %s: want an IPv4 address; the interface's own is used", cfg.Address))
		cfg.Address = netip.Addr{}
	}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		var from, all []netip.Prefix
		for i := range pools {
			if model.FamilyOf(pools[i].CIDR.Addr()) != f {
				continue
			}
			all = append(all, pools[i].CIDR)
			if pools[i].NATOutgoing {
				from = append(from, pools[i].CIDR)
			}
		}
		if len(from) == 0 {
			continue
		}
		o := Outgoing{Family: f, From: Merge(from), Spared: Merge(all), Ports: usable(cfg.Ports), UDPPorts: udp, Interface: cfg.Interface}
		if f == model.IPv4 {
			o.To = cfg.Address
		}
		if cfg.SpareHosts {
			o.Hosts = hosts(nodes, f)
		}
		p.Outgoing = append(p.Outgoing, o)
	}
	for i := range tunnels {
		pods := tunnels[i].End.Encap == model.EncapWireGuard
		for _, a := range tunnels[i].Addresses {
			p.Tunnels = append(p.Tunnels, Tunnel{tunnels[i].Device, a, pods})
		}
		if pods && len(tunnels[i].Addresses) > 0 && p.Pods == nil {
			p.Pods = Merge(ranges(pools))
		}
	}
	slices.SortFunc(p.Tunnels, func(a, b Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Address.Compare(b.Address))
	})
	p.Tunnels = slices.Compact(p.Tunnels)
	return p, errors.Join(errs...)
}

func ranges(pools []model.Pool) []netip.Prefix {
	all := make([]netip.Prefix, len(pools))
	for i := range pools {
		all[i] = pools[i].CIDR
	}
	return all
}

func hosts(nodes map[model.NodeName]*model.Node, f model.Family) []netip.Addr {
	all := make([]netip.Addr, 0, len(nodes))
	for _, n := range nodes {
		if a, ok := n.Address(f); ok {
			all = append(all, a.Addr())
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// usable returns the range without port 0, which nobody can answer to. 0 alone is no range.
func usable(r model.PortRange) model.PortRange {
	if r.Last == 0 {
		return model.PortRange{}
	}
	return model.PortRange{First: max(r.First, 1), Last: r.Last}
}

// udpPorts returns the largest part of the range that has no tunnel's port. A pod that got such a
// port as its source could have the tunnel packets of a peer taken for answers to it: the kernel
// translates answers before the tunnel sees them.
func udpPorts(asked model.PortRange, tunnels []topology.Tunnel) (model.PortRange, error) {
	r := usable(asked)
	var taken []int
	for i := range tunnels {
		if p := tunnels[i].Port; p > 0 && p <= 65535 {
			taken = append(taken, p)
		}
	}
	if len(taken) == 0 {
		return r, nil
	}
	if r.IsZero() {
		return largestGap(model.PortRange{First: firstPort, Last: 65535}, taken), nil
	}
	if gap := largestGap(r, taken); !gap.IsZero() {
		return gap, nil
	}
	gap := largestGap(model.PortRange{First: firstPort, Last: 65535}, taken)
	return gap, fmt.Errorf("natPortRange %s: all of it is ports of tunnels, so UDP uses %s: set another range, or another vxlanPort", r, gap)
}

// largestGap returns the longest run of ports of r that has none of taken, the lowest of equals.
func largestGap(r model.PortRange, taken []int) model.PortRange {
	var best model.PortRange
	length := 0
	first := int(r.First)
	slices.Sort(taken)
	for _, t := range append(taken, int(r.Last)+1) {
		t = min(t, int(r.Last)+1)
		if t-first > length {
			best, length = model.PortRange{First: uint16(first), Last: uint16(t - 1)}, t-first
		}
		first = max(first, t+1)
	}
	return best
}

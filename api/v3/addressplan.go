package v3

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PoolOverlap checks that p, among the other pools, leaves no doubt which pool an address belongs to.
// Two that are enabled share no address. One that is enabled may have the very range of a disabled
// one, which it replaces; a part of it would take over, or give up, how addresses in use are reached.
// Two disabled pools are nobody's matter. p itself among the others is known by its name.
func PoolOverlap(p *IPPool, others ...*IPPool) error {
	cidr, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil {
		return nil
	}
	advice := "disable the other pool first, which works when both have the same range"
	var found []string
	for _, other := range others {
		if other.Name == p.Name || p.Spec.Disabled && other.Spec.Disabled {
			continue
		}
		q, err := netip.ParsePrefix(other.Spec.CIDR)
		if err != nil || !q.Overlaps(cidr) {
			continue
		}
		what := other.Name + " (" + other.Spec.CIDR + ")"
		if p.Spec.Disabled || other.Spec.Disabled {
			if q == cidr {
				continue
			}
			advice = "the whole range of the disabled one, or delete that one first: pods may still have addresses of it"
		}
		if other.Spec.Disabled {
			what = other.Name + " (" + other.Spec.CIDR + ", disabled)"
		}
		found = append(found, what)
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	return field.Invalid(field.NewPath("spec", "cidr"), p.Spec.CIDR,
		fmt.Sprintf("overlaps IPPool %s: want a range of its own, or %s", strings.Join(found, ", "), advice))
}

// NodeAddresses returns the underlay addresses of a node, each with the prefix length of its subnet.
// What is not an address is left out.
func NodeAddresses(n *Node) []netip.Prefix {
	if n == nil || n.Spec.BGP == nil {
		return nil
	}
	var out []netip.Prefix
	for _, s := range []string{n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address} {
		p, err := netip.ParsePrefix(s)
		if a, addrErr := netip.ParseAddr(s); addrErr == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

// PoolOnUnderlay checks that no node's address is in pool p, nor its subnet a part of p or around it:
// traffic to such a node would be taken for a pod's, and the tunnels' own packets sent into a tunnel. In a
// pool of LoadBalancer addresses those of a subnet are in place.
func PoolOnUnderlay(p *IPPool, nodes ...*Node) error {
	cidr, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil {
		return nil
	}
	announced := len(p.Spec.AllowedUses) == 1 && p.Spec.AllowedUses[0] == UseLoadBalancer
	var found []string
	for _, n := range nodes {
		for _, a := range NodeAddresses(n) {
			switch subnet := a.Masked(); {
			case cidr.Contains(a.Addr()):
				found = append(found, fmt.Sprintf("contains the address %s of node %s", a.Addr(), n.Name))
			case !announced && subnet.Overlaps(cidr):
				found = append(found, fmt.Sprintf("overlaps the subnet %s of node %s", subnet, n.Name))
			}
		}
	}
	if len(found) == 0 {
		return nil
	}
	slices.Sort(found)
	why := found[0]
	if more := len(found) - 1; more > 0 {
		why += fmt.Sprintf(" (and the like of %d more)", more)
	}
	return field.Invalid(field.NewPath("spec", "cidr"), p.Spec.CIDR, why+": want a range that no host of the underlay has")
}

// NodeAddressTaken checks that no underlay address of n is in a pool or another node's; owner returns the
// other node that has an address, or "".
func NodeAddressTaken(n *Node, pools []*IPPool, owner func(netip.Addr) string) error {
	for _, a := range NodeAddresses(n) {
		at := field.NewPath("spec", "bgp", "ipv4Address")
		if a.Addr().Is6() {
			at = field.NewPath("spec", "bgp", "ipv6Address")
		}
		if other := owner(a.Addr()); other != "" && other != n.Name {
			return field.Invalid(at, a.String(), fmt.Sprintf("node %s has this address: give one of the two another, or delete node %s if it is gone for good", other, other))
		}
		for _, p := range pools {
			if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil && cidr.Contains(a.Addr()) {
				return field.Invalid(at, a.String(), fmt.Sprintf("lies in IPPool %s (%s), whose addresses are for pods: give the node another address, or replace the pool", p.Name, p.Spec.CIDR))
			}
		}
	}
	return nil
}

package v3

import (
	"net/netip"
	"slices"
	"strings"
)

// The most that a node says of its interfaces, and that is made of it.
const (
	MaxHostInterfaces = 64
	MaxHostAddresses  = 64 // of all of them together
)

// AllNodeAddresses returns the addresses of a node and of its tunnels, sorted, each once. What does not parse is left out.
func AllNodeAddresses(n *Node) []netip.Addr {
	texts := []string{n.Spec.IPv4VXLANTunnelAddr, n.Spec.IPv6VXLANTunnelAddr}
	if b := n.Spec.BGP; b != nil {
		texts = append(texts, b.IPv4Address, b.IPv6Address, b.IPv4IPIPTunnelAddr)
	}
	if w := n.Spec.Wireguard; w != nil {
		texts = append(texts, w.InterfaceIPv4Address, w.InterfaceIPv6Address)
	}
	for _, a := range n.Spec.Addresses {
		texts = append(texts, a.Address)
	}
	var addrs []netip.Addr
	for _, s := range texts {
		s, _, _ = strings.Cut(s, "/")
		if a, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

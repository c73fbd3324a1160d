package topology

import (
	"hash/fnv"
	"net/netip"
)

// TunnelNextHop returns the address under which a peer is the next hop inside a tunnel device, from
// its underlay address. Routes and neighbour entries agree by both using it.
//
// For IPv4 that is the underlay address itself. For IPv6 it is a link-local address made from a
// hash of it: Linux refuses an IPv6 next hop that another device has a route to ("Nexthop has
// invalid gateway or device mismatch", on-link flag or not), and the underlay does have one.
// Link-local next hops are exempt.
func TunnelNextHop(underlay netip.Addr) netip.Addr {
	if !underlay.Is6() || underlay.Is4In6() {
		return underlay
	}
	b := underlay.As16()
	h := fnv.New64a()
	h.Write(b[:])
	return netip.AddrFrom16([16]byte(h.Sum([]byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0})))
}

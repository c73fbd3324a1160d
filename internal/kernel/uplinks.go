package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// UplinksTo returns the indexes of the interfaces through which the main table's IPv4 unicast routes
// that are not ours lead to the addresses; of a route over several next hops, all of them.
func (h *Handle) UplinksTo(ctx context.Context, addrs []netip.Addr) (map[int]bool, error) {
	body := (&encoder{}).raw(unix.AF_INET, 0, 0, 0, MainTable, 0, 0, 0).rawU32(0).u32(unix.RTA_TABLE, MainTable).b
	msgs, err := h.dump(ctx, unix.RTM_GETROUTE, body)
	if err != nil {
		return nil, fmt.Errorf("list routes of the underlay: %w", err)
	}
	routes := map[netip.Prefix][]int{}
	for _, m := range msgs {
		r, ok := parseRoute(m.body)
		if !ok || m.typ != unix.RTM_NEWROUTE || r.typ != unix.RTN_UNICAST || r.cloned || r.protocol == RouteProtocol || r.key.Table != MainTable {
			continue
		}
		routes[r.key.Dst] = append(routes[r.key.Dst], hopLinks(r)...)
	}
	out := map[int]bool{}
	for _, a := range addrs {
		for bits := a.BitLen(); bits >= 0; bits-- {
			p, err := a.Prefix(bits)
			links, ok := routes[p]
			if err != nil || !ok {
				continue
			}
			for _, index := range links {
				out[index] = true
			}
			break
		}
	}
	return out, nil
}

// hopLinks returns the interfaces of all next hops of a route.
func hopLinks(r rawRoute) []int {
	if len(r.hops) < 2 {
		return []int{r.oif}
	}
	out := make([]int, len(r.hops))
	for i, h := range r.hops {
		out[i] = h.oif
	}
	return out
}

package kernel

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weft/model"
)

// Owned tells whether a device of this name is ours: a tunnel device or the host side of a pod's
// link.
func Owned(device string) bool { return strings.HasPrefix(device, PodLinkPrefix) }

// Underlay reads this host's own view of the network that carries the tunnels: the links that
// are not ours, and the unicast routes of the main table that are not ours, of both families. Where
// several routes share a prefix the one with the lowest metric is kept, as the kernel does; of a
// multipath route the first next hop.
func Underlay(ctx context.Context, h *Handle) (model.Underlay, error) {
	links, err := h.Links(ctx)
	if err != nil {
		return model.Underlay{}, err
	}
	routes, err := h.dumpRoutes(ctx, routeFilter{table: MainTable})
	if err != nil {
		return model.Underlay{}, err
	}
	addrs, err := h.globalAddresses(ctx)
	if err != nil {
		return model.Underlay{}, err
	}
	return underlay(links, addrs, routes), nil
}

// globalAddresses reads the global unicast addresses of every link, by its index, in the kernel's
// order. IPv6 addresses that may go or are not usable yet (temporary, deprecated, tentative; flags
// in linux/if_addr.h) do not count: a node is not known by them.
func (h *Handle) globalAddresses(ctx context.Context) (map[int][]netip.Prefix, error) {
	msgs, err := h.dump(ctx, unix.RTM_GETADDR, make([]byte, ifAddrMsgSize))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	const unsteady = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	out := map[int][]netip.Prefix{}
	for _, m := range msgs {
		index, p, ok := parseAddrMsg(m.body)
		if !ok || !p.Addr().IsGlobalUnicast() || p.Addr().Is6() && m.body[2]&unsteady != 0 {
			continue
		}
		out[index] = append(out[index], p)
	}
	return out, nil
}

func underlay(links []Link, addrs map[int][]netip.Prefix, routes []readRoute) model.Underlay {
	var u model.Underlay
	up := make(map[string]bool)
	for _, l := range links {
		if l.Name == "lo" || Owned(l.Name) {
			continue
		}
		up[l.Name] = l.Up
		u.Links = append(u.Links, model.Link{Name: l.Name, MTU: l.MTU, Up: l.Up, Addresses: addrs[l.Index]})
	}
	best := make(map[netip.Prefix]model.UnderlayRoute)
	for _, r := range routes {
		via, device := r.route.Via, r.route.Device
		if hops := r.route.Hops.All(); len(hops) > 0 {
			via = hops[0].Via
			device, _, _ = strings.Cut(hops[0].Device, " ")
		}
		_, known := up[device]
		if r.typ != unix.RTN_UNICAST || r.cloned || r.protocol == RouteProtocol || r.key.Table != MainTable || !known {
			continue
		}
		n := model.UnderlayRoute{Dst: r.key.Dst, Via: via, Device: device,
			MTU: r.route.MTU, Src: r.route.Source, Metric: r.key.Metric}
		if have, ok := best[n.Dst]; !ok || compareUnderlay(n, have) < 0 {
			best[n.Dst] = n
		}
	}
	for _, r := range best {
		u.Routes = append(u.Routes, r)
	}
	slices.SortFunc(u.Links, func(a, b model.Link) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(u.Routes, func(a, b model.UnderlayRoute) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()))
	})
	return u
}

// compareUnderlay orders routes of one prefix: the lowest metric first; then, so that the choice
// does not change from one reading to the next, by device and next hop. IPv6 link-local prefixes
// are on every link with one metric.
func compareUnderlay(a, b model.UnderlayRoute) int {
	return cmp.Or(cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Device, b.Device), a.Via.Compare(b.Via))
}

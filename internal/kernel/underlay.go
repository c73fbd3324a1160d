package kernel

import (
	"cmp"
	"context"
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
	return underlay(links, routes), nil
}

func underlay(links []Link, routes []readRoute) model.Underlay {
	var u model.Underlay
	up := make(map[string]bool)
	for _, l := range links {
		if l.Name == "lo" || Owned(l.Name) {
			continue
		}
		up[l.Name] = l.Up
		u.Links = append(u.Links, model.Link{Name: l.Name, MTU: l.MTU, Up: l.Up})
	}
	best := make(map[netip.Prefix]model.UnderlayRoute)
	for _, r := range routes {
		device, _, _ := strings.Cut(r.route.Device, " ") // of a multipath route
		_, known := up[device]
		if r.typ != unix.RTN_UNICAST || r.cloned || r.protocol == RouteProtocol || r.key.Table != MainTable || !known {
			continue
		}
		n := model.UnderlayRoute{Dst: r.key.Dst, Via: r.route.Via, Device: device,
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

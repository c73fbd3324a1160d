package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// RouteTo asks the kernel which way a packet of this host to dst would go now: device, next hop and
// the source address that it would have. Where there is none the error wraps unix.ENETUNREACH, or
// what else the matching route's type says.
func (h *Handle) RouteTo(ctx context.Context, dst netip.Addr) (Route, error) {
	return h.routeTo(ctx, dst, 0)
}

// UnderlayTo is RouteTo for a packet of a tunnel, which HostTable does not lead into another one.
func (h *Handle) UnderlayTo(ctx context.Context, dst netip.Addr) (Route, error) {
	return h.routeTo(ctx, dst, UnderlayMark)
}

func (h *Handle) routeTo(ctx context.Context, dst netip.Addr, mark uint32) (Route, error) {
	e := &encoder{}
	e.raw(familyOf(dst), uint8(dst.BitLen()), 0, 0, 0, 0, 0, 0).rawU32(0).addr(unix.RTA_DST, dst)
	if mark != 0 {
		e.u32(unix.RTA_MARK, mark)
	}
	m, err := h.query(ctx, unix.RTM_GETROUTE, e.b)
	if err != nil {
		return Route{}, fmt.Errorf("look up the route to %v: %w", dst, err)
	}
	r, ok := parseRoute(m.body)
	if !ok {
		return Route{}, fmt.Errorf("look up the route to %v: the kernel's answer has no route", dst)
	}
	if r.oif == 0 {
		return r.route, nil
	}
	m, err = h.query(ctx, unix.RTM_GETLINK, ifInfo(r.oif, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).b)
	if err != nil {
		return Route{}, fmt.Errorf("look up the device of the route to %v: %w", dst, err)
	}
	l, _ := parseLink(m.body)
	return r.named(func(int) string { return l.Name }).route, nil
}

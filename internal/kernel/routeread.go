package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"weft/model"
)

// routeFilter selects what a dump returns; zero fields select everything.
type routeFilter struct {
	table    int
	protocol uint8
}

// readRoute is a route as the kernel has it.
type readRoute struct {
	key      RouteKey
	route    Route
	protocol int
	typ      uint8
	cloned   bool // a cache entry and no route of the table
}

// dumpRoutes reads the routes of both families that the filter selects.
func (h *Handle) dumpRoutes(ctx context.Context, f routeFilter) ([]readRoute, error) {
	var raw []rawRoute
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		table := uint8(unix.RT_TABLE_UNSPEC)
		if f.table < 256 {
			table = uint8(f.table)
		}
		e := &encoder{}
		e.raw(family, 0, 0, 0, table, f.protocol, 0, 0).rawU32(0)
		if f.table != 0 {
			e.u32(unix.RTA_TABLE, uint32(f.table))
		}
		msgs, err := h.dump(ctx, unix.RTM_GETROUTE, e.b)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // the table has never been used, or the kernel lacks the family
		}
		if err != nil {
			return nil, fmt.Errorf("list routes of table %d: %w", f.table, err)
		}
		for _, m := range msgs {
			if r, ok := parseRoute(m.body); ok && m.typ == unix.RTM_NEWROUTE {
				raw = append(raw, r)
			}
		}
	}
	if len(raw) == 0 {
		return nil, nil
	}
	// Links after routes: a device that a route uses exists by now, or is gone with its routes.
	links, err := h.Links(ctx)
	if err != nil {
		return nil, err
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	routes := make([]readRoute, len(raw))
	for i, r := range raw {
		routes[i] = r.named(func(index int) string { return names[index] })
	}
	return routes, nil
}

// rawRoute is a route with an interface index in place of the name.
type rawRoute struct {
	readRoute
	oif  int
	hops []rawHop // of a multipath route
}

// rawHop is a next hop of a multipath route.
type rawHop struct {
	via    netip.Addr
	oif    int
	onLink bool
	weight int // less 1
}

func (r rawRoute) named(name func(index int) string) readRoute {
	res := r.readRoute
	device := func(index int) string { return cmp.Or(name(index), "if"+strconv.Itoa(index)) }
	if r.oif != 0 {
		res.route.Device = device(r.oif)
	}
	if len(r.hops) < 2 {
		return res
	}
	hops := make([]model.Hop, len(r.hops))
	for i, h := range r.hops {
		hops[i] = model.Hop{Via: h.via, Device: device(h.oif)}
		if h.weight != r.hops[0].weight || h.onLink != r.hops[0].onLink || slices.Contains(hops[:i], hops[i]) {
			hops[i].Device += " otherwise" // we write none such: this can never be equal to one of ours
		}
	}
	res.route.Via, res.route.Device, res.route.Hops = netip.Addr{}, "", model.HopsOf(hops)
	return res
}

// parseRoute reads a route message of the routing netlink. The route of a multipath message is its
// first next hop.
func parseRoute(b []byte) (rawRoute, bool) {
	if len(b) < rtMsgSize || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return rawRoute{}, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	var r rawRoute
	r.key.Table, r.protocol, r.typ = int(b[4]), int(b[5]), b[7]
	r.cloned = flags&unix.RTM_F_CLONED != 0
	r.route.OnLink = flags&unix.RTNH_F_ONLINK != 0
	r.route.Type = routeTypeName(r.typ)
	dst := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	eachAttr(b[rtMsgSize:], func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_DST:
			dst = getAddr(v)
		case unix.RTA_TABLE:
			r.key.Table = int(getU32(v))
		case unix.RTA_PRIORITY:
			r.key.Metric = int(getU32(v))
		case unix.RTA_OIF:
			r.oif = int(getU32(v))
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			r.route.Via = getVia(typ, v)
		case unix.RTA_PREFSRC:
			r.route.Source = getAddr(v)
		case unix.RTA_METRICS:
			eachAttr(v, func(typ uint16, v []byte) {
				if typ == unix.RTAX_MTU {
					r.route.MTU = int(getU32(v))
				}
			})
		case unix.RTA_MULTIPATH:
			r.parseHops(v)
		}
	})
	var err error
	r.key.Dst, err = dst.Prefix(int(b[1]))
	return r, err == nil
}

const rtNextHopSize = 8 // struct rtnexthop

func (r *rawRoute) parseHops(b []byte) {
	for len(b) >= rtNextHopSize {
		n := int(binary.NativeEndian.Uint16(b))
		if n < rtNextHopSize || n > len(b) {
			return
		}
		h := rawHop{onLink: b[2]&unix.RTNH_F_ONLINK != 0, weight: int(b[3]), oif: int(binary.NativeEndian.Uint32(b[4:]))}
		eachAttr(b[rtNextHopSize:n], func(typ uint16, v []byte) {
			if typ == unix.RTA_GATEWAY || typ == unix.RTA_VIA {
				h.via = getVia(typ, v)
			}
		})
		if r.hops = append(r.hops, h); len(r.hops) == 1 {
			r.route.OnLink, r.oif, r.route.Via = h.onLink, h.oif, h.via
		}
		b = b[min(align4(n), len(b)):]
	}
}

func getVia(typ uint16, v []byte) netip.Addr {
	if typ == unix.RTA_VIA && len(v) > 2 {
		v = v[2:] // struct rtvia: the family comes first
	}
	return getAddr(v)
}

func routeTypeName(t uint8) RouteType {
	for name, n := range routeTypes {
		if n == t {
			return name
		}
	}
	return RouteType("type " + strconv.Itoa(int(t)))
}

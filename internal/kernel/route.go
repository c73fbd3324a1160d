package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/model"
)

// MainTable is the number of the main routing table.
const MainTable = unix.RT_TABLE_MAIN

const rtMsgSize = 12 // struct rtmsg

// ErrForeignRoute says that somebody else holds a route with the same table, prefix and metric.
var ErrForeignRoute = errors.New("a route of another owner has the same prefix and metric; remove it, or give it another metric")

// String prints the key as ip(8) shows it.
func (k RouteKey) String() string {
	s := k.Dst.String()
	if k.Metric != 0 {
		s += " metric " + strconv.Itoa(k.Metric)
	}
	if k.Table != MainTable {
		s += " table " + strconv.Itoa(k.Table)
	}
	return s
}

// String prints the route as ip(8) shows what follows the prefix.
func (r Route) String() string {
	r = r.canonical()
	s := ""
	if r.Type != Unicast {
		return string(r.Type)
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Device != "" {
		s += " dev " + r.Device
	}
	if !r.Hops.IsZero() {
		s += " " + r.Hops.String()
	}
	if r.OnLink {
		s += " onlink"
	}
	if r.Source.IsValid() {
		s += " src " + r.Source.String()
	}
	if r.MTU != 0 {
		s += " mtu " + strconv.Itoa(r.MTU)
	}
	if s == "" {
		return string(r.Type)
	}
	return s[1:]
}

// canonical drops what the type of the route makes meaningless.
func (r Route) canonical() Route {
	if r.Type == "" {
		r.Type = Unicast
	}
	if r.Type != Unicast {
		return Route{Type: r.Type} // IPv6 reads these back on lo
	}
	return r
}

// routeTable is the reconcile.Table of our routes in some routing tables.
type routeTable struct {
	h      *Handle
	tables []int
}

// RouteTable returns the routes with our protocol number, of both families, in the given tables;
// without any, in the main table. Its Put refuses with ErrForeignRoute to replace a route of
// another protocol. It writes in batches (reconcile.BatchTable) and holds back the removal of what
// overlaps with a prefix that could not be written (reconcile.HoldTable).
func RouteTable(h *Handle, tables ...int) reconcile.Table[RouteKey, Route] {
	if len(tables) == 0 {
		tables = []int{MainTable}
	}
	return routeTable{h: h, tables: tables}
}

// Equal implements reconcile.Table.
func (routeTable) Equal(have, want Route) bool { return have.canonical() == want.canonical() }

// Holds implements reconcile.HoldTable: an old route stays while a new one that covers some of its
// addresses could not be written.
func (routeTable) Holds(failed, old RouteKey) bool {
	return failed.Table == old.Table && failed.Dst.Overlaps(old.Dst)
}

// List implements reconcile.Table.
func (t routeTable) List(ctx context.Context) (map[RouteKey]Route, error) {
	res := make(map[RouteKey]Route)
	for _, table := range t.tables {
		routes, err := t.h.dumpRoutes(ctx, routeFilter{table: table, protocol: RouteProtocol})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.protocol == RouteProtocol && r.key.Table == table {
				res[r.key] = r.route
			}
		}
	}
	return res, nil
}

// Put implements reconcile.Table.
func (t routeTable) Put(ctx context.Context, k RouteKey, v Route) error {
	c := reconcile.Change[RouteKey, Route]{Key: k, Want: v}
	err := t.PutMany(ctx, []reconcile.Change[RouteKey, Route]{c})[0]
	if !errors.Is(err, ErrForeignRoute) {
		return err
	}
	have, lerr := t.List(ctx)
	if lerr != nil {
		return lerr
	}
	if c.Have, c.Exists = have[k]; !c.Exists {
		return err
	}
	return t.PutMany(ctx, []reconcile.Change[RouteKey, Route]{c})[0]
}

// Delete implements reconcile.Table.
func (t routeTable) Delete(ctx context.Context, k RouteKey, v Route) error {
	return t.DeleteMany(ctx, []reconcile.Change[RouteKey, Route]{{Key: k, Have: v}})[0]
}

func devicesOf(puts []reconcile.Change[RouteKey, Route]) map[string]bool {
	res := make(map[string]bool)
	for _, c := range puts {
		for _, d := range c.Want.canonical().devices() {
			res[d] = true
		}
	}
	return res
}

// devices returns the devices that the route leads out by.
func (r Route) devices() []string {
	var all []string
	if r.Device != "" {
		all = append(all, r.Device)
	}
	for _, h := range r.Hops.All() {
		all = append(all, h.Device)
	}
	return all
}

// indexes looks up interface indexes: by name for some, else all in one dump. A name that does not
// exist is absent from the result.
func (h *Handle) indexes(ctx context.Context, names map[string]bool) (map[string]int, error) {
	const some = 128
	res := make(map[string]int, len(names))
	if len(names) > some {
		links, err := h.Links(ctx)
		for _, l := range links {
			res[l.Name] = l.Index
		}
		return res, err
	}
	asked := slices.Collect(maps.Keys(names))
	reqs := make([]request, len(asked))
	for i, name := range asked {
		if err := checkLinkName(name); err != nil {
			return nil, err
		}
		reqs[i] = linkByName(name)
	}
	answers, err := h.queries(ctx, reqs)
	if err != nil {
		return nil, fmt.Errorf("look up links: %w", err)
	}
	for i, a := range answers {
		l, there, err := linkOf(asked[i], a.message, a.err)
		if err != nil {
			return nil, err
		}
		if there {
			res[asked[i]] = l.Index
		}
	}
	return res, nil
}

// checkRoute refuses what the kernel would take for something else.
func checkRoute(k RouteKey, r Route) error {
	switch {
	case !k.Dst.IsValid() || k.Dst != k.Dst.Masked():
		return fmt.Errorf("destination %v: want a prefix without host bits", k.Dst)
	case r.Type == Unicast && len(r.devices()) == 0:
		return fmt.Errorf("a unicast route needs a device")
	case !r.Hops.IsZero() && (r.Device != "" || r.Via.IsValid()):
		return fmt.Errorf("a route has one next hop or several, not both")
	case r.Source.IsValid() && model.FamilyOf(r.Source) != model.FamilyOf(k.Dst.Addr()):
		return fmt.Errorf("source %v is of another family than %v", r.Source, k.Dst)
	}
	if _, ok := routeTypes[r.Type]; !ok {
		return fmt.Errorf("route type %q is not one that we write", r.Type)
	}
	return nil
}

var routeTypes = map[RouteType]uint8{
	Unicast:         unix.RTN_UNICAST,
	Blackhole:       unix.RTN_BLACKHOLE,
	UnreachableType: unix.RTN_UNREACHABLE,
	Throw:           unix.RTN_THROW,
}

// rtMsg is a struct rtmsg of ours with the attributes that make the route's identity.
func rtMsg(k RouteKey, typ, scope uint8, flags uint32) *encoder {
	table := uint8(unix.RT_TABLE_UNSPEC)
	if k.Table < 256 {
		table = uint8(k.Table)
	}
	e := &encoder{}
	e.raw(familyOf(k.Dst.Addr()), uint8(k.Dst.Bits()), 0, 0, table, RouteProtocol, scope, typ).rawU32(flags)
	e.addr(unix.RTA_DST, k.Dst.Addr())
	e.u32(unix.RTA_TABLE, uint32(k.Table))
	if k.Metric != 0 {
		e.u32(unix.RTA_PRIORITY, uint32(k.Metric))
	}
	return e
}

func encodeRoute(k RouteKey, r Route, index map[string]int) []byte {
	scope, flags := uint8(unix.RT_SCOPE_UNIVERSE), uint32(0)
	if r.Type == Unicast && !r.Via.IsValid() && r.Hops.IsZero() {
		scope = unix.RT_SCOPE_LINK
	}
	if r.OnLink && r.Hops.IsZero() { // of several, each has its own
		flags = unix.RTNH_F_ONLINK
	}
	e := rtMsg(k, routeTypes[r.Type], scope, flags)
	if !r.Hops.IsZero() {
		e.attr(unix.RTA_MULTIPATH, encodeHops(k, r, index))
	}
	if r.Device != "" {
		e.u32(unix.RTA_OIF, uint32(index[r.Device]))
	}
	e.via(k, r.Via)
	if r.Source.IsValid() {
		e.addr(unix.RTA_PREFSRC, r.Source)
	}
	if r.MTU != 0 {
		e.nest(unix.RTA_METRICS, func(e *encoder) { e.u32(unix.RTAX_MTU, uint32(r.MTU)) })
	}
	return e.b
}

// via appends the next hop, if there is one.
func (e *encoder) via(k RouteKey, via netip.Addr) {
	switch {
	case !via.IsValid():
	case via.Is4() == k.Dst.Addr().Is4():
		e.addr(unix.RTA_GATEWAY, via)
	default: // an IPv4 route via an IPv6 next hop: RFC 5549, Linux 5.2
		family := binary.NativeEndian.AppendUint16(nil, uint16(familyOf(via)))
		e.attr(unix.RTA_VIA, append(family, via.AsSlice()...))
	}
}

// encodeHops makes a struct rtnexthop of each next hop. A weight of 0 there is 1.
func encodeHops(k RouteKey, r Route, index map[string]int) []byte {
	flags := uint8(0)
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	var all []byte
	for _, h := range r.Hops.All() {
		e := &encoder{}
		e.raw(0, 0, flags, 0).rawU32(uint32(index[h.Device])).via(k, h.Via)
		binary.NativeEndian.PutUint16(e.b, uint16(len(e.b)))
		all = append(all, e.b...)
	}
	return all
}

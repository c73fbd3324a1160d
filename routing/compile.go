package routing

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/model/topology"
)

// maxDeviceName is the length of a Linux interface name in bytes, without its terminator.
const maxDeviceName = 15

// rank orders what may claim one prefix, the best first. A path beats the blackhole of a block that
// somebody else took over.
type rank int

const (
	rankEndpoint  rank = iota // the only one of its prefix
	rankDirect                // no encapsulation: the least that can go wrong
	rankWireGuard             // encrypted before what is not
	rankVXLAN
	rankIPIP
	rankBlackhole
	rankUnreachable
)

// claim is a route that wants a prefix.
type claim struct {
	route Route
	rank  rank
	by    string // the node or endpoint; breaks ties
}

// Compile says which routes this host keeps: a blackhole for each block of its own, so that an
// address that no pod has goes nowhere rather than round in circles; a route for every prefix that
// another node holds, one that refuses where there is no way to it, so that the packet does not
// leave by the host's default route; a host route for each address of a local endpoint. Where two
// claim one prefix the order is: local endpoint, Direct, WireGuard, VXLAN, IPIP, blackhole,
// unreachable; then by name.
//
// A path or endpoint that makes no sense, and an address that two endpoints claim, is an error that
// names it. The errors are joined; the plan is good for everything else and is to be applied also
// when there is an error.
func Compile(v *topology.View, endpoints []model.Endpoint) (Plan, error) {
	plan, _, err := compile(v, endpoints)
	return plan, err
}

// compile returns the claims of the endpoints, too.
func compile(v *topology.View, endpoints []model.Endpoint) (Plan, map[netip.Addr]claim, error) {
	c := compiler{pods: make(map[netip.Addr]claim, len(endpoints))}
	for _, e := range slices.SortedFunc(slices.Values(endpoints), func(a, b model.Endpoint) int {
		return cmp.Or(cmp.Compare(a.ID.String(), b.ID.String()), cmp.Compare(a.Device, b.Device))
	}) {
		c.endpoint(e)
	}
	paths := v.Paths
	if !slices.IsSortedFunc(paths, comparePaths) {
		paths = slices.SortedFunc(slices.Values(paths), comparePaths)
	}
	c.routes = make([]Route, 0, len(paths))
	for i := range paths {
		if cl, ok := c.path(&paths[i]); ok && !c.isPod(cl.route.Dst) {
			c.add(&cl)
		}
	}
	pods := make([]Route, 0, len(c.pods))
	for _, cl := range c.pods {
		pods = append(pods, cl.route)
	}
	slices.SortFunc(pods, CompareRoutes)
	slices.SortFunc(c.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return Plan{Routes: c.routes, Pods: pods}, c.pods, errors.Join(c.errs...)
}

type compiler struct {
	pods   map[netip.Addr]claim // of local endpoints
	routes []Route
	last   claim // the best so far for the last of routes, without the route itself
	errs   []error
}

// isPod tells whether a pod of this host has the prefix: it is reached here, whatever another node
// says.
func (c *compiler) isPod(dst netip.Prefix) bool {
	if !dst.IsSingleIP() {
		return false
	}
	_, is := c.pods[dst.Addr()]
	return is
}

// add takes in a path's claim on the last prefix or a later one.
func (c *compiler) add(n *claim) {
	if i := len(c.routes) - 1; i < 0 || c.routes[i].Dst != n.route.Dst {
		c.routes = append(c.routes, n.route)
	} else if c.last.route = c.routes[i]; compareClaims(*n, c.last) < 0 {
		c.routes[i] = n.route
	} else {
		return
	}
	c.last.rank, c.last.by = n.rank, n.by
}

func comparePaths(a, b topology.Path) int { return comparePrefix(a.Dst, b.Dst) }

// compareClaims orders by prefix, and those on one prefix the best first.
func compareClaims(a, b claim) int {
	if c := comparePrefix(a.route.Dst, b.route.Dst); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.by, b.by), a.route.Via.Compare(b.route.Via))
}

// path returns the claim of a path; false when it makes none.
func (c *compiler) path(p *topology.Path) (n claim, ok bool) {
	if err := checkPath(p); err != nil {
		c.errs = append(c.errs, fmt.Errorf("path to %v of node %s: %w", p.Dst, p.Node, err))
		return n, false
	}
	n.by = string(p.Node)
	r := &n.route
	r.Dst, r.Why = p.Dst, p.Why
	if p.Foreign {
		return n, false
	}
	switch p.Reach {
	case topology.Unreachable:
		r.Unreachable, n.rank = true, rankUnreachable
		return n, true
	case topology.Local:
		r.Blackhole, n.rank = true, rankBlackhole
		return n, !p.Dst.IsSingleIP() // the pod's own route says all
	}
	r.Via, r.Device, r.Source = p.Via, p.Device, p.Source
	if p.MTU < p.DeviceMTU {
		r.MTU = p.MTU
	}
	n.rank = rankOf(p.Reach)
	return n, true
}

func rankOf(r topology.Reach) rank {
	switch r {
	case topology.Direct:
		return rankDirect
	case topology.WireGuard:
		return rankWireGuard
	case topology.VXLAN:
		return rankVXLAN
	default:
		return rankIPIP
	}
}

func (c *compiler) endpoint(e model.Endpoint) {
	fail := func(format string, args ...any) {
		c.errs = append(c.errs, fmt.Errorf("endpoint %v: "+format, append([]any{e.ID}, args...)...))
	}
	if err := checkDevice(e.Device); err != nil {
		fail("%w", err)
		return
	}
	for _, a := range e.Addresses {
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() {
			fail("address %v: want an IPv4 or IPv6 address of a pod", a)
			continue
		}
		n := claim{rank: rankEndpoint, by: e.ID.String(), route: Route{
			Dst: model.HostPrefix(a), Device: e.Device, Why: "endpoint " + e.ID.String()}}
		if other, ok := c.pods[a]; !ok {
			c.pods[a] = n
		} else if other != n {
			fail("address %v belongs to endpoint %s on %s already, which keeps it", a, other.by, other.route.Device)
		}
	}
}

// checkPath finds input that no kernel route can express.
func checkPath(p *topology.Path) error {
	switch {
	case !p.Dst.IsValid():
		return errors.New("the prefix is not valid")
	case p.Dst != p.Dst.Masked():
		return fmt.Errorf("the prefix has host bits: want %v", p.Dst.Masked())
	case p.Dst.Addr().Is4In6():
		return errors.New("the prefix is an IPv4 address in IPv6 form")
	case p.Reach < topology.Unreachable || p.Reach > topology.WireGuard:
		return fmt.Errorf("reach %d is not known", int(p.Reach))
	case p.Reach == topology.Unreachable || p.Reach == topology.Local:
		return nil
	case !p.Via.IsValid() && p.Reach != topology.WireGuard: // a WireGuard device knows its peers
		return fmt.Errorf("%v without a next hop", p.Reach)
	case p.Via.Is4() && !p.Dst.Addr().Is4():
		return fmt.Errorf("next hop %v is IPv4 and the prefix is IPv6, which Linux cannot route", p.Via)
	case p.Via.Is4In6() || p.Via.IsUnspecified() || p.Via.IsMulticast():
		return fmt.Errorf("next hop %v is no unicast address", p.Via)
	case p.Source.IsValid() && p.Source.Is4() != p.Dst.Addr().Is4():
		return fmt.Errorf("source %v is of another family", p.Source)
	case p.MTU < 0 || p.DeviceMTU < 0:
		return fmt.Errorf("MTU %d on a device of MTU %d", p.MTU, p.DeviceMTU)
	}
	return checkDevice(p.Device)
}

func checkDevice(name string) error {
	if name == "" || len(name) > maxDeviceName || strings.ContainsAny(name, "/ \t\n:") {
		return fmt.Errorf("device %q: want an interface name of 1 to %d bytes", name, maxDeviceName)
	}
	return nil
}

// CompareRoutes is the order of Plan.Routes: by address, then by length, IPv4 before IPv6.
func CompareRoutes(a, b Route) int { return comparePrefix(a.Dst, b.Dst) }

// comparePrefix orders prefixes by address, then by length: IPv4 before IPv6.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Format prints the plan as canonical text, one route a line in the words of ip(8), with its reason
// after a #. The zero plan prints nothing.
func (p Plan) Format() string {
	var b strings.Builder
	all := slices.Concat(p.Routes, p.Pods, p.Learned)
	slices.SortFunc(all, CompareRoutes)
	for _, r := range all {
		b.WriteString("route ")
		b.WriteString(r.String())
		if r.Why != "" {
			b.WriteString("  # ")
			b.WriteString(r.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// String prints the route in the words of ip(8), without its reason.
func (r Route) String() string {
	if r.Blackhole {
		return "blackhole " + r.Dst.String()
	}
	if r.Unreachable {
		return "unreachable " + r.Dst.String()
	}
	if r.Throw {
		return "throw " + r.Dst.String()
	}
	s := r.Dst.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Device != "" {
		s += " dev " + r.Device
	}
	if !r.Hops.IsZero() {
		s += " " + r.Hops.String()
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.Source.IsValid() {
		s += " src " + r.Source.String()
	}
	if r.MTU != 0 {
		s += fmt.Sprintf(" mtu %d", r.MTU)
	}
	return s
}

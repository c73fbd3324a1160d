package routing

import (
	"net/netip"
	"slices"

	"weft/model"
)

// ServiceConfig says how the rule is to be that leads to what refuses service addresses.
type ServiceConfig struct {
	Priority int
	Table    int
}

// CompileServices says what takes the packets to service addresses that this host announces and nobody serves: an
// unreachable route for each, in a table that only packets from outside are looked up in. Without it they would follow
// the default route to the router that sent them here. The sender is told at once (RFC 1812, 5.2.7.1; RFC 4443, 3.1):
// the service proxy's own refusal of a service without endpoints comes only after the routing decision. What the service proxy serves has another address by then: it
// translates before the routing decision. This host's own connections are routed before they are translated, and so
// must not see these routes. announced are prefixes in any order; those within another are left out. What u has of a
// range on a link of this host is no service's, and is left to the main table (throw).
func CompileServices(announced []netip.Prefix, u model.Underlay, cfg ServiceConfig) Ruled {
	sorted := slices.SortedFunc(slices.Values(announced), comparePrefix)
	s := Ruled{Table: cfg.Table}
	there := map[model.Family]bool{}
	for _, p := range sorted {
		if n := len(s.Routes); n > 0 && contains(s.Routes[n-1].Dst, p) {
			continue
		}
		s.Routes = append(s.Routes, Route{Dst: p, Unreachable: true, Why: "announced service addresses: what nobody serves is refused"})
		there[model.FamilyOf(p.Addr())] = true
	}
	if len(s.Routes) == 0 {
		return Ruled{}
	}
	for i := range u.Routes {
		dst := u.Routes[i].Dst
		at, equal := slices.BinarySearchFunc(s.Routes, dst, func(r Route, p netip.Prefix) int { return comparePrefix(r.Dst, p) })
		const why = "a network of this host within announced service addresses: it goes there"
		switch {
		case u.Routes[i].Via.IsValid():
		case equal:
			s.Routes[at] = Route{Dst: dst, Throw: true, Why: why}
		case at > 0 && slices.ContainsFunc(s.Routes[:at], func(r Route) bool { return contains(r.Dst, dst) }):
			s.Routes = slices.Insert(s.Routes, at, Route{Dst: dst, Throw: true, Why: why})
		}
	}
	for _, f := range families {
		if there[f] {
			s.Rules = append(s.Rules, Rule{Family: f, Priority: cfg.Priority, Received: true, Table: cfg.Table,
				Why: "what comes in for service addresses is for the service proxy; this host's own connections are routed before it translates them"})
		}
	}
	return s
}

package routing

import (
	"net/netip"
	"slices"

	"weft/model"
)

// ServiceConfig says how the rule is to be that leads to the blackholes of service addresses.
type ServiceConfig struct {
	Priority int
	Table    int
}

// CompileServices says what takes the packets to service addresses that this host announces and nobody serves: a
// blackhole for each, in a table that only packets from outside are looked up in. Without it they would follow the
// default route to the router that sent them here. What the service proxy serves has another address by then: it
// translates before the routing decision. This host's own connections are routed before they are translated, and so
// must not see the blackholes. announced are prefixes in any order; those within another are left out.
func CompileServices(announced []netip.Prefix, cfg ServiceConfig) Ruled {
	sorted := slices.SortedFunc(slices.Values(announced), comparePrefix)
	s := Ruled{Table: cfg.Table}
	there := map[model.Family]bool{}
	for _, p := range sorted {
		if n := len(s.Routes); n > 0 && contains(s.Routes[n-1].Dst, p) {
			continue
		}
		s.Routes = append(s.Routes, Route{Dst: p, Blackhole: true, Why: "announced service addresses: what nobody serves goes nowhere"})
		there[model.FamilyOf(p.Addr())] = true
	}
	if len(s.Routes) == 0 {
		return Ruled{}
	}
	for _, f := range families {
		if there[f] {
			s.Rules = append(s.Rules, Rule{Family: f, Priority: cfg.Priority, Received: true, Table: cfg.Table,
				Why: "what comes in for service addresses is for the service proxy; this host's own connections are routed before it translates them"})
		}
	}
	return s
}

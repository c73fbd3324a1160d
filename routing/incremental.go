package routing

import (
	"net/netip"
	"slices"

	"weft/model"
	"weft/model/topology"
)

// Compiler is Compile with a memory: after a change it decides again only what the change touches.
// While something is wrong with the input it compiles all of it. The zero Compiler is ready; it is
// not for use by several goroutines.
type Compiler struct {
	sound     bool // what follows came of input without errors, in order
	paths     []topology.Path
	endpoints map[model.EndpointID]model.Endpoint
	pods      map[netip.Addr]claim
	plan      Plan
}

// Compile does what the function Compile does. It keeps its arguments and what it returns: nothing of
// them may be changed afterwards.
func (c *Compiler) Compile(v *topology.View, endpoints map[model.EndpointID]model.Endpoint) (Plan, error) {
	if c.sound {
		if plan, ok := c.patch(v.Paths, endpoints); ok {
			c.paths, c.endpoints, c.plan = v.Paths, endpoints, plan
			return plan, nil
		}
	}
	list := make([]model.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		list = append(list, e)
	}
	plan, pods, err := compile(v, list)
	c.sound = err == nil && slices.IsSortedFunc(v.Paths, comparePaths)
	c.paths, c.endpoints, c.plan, c.pods = v.Paths, endpoints, plan, pods
	return plan, err
}

// patch makes the last plan the one of paths and endpoints. It returns false when that needs a whole
// compile; c.pods is spoilt then.
func (c *Compiler) patch(paths []topology.Path, endpoints map[model.EndpointID]model.Endpoint) (Plan, bool) {
	touched, ok := c.touchedPaths(paths)
	if !ok {
		return Plan{}, false
	}
	work := compiler{pods: c.pods}
	var hosts []netip.Prefix
	for id, old := range c.endpoints {
		if e, there := endpoints[id]; there && sameEndpoint(&old, &e) {
			continue
		}
		for _, a := range old.Addresses {
			delete(c.pods, a)
			hosts = append(hosts, model.HostPrefix(a))
		}
	}
	for id, e := range endpoints {
		if old, there := c.endpoints[id]; there && sameEndpoint(&old, &e) {
			continue
		}
		work.endpoint(e)
		for _, a := range e.Addresses {
			hosts = append(hosts, model.HostPrefix(a))
		}
	}
	if len(work.errs) > 0 {
		return Plan{}, false
	}
	plan := Plan{Pods: revise(c.plan.Pods, hosts, func(dst netip.Prefix) (Route, bool) {
		cl, is := c.pods[dst.Addr()]
		return cl.route, is
	})}
	plan.Routes = revise(c.plan.Routes, append(touched, hosts...), func(dst netip.Prefix) (Route, bool) { return work.best(paths, dst) })
	return plan, len(work.errs) == 0
}

func sameEndpoint(a, b *model.Endpoint) bool {
	return a.ID == b.ID && a.Device == b.Device && slices.Equal(a.Addresses, b.Addresses)
}

// touchedPaths returns the prefixes whose paths may have changed; false where that is most of them,
// or paths are not in order.
func (c *Compiler) touchedPaths(paths []topology.Path) (touched []netip.Prefix, ok bool) {
	have, want := c.paths, paths
	if len(have) == len(want) && (len(have) == 0 || &have[0] == &want[0]) {
		return nil, true
	}
	for len(have) > 0 && len(want) > 0 && have[0] == want[0] {
		have, want = have[1:], want[1:]
	}
	for len(have) > 0 && len(want) > 0 && have[len(have)-1] == want[len(want)-1] {
		have, want = have[:len(have)-1], want[:len(want)-1]
	}
	if 2*len(want) > len(paths)+8 || !slices.IsSortedFunc(paths, comparePaths) {
		return nil, false
	}
	for len(have) > 0 || len(want) > 0 {
		switch {
		case len(have) > 0 && len(want) > 0 && have[0] == want[0]:
			have, want = have[1:], want[1:]
		case len(want) == 0 || len(have) > 0 && comparePaths(have[0], want[0]) <= 0:
			touched, have = append(touched, have[0].Dst), have[1:]
		default:
			touched, want = append(touched, want[0].Dst), want[1:]
		}
	}
	return touched, true
}

// revise returns the sorted routes with those for the touched prefixes decided again: the same
// memory when nothing changes.
func revise(old []Route, touched []netip.Prefix, decide func(netip.Prefix) (Route, bool)) []Route {
	slices.SortFunc(touched, comparePrefix)
	var routes []Route
	same := true
	done := 0 // of old
	for _, dst := range slices.Compact(touched) {
		route, wanted := decide(dst)
		at, there := slices.BinarySearchFunc(old, dst, func(r Route, p netip.Prefix) int { return comparePrefix(r.Dst, p) })
		if wanted == there && (!there || old[at] == route) {
			continue
		}
		if same {
			same, routes = false, make([]Route, 0, len(old)+len(touched))
		}
		routes = append(routes, old[done:at]...)
		if done = at; there {
			done++
		}
		if wanted {
			routes = append(routes, route)
		}
	}
	if same {
		return old
	}
	return append(routes, old[done:]...)
}

// best returns the route that paths make for dst; false when there is none.
func (c *compiler) best(paths []topology.Path, dst netip.Prefix) (Route, bool) {
	var best claim
	ok := false
	at, _ := slices.BinarySearchFunc(paths, dst, func(p topology.Path, d netip.Prefix) int { return comparePrefix(p.Dst, d) })
	for ; at < len(paths) && paths[at].Dst == dst; at++ {
		if n, makes := c.path(&paths[at]); makes && (!ok || compareClaims(n, best) < 0) {
			best, ok = n, true
		}
	}
	return best.route, ok && !c.isPod(dst)
}

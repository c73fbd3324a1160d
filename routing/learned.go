package routing

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"reflect"
	"slices"

	"weft/model"
)

// LearnedInput is what routes are made of that BGP learned.
type LearnedInput struct {
	Routes   []Learned // sorted by Prefix, each once
	Underlay model.Underlay
	// Services are the ranges of service addresses. Routes to them are for other routers, by way of this
	// host's reflecting: on a node the service proxy knows better.
	Services []netip.Prefix
	Priority map[model.Family]uint32 // metric of routes that say none; 0: that of all routes
	// Gateways are the ways to peers that are on no link of this host, by peer (Speaker.Gateways). They go
	// before what was learned.
	Gateways map[netip.Addr]netip.Addr
	// Ignored are interfaces that lead to no next hop (ignoredInterfaces), with * for any part of a name.
	Ignored []string
}

// Gateways returns, by peer, the gateways that BGPPeers name (reachableBy).
func (s *Speaker) Gateways() map[netip.Addr]netip.Addr {
	all := map[netip.Addr]netip.Addr{}
	for i := range s.Sessions {
		if n := &s.Sessions[i]; n.Gateway.IsValid() {
			all[n.Peer] = n.Gateway
		}
	}
	return all
}

// LearnedError tells that of a plan only routes that BGP learned could not be made: what others announce decides
// nothing else.
type LearnedError struct{ Err error }

// Error implements error.
func (e *LearnedError) Error() string { return e.Err.Error() }

// Unwrap implements errors.Is and errors.As.
func (e *LearnedError) Unwrap() error { return e.Err }

// LearnedCompiler adds to a plan what BGP learned. What the plan has a route for, by exactly the same
// prefix, stays as it is: the store knows who holds a block. Input that is the memory of last time costs
// nothing, a few changes little more than to find them; while something is wrong with the input, all of it
// is compiled. The zero LearnedCompiler is ready; it is not for use by several goroutines.
type LearnedCompiler struct {
	last  LearnedInput
	plan  Plan // that last was added to, with the result
	err   error
	ready bool
}

// Compile returns the plan with its Learned. It keeps its arguments and what it returns: nothing of them
// may be changed afterwards. A route that cannot be is an error that names it, or its next hop; the errors
// are joined, and the plan is good for everything else.
func (c *LearnedCompiler) Compile(p Plan, in LearnedInput) (Plan, error) {
	if !sameMemory(in.Routes, c.last.Routes) && !slices.IsSortedFunc(in.Routes, compareLearned) {
		in.Routes = slices.SortedStableFunc(slices.Values(in.Routes), compareLearned)
	}
	w := newLearner(&p, &in)
	same := c.ready && slices.Equal(c.last.Services, in.Services) && maps.Equal(c.last.Priority, in.Priority) &&
		maps.Equal(c.last.Gateways, in.Gateways) && slices.Equal(c.last.Ignored, in.Ignored) && reflect.DeepEqual(c.last.Underlay, in.Underlay)
	if touched := c.touched(&p, &in); same && len(touched) == 0 {
		p.Learned = c.plan.Learned
	} else if patched, ok := w.patch(c.plan.Learned, touched); same && c.err == nil && ok {
		p.Learned = patched
	} else {
		p.Learned, c.err = newLearner(&p, &in).all()
		if slices.Equal(p.Learned, c.plan.Learned) {
			p.Learned = c.plan.Learned
		}
	}
	c.plan, c.last, c.ready = p, in, true
	return p, c.err
}

// touched returns the prefixes that something differs about.
func (c *LearnedCompiler) touched(p *Plan, in *LearnedInput) []netip.Prefix {
	dst, equal := func(r *Route) netip.Prefix { return r.Dst }, func(a, b *Route) bool { return a.Dst == b.Dst }
	all := changed(nil, c.plan.Routes, p.Routes, dst, equal)
	all = changed(all, c.plan.Pods, p.Pods, dst, equal)
	return changed(all, c.last.Routes, in.Routes, func(l *Learned) netip.Prefix { return l.Prefix }, func(a, b *Learned) bool {
		return a.Prefix == b.Prefix && a.Way.Equal(b.Way)
	})
}

// changed appends to out the prefixes of which two sorted lists have different elements.
func changed[T any](out []netip.Prefix, have, want []T, dst func(*T) netip.Prefix, equal func(a, b *T) bool) []netip.Prefix {
	if sameMemory(have, want) {
		return out
	}
	for len(have) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0:
			out, have = append(out, dst(&have[0])), have[1:]
		case len(have) == 0:
			out, want = append(out, dst(&want[0])), want[1:]
		case equal(&have[0], &want[0]):
			have, want = have[1:], want[1:]
		case comparePrefix(dst(&have[0]), dst(&want[0])) <= 0:
			out, have = append(out, dst(&have[0])), have[1:]
		default:
			out, want = append(out, dst(&want[0])), want[1:]
		}
	}
	return out
}

func sameMemory[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// learner is one run of Compile.
type learner struct {
	*resolver
	plan *Plan
	in   *LearnedInput
	whys map[netip.Addr]string
}

func newLearner(p *Plan, in *LearnedInput) *learner {
	return &learner{newResolver(in.Underlay, in.Ignored), p, in, map[netip.Addr]string{}}
}

// patch returns the routes with those to the touched prefixes decided again; false where they are many, or
// something is wrong with one.
func (w *learner) patch(old []Route, touched []netip.Prefix) ([]Route, bool) {
	if 4*len(touched) > len(old) {
		return nil, false
	}
	list := w.in.Routes
	out := revise(old, touched, func(dst netip.Prefix) (Route, bool) {
		at, there := slices.BinarySearchFunc(list, dst, func(l Learned, p netip.Prefix) int { return comparePrefix(l.Prefix, p) })
		if g, is := w.gateway(dst); is && !holds(w.plan.Routes, dst) && !holds(w.plan.Pods, dst) {
			return w.towards(dst, g)
		}
		if !there || holds(w.plan.Routes, dst) || holds(w.plan.Pods, dst) {
			return Route{}, false
		}
		return w.decide(&list[at])
	})
	return out, w.err() == nil
}

func holds(sorted []Route, dst netip.Prefix) bool {
	_, there := slices.BinarySearchFunc(sorted, dst, func(r Route, p netip.Prefix) int { return comparePrefix(r.Dst, p) })
	return there
}

func (w *learner) all() ([]Route, error) {
	list := w.in.Routes
	if len(list)+len(w.in.Gateways) == 0 {
		return nil, nil
	}
	out := make([]Route, 0, len(list)+len(w.in.Gateways))
	routes, pods := w.plan.Routes, w.plan.Pods
	for i := range list {
		l := &list[i]
		if i > 0 && l.Prefix == list[i-1].Prefix || skipTo(&routes, l.Prefix) || skipTo(&pods, l.Prefix) {
			continue
		}
		if _, is := w.gateway(l.Prefix); is {
			continue
		}
		if r, ok := w.decide(l); ok {
			out = append(out, r)
		}
	}
	for peer, g := range w.in.Gateways {
		dst := model.HostPrefix(peer)
		if holds(w.plan.Routes, dst) || holds(w.plan.Pods, dst) {
			continue
		}
		if r, ok := w.towards(dst, g); ok {
			at, _ := slices.BinarySearchFunc(out, dst, func(r Route, p netip.Prefix) int { return comparePrefix(r.Dst, p) })
			out = slices.Insert(out, at, r)
		}
	}
	return out, w.err()
}

// gateway returns the one that leads to the peer that is all of dst.
func (w *learner) gateway(dst netip.Prefix) (netip.Addr, bool) {
	if len(w.in.Gateways) == 0 || !dst.IsSingleIP() {
		return netip.Addr{}, false
	}
	g, is := w.in.Gateways[dst.Addr()]
	return g, is
}

// towards makes the route to a peer.
func (w *learner) towards(dst netip.Prefix, gateway netip.Addr) (Route, bool) {
	r := Route{Dst: dst, Why: "the way to a BGP peer (reachableBy)"}
	return r, w.route(&r, &Learned{dst, &Way{NextHops: []netip.Addr{gateway}}})
}

// decide makes the route; false where there is to be none.
func (w *learner) decide(l *Learned) (Route, bool) {
	for _, s := range w.in.Services {
		if contains(s, l.Prefix) {
			return Route{}, false
		}
	}
	n := Route{Dst: l.Prefix, Metric: int(cmp.Or(l.Priority, w.in.Priority[model.FamilyOf(l.Prefix.Addr())]))}
	why, known := w.whys[l.Peer]
	if !known {
		why = "BGP, from " + l.Peer.String()
		w.whys[l.Peer] = why
	}
	n.Why = why
	return n, w.route(&n, l)
}

func compareLearned(a, b Learned) int { return comparePrefix(a.Prefix, b.Prefix) }

// skipTo drops from sorted routes those before p; it tells whether the next one is p's.
func skipTo(routes *[]Route, p netip.Prefix) bool {
	for len(*routes) > 0 {
		switch c := comparePrefix((*routes)[0].Dst, p); {
		case c == 0:
			return true
		case c > 0:
			return false
		}
		*routes = (*routes)[1:]
	}
	return false
}

// resolver finds the devices of next hops.
type resolver struct {
	under   model.Underlay
	up      map[string]bool
	ignored map[string]bool
	own     map[netip.Addr]bool
	hops    map[netip.Addr]resolved
	sets    map[string]*hopSet // by the addresses of several next hops
	key     []byte
	count   map[netip.Addr]int // routes that a next hop without a way has cost
	errs    []error
}

type resolved struct {
	hop model.Hop
	err error
}

// hopSet is what several next hops make of routes of one family: Via and Device, or Hops.
type hopSet struct {
	route Route
	bad   []netip.Addr // without a way
}

func newResolver(u model.Underlay, ignored []string) *resolver {
	r := &resolver{under: u, up: map[string]bool{}, ignored: map[string]bool{}, own: map[netip.Addr]bool{}, hops: map[netip.Addr]resolved{}, sets: map[string]*hopSet{}, count: map[netip.Addr]int{}}
	for _, l := range u.Links {
		r.up[l.Name] = l.Up
		r.ignored[l.Name] = slices.ContainsFunc(ignored, func(pattern string) bool {
			match, err := path.Match(pattern, l.Name)
			return match && err == nil
		})
		for _, a := range l.Addresses {
			r.own[a.Addr()] = true
		}
	}
	return r
}

// route fills in the next hops that there is a way to; false where there is none at all, or the prefix
// makes no sense.
func (r *resolver) route(n *Route, l *Learned) bool {
	if err := checkLearned(l); err != nil {
		r.errs = append(r.errs, fmt.Errorf("route to %v from BGP peer %v: %w", l.Prefix, l.Peer, err))
		return false
	}
	if len(l.NextHops) == 1 {
		h := r.find(l.NextHops[0])
		if h.err != nil || h.hop.Via.Is4() && !n.Dst.Addr().Is4() {
			r.count[l.NextHops[0]]++
			return false
		}
		n.Via, n.Device = h.hop.Via, h.hop.Device
		return true
	}
	s := r.several(n.Dst.Addr().Is4(), l.NextHops)
	for _, a := range s.bad {
		r.count[a]++
	}
	n.Via, n.Device, n.Hops = s.route.Via, s.route.Device, s.route.Hops
	return n.Device != "" || !n.Hops.IsZero()
}

// several resolves next hops together, once for all routes that have the same.
func (r *resolver) several(four bool, all []netip.Addr) *hopSet {
	r.key = append(r.key[:0], 6)
	if four {
		r.key[0] = 4
	}
	for _, a := range all {
		r.key, _ = a.AppendBinary(r.key)
		r.key = append(r.key, 0)
	}
	if s, known := r.sets[string(r.key)]; known {
		return s
	}
	s := &hopSet{}
	hops := make([]model.Hop, 0, len(all))
	for _, a := range all {
		if h := r.find(a); h.err == nil && (four || !h.hop.Via.Is4()) {
			hops = append(hops, h.hop)
		} else {
			s.bad = append(s.bad, a)
		}
	}
	s.route.Hops = model.HopsOf(hops)
	if hops = s.route.Hops.All(); len(hops) == 1 { // two next hops may have the way in common
		s.route = Route{Via: hops[0].Via, Device: hops[0].Device}
	}
	r.sets[string(r.key)] = s
	return s
}

// checkLearned refuses what the speaker's filters have refused already, if they are as they should be.
func checkLearned(l *Learned) error {
	switch p := l.Prefix; {
	case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
		return errors.New("want a prefix without host bits")
	case p.Bits() < shortest:
		return fmt.Errorf("shorter than /%d: a default route, or a part of one", shortest)
	case l.Priority > 1<<31-1:
		return fmt.Errorf("priority %d: want at most %d", l.Priority, 1<<31-1)
	}
	return nil
}

// find returns the way to a next hop: on link, or by the gateway of the underlay's route to it.
func (r *resolver) find(a netip.Addr) resolved {
	if h, known := r.hops[a]; known {
		return h
	}
	var h resolved
	h.hop, h.err = r.way(a)
	r.hops[a] = h
	return h
}

func (r *resolver) way(a netip.Addr) (model.Hop, error) {
	switch {
	case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6():
		return model.Hop{}, errors.New("it is no unicast address")
	case r.own[a]:
		return model.Hop{}, errors.New("it is this host's own address")
	case a.Zone() != "":
		if r.ignored[a.Zone()] {
			return model.Hop{}, fmt.Errorf("its interface %s is one of ignoredInterfaces", a.Zone())
		}
		if !r.up[a.Zone()] {
			return model.Hop{}, fmt.Errorf("its interface %s is not up", a.Zone())
		}
		return model.Hop{Via: a.WithZone(""), Device: a.Zone()}, nil
	case a.IsLinkLocalUnicast() && a.Is6():
		return model.Hop{}, errors.New("it is link-local, on no interface that is known")
	}
	best := -1
	for i, u := range r.under.Routes {
		if u.Dst.Contains(a) && r.up[u.Device] && (best < 0 || u.Dst.Bits() > r.under.Routes[best].Dst.Bits() ||
			u.Dst == r.under.Routes[best].Dst && u.Metric < r.under.Routes[best].Metric) {
			best = i
		}
	}
	if best < 0 {
		return model.Hop{}, errors.New("the underlay has no route to it")
	}
	u := r.under.Routes[best]
	if r.ignored[u.Device] {
		return model.Hop{}, fmt.Errorf("the way to it is by %s, which is one of ignoredInterfaces", u.Device)
	}
	if u.Via.IsValid() {
		a = u.Via
	}
	return model.Hop{Via: a, Device: u.Device}, nil
}

func (r *resolver) err() error {
	for a, n := range r.count {
		err := r.hops[a].err
		if err == nil {
			err = errors.New("it is IPv4 and the prefixes are IPv6, which Linux cannot route")
		}
		r.errs = append(r.errs, fmt.Errorf("BGP next hop %v of %d routes: %w", a, n, err))
	}
	slices.SortFunc(r.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if more := len(r.errs) - maxLearnedErrors; more > 0 {
		r.errs = append(r.errs[:maxLearnedErrors:maxLearnedErrors], fmt.Errorf("and %d more routes or next hops of BGP", more))
	}
	return errors.Join(r.errs...)
}

// maxLearnedErrors is how many errors are told apart: a peer can send a hundred thousand.
const maxLearnedErrors = 20

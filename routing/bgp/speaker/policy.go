package speaker

import (
	"fmt"
	"net/netip"
	gopath "path"
	"slices"
	"strconv"
	"strings"

	"github.com/osrg/gobgp/v4/api"

	"weft/routing"
)

// GoBGP has one list of policies for all that is received, and one for all that is sent. Each is one policy
// here, so that a new one takes the place of the old in one step; its statements hold for the sessions of one
// group. A statement can check one set of prefixes and prepend one AS: where a rule asks for more, several
// statements do it, which know of each other by a community that never leaves this process.
const (
	importPolicy = "import"
	exportPolicy = "export"
	// The AS of these large communities is reserved (RFC 7300).
	markRegion = "4294967295:7:1" // the prefix is one of the rule's CIDR
	markMatch  = "4294967295:7:2" // the rule matched, and its operations go on
)

// Link is an interface of this host with the prefixes on it.
type Link struct {
	Name     string
	Prefixes []netip.Prefix
}

// priorityBase less the metric of a kernel route is the local preference.
const priorityBase = 1<<31 - 1

// group is what the filters of several sessions have in common.
type group struct {
	four    bool
	ibgp    bool
	local   uint32
	nextHop routing.NextHop
	rules   []routing.FilterRule
}

// direction of a policy.
type direction int

const (
	incoming direction = iota
	outgoing
)

// policies compiles the filters and next hops of all sessions.
func policies(sp routing.Speaker, links []Link) (*api.SetPoliciesRequest, error) {
	c := &compiler{links: links, named: map[string]string{}, sets: map[string]routing.PrefixSet{}}
	for _, s := range sp.Sessions {
		c.peers = append(c.peers, s.Peer)
	}
	for _, s := range sp.Sets {
		c.sets[s.Name] = s
	}
	in, err := c.policy(importPolicy, sp.Sessions, incoming)
	if err != nil {
		return nil, err
	}
	out, err := c.policy(exportPolicy, sp.Sessions, outgoing)
	if err != nil {
		return nil, err
	}
	return &api.SetPoliciesRequest{DefinedSets: c.defined, Policies: []*api.Policy{in, out}}, nil
}

// refuse makes compiled policies send nothing to some peers.
func refuse(p *api.SetPoliciesRequest, peers []netip.Addr) {
	set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "refused"}
	for _, a := range peers {
		a = a.WithZone("")
		set.List = append(set.List, netip.PrefixFrom(a, a.BitLen()).String())
	}
	p.DefinedSets = append(p.DefinedSets, set)
	out := p.Policies[1]
	out.Statements = append([]*api.Statement{{
		Name: "refused", Conditions: &api.Conditions{NeighborSet: anyOf(set.Name)}, Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT},
	}}, out.Statements...)
}

type compiler struct {
	links   []Link
	peers   []netip.Addr
	sets    map[string]routing.PrefixSet
	defined []*api.DefinedSet
	named   map[string]string // name by content
}

func (c *compiler) policy(name string, sessions []routing.Session, d direction) (*api.Policy, error) {
	p := &api.Policy{Name: name}
	if d == incoming {
		// Nobody sends us our own marks.
		one := c.large(markRegion, markMatch)
		one.Type = api.MatchSet_TYPE_ANY
		p.Statements = append(p.Statements, &api.Statement{
			Conditions: &api.Conditions{LargeCommunitySet: one}, Actions: &api.Actions{LargeCommunity: unmark(markRegion, markMatch)},
		})
	}
	var order []string
	groups, peers := map[string]group{}, map[string][]string{}
	for _, s := range sessions {
		g := group{four: s.Peer.Is4(), ibgp: s.ASN == s.LocalASN, local: s.LocalASN, nextHop: s.NextHop, rules: s.Import}
		if d == outgoing {
			g.rules = s.Export
		} else {
			g.nextHop = routing.NextHopAuto
		}
		if len(g.rules) == 0 && g.nextHop == routing.NextHopAuto {
			continue
		}
		key := fmt.Sprintf("%#v", g)
		if _, ok := groups[key]; !ok {
			order = append(order, key)
			groups[key] = g
		}
		a := s.Peer.WithZone("")
		peers[key] = append(peers[key], netip.PrefixFrom(a, a.BitLen()).String())
	}
	for _, key := range order {
		g := groups[key]
		of := c.define(api.DefinedType_DEFINED_TYPE_NEIGHBOR, peers[key], nil)
		if g.nextHop != routing.NextHopAuto {
			p.Statements = append(p.Statements, nextHops(g, of)...)
		}
		for _, r := range g.rules {
			st, err := c.rule(g, r, d, of)
			if err != nil {
				return nil, fmt.Errorf("filter rule %s: %w", r.By, err)
			}
			p.Statements = append(p.Statements, st...)
		}
	}
	for i, s := range p.Statements {
		s.Name = name + "-" + strconv.Itoa(i)
	}
	return p, nil
}

func nextHops(g group, of string) []*api.Statement {
	a := &api.NexthopAction{Self: true}
	if g.nextHop == routing.NextHopKeep {
		a = &api.NexthopAction{Unchanged: true}
	}
	var out []*api.Statement
	for _, t := range learned {
		out = append(out, &api.Statement{Conditions: &api.Conditions{NeighborSet: anyOf(of), RouteType: t}, Actions: &api.Actions{Nexthop: a}})
	}
	return out
}

// learned are the types of routes that came by BGP.
var learned = []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_INTERNAL, api.Conditions_ROUTE_TYPE_EXTERNAL}

// rule compiles one rule: nothing where it cannot match.
func (c *compiler) rule(g group, r routing.FilterRule, d direction, of string) ([]*api.Statement, error) {
	if r.EBGP && g.ibgp || r.IBGP && !g.ibgp {
		return nil, nil
	}
	cond := &api.Conditions{NeighborSet: anyOf(of)}
	before, possible, err := c.prefixes(g, r, cond)
	if err != nil || !possible {
		return nil, err
	}
	if !c.otherConditions(g, r, d, cond) {
		return nil, nil
	}
	types := []api.Conditions_RouteType{api.Conditions_ROUTE_TYPE_UNSPECIFIED}
	if (r.RemotePeers || len(cond.NextHopInList) > 0) && d == outgoing {
		if types = learned; r.Internal {
			types = learned[:1]
		}
	}
	out := slices.Clone(before)
	for _, t := range types {
		x := &api.Conditions{
			NeighborSet: cond.NeighborSet, PrefixSet: cond.PrefixSet, AsPathSet: cond.AsPathSet, CommunitySet: cond.CommunitySet,
			LargeCommunitySet: cond.LargeCommunitySet, NextHopInList: cond.NextHopInList, LocalPrefEq: cond.LocalPrefEq, RouteType: t,
		}
		st, err := c.actions(g, r, d, x, len(before) > 0)
		if err != nil {
			return nil, err
		}
		out = append(out, st...)
	}
	if len(before) > 0 { // where the rule did not match
		out = append(out, &api.Statement{
			Conditions: &api.Conditions{NeighborSet: anyOf(of), LargeCommunitySet: c.large(markRegion)},
			Actions:    &api.Actions{LargeCommunity: unmark(markRegion)},
		})
	}
	return out, nil
}

// prefixes sets the conditions on a route's prefix. Where one is in two sets, a statement before marks
// those of the first.
func (c *compiler) prefixes(g group, r routing.FilterRule, cond *api.Conditions) (before []*api.Statement, possible bool, err error) {
	spans, all := spansOf(r, g.four)
	if r.Set != "" {
		set, ok := c.sets[r.Set]
		if !ok {
			return nil, false, fmt.Errorf("it names the set of prefixes %q, which is not there", r.Set)
		}
		in := spansOfSet(set, g.four)
		switch {
		case !r.NotInSet && all:
			spans, all = in, false
		case !r.NotInSet:
			spans = both(spans, in)
		case len(in) == 0:
		case len(spans) == 0:
			return nil, false, nil
		default:
			cond.PrefixSet = &api.MatchSet{Type: api.MatchSet_TYPE_INVERT, Name: c.prefixSet(in)}
			if all {
				return nil, true, nil
			}
			before = []*api.Statement{{
				Conditions: &api.Conditions{NeighborSet: cond.NeighborSet, PrefixSet: anyOf(c.prefixSet(spans))},
				Actions:    &api.Actions{LargeCommunity: mark(markRegion)},
			}}
			cond.LargeCommunitySet = c.large(markRegion)
			return before, true, nil
		}
	}
	if all {
		return nil, true, nil
	}
	if len(spans) == 0 {
		return nil, false, nil
	}
	cond.PrefixSet = anyOf(c.prefixSet(spans))
	return nil, true, nil
}

// otherConditions sets what does not concern the prefix; false where it never holds.
func (c *compiler) otherConditions(g group, r routing.FilterRule, d direction, cond *api.Conditions) bool {
	if len(r.ASPath) > 0 {
		begin := r.ASPath
		if d == outgoing && !g.ibgp {
			begin = append([]uint32{g.local}, begin...) // GoBGP asks when the own AS is in it
		}
		var text []string
		for _, a := range begin {
			text = append(text, strconv.FormatUint(uint64(a), 10))
		}
		cond.AsPathSet = anyOf(c.define(api.DefinedType_DEFINED_TYPE_AS_PATH, []string{"^" + strings.Join(text, " ") + "( |$)"}, nil))
	}
	switch strings.Count(r.Community, ":") {
	case 1:
		cond.CommunitySet = anyOf(c.define(api.DefinedType_DEFINED_TYPE_COMMUNITY, []string{r.Community}, nil))
	case 2:
		want := []string{r.Community}
		if cond.LargeCommunitySet != nil {
			want = append(want, markRegion)
		}
		cond.LargeCommunitySet = c.large(want...)
	}
	if r.Priority > 0 {
		if r.Priority >= priorityBase {
			return false
		}
		cond.LocalPrefEq = &api.LocalPrefEq{Value: priorityBase - r.Priority}
	}
	if r.Interface != "" && r.Interface != "*" {
		// GoBGP knows no interfaces. A route is of an interface where its next hop is a peer on it.
		for _, p := range c.peers {
			if p.Is4() == g.four && glob(r.Interface, linkOf(c.links, p)) {
				cond.NextHopInList = append(cond.NextHopInList, p.WithZone("").String())
			}
		}
		return len(cond.NextHopInList) > 0
	}
	return true
}

// linkOf returns the interface that an address is on; empty for none.
func linkOf(links []Link, a netip.Addr) string {
	best, name := -1, a.Zone()
	for _, l := range links {
		for _, p := range l.Prefixes {
			if p.Bits() > best && p.Contains(a) {
				best, name = p.Bits(), l.Name
			}
		}
	}
	return name
}

// glob tells whether a name matches a pattern, as routing.Speaker.Decide has it.
func glob(pattern, name string) bool {
	ok, err := gopath.Match(pattern, name)
	return err == nil && ok
}

// actions returns what a matching route undergoes.
func (c *compiler) actions(g group, r routing.FilterRule, d direction, cond *api.Conditions, marked bool) ([]*api.Statement, error) {
	if !r.Accept {
		return []*api.Statement{{Conditions: cond, Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_REJECT}}}, nil
	}
	a := &api.Actions{}
	var standard, large []string
	var prepend []uint32
	for _, op := range r.Operations {
		switch strings.Count(op.AddCommunity, ":") {
		case 1:
			standard = append(standard, op.AddCommunity)
		case 2:
			large = append(large, op.AddCommunity)
		}
		if op.SetPriority > 0 {
			if op.SetPriority >= priorityBase {
				return nil, fmt.Errorf("priority %d: at most %d can be told by a local preference", op.SetPriority, priorityBase-1)
			}
			a.LocalPref = &api.LocalPrefAction{Value: priorityBase - op.SetPriority}
		}
		prepend = append(slices.Clone(op.PrependASPath), prepend...)
	}
	if len(standard) > 0 {
		a.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: standard}
	}
	if d == outgoing && !g.ibgp && len(prepend) > 0 && prepend[0] != g.local {
		prepend = append([]uint32{g.local}, prepend...) // the first AS is this host's, as the peer may insist
	}
	runs := runsOf(prepend)
	if len(runs) > 0 {
		a.AsPrepend = runs[0]
		runs = runs[1:]
	}
	if len(runs) == 0 && (!marked || len(large) == 0) {
		if len(large) > 0 {
			a.LargeCommunity = mark(large...)
		} else if marked {
			a.LargeCommunity = unmark(markRegion)
		}
		a.RouteAction = api.RouteAction_ROUTE_ACTION_ACCEPT
		return []*api.Statement{{Conditions: cond, Actions: a}}, nil
	}
	a.LargeCommunity = mark(append(large, markMatch)...)
	out := []*api.Statement{{Conditions: cond, Actions: a}}
	matched := &api.Conditions{NeighborSet: cond.NeighborSet, LargeCommunitySet: c.large(markMatch)}
	for _, x := range runs {
		out = append(out, &api.Statement{Conditions: matched, Actions: &api.Actions{AsPrepend: x}})
	}
	return append(out, &api.Statement{
		Conditions: matched,
		Actions:    &api.Actions{LargeCommunity: unmark(markRegion, markMatch), RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}), nil
}

// runsOf returns the actions that prepend a path, the last of its AS first.
func runsOf(path []uint32) []*api.AsPrependAction {
	var out []*api.AsPrependAction
	for _, as := range slices.Backward(path) {
		if n := len(out); n > 0 && out[n-1].Asn == as && out[n-1].Repeat < 255 {
			out[n-1].Repeat++
		} else {
			out = append(out, &api.AsPrependAction{Asn: as, Repeat: 1})
		}
	}
	return out
}

func mark(communities ...string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD, Communities: communities}
}

func unmark(communities ...string) *api.CommunityAction {
	return &api.CommunityAction{Type: api.CommunityAction_TYPE_REMOVE, Communities: communities}
}

func anyOf(name string) *api.MatchSet { return &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: name} }

// large is the condition that a route has all of these large communities.
func (c *compiler) large(communities ...string) *api.MatchSet {
	return &api.MatchSet{Type: api.MatchSet_TYPE_ALL, Name: c.define(api.DefinedType_DEFINED_TYPE_LARGE_COMMUNITY, communities, nil)}
}

func (c *compiler) prefixSet(spans []span) string {
	list := make([]*api.Prefix, 0, len(spans))
	for _, s := range spans {
		list = append(list, &api.Prefix{IpPrefix: s.in.String(), MaskLengthMin: uint32(s.min), MaskLengthMax: uint32(s.max)})
	}
	return c.define(api.DefinedType_DEFINED_TYPE_PREFIX, nil, list)
}

// define returns the name of a set with that content.
func (c *compiler) define(t api.DefinedType, list []string, prefixes []*api.Prefix) string {
	var key strings.Builder
	fmt.Fprint(&key, int(t), " ", strings.Join(list, " "))
	for _, p := range prefixes {
		fmt.Fprintf(&key, " %s %d-%d", p.IpPrefix, p.MaskLengthMin, p.MaskLengthMax)
	}
	if name, ok := c.named[key.String()]; ok {
		return name
	}
	name := "s" + strconv.Itoa(len(c.defined))
	c.named[key.String()] = name
	c.defined = append(c.defined, &api.DefinedSet{DefinedType: t, Name: name, List: list, Prefixes: prefixes})
	return name
}

package bgp

import (
	"net/netip"
	"strings"
	"testing"

	"weft/internal/testkit/router"
	"weft/routing"
	"weft/routing/bgp/speaker"
)

// What BIRD announces besides 10.65.2.0/26 in the tests of filters.
var announced = []string{
	"10.1.0.0/16 blackhole", "10.1.2.0/24 blackhole", "10.1.2.128/25 blackhole", "10.2.0.0/16 blackhole",
	"10.3.0.0/16 blackhole { bgp_community.add((64513,7)); }",
	"10.4.0.0/16 blackhole { bgp_large_community.add((64513,7,8)); }",
	"10.5.0.0/16 blackhole { bgp_path.prepend(65005); bgp_path.prepend(65004); }",
}

func prefixes(text string) (out []netip.Prefix) {
	for _, p := range strings.Fields(text) {
		out = append(out, prefix(p))
	}
	return out
}

// filterSets are those that the rules of filterCases name.
var filterSets = []routing.PrefixSet{
	{Name: "covers", Covers: prefixes("10.1.2.0/24")}, {Name: "empty"},
	{Name: "exact", Exact: prefixes("10.1.0.0/16 10.2.0.0/16 fd00::/8")}, {Name: "within", Within: prefixes("10.1.0.0/16")},
}

// filterCases are rules that accept, the rest being refused, and which of the announced they leave.
var filterCases = []struct {
	name string
	rule routing.FilterRule
	want string
}{
	{"everything", routing.FilterRule{}, "10.1.0.0/16 10.1.2.0/24 10.1.2.128/25 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16 10.65.2.0/26"},
	{"Equal", routing.FilterRule{CIDR: prefix("10.1.0.0/16")}, "10.1.0.0/16"},
	{"NotEqual", routing.FilterRule{CIDR: prefix("10.1.0.0/16"), Match: routing.MatchNotEqual}, "10.1.2.0/24 10.1.2.128/25 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16 10.65.2.0/26"},
	{"In", routing.FilterRule{CIDR: prefix("10.1.0.0/16"), Match: routing.MatchIn}, "10.1.0.0/16 10.1.2.0/24 10.1.2.128/25"},
	{"NotIn", routing.FilterRule{CIDR: prefix("10.1.0.0/16"), Match: routing.MatchNotIn}, "10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16 10.65.2.0/26"},
	{"In with lengths", routing.FilterRule{CIDR: prefix("10.1.0.0/16"), Match: routing.MatchIn, MinLength: 17, MaxLength: 24}, "10.1.2.0/24"},
	{"NotIn with lengths", routing.FilterRule{CIDR: prefix("10.1.0.0/16"), Match: routing.MatchNotIn, MinLength: 20}, "10.65.2.0/26"},
	{"NotIn of a narrower", routing.FilterRule{CIDR: prefix("10.1.2.0/24"), Match: routing.MatchNotIn, MaxLength: 16}, "10.1.0.0/16 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16"},
	{"lengths only", routing.FilterRule{MinLength: 24, MaxLength: 25}, "10.1.2.0/24 10.1.2.128/25"},
	{"everything in", routing.FilterRule{CIDR: prefix("0.0.0.0/0"), Match: routing.MatchIn, MaxLength: 24}, "10.1.0.0/16 10.1.2.0/24 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16"},
	{"in one of the other family", routing.FilterRule{CIDR: prefix("fd00::/8"), Match: routing.MatchIn}, ""},
	{"not in one of the other family", routing.FilterRule{CIDR: prefix("fd00::/8"), Match: routing.MatchNotIn, MinLength: 26}, "10.65.2.0/26"},
	{"community", routing.FilterRule{Community: "64513:7"}, "10.3.0.0/16"},
	{"large community", routing.FilterRule{Community: "64513:7:8"}, "10.4.0.0/16"},
	{"AS path", routing.FilterRule{ASPath: []uint32{64513, 65004}}, "10.5.0.0/16"},
	{"AS path that begins so", routing.FilterRule{ASPath: []uint32{64513}, MaxLength: 16}, "10.1.0.0/16 10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16"},
	{"AS path with a longer number", routing.FilterRule{ASPath: []uint32{64513, 6500}}, ""},
	{"set, exact", routing.FilterRule{Set: "exact"}, "10.1.0.0/16 10.2.0.0/16"},
	{"set, within", routing.FilterRule{Set: "within"}, "10.1.0.0/16 10.1.2.0/24 10.1.2.128/25"},
	{"set, covers", routing.FilterRule{Set: "covers"}, "10.1.0.0/16 10.1.2.0/24"},
	{"set, empty", routing.FilterRule{Set: "empty"}, ""},
	{"set and CIDR", routing.FilterRule{Set: "exact", CIDR: prefix("10.0.0.0/15"), Match: routing.MatchIn}, "10.1.0.0/16"},
	{"not in set", routing.FilterRule{Set: "within", NotInSet: true}, "10.2.0.0/16 10.3.0.0/16 10.4.0.0/16 10.5.0.0/16 10.65.2.0/26"},
	{"not in an empty set", routing.FilterRule{Set: "empty", NotInSet: true, MinLength: 25}, "10.1.2.128/25 10.65.2.0/26"},
	{"not in set, and CIDR", routing.FilterRule{Set: "exact", NotInSet: true, CIDR: prefix("10.1.0.0/16"), Match: routing.MatchIn}, "10.1.2.0/24 10.1.2.128/25"},
	{"not in set, CIDR and large community", routing.FilterRule{Set: "exact", NotInSet: true, CIDR: prefix("10.4.0.0/15"), Match: routing.MatchIn, Community: "64513:7:8"}, "10.4.0.0/16"},
	{"EBGP", routing.FilterRule{EBGP: true, MinLength: 26}, "10.65.2.0/26"},
	{"IBGP", routing.FilterRule{IBGP: true}, ""},
	{"both at once", routing.FilterRule{IBGP: true, EBGP: true, MinLength: 26}, ""},
	{"remote peers", routing.FilterRule{RemotePeers: true, MinLength: 26}, "10.65.2.0/26"},
	{"interface", routing.FilterRule{Interface: "eth*", MinLength: 26}, "10.65.2.0/26"},
	{"another interface", routing.FilterRule{Interface: "lo", MinLength: 26}, ""},
}

func learnedPrefixes(h *host) string {
	routes, _ := h.driver.Learned()
	var out []string
	for _, r := range routes {
		if r.Prefix.Addr().Is4() {
			out = append(out, r.Prefix.String())
		}
	}
	return strings.Join(out, " ")
}

// TestImportFilters: each condition decides what is learned, and no change of a filter resets the session.
func TestImportFilters(t *testing.T) {
	h, ns := lab(t, 1)
	birdConfig{i: 2, asn: 64513, static4: announced}.start(t, ns[0])
	rest := routing.FilterRule{By: "the rest"}
	with := func(rules ...routing.FilterRule) routing.Speaker {
		return plan(func(s *routing.Speaker) { s.Sets = filterSets },
			sessions(session("10.77.0.2", 64513, func(s *routing.Session) { s.Import = rules }), session("fd77::2", 64513)))
	}
	h.apply(t, with(rest))
	h.established(t, "10.77.0.2", "fd77::2")
	since := h.peer(t, "10.77.0.2").Since
	h.learns(t, "fd65:2::/122 via fd77::2")
	for _, c := range filterCases {
		accept, refuse := c.rule, c.rule
		accept.Accept = true
		h.apply(t, with(accept, rest))
		eventually(t, c.name+" accepts "+c.want, func() bool { return learnedPrefixes(h) == c.want })
		// The same rule refuses what it accepted, and the others are accepted for want of a rule.
		h.apply(t, with(refuse))
		eventually(t, c.name+" refuses "+c.want, func() bool {
			for _, p := range strings.Fields(filterCases[0].want) {
				is, in := strings.Contains(" "+learnedPrefixes(h)+" ", " "+p+" "), strings.Contains(" "+c.want+" ", " "+p+" ")
				if is == in {
					return false
				}
			}
			return true
		})
	}
	if p := h.peer(t, "10.77.0.2"); !p.Since.Equal(since) || p.Flaps > 0 {
		t.Errorf("the session began anew: %+v", p)
	}
	t.Logf("%d rules, each accepting and refusing, 1 session", len(filterCases))
	changed := filterSets[2]
	changed.Exact = prefixes("10.2.0.0/16 10.3.0.0/16")
	p := with(routing.FilterRule{Accept: true, Set: "exact"}, rest)
	h.apply(t, p)
	eventually(t, "the set", func() bool { return learnedPrefixes(h) == "10.1.0.0/16 10.2.0.0/16" })
	p.Sets = []routing.PrefixSet{changed}
	h.apply(t, p)
	eventually(t, "the changed set", func() bool { return learnedPrefixes(h) == "10.2.0.0/16 10.3.0.0/16" })
	p = with(routing.FilterRule{Accept: true, Set: "nowhere"})
	if _, err := h.driver.Apply(t.Context(), p); err == nil || !strings.Contains(err.Error(), `the set of prefixes "nowhere"`) {
		t.Errorf("the error: %v", err)
	}
	if l := learnedPrefixes(h); l != "10.2.0.0/16 10.3.0.0/16" {
		t.Errorf("what was is not in force any more: %s", l)
	}
}

// TestImportOperations: what filters change of a route is seen in what is learned and in what is told on.
func TestImportOperations(t *testing.T) {
	h, ns := lab(t, 2)
	birdConfig{i: 2, asn: 64513, static4: announced}.start(t, ns[0])
	b := birdConfig{i: 3, asn: 64512}.start(t, ns[1])
	ops := []routing.FilterAction{
		{AddCommunity: "64512:11"}, {AddCommunity: "64512:12:13"}, {PrependASPath: []uint32{65101, 65102}}, {PrependASPath: []uint32{65100}}, {SetPriority: 512},
	}
	in := []routing.FilterRule{
		{Accept: true, CIDR: prefix("10.1.0.0/16"), Operations: ops},
		{Accept: true, CIDR: prefix("10.2.0.0/16"), Operations: ops[:2]},
		{Accept: true, CIDR: prefix("10.3.0.0/16"), Operations: []routing.FilterAction{{PrependASPath: []uint32{65100, 65100}}}},
		{Accept: true, Set: "exact", NotInSet: true, CIDR: prefix("10.4.0.0/16"), Operations: ops[1:2]},
		{By: "the rest"},
	}
	h.apply(t, plan(func(s *routing.Speaker) { s.Sets = filterSets }, sessions(session("10.77.0.2", 64513, func(s *routing.Session) { s.Import = in }), session("10.77.0.3", 64512))))
	h.learns(t, "10.1.0.0/16 via 10.77.0.2 priority 512", "10.2.0.0/16 via 10.77.0.2", "10.3.0.0/16 via 10.77.0.2", "10.4.0.0/16 via 10.77.0.2", "10.65.3.0/26 via 10.77.0.3")
	says(t, b, "10.1.0.0/16", "BGP.as_path: 65100 65101 65102 64513", "BGP.community: (64512,11)", "BGP.large_community: (64512, 12, 13)", "BGP.local_pref: 2147483135", "BGP.next_hop: 10.77.0.2")
	says(t, b, "10.2.0.0/16", "BGP.as_path: 64513", "BGP.community: (64512,11)", "BGP.large_community: (64512, 12, 13)", "BGP.local_pref: 100")
	says(t, b, "10.3.0.0/16", "BGP.as_path: 65100 65100 64513", "BGP.community: (64513,7)")
	says(t, b, "10.4.0.0/16", "BGP.as_path: 64513", "BGP.large_community: (64513, 7, 8) (64512, 12, 13)")
	for _, p := range []string{"10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"} {
		if r := b.Route(t, p); strings.Contains(r, "4294967295") {
			t.Errorf("a mark of ours was told on: %s", r)
		}
	}
}

// says waits until a BIRD says all of that about a route.
func says(t testing.TB, b *router.Bird, p string, lines ...string) {
	t.Helper()
	have := ""
	defer func() {
		if t.Failed() {
			t.Logf("BIRD says:\n%s", have)
		}
	}()
	eventually(t, p+" has "+strings.Join(lines, "; "), func() bool {
		have = b.Route(t, p)
		for _, l := range lines {
			if !strings.Contains(have+"\n", l+"\n") {
				return false
			}
		}
		return have != ""
	})
}

// TestExportFilters: conditions and operations of what is told, to an eBGP and an iBGP neighbour.
func TestExportFilters(t *testing.T) {
	h, ns := lab(t, 3)
	outer := birdConfig{i: 2, asn: 64513}.start(t, ns[0])
	inner := birdConfig{i: 3, asn: 64512}.start(t, ns[1])
	birdConfig{i: 4, asn: 64514, static4: announced}.start(t, ns[2])
	out := []routing.FilterRule{
		{Accept: true, RemotePeers: true, ASPath: []uint32{64514, 65004}, Operations: []routing.FilterAction{{AddCommunity: "64512:1"}}},
		{CIDR: prefix("10.66.0.0/16"), Match: routing.MatchIn, RemotePeers: true}, // no such: they are ours
		{Accept: true, Community: "64512:66", Operations: []routing.FilterAction{{PrependASPath: []uint32{65009, 65009}}, {SetPriority: 100}}},
		{Accept: true, EBGP: true, CIDR: prefix("10.66.2.0/24"), Operations: []routing.FilterAction{{PrependASPath: []uint32{65001}}}},
		{Accept: true, Priority: 2147483647 - 100, Set: "within"}, // of the default local preference
		{By: "the rest"},
	}
	filtered := func(s *routing.Session) { s.Export = out }
	p := plan(func(s *routing.Speaker) {
		s.Sets = filterSets
		s.Advertisements = []routing.Advertisement{
			{Prefix: prefix("10.66.1.0/24"), Communities: []string{"64512:66", "64512:67:68"}}, {Prefix: prefix("10.66.2.0/24")}, {Prefix: prefix("10.66.3.0/24")},
		}
	}, sessions(session("10.77.0.2", 64513, filtered), session("10.77.0.3", 64512, filtered), session("10.77.0.4", 64514)))
	h.apply(t, p)
	says(t, outer, "10.66.1.0/24", "BGP.as_path: 64512 65009 65009 64512", "BGP.community: (64512,66)", "BGP.large_community: (64512, 67, 68)", "BGP.next_hop: 10.77.0.1")
	says(t, outer, "10.66.2.0/24", "BGP.as_path: 64512 65001 64512")
	says(t, outer, "10.5.0.0/16", "BGP.as_path: 64512 64514 65004 65005", "BGP.community: (64512,1)", "BGP.next_hop: 10.77.0.1")
	says(t, inner, "10.5.0.0/16", "BGP.as_path: 64514 65004 65005", "BGP.community: (64512,1)", "BGP.next_hop: 10.77.0.4")
	says(t, inner, "10.66.1.0/24", "BGP.as_path: 65009 65009", "BGP.local_pref: 2147483547")
	eventually(t, "they have what they may", func() bool {
		return outer.Count(t, "protocol host4") == 6 && inner.Count(t, "protocol host4") == 5
	})
	p.Sessions[0].Export = nil
	h.apply(t, p)
	eventually(t, "without a filter it has all", func() bool { return outer.Count(t, "protocol host4") == 3+8+1 })
	if x := h.peer(t, "10.77.0.2"); x.State != speaker.Established || x.Flaps > 0 {
		t.Errorf("the session began anew: %+v", x)
	}
	p.Sessions[0].Export = out
	h.apply(t, p)
	eventually(t, "with it, less", func() bool { return outer.Count(t, "protocol host4") == 6 })
}

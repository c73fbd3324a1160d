package speaker

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"pgregory.net/rapid"

	"weft/routing"
)

// told is one path of the world of TestRIBSharesPaths.
type told struct {
	peer, hop netip.Addr
	id        uint32
	priority  uint32
}

// Over any paths that come and go, each prefix has the way that its own paths make, what a watcher is told adds up to
// that, and no more sets of paths are kept than there are different ones.
func TestRIBSharesPaths(t *testing.T) {
	ways, shared := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := newHub()
		r, w := newRIB(h), h.watch()
		want := map[netip.Prefix][]told{}
		heard := map[netip.Prefix]routing.Way{}
		addr := func(what string) netip.Addr {
			return netip.MustParseAddr(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}).Draw(t, what))
		}
		t.Repeat(map[string]func(*rapid.T){
			"told": func(t *rapid.T) {
				p := netip.MustParsePrefix(fmt.Sprintf("10.9.%d.0/24", rapid.IntRange(0, 4).Draw(t, "prefix")))
				n, err := bgp.NewIPAddrPrefix(p)
				if err != nil {
					t.Fatal(err)
				}
				x := told{peer: addr("peer"), hop: addr("hop"), id: rapid.Uint32Range(0, 1).Draw(t, "id"), priority: rapid.Uint32Range(0, 1).Draw(t, "priority") * 77}
				if rapid.IntRange(0, 5).Draw(t, "own") == 0 {
					x.peer = netip.Addr{}
				}
				hop, err := bgp.NewPathAttributeNextHop(x.hop)
				if err != nil {
					t.Fatal(err)
				}
				path := &apiutil.Path{Nlri: n, PeerAddress: x.peer, RemoteID: x.id, Attrs: []bgp.PathAttributeInterface{hop}, Withdrawal: rapid.Bool().Draw(t, "withdrawn")}
				if x.priority > 0 {
					path.Attrs = append(path.Attrs, bgp.NewPathAttributeLocalPref(priorityBase-x.priority))
				}
				want[p] = slices.DeleteFunc(want[p], func(o told) bool { return o.peer == x.peer && o.id == x.id })
				if !path.Withdrawal {
					want[p] = append(want[p], x)
				}
				r.update([]*apiutil.Path{path})
			},
			"heard": func(t *rapid.T) {
				for e, news := w.next(); news; e, news = w.next() {
					hear(t, heard, e)
				}
				expected, sets := map[netip.Prefix]routing.Way{}, map[string]bool{}
				for p, list := range want {
					if len(list) > 0 {
						sets[fmt.Sprint(sortTold(list))] = true
					}
					if way := slowWay(list); len(way.NextHops) > 0 {
						expected[p] = way
					}
				}
				if !maps.EqualFunc(heard, expected, func(a, b routing.Way) bool { return a.Equal(&b) }) {
					t.Fatalf("heard\n%v\nwant\n%v", heard, expected)
				}
				if len(r.sets) != len(sets) {
					t.Fatalf("%d sets of paths are kept, and %d are in use", len(r.sets), len(sets))
				}
				ways += len(expected)
				shared += len(r.paths) - len(r.sets)
			},
		})
	})
	if ways == 0 || shared == 0 {
		t.Errorf("%d ways were compared, %d of them shared", ways, shared)
	}
}

// hear takes an event as a client does, which has it as JSON.
func hear(t *rapid.T, heard map[netip.Prefix]routing.Way, e Event) {
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back Event
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, b := range back.Routes {
		for _, p := range b.Prefixes {
			heard[p] = b.Way
		}
	}
	for _, p := range back.Withdrawn {
		delete(heard, p)
	}
}

func sortTold(list []told) []told {
	return slices.SortedFunc(slices.Values(list), func(a, b told) int {
		return cmp.Or(a.hop.Compare(b.hop), a.peer.Compare(b.peer), cmp.Compare(a.id, b.id))
	})
}

// slowWay is what paths make, without next hops where that is nothing.
func slowWay(list []told) (w routing.Way) {
	for _, x := range sortTold(list) {
		if !x.peer.IsValid() {
			return routing.Way{}
		}
		if !w.Peer.IsValid() {
			w.Peer, w.Priority = x.peer, x.priority
		}
		if !slices.Contains(w.NextHops, x.hop) {
			w.NextHops = append(w.NextHops, x.hop)
		}
	}
	return w
}

// Prefixes are read as they were written, with zones of nobody, and garbage is refused.
func TestPrefixesText(t *testing.T) {
	for _, text := range []string{"", "10.0.0.0/8", "10.0.0.0/8 fd00::/64 0.0.0.0/0 10.1.2.3/32"} {
		var p Prefixes
		if err := p.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if back, err := p.MarshalText(); err != nil || string(back) != text {
			t.Errorf("%q became %q, %v", text, back, err)
		}
	}
	for _, text := range []string{"10.0.0.0", "10.0.0.0/8  fd00::/64", "10.0.0.0/8,fd00::/64", "x"} {
		var p Prefixes
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken for %v", text, p)
		}
	}
}

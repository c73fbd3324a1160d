package routing

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"weft/internal/testkit/figures"
	"weft/model"
)

// propagation is who hears of one prefix, by the rules of RFC 4271 and RFC 4456.
type propagation struct {
	speakers map[model.NodeName]*Speaker
	byPeer   map[model.NodeName]map[model.NodeName]*Session // of one family
}

// spread returns the nodes that have the prefix, each with how many sessions it went over.
func (g *propagation) spread(from model.NodeName, p netip.Prefix) map[model.NodeName]int {
	type route struct {
		at   model.NodeName
		over *Session // at's session that it came by; nil: at's own
		hops int
	}
	had := map[model.NodeName]int{from: 0}
	queue := []route{{at: from}}
	for len(queue) > 0 && len(had) < len(g.speakers) {
		r := queue[0]
		queue = queue[1:]
		s := g.speakers[r.at]
		for i := range s.Sessions {
			out := &s.Sessions[i]
			to := model.NodeName(out.Node)
			if _, has := had[to]; has || model.FamilyOf(out.Peer) != model.FamilyOf(p.Addr()) {
				continue
			}
			// From one internal peer to another only when one of the two is a client.
			within := r.over != nil && r.over.ASN == r.over.LocalASN
			internal := within && out.ASN == out.LocalASN
			if internal && !r.over.ReflectorClient && !out.ReflectorClient {
				continue
			}
			if ok, _ := s.Decide(out, out.Export, Announced{Prefix: p, Learned: r.over != nil, Internal: within}); !ok {
				continue
			}
			in := g.byPeer[to][r.at]
			if ok, _ := g.speakers[to].Decide(in, in.Import, Announced{Prefix: p, Learned: true}); ok {
				had[to] = r.hops + 1
				queue = append(queue, route{to, in, r.hops + 1})
			}
		}
	}
	return had
}

func newPropagation(t *testing.T, in SpeakerInput, f model.Family) *propagation {
	g := &propagation{map[model.NodeName]*Speaker{}, map[model.NodeName]map[model.NodeName]*Session{}}
	for name := range in.Nodes {
		in.Self = name
		s, err := CompileSpeaker(in)
		if err != nil {
			t.Fatal(err)
		}
		g.speakers[name], g.byPeer[name] = &s, map[model.NodeName]*Session{}
		for i := range s.Sessions {
			if n := &s.Sessions[i]; model.FamilyOf(n.Peer) == f {
				g.byPeer[name][model.NodeName(n.Node)] = n
			}
		}
	}
	return g
}

// With a thousand nodes and reflectors that nobody chose, every block reaches every node, also with one
// of the reflectors dead; with all of them dead it does not.
func TestReflectionReachesAll(t *testing.T) {
	const nodes = 1000
	in := speakerCluster(nodes, 40)
	for name := range in.Nodes { // the other family is the same once more
		withNode(in, name, func(n *model.Node) { n.Addresses = n.Addresses[:1] })
	}
	maps.DeleteFunc(in.Blocks, func(p netip.Prefix, _ *model.Block) bool { return p.Addr().Is6() })
	g := newPropagation(t, in, model.IPv4)
	var reflectors []model.NodeName
	sessions, racks := 0, map[string]int{}
	for name, s := range g.speakers {
		sessions += len(s.Sessions)
		if reflecting(s) {
			reflectors = append(reflectors, name)
			racks[in.Nodes[name].Labels["rack"]]++
		}
	}
	slices.Sort(reflectors)
	check := func(what string, origins []int, wantAll bool) {
		t.Helper()
		longest, reached, pairs := 0, 0, 0
		for _, i := range origins {
			from := model.NodeName(fmt.Sprintf("n%d", i+1))
			if g.speakers[from] == nil {
				continue
			}
			had := g.spread(from, blockOf4(i))
			reached += len(had)
			pairs += len(g.speakers)
			longest = max(longest, slices.Max(slices.Collect(maps.Values(had))))
		}
		t.Logf("%s: %d of %d pairs of block and node, over at most %d sessions", what, reached, pairs, longest)
		if wantAll {
			figures.Write(t, "reflection", figures.Share(fmt.Sprintf("%d nodes, %s", nodes, what), "unreached", int64(pairs-reached), "pairs", int64(pairs))...)
		}
		if pairs < len(g.speakers) || (reached == pairs) != wantAll {
			t.Errorf("%s: %d of %d reached, want all: %v", what, reached, pairs, wantAll)
		}
	}
	t.Logf("%d nodes, reflectors %v in racks %v, %d sessions (a mesh has %d)", nodes, reflectors, racks, sessions/2, nodes*(nodes-1)/2)
	if len(reflectors) < 3 || len(reflectors) > 6 || len(racks) < 3 {
		t.Errorf("reflectors %v in racks %v", reflectors, racks)
	}
	every, some := make([]int, nodes), []int{0, 1, 499, 998, 999}
	for i := range every {
		every[i] = i
	}
	check("all up", every, true)
	for n, dead := range reflectors {
		delete(g.speakers, dead)
		for _, s := range g.speakers {
			s.Sessions = slices.DeleteFunc(s.Sessions, func(n Session) bool { return n.Node == string(dead) })
		}
		for name, by := range g.byPeer { // the sessions moved
			clear(by)
			if s := g.speakers[name]; s != nil {
				for i := range s.Sessions {
					if e := &s.Sessions[i]; e.Peer.Is4() {
						by[model.NodeName(e.Node)] = e
					}
				}
			}
		}
		check(fmt.Sprintf("%d of %d reflectors dead", n+1, len(reflectors)), some, n+1 < len(reflectors))
	}
}

// A node that goes takes at most its own place among the reflectors.
func TestReflectorsAreStable(t *testing.T) {
	in := speakerCluster(400, 40)
	chosen := func() map[model.NodeName]bool { return newSpeakerCompiler(&in).auto.chosen[model.IPv4] }
	before := chosen()
	if len(before) != automaticReflectors {
		t.Fatalf("reflectors %v, want %d", before, automaticReflectors)
	}
	changed := 0
	for i := range 400 {
		name := model.NodeName(fmt.Sprintf("n%d", i+1))
		was := in.Nodes[name]
		delete(in.Nodes, name)
		kept := 0
		for n := range chosen() {
			if before[n] {
				kept++
			}
		}
		in.Nodes[name] = was
		if want := automaticReflectors; kept != want && !(before[name] && kept == want-1) {
			t.Errorf("without %s %d of %d reflectors stay", name, kept, want)
		}
		if kept < automaticReflectors {
			changed++
		}
	}
	if changed != automaticReflectors {
		t.Errorf("the reflectors changed without %d of the nodes, want %d", changed, automaticReflectors)
	}
	withNode(in, "n7", func(n *model.Node) { n.Labels[ReflectorLabel] = "true" })
	for n := range before {
		withNode(in, n, func(n *model.Node) { n.Labels[ReflectorLabel] = "false" })
	}
	if now := chosen(); !now["n7"] || len(now) != automaticReflectors {
		t.Errorf("with labels %v", now)
	} else {
		for n := range before {
			if now[n] {
				t.Errorf("%s is a reflector against its label", n)
			}
		}
	}
}

func BenchmarkCompileSpeaker(b *testing.B) {
	in := speakerCluster(5000, 40)
	for i := range 5000 { // blockOf4 has but 1024
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 245 + byte(i>>10), byte(i >> 2), byte(i&3) << 6}), 26)
		in.Blocks[p] = &model.Block{CIDR: p, Node: model.NodeName(fmt.Sprintf("n%d", i+1))}
	}
	in.Pools = append(in.Pools, model.Pool{Name: "more", CIDR: prefix("10.240.0.0/12")})
	reflectors := newSpeakerCompiler(&in).auto.chosen[model.IPv4]
	for _, self := range []model.NodeName{slices.Min(slices.Collect(maps.Keys(reflectors))), "n1"} {
		b.Run(map[bool]string{true: "reflector", false: "client"}[reflectors[self]], func(b *testing.B) {
			in.Self = self
			for b.Loop() {
				if s, err := CompileSpeaker(in); err != nil || len(s.Sessions) == 0 {
					b.Fatal(err, len(s.Sessions))
				}
			}
		})
	}
}

package routing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
)

// randomSpeakers is a cluster with reflectors, AS numbers and BGPPeers of any kind but one-sided ones.
func randomSpeakers(t *rapid.T) SpeakerInput {
	in := speakerCluster(rapid.IntRange(2, 8).Draw(t, "nodes"), 2)
	cfg := &in.BGP.Config
	cfg.Mesh = rapid.Bool().Draw(t, "mesh")
	cfg.ReflectorThreshold = rapid.IntRange(0, 8).Draw(t, "threshold")
	names := slices.Sorted(maps.Keys(in.Nodes))
	for _, name := range names {
		withNode(in, name, func(n *model.Node) {
			n.Labels["a"] = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "label")
			if rapid.IntRange(0, 4).Draw(t, "other AS") == 0 {
				n.BGP.ASN = rapid.Uint32Range(65000, 65002).Draw(t, "AS")
			}
			if rapid.IntRange(0, 5).Draw(t, "reflector") == 0 {
				n.BGP.ClusterID = netip.AddrFrom4([4]byte{244, 0, 0, byte(rapid.IntRange(1, 2).Draw(t, "cluster id"))})
			}
			if f := rapid.IntRange(0, 3).Draw(t, "family"); f < 2 {
				n.Addresses = n.Addresses[f : f+1]
			}
		})
		withNode(in, name, func(n *model.Node) {
			n.BGP.Relies.Mesh = rapid.Bool().Draw(t, "relies on the mesh")
			if rapid.Bool().Draw(t, "relies on reflectors") {
				n.BGP.Relies.Reflectors = []model.NodeName{rapid.SampledFrom(names).Draw(t, "reflector")}
			}
		})
	}
	selectors := rapid.SampledFrom([]string{"all()", "a == 'x'", "a == 'y'", "rack == 'r1'", "!has(a)"})
	for i := range rapid.IntRange(0, 4).Draw(t, "peers") {
		in.BGP.Peers = append(in.BGP.Peers, peerOf(fmt.Sprintf("p%d", i), func(p *model.BGPPeer) {
			switch rapid.IntRange(0, 2).Draw(t, "locals") {
			case 0:
				p.Node = rapid.SampledFrom(names).Draw(t, "node")
			case 1:
				p.NodeSelector = selectors.Draw(t, "nodes")
			}
			if rapid.Bool().Draw(t, "by address") {
				n := in.Nodes[rapid.SampledFrom(names).Draw(t, "peer")]
				p.Peer = netip.AddrPortFrom(rapid.SampledFrom(n.Addresses).Draw(t, "address").Addr(), 0)
				p.ASN = rapid.Uint32Range(64512, 64513).Draw(t, "peer AS")
			} else {
				p.PeerSelector = selectors.Draw(t, "peers")
			}
			if rapid.Bool().Draw(t, "local AS") {
				p.LocalASN = rapid.Uint32Range(65100, 65101).Draw(t, "LocalASN")
			}
		}))
	}
	return in
}

// Two nodes agree on every session between them.
func TestSessionsAreSymmetric(t *testing.T) {
	sessions, passive := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		in := randomSpeakers(t)
		type end struct {
			from, to model.NodeName
			family   model.Family
		}
		all := map[end]Session{}
		ids := map[netip.Addr]model.NodeName{}
		for name := range in.Nodes {
			in.Self = name
			s, _ := CompileSpeaker(in)
			if other, taken := ids[s.RouterID]; len(s.Sessions) > 0 && (taken || !s.RouterID.Is4() || s.RouterID.IsUnspecified()) {
				t.Fatalf("router id %v of %s, and of %q", s.RouterID, name, other)
			}
			ids[s.RouterID] = name
			for _, n := range s.Sessions {
				all[end{name, model.NodeName(n.Node), model.FamilyOf(n.Peer)}] = n
			}
		}
		for e, a := range all {
			b, there := all[end{e.to, e.from, e.family}]
			switch {
			case !there:
				t.Fatalf("%s has a session with %s, which has none:\n%s", e.from, e.to, &a)
			case a.ASN != b.LocalASN || b.ASN != a.LocalASN || a.Peer != b.Source || a.Passive == b.Passive || a.Peer == b.Peer ||
				a.ReflectorClient != a.ClusterID.IsValid() || a.KeepaliveSeconds != b.KeepaliveSeconds:
				t.Fatalf("%s and %s do not agree:\n%s\n%s", e.from, e.to, &a, &b)
			}
			sessions++
			if a.Passive {
				passive++
			}
		}
	})
	if sessions < 500 || 2*passive != sessions {
		t.Errorf("%d ends of sessions, %d passive: want some hundreds, and half of them", sessions, passive)
	}
}

// The order in which the resources come does not matter.
func TestSpeakerIgnoresOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	rapid.Check(t, func(t *rapid.T) {
		in := randomSpeakers(t)
		more := services()
		in.BGP.Services = more.BGP.Services
		in.BGP.Config.ExternalIPs, in.BGP.Config.LoadBalancerIPs = more.BGP.Config.ExternalIPs, more.BGP.Config.LoadBalancerIPs
		want, werr := CompileSpeaker(in)
		for range 3 {
			in.BGP.Peers, in.Pools, in.BGP.Services = slices.Clone(in.BGP.Peers), slices.Clone(in.Pools), slices.Clone(in.BGP.Services)
			rnd.Shuffle(len(in.BGP.Peers), func(i, j int) { in.BGP.Peers[i], in.BGP.Peers[j] = in.BGP.Peers[j], in.BGP.Peers[i] })
			rnd.Shuffle(len(in.Pools), func(i, j int) { in.Pools[i], in.Pools[j] = in.Pools[j], in.Pools[i] })
			rnd.Shuffle(len(in.BGP.Services), func(i, j int) {
				in.BGP.Services[i], in.BGP.Services[j] = in.BGP.Services[j], in.BGP.Services[i]
			})
			in.Nodes, in.Blocks = maps.Clone(in.Nodes), maps.Clone(in.Blocks)
			got, gerr := CompileSpeaker(in)
			if got.Format() != want.Format() || fmt.Sprint(gerr) != fmt.Sprint(werr) {
				t.Fatalf("got\n%s%v\nwant\n%s%v", got.Format(), gerr, want.Format(), werr)
			}
		}
	})
}

// What a rogue peer may say is refused, and what an honest one says is not, by every kind of peer.
func TestImportRefusesRogues(t *testing.T) {
	in := reflected() // n1, n2 reflect; n3 looks
	in.Self = "n3"
	in.BGP.Peers = append(in.BGP.Peers, tor("tor", "172.31.2.254", 65100))
	in.BGP.Peers[1].NodeSelector = "has(reflector) || rack == 'r2'" // so reflectors have a router, too
	in.Blocks[blockOf4(3)].Borrowed = map[netip.Addr]model.NodeName{addr("10.244.0.200"): "n1"}
	own := blockOf4(2)
	attacks := []netip.Prefix{
		prefix("0.0.0.0/0"), prefix("0.0.0.0/1"), prefix("128.0.0.0/1"), prefix("10.0.0.0/7"), prefix("::/0"), prefix("2000::/3"), prefix("fc00::/7"),
		prefix("10.244.0.130/32"), own, // ours
		prefix("10.244.0.193/32"), prefix("10.244.0.192/27"), prefix("10.244.77.0/26"), prefix("10.244.0.0/16"), prefix("10.244.0.0/24"), // in a pool
		prefix("fd10:244::c1/128"), prefix("fd10:244::/48"),
		prefix("169.254.169.254/32"), prefix("127.0.0.0/8"), prefix("fe80::/10"), prefix("224.0.0.0/4"), prefix("::1/128"),
	}
	ranges := []netip.Prefix{prefix("172.31.1.0/24"), prefix("172.31.1.1/32"), prefix("172.31.2.128/25"), prefix("172.31.0.0/16"), prefix("172.16.0.0/12"),
		prefix("fd00:31:1::/64"), prefix("fd00:31::/32"), prefix("fd00:31:2::1/128")}
	service := []netip.Prefix{prefix("10.96.0.0/12"), prefix("10.96.0.1/32")}
	outside := []netip.Prefix{prefix("192.168.7.0/24"), prefix("10.0.0.0/8"), prefix("2001:db8::/32")}
	others := []netip.Prefix{blockOf4(3), blockOf6(3)}
	s, err := CompileSpeaker(in)
	if err != nil {
		t.Fatal(err)
	}
	on := func(peer string) *Session {
		i := slices.IndexFunc(s.Sessions, func(n Session) bool { return n.Peer == addr(peer) })
		if i < 0 {
			t.Fatalf("no session with %s", peer)
		}
		return &s.Sessions[i]
	}
	cases := []struct {
		peer            string
		accepts, refuse []netip.Prefix
	}{
		{"172.31.2.254", outside, slices.Concat(attacks, ranges, service, others)},                                           // a router
		{"172.31.2.2", slices.Concat(others, service), slices.Concat(attacks, ranges, outside, []netip.Prefix{blockOf4(0)})}, // node n4
		{"172.31.1.1", slices.Concat(others, outside, service, []netip.Prefix{blockOf4(0), prefix("10.244.0.200/32")}), slices.Concat(attacks, ranges)},
	}
	tried := 0
	for _, c := range cases {
		n := on(c.peer)
		six := slices.IndexFunc(s.Sessions, func(o Session) bool { return o.Name == n.Name && o.Node == n.Node && o.Peer.Is6() })
		for want, list := range map[bool][]netip.Prefix{true: c.accepts, false: c.refuse} {
			for _, p := range list {
				on := n
				if p.Addr().Is6() {
					if six < 0 {
						continue
					}
					on = &s.Sessions[six]
				}
				tried++
				if got, by := s.Decide(on, on.Import, Announced{Prefix: p, Learned: true}); got != want {
					t.Errorf("%v says %v: accepted %v, want %v, by %v", on.Peer, p, got, want, by)
				}
			}
		}
	}
	if tried < 90 {
		t.Errorf("only %d tried", tried)
	}
	// Without a router of its own, a reflector tells of nodes only.
	in.BGP.Peers = in.BGP.Peers[:1]
	if s, err = CompileSpeaker(in); err != nil {
		t.Fatal(err)
	}
	n := on("172.31.1.1")
	for _, p := range outside[:2] {
		if got, _ := s.Decide(n, n.Import, Announced{Prefix: p, Learned: true}); got {
			t.Errorf("a reflector without a router says %v: accepted", p)
		}
	}
}

// A router is told of no other router's routes, and by a plain node of its own only.
func TestExports(t *testing.T) {
	in := reflected()
	in.BGP.Peers = append(in.BGP.Peers, tor("tor", "172.31.1.254", 65100))
	for self, passes := range map[model.NodeName]bool{"n1": true, "n3": false} {
		in.Self = self
		s, err := CompileSpeaker(in)
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Sessions {
			n := &s.Sessions[i]
			if n.Peer.Is6() {
				continue
			}
			for _, c := range []struct {
				what string
				r    Announced
				want bool
			}{
				{"its own block", Announced{Prefix: blockOf4(0)}, true},
				{"another node's block", Announced{Prefix: blockOf4(3), Learned: true}, passes},
				{"a router's route", Announced{Prefix: prefix("192.168.0.0/16"), Learned: true}, passes && n.Node != ""},
			} {
				if got, by := s.Decide(n, n.Export, c.r); got != c.want {
					t.Errorf("%s tells %v of %s: %v, want %v, by %v", self, n.Peer, c.what, got, c.want, by)
				}
			}
		}
	}
}

// Where nodes share what they learn, each tells the others what its own routers announce, and nothing else that it
// learned; and is believed so far. Routers are told nothing of it, nor of other nodes, whoever was chosen to reflect.
func TestShareLearned(t *testing.T) {
	in := speakerCluster(4, 2)
	in.BGP.Peers = []model.BGPPeer{tor("tor", "172.31.1.254", 65100)}
	in.BGP.Peers[0].Node = "n1"
	outside := prefix("192.168.7.0/24")
	session := func(self, peer model.NodeName) (*Speaker, *Session) {
		in.Self = self
		s, err := CompileSpeaker(in)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(s.Sessions, func(n Session) bool { return n.Node == string(peer) && n.Peer.Is4() })
		return &s, &s.Sessions[i]
	}
	tells := func(from, to model.NodeName, p netip.Prefix, internal, wantOut, wantIn bool) {
		t.Helper()
		s, n := session(from, to)
		if got, by := s.Decide(n, n.Export, Announced{Prefix: p, Learned: true, Internal: internal}); got != wantOut {
			t.Errorf("share %v, threshold %d: %s tells %q of %v, learned internally %v: %v, want %v, by %v", in.BGP.Config.ShareLearned, in.BGP.Config.ReflectorThreshold, from, to, p, internal, got, wantOut, by)
		}
		if to == "" {
			return
		}
		s, n = session(to, from)
		if got, by := s.Decide(n, n.Import, Announced{Prefix: p, Learned: true, Internal: true}); got != wantIn {
			t.Errorf("share %v, threshold %d: %s takes %v from %s: %v, want %v, by %v", in.BGP.Config.ShareLearned, in.BGP.Config.ReflectorThreshold, to, p, from, got, wantIn, by)
		}
	}
	tells("n1", "n2", outside, false, false, false)
	in.BGP.Config.ShareLearned = true
	tells("n1", "n2", outside, false, true, true)
	tells("n1", "n2", outside, true, false, true)
	tells("n1", "n2", blockOf4(2), false, false, false) // as a rogue router may say
	tells("n1", "n2", prefix("172.31.2.0/24"), false, true, false)
	tells("n3", "n2", outside, false, false, false) // no router
	tells("n1", "", outside, true, false, false)
	tells("n1", "", blockOf4(2), true, false, false)
	// n3 alone reflects.
	in.BGP.Config.ReflectorThreshold = 3
	for n, label := range map[model.NodeName]string{"n1": "false", "n2": "false", "n3": "true", "n4": "false"} {
		withNode(in, n, func(n *model.Node) { n.Labels[ReflectorLabel] = label })
	}
	tells("n3", "n2", outside, true, true, true)
	tells("n3", "n2", blockOf4(0), true, true, true)
	tells("n1", "n3", outside, false, true, true)
	in.BGP.Config.ShareLearned = false
	tells("n3", "n2", outside, true, false, false)
	tells("n3", "n2", blockOf4(0), true, true, true)
	in.BGP.Peers[0].Node = "n3"
	tells("n3", "", blockOf4(0), true, false, false)
}

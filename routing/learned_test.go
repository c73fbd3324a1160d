package routing

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/model"
)

func testUnderlay() model.Underlay {
	return model.Underlay{
		Links: []model.Link{{Name: "eth0", Up: true, Addresses: []netip.Prefix{prefix("172.31.1.1/24"), prefix("fd00:31:1::1/64")}},
			{Name: "eth1", Up: true, Addresses: []netip.Prefix{prefix("172.31.9.1/24")}}, {Name: "eth2"}},
		Routes: []model.UnderlayRoute{
			{Dst: prefix("0.0.0.0/0"), Via: addr("172.31.1.254"), Device: "eth0", Metric: 100},
			{Dst: prefix("172.31.1.0/24"), Device: "eth0"}, {Dst: prefix("172.31.9.0/24"), Device: "eth1"},
			{Dst: prefix("172.31.2.0/24"), Via: addr("172.31.1.253"), Device: "eth0"},
			{Dst: prefix("172.31.3.0/24"), Device: "eth2"},
			{Dst: prefix("fd00:31:1::/64"), Device: "eth0"},
		},
	}
}

func learn(p string, hops ...string) Learned {
	l := Learned{prefix(p), &Way{Peer: addr("172.31.1.254")}}
	for _, h := range hops {
		l.NextHops = append(l.NextHops, addr(h))
	}
	return l
}

func TestLearnedRoutes(t *testing.T) {
	in := LearnedInput{
		Underlay: testUnderlay(),
		Services: []netip.Prefix{prefix("10.96.0.0/12")},
		Priority: map[model.Family]uint32{model.IPv6: 512},
		Gateways: map[netip.Addr]netip.Addr{addr("198.51.100.1"): addr("172.31.1.253"), addr("192.168.77.1"): addr("172.31.9.9"), addr("10.244.0.5"): addr("172.31.1.253")},
		Routes: []Learned{
			learn("198.51.100.1/32", "172.31.1.2"),
			learn("10.96.0.0/12", "172.31.1.2"), learn("10.97.0.1/32", "172.31.1.2"), // of services
			learn("10.244.0.0/16", "172.31.1.2"),  // a less specific one of a pool may be
			learn("10.244.0.5/32", "172.31.1.2"),  // a pod of this host
			learn("10.244.1.0/26", "172.31.1.66"), // which the store knows better
			learn("10.244.1.0/27", "172.31.1.2"),
			learn("192.168.1.0/24", "172.31.1.254"),             // on link
			learn("192.168.2.0/24", "172.31.2.9"),               // by a gateway
			learn("192.168.3.0/24", "172.31.1.5", "172.31.9.5"), // both ways
			learn("192.168.4.0/24", "172.31.2.8", "172.31.2.9"), // by one gateway
			learn("192.168.5.0/24", "172.31.1.5", "172.31.3.5"), // a device is down, so by default
			learn("192.168.6.0/24", "172.31.1.1"),               // ourselves
			learn("192.168.7.0/24", "fe80::1%eth1"), learn("192.168.8.0/24", "fe80::1"), learn("192.168.9.0/24", "fe80::1%eth2"),
			learn("0.0.0.0/0", "172.31.1.254"), learn("128.0.0.0/1", "172.31.1.254"),
			learn("2001:db8::/32", "fd00:31:1::2"), learn("2001:db9::/32", "172.31.1.2"), learn("2001:dba::/32", "fd00:31:7::2"),
			{prefix("192.168.10.0/24"), &Way{NextHops: []netip.Addr{addr("172.31.1.5")}, Peer: addr("172.31.1.5"), Priority: 77}},
			learn("192.168.11.0/24"),
		},
	}
	slices.SortFunc(in.Routes, compareLearned)
	p := Plan{Routes: []Route{{Dst: prefix("10.244.0.0/26"), Blackhole: true}, {Dst: prefix("10.244.1.0/26"), Via: addr("172.31.1.3"), Device: "eth0"}},
		Pods: []Route{{Dst: prefix("10.244.0.5/32"), Device: "weft0"}}}
	var c LearnedCompiler
	got, err := c.Compile(p, in)
	want := `route 10.244.0.0/16 via 172.31.1.2 dev eth0  # BGP, from 172.31.1.254
route 10.244.1.0/27 via 172.31.1.2 dev eth0  # BGP, from 172.31.1.254
route 192.168.1.0/24 via 172.31.1.254 dev eth0  # BGP, from 172.31.1.254
route 192.168.2.0/24 via 172.31.1.253 dev eth0  # BGP, from 172.31.1.254
route 192.168.3.0/24 nexthop via 172.31.1.5 dev eth0 nexthop via 172.31.9.5 dev eth1  # BGP, from 172.31.1.254
route 192.168.4.0/24 via 172.31.1.253 dev eth0  # BGP, from 172.31.1.254
route 192.168.5.0/24 nexthop via 172.31.1.5 dev eth0 nexthop via 172.31.1.254 dev eth0  # BGP, from 172.31.1.254
route 192.168.7.0/24 via fe80::1 dev eth1  # BGP, from 172.31.1.254
route 192.168.10.0/24 via 172.31.1.5 dev eth0 metric 77  # BGP, from 172.31.1.5
route 192.168.77.1/32 via 172.31.9.9 dev eth1  # the way to a BGP peer (reachableBy)
route 198.51.100.1/32 via 172.31.1.253 dev eth0  # the way to a BGP peer (reachableBy)
route 2001:db8::/32 via fd00:31:1::2 dev eth0 metric 512  # BGP, from 172.31.1.254
`
	if diff := cmp.Diff(want, Plan{Learned: got.Learned}.Format()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, want := range []string{
		"BGP next hop 172.31.1.1 of 1 routes: it is this host's own address", "BGP next hop fe80::1 of 1 routes: it is link-local",
		"BGP next hop fe80::1%eth2 of 1 routes: its interface eth2 is not up", "BGP next hop fd00:31:7::2 of 1 routes: the underlay has no route",
		"BGP next hop 172.31.1.2 of 1 routes: it is IPv4 and the prefixes are IPv6", "route to 0.0.0.0/0 from BGP peer 172.31.1.254", "route to 128.0.0.0/1",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error\n%v\nwant one that says %q", err, want)
		}
	}
	holdsReasons(t, got, in)
	again, err2 := c.Compile(p, in)
	if &again.Learned[0] != &got.Learned[0] || fmt.Sprint(err2) != fmt.Sprint(err) {
		t.Error("the same input makes other memory, or loses the error")
	}
	in.Routes = slices.Clone(in.Routes)
	if again, _ = c.Compile(p, in); &again.Learned[0] != &got.Learned[0] {
		t.Error("equal input makes other memory")
	}
	if empty, err := c.Compile(p, LearnedInput{Underlay: testUnderlay()}); len(empty.Learned) != 0 || err != nil {
		t.Errorf("nothing learned: %v, %v", empty.Learned, err)
	}
}

// holdsReasons: of each route that was learned there is a route or one reason why there is none.
func holdsReasons(t *testing.T, p Plan, in LearnedInput) {
	t.Helper()
	says := map[string]string{
		"10.96.0.0/12": "of the services' range 10.96.0.0/12", "10.97.0.1/32": "of the services' range 10.96.0.0/12",
		"10.244.0.5/32": "of a pod of this node", "10.244.1.0/26": "the store has a route to the prefix",
		"192.168.6.0/24": "no way to the next hop 172.31.1.1: it is this host's own address",
		"192.168.8.0/24": "no way to the next hop fe80::1: it is link-local", "192.168.9.0/24": "no way to the next hop fe80::1%eth2",
		"0.0.0.0/0": "shorter than /8", "128.0.0.0/1": "shorter than /8", "2001:db9::/32": "the next hop 172.31.1.2 is IPv4",
		"2001:dba::/32": "no way to the next hop fd00:31:7::2: the underlay has no route to it", "192.168.11.0/24": "it has no next hop",
	}
	u := NewUnwanted(p, in)
	for i := range in.Routes {
		l := &in.Routes[i]
		if holds(p.Learned, l.Prefix) {
			continue
		}
		why, store := u.Why(l)
		want := says[l.Prefix.String()]
		if want == "" || !strings.HasPrefix(why, want) || store != (want == "of a pod of this node" || strings.HasPrefix(want, "the store")) {
			t.Errorf("%v: %q (of the store: %v), want %q", l.Prefix, why, store, want)
		}
		delete(says, l.Prefix.String())
	}
	if len(says) > 0 {
		t.Errorf("routes, or not asked for: %v", says)
	}
}

// With a memory or without, over any changes, the plan is the same, and has no prefix twice.
func TestLearnedCompilerForgetsNothing(t *testing.T) {
	kept := 0
	rapid.Check(t, func(t *rapid.T) {
		var c LearnedCompiler
		in, p := LearnedInput{Underlay: testUnderlay()}, Plan{}
		number := rapid.IntRange(0, 12)
		t.Repeat(map[string]func(*rapid.T){
			"learned": func(t *rapid.T) {
				in.Routes = nil
				for i := range 12 {
					if rapid.Bool().Draw(t, "there") {
						in.Routes = append(in.Routes, learn(fmt.Sprintf("10.0.%d.0/%d", i, rapid.SampledFrom([]int{24, 32}).Draw(t, "bits")), rapid.SampledFrom([]string{"172.31.1.2", "172.31.1.3", "10.9.9.9"}).Draw(t, "hop")))
					}
				}
			},
			"plan": func(t *rapid.T) {
				p = Plan{}
				for i := range number.Draw(t, "routes") {
					p.Routes = append(p.Routes, Route{Dst: prefix(fmt.Sprintf("10.0.%d.0/24", i))})
				}
			},
			"one": func(t *rapid.T) { // so little that the rest is not compiled again
				l := learn(fmt.Sprintf("10.0.%d.0/24", number.Draw(t, "which")), rapid.SampledFrom([]string{"172.31.1.2", "172.31.1.4", "fd00:31:1::2", "172.31.1.1"}).Draw(t, "hop"))
				in.Routes = slices.DeleteFunc(slices.Clone(in.Routes), func(o Learned) bool { return o.Prefix == l.Prefix })
				if rapid.Bool().Draw(t, "there") {
					in.Routes = append(in.Routes, l)
					slices.SortFunc(in.Routes, compareLearned)
				}
			},
			"one of the plan": func(t *rapid.T) {
				r := Route{Dst: prefix(fmt.Sprintf("10.0.%d.0/24", number.Draw(t, "which")))}
				p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), func(o Route) bool { return o.Dst == r.Dst })
				if rapid.Bool().Draw(t, "there") {
					p.Routes = append(p.Routes, r)
					slices.SortFunc(p.Routes, CompareRoutes)
				}
			},
			"gateway": func(t *rapid.T) {
				in.Gateways = map[netip.Addr]netip.Addr{}
				if i := number.Draw(t, "peer"); i > 4 {
					in.Gateways[addr(fmt.Sprintf("10.0.%d.0", i))] = addr("172.31.1.2")
				}
			},
			"link": func(*rapid.T) {
				in.Underlay = testUnderlay()
				in.Underlay.Links[0].Up = number.Draw(t, "up") > 3
			},
			"": func(t *rapid.T) {
				got, gotErr := c.Compile(p, in)
				want, wantErr := (&LearnedCompiler{}).Compile(p, in)
				if got.Format() != want.Format() || fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
					t.Fatalf("got\n%s%v\nwant\n%s%v", got.Format(), gotErr, want.Format(), wantErr)
				}
				kept += len(got.Learned)
				for _, r := range got.Learned {
					if slices.ContainsFunc(p.Routes, func(o Route) bool { return o.Dst == r.Dst }) {
						t.Fatalf("%v is in the plan already", r)
					}
				}
			},
		})
	})
	if kept == 0 {
		t.Error("nothing was ever learned")
	}
}

// manyLearned are n routes over a few next hops, every third over two.
func manyLearned(n int) LearnedInput {
	in := LearnedInput{Underlay: testUnderlay(), Services: []netip.Prefix{prefix("10.96.0.0/12")}}
	for i := range n {
		l := Learned{netip.PrefixFrom(netip.AddrFrom4([4]byte{20 + byte(i>>16), byte(i >> 8), byte(i), 0}), 24), &Way{Peer: addr("172.31.1.254"),
			NextHops: []netip.Addr{netip.AddrFrom4([4]byte{172, 31, 1, byte(2 + i%50)})}}}
		if i%3 == 0 {
			l.NextHops = append(l.NextHops, netip.AddrFrom4([4]byte{172, 31, 9, byte(2 + i%50)}))
		}
		in.Routes = append(in.Routes, l)
	}
	return in
}

func BenchmarkLearned(b *testing.B) {
	const n = 100_000
	in, one := manyLearned(n), manyLearned(n+1)
	p := Plan{Routes: []Route{{Dst: prefix("10.244.0.0/26"), Blackhole: true}}}
	b.Run("unchanged", func(b *testing.B) {
		var c LearnedCompiler
		for b.Loop() {
			_, _ = c.Compile(p, in)
		}
	})
	b.Run("one-more", func(b *testing.B) {
		var c LearnedCompiler
		for i := 0; b.Loop(); i++ {
			if got, err := c.Compile(p, []LearnedInput{in, one}[i%2]); err != nil || len(got.Learned) != n+i%2 {
				b.Fatal(err, len(got.Learned))
			}
		}
	})
}

// TestIgnoredInterfaces: a next hop is not reached by an interface that is ignored, nor by another in its place.
func TestIgnoredInterfaces(t *testing.T) {
	in := LearnedInput{Underlay: testUnderlay(), Routes: []Learned{
		learn("192.168.1.0/24", "172.31.1.5"), learn("192.168.2.0/24", "172.31.9.5"), learn("192.168.3.0/24", "172.31.1.5", "172.31.9.5"),
		learn("192.168.4.0/24", "fe80::1%eth1"),
	}}
	var c LearnedCompiler
	for _, step := range []struct {
		ignored []string
		want    int
	}{{nil, 4}, {[]string{"eth2", "docker*"}, 4}, {[]string{"et*1"}, 2}, {[]string{"eth*"}, 0}} {
		in.Ignored = step.ignored
		p, err := c.Compile(Plan{}, in)
		if len(p.Learned) != step.want || (err != nil) != (step.want < 4) {
			t.Errorf("%v ignored: %v\n%s", step.ignored, err, p.Format())
		}
		for _, r := range p.Learned {
			if step.want == 2 && (r.Device != "eth0" || r.Via != addr("172.31.1.5")) {
				t.Errorf("with eth1 ignored: %v", r)
			}
		}
		if step.want == 2 && !strings.Contains(err.Error(), "172.31.9.5 of 2 routes: the way to it is by eth1, which is one of ignoredInterfaces") {
			t.Errorf("the error: %v", err)
		}
	}
}

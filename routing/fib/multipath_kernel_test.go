package fib

import (
	"log/slog"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/routing"
)

func hops(on ...string) model.Hops {
	var all []model.Hop
	for i := 0; i < len(on); i += 2 {
		all = append(all, model.Hop{Via: addr(on[i]), Device: on[i+1]})
	}
	return model.HopsOf(all)
}

func learnedPlan() routing.Plan {
	return routing.Plan{Learned: []routing.Route{
		{Dst: prefix("192.168.1.0/24"), Hops: hops("172.31.1.2", "eth0", "172.31.1.3", "eth0")},
		{Dst: prefix("192.168.2.0/24"), Hops: hops("172.31.1.2", "eth0", "172.31.9.2", "eth1", "fe80::9", "eth1"), Metric: 77, MTU: 1400},
		{Dst: prefix("192.168.3.0/24"), Via: addr("172.31.1.2"), Device: "eth0", Metric: 77},
		{Dst: prefix("2001:db8:1::/48"), Hops: hops("fd00:31:1::2", "eth0", "fd00:31:1::3", "eth0")},
		{Dst: prefix("2001:db8:2::/48"), Hops: hops("fd00:31:1::2", "eth0", "fe80::2", "eth1"), Metric: 77},
	}}
}

const learnedInKernel = `192.168.1.0/24 proto 87 metric 1024 \ nexthop via 172.31.1.2 dev eth0 weight 1 onlink \ nexthop via 172.31.1.3 dev eth0 weight 1 onlink
192.168.2.0/24 proto 87 metric 77 mtu 1400 \ nexthop via 172.31.1.2 dev eth0 weight 1 onlink \ nexthop via 172.31.9.2 dev eth1 weight 1 onlink \ nexthop via inet6 fe80::9 dev eth1 weight 1 onlink
192.168.3.0/24 via 172.31.1.2 dev eth0 proto 87 metric 77 onlink
2001:db8:1::/48 proto 87 metric 1024 pref medium\ nexthop via fd00:31:1::2 dev eth0 weight 1 onlink \ nexthop via fd00:31:1::3 dev eth0 weight 1 onlink
2001:db8:2::/48 proto 87 metric 77 pref medium\ nexthop via fd00:31:1::2 dev eth0 weight 1 onlink \ nexthop via fe80::2 dev eth1 weight 1 onlink
`

// TestMultipath: routes over several next hops, of both families, are written once, found by another
// process, replaced in place, repaired, and leave nothing.
func TestMultipath(t *testing.T) {
	r := newRig(t)
	r.ns.Dummy(t, "eth1")
	r.ns.AddAddress(t, "eth1", "172.31.9.1/24", "fd00:31:9::1/64")
	r.quiet()
	if got, want := r.apply(t, learnedPlan()), "5 added, 0 changed, 0 removed"; got != want {
		t.Errorf("first Apply: got %q, want %q", got, want)
	}
	r.check(t, learnedInKernel)
	if got := r.apply(t, learnedPlan()); got != "no change" {
		t.Errorf("second Apply: got %q", got)
	}
	res, err := New(r.h, slog.New(slog.DiscardHandler)).Apply(t.Context(), learnedPlan())
	if err != nil || !res.Zero() {
		t.Errorf("Apply after a restart: %v, %v", res, err)
	}
	if n := r.quiet(); n != 0 {
		t.Errorf("%d events of our own writes were taken for somebody else's", n)
	}

	// One next hop, other ones, and another metric.
	p := learnedPlan()
	p.Learned[0].Hops, p.Learned[0].Via, p.Learned[0].Device = model.Hops{}, addr("172.31.1.3"), "eth0"
	p.Learned[3].Hops, p.Learned[3].Via, p.Learned[3].Device = model.Hops{}, addr("fd00:31:1::3"), "eth0"
	p.Learned[4].Hops = hops("fd00:31:1::2", "eth0", "fe80::3", "eth1", "fe80::4", "eth1")
	p.Learned[1].Metric = 78
	if got, want := r.apply(t, p), "1 added, 3 changed, 1 removed"; got != want {
		t.Errorf("other next hops: got %q, want %q", got, want)
	}
	if n := r.quiet(); n != 0 {
		t.Errorf("%d events of our own changes were taken for somebody else's", n)
	}
	if got, want := r.apply(t, learnedPlan()), "1 added, 3 changed, 1 removed"; got != want {
		t.Errorf("back: got %q, want %q", got, want)
	}
	r.check(t, learnedInKernel)
	if n := r.quiet(); n != 0 {
		t.Errorf("%d events of our own changes were taken for somebody else's", n)
	}

	// Somebody else takes them away, or changes weights or next hops.
	for _, args := range [][]string{
		{"ip", "route", "del", "192.168.1.0/24", "proto", "87"},
		{"ip", "-6", "route", "del", "2001:db8:1::/48", "proto", "87"},
		{"ip", "-6", "route", "del", "2001:db8:2::/48", "via", "fe80::2", "dev", "eth1", "proto", "87"},
		{"ip", "route", "replace", "192.168.1.0/24", "proto", "87", "metric", "1024", "nexthop", "via", "172.31.1.2", "dev", "eth0", "onlink", "weight", "5",
			"nexthop", "via", "172.31.1.3", "dev", "eth0", "onlink"},
		{"ip", "route", "replace", "192.168.1.0/24", "proto", "87", "metric", "1024", "via", "172.31.1.3", "dev", "eth0"},
	} {
		testkit.Run(t, r.ns, args...)
		r.heal(t, learnedPlan(), learnedInKernel)
		r.quiet()
	}

	// A device of one next hop goes down and comes back: with all that the kernel drops or keeps, the routes
	// are whole again.
	testkit.Run(t, r.ns, "ip", "link", "set", "eth1", "down")
	one := learnedPlan()
	one.Learned[1].Hops, one.Learned[1].Via, one.Learned[1].Device = model.Hops{}, addr("172.31.1.2"), "eth0"
	one.Learned[4].Hops, one.Learned[4].Via, one.Learned[4].Device = model.Hops{}, addr("fd00:31:1::2"), "eth0"
	r.heal(t, one, `192.168.1.0/24 proto 87 metric 1024 \ nexthop via 172.31.1.2 dev eth0 weight 1 onlink \ nexthop via 172.31.1.3 dev eth0 weight 1 onlink
192.168.2.0/24 via 172.31.1.2 dev eth0 proto 87 metric 77 onlink mtu 1400
192.168.3.0/24 via 172.31.1.2 dev eth0 proto 87 metric 77 onlink
2001:db8:1::/48 proto 87 metric 1024 pref medium\ nexthop via fd00:31:1::2 dev eth0 weight 1 onlink \ nexthop via fd00:31:1::3 dev eth0 weight 1 onlink
2001:db8:2::/48 via fd00:31:1::2 dev eth0 proto 87 metric 77 onlink
`)
	testkit.Run(t, r.ns, "ip", "link", "set", "eth1", "up")
	r.apply(t, learnedPlan())
	r.check(t, learnedInKernel)
	r.apply(t, routing.Plan{})
	r.check(t, "")
}

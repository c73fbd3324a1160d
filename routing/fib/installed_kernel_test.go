package fib

import (
	"maps"
	"slices"
	"testing"

	"weft/internal/testkit"
	"weft/routing"
)

// TestInstalled: installed is what the kernel has, not what was wanted.
func TestInstalled(t *testing.T) {
	r := newRig(t)
	p := routing.Plan{Learned: []routing.Route{
		{Dst: prefix("198.51.100.0/24"), Via: addr("172.31.1.9"), Device: "eth0", Metric: 7},
		{Dst: prefix("203.0.113.0/24"), Via: addr("172.31.1.9"), Device: "eth0"},
		{Dst: prefix("203.0.114.0/24"), Via: addr("172.31.1.9"), Device: "eth0"},
	}}
	h := r.ns.Open(t)
	is := func(when string, want ...string) {
		t.Helper()
		in, err := Installed(t.Context(), h, p.Learned)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for dst := range maps.Keys(in) {
			got = append(got, dst.String())
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: installed are %v, want %v", when, got, want)
		}
	}
	is("nothing written yet")
	r.apply(t, p)
	is("written", "198.51.100.0/24", "203.0.113.0/24", "203.0.114.0/24")
	testkit.Run(t, r.ns, "ip", "route", "del", "203.0.113.0/24", "proto", "87")
	testkit.Run(t, r.ns, "ip", "route", "replace", "203.0.114.0/24", "via", "172.31.1.8", "dev", "eth0", "onlink", "proto", "87", "metric", "1024")
	is("one is removed and one changed by somebody", "198.51.100.0/24")
}

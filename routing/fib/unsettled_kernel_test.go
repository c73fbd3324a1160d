package fib

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/routing"
)

// TestUnsettled: what an earlier process learned by BGP stays in the kernel until the plan says that it has all of
// that; a stale route to a pod goes at once. Others' routes stay in any case.
func TestUnsettled(t *testing.T) {
	r := newRig(t)
	for _, route := range []string{
		"198.51.100.0/24 via 172.31.1.9 dev eth0 onlink proto 87 metric 1024", "203.0.113.0/24 via 172.31.1.9 dev eth0 onlink proto 87 metric 50", "10.0.0.0/8 via 172.31.1.9 dev eth0 onlink proto 87 metric 1024",
		"10.244.9.0/26 via 172.31.1.9 dev eth0 onlink proto 87 metric 1024", "192.0.2.0/24 via 172.31.1.9 dev eth0 onlink proto static",
	} {
		testkit.Run(t, r.ns, append([]string{"ip", "route", "add"}, strings.Fields(route)...)...)
	}
	has := func(when string, want ...string) {
		t.Helper()
		out := testkit.Run(t, r.ns, "ip", "route")
		for _, p := range []string{"198.51.100.0/24", "203.0.113.0/24", "10.244.9.0/26", "192.0.2.0/24", "10.244.1.0/26", "10.0.0.0/8"} {
			if there := strings.Contains(out, p); there != slices.Contains(want, p) {
				t.Errorf("%s: %s there: %v\n%s", when, p, there, out)
			}
		}
	}
	p := smallPlan()
	p.Unsettled, p.Pools = true, []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd10:244::/48")}
	r.apply(t, p)
	has("unsettled", "10.0.0.0/8", "198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24", "10.244.1.0/26")
	p.Learned = []routing.Route{{Dst: prefix("198.51.100.0/24"), Via: addr("172.31.1.9"), Device: "eth0"}}
	r.apply(t, p)
	has("one is known again", "10.0.0.0/8", "198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24", "10.244.1.0/26")
	p.Unsettled, p.Pools = false, nil
	r.apply(t, p)
	has("settled", "198.51.100.0/24", "192.0.2.0/24", "10.244.1.0/26")
	r.apply(t, routing.Plan{})
	has("gone", "192.0.2.0/24")
}

// TestUnsettledReadsOnce: while what an earlier process learned is not all known again, the kernel is read when a plan
// shows more of it, and only then: there may be a hundred thousand routes.
func TestUnsettledReadsOnce(t *testing.T) {
	r := newRig(t)
	lists := &counted{routeTable: r.fib.shown.routeTable}
	r.fib.shown.routeTable = lists
	p := smallPlan()
	p.Unsettled, p.Pools = true, []netip.Prefix{prefix("10.244.0.0/16"), prefix("fd10:244::/48")}
	read := func(what string, want int) {
		t.Helper()
		// An event that comes while the kernel is read, of what was written before too, is a reason to read again.
		r.settle()
		before := lists.n
		r.apply(t, p)
		if got := lists.n - before; got != want {
			t.Errorf("%s: the kernel was read %d times, want %d", what, got, want)
		}
	}
	learn := func(dst string) {
		p.Learned = append(slices.Clone(p.Learned), routing.Route{Dst: prefix(dst), Via: addr("172.31.1.9"), Device: "eth0"})
	}
	read("the first", 1)
	learn("198.51.100.0/24")
	read("learned, and nothing is of an earlier process", 0)
	testkit.Run(t, r.ns, "ip", "route", "add", "203.0.113.0/24", "via", "172.31.1.9", "dev", "eth0", "onlink", "proto", "87", "metric", "1024")
	r.fib.Resync()
	read("told to", 1)
	learn("203.0.112.0/24")
	read("another is of an earlier process", 0)
	learn("203.0.113.0/24")
	read("this one is", 1)
	learn("203.0.114.0/24")
	read("none is any more", 0)
	p.Unsettled, p.Pools = false, nil
	read("settled, and nothing was hidden", 0)
}

// counted counts how often the kernel is read.
type counted struct {
	routeTable
	n int
}

func (c *counted) List(ctx context.Context) (map[kernel.RouteKey]kernel.Route, error) {
	c.n++
	return c.routeTable.List(ctx)
}

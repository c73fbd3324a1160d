package fib

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// rig is a namespace with an underlay link eth0, a tunnel-like link weft-vxlan and a pod's link, a
// FIB on it, and a watch that calls it as the node does.
type rig struct {
	ns     testkit.NS
	h      *kernel.Handle
	fib    *FIB
	events chan kernel.Event // those that Observe said yes to
	seen   atomic.Int64      // how many Observe was asked about
}

func newRig(t testing.TB) *rig {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.IPv6, testkit.IPRoute2)
	r := &rig{ns: testkit.NewNetns(t), events: make(chan kernel.Event, 1<<16)}
	r.h = r.ns.Open(t)
	for _, d := range []string{"eth0", "weft-vxlan", podLink} {
		r.ns.Dummy(t, d)
	}
	r.ns.AddAddress(t, "eth0", "172.31.1.1/24", "fd00:31:1::1/64")
	r.ns.AddAddress(t, "weft-vxlan", "10.244.0.1/32", "fd10:244::1/128")
	r.fib = New(r.h, slog.New(slog.DiscardHandler))
	m, err := kernel.NewMonitor(t.Context(), r.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- m.Run(ctx, func(e kernel.Event) {
			r.seen.Add(1)
			if r.fib.Observe(e) {
				select {
				case r.events <- e:
				default:
				}
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != context.Canceled {
				t.Errorf("monitor: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the monitor does not stop")
		}
	})
	return r
}

const podLink = "weft0123456789"

func (r *rig) apply(t testing.TB, p routing.Plan) string {
	t.Helper()
	res, err := r.fib.Apply(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return res.String()
}

// settle waits until what was done to make the rig has been told.
func (r *rig) settle() {
	for before := int64(-1); before != r.seen.Load(); time.Sleep(150 * time.Millisecond) {
		before = r.seen.Load()
	}
}

// quiet drops what Observe said yes to so far, once no more comes.
func (r *rig) quiet() (n int) {
	for {
		select {
		case <-r.events:
			n++
		case <-time.After(150 * time.Millisecond):
			return n
		}
	}
}

func smallPlan() routing.Plan {
	return routing.Plan{Routes: []routing.Route{
		{Dst: prefix("10.244.0.0/26"), Blackhole: true},
		{Dst: prefix("10.244.0.5/32"), Device: podLink},
		{Dst: prefix("10.244.1.0/26"), Via: addr("172.31.1.2"), Device: "eth0"},
		{Dst: prefix("10.244.2.0/26"), Via: addr("172.31.2.1"), Device: "weft-vxlan", Source: addr("10.244.0.1"), MTU: 1450},
		{Dst: prefix("10.244.3.0/26"), Unreachable: true},
		{Dst: prefix("fd10:244::/122"), Blackhole: true},
		{Dst: prefix("fd10:244::5/128"), Device: podLink},
		{Dst: prefix("fd10:244:1::/122"), Via: addr("fd00:31:1::2"), Device: "eth0"},
		{Dst: prefix("fd10:244:2::/122"), Via: addr("fd00:31:2::1"), Device: "weft-vxlan", Source: addr("fd10:244::1"), MTU: 1430},
		{Dst: prefix("fd10:244:3::/122"), Unreachable: true},
	}}
}

const smallPlanInKernel = `10.244.0.5 dev weft0123456789 proto 87 scope link metric 1024
10.244.1.0/26 via 172.31.1.2 dev eth0 proto 87 metric 1024 onlink
10.244.2.0/26 via 172.31.2.1 dev weft-vxlan proto 87 src 10.244.0.1 metric 1024 onlink mtu 1450
blackhole 10.244.0.0/26 proto 87 metric 1024
blackhole fd10:244::/122 dev lo proto 87 metric 1024
fd10:244:1::/122 via fd00:31:1::2 dev eth0 proto 87 metric 1024 onlink
fd10:244:2::/122 via fd00:31:2::1 dev weft-vxlan proto 87 src fd10:244::1 metric 1024 onlink mtu 1430
fd10:244::5 dev weft0123456789 proto 87 metric 1024
unreachable 10.244.3.0/26 proto 87 metric 1024
unreachable fd10:244:3::/122 dev lo proto 87 metric 1024
`

// ours prints our routes as iproute2 sees them.
func (r *rig) ours(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for l := range strings.Lines(testkit.Routes(t, r.ns, false)) {
		if strings.Contains(l, " proto 87 ") {
			b.WriteString(l)
		}
	}
	return b.String()
}

func (r *rig) check(t testing.TB, want string) {
	t.Helper()
	if got := r.ours(t); got != want {
		t.Errorf("kernel routes: got\n%swant\n%s", got, want)
	}
}

func TestApply(t *testing.T) {
	r := newRig(t)
	r.settle()
	if got, want := r.apply(t, smallPlan()), "10 added, 0 changed, 0 removed"; got != want {
		t.Errorf("first Apply: got %q, want %q", got, want)
	}
	r.check(t, smallPlanInKernel)
	if got := r.apply(t, smallPlan()); got != "no change" {
		t.Errorf("second Apply: got %q", got)
	}
	// Another process's first Apply finds everything as it should be.
	res, err := New(r.h, slog.New(slog.DiscardHandler)).Apply(t.Context(), smallPlan())
	if err != nil || !res.Zero() {
		t.Errorf("Apply after a restart: %v, %v", res, err)
	}
	if n := r.quiet(); n != 0 {
		t.Errorf("%d events of our own writes were taken for somebody else's", n)
	}
	p := smallPlan()
	p.Routes = p.Routes[1:]
	p.Routes[1].Via = addr("172.31.1.3")
	if got, want := r.apply(t, p), "0 added, 1 changed, 1 removed"; got != want {
		t.Errorf("changed plan: got %q, want %q", got, want)
	}
	if got, want := r.apply(t, routing.Plan{}), "0 added, 0 changed, 9 removed"; got != want {
		t.Errorf("zero plan: got %q, want %q", got, want)
	}
	r.check(t, "")
}

// TestLeftovers: routes that an earlier process left, with any metric, are found and removed.
func TestLeftovers(t *testing.T) {
	r := newRig(t)
	testkit.Run(t, r.ns, "ip", "route", "add", "10.9.0.0/24", "dev", "eth0", "proto", "87")
	testkit.Run(t, r.ns, "ip", "-6", "route", "add", "fd09::/64", "dev", "eth0", "proto", "87", "metric", "5")
	testkit.Run(t, r.ns, "ip", "route", "add", "10.8.0.0/24", "dev", "eth0", "proto", "87", "table", "77")
	if got, want := r.apply(t, smallPlan()), "10 added, 0 changed, 2 removed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.check(t, smallPlanInKernel)
	if out := testkit.Run(t, r.ns, "ip", "route", "show", "table", "77"); !strings.Contains(out, "10.8.0.0/24") {
		t.Errorf("a route of another table was removed")
	}
}

// heal waits for an event that asks for Apply and applies until the kernel is as wanted. It returns
// how long that took from the call on.
func (r *rig) heal(t testing.TB, p routing.Plan, want string) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		select {
		case <-r.events:
		case <-time.After(testkit.Patient(2 * time.Second)):
			t.Fatalf("no event asked for Apply; the kernel has\n%s", r.ours(t))
		}
		if _, err := r.fib.Apply(t.Context(), p); err == nil && r.ours(t) == want {
			return time.Since(start)
		}
	}
}

func TestHeal(t *testing.T) {
	cases := []struct {
		name   string
		damage [][]string
	}{
		{"flush", [][]string{{"ip", "route", "flush", "proto", "87"}, {"ip", "-6", "route", "flush", "proto", "87"}}},
		{"one deleted", [][]string{{"ip", "route", "del", "10.244.1.0/26"}}},
		{"one changed", [][]string{{"ip", "route", "replace", "10.244.1.0/26", "via", "172.31.1.77", "dev", "eth0", "onlink", "proto", "87", "metric", "1024"}}},
		{"one made multipath", [][]string{{"ip", "-6", "route", "append", "fd10:244:1::/122", "via", "fd00:31:1::9", "dev", "eth0", "proto", "87", "metric", "1024"}}},
		{"stranger under our number", [][]string{{"ip", "route", "add", "10.99.0.0/24", "dev", "eth0", "proto", "87"}}},
		{"link renamed and back", [][]string{{"ip", "link", "set", "eth0", "down"}, {"ip", "link", "set", "eth0", "name", "eth9"}, {"ip", "link", "set", "eth9", "name", "eth0"}, {"ip", "link", "set", "eth0", "up"}}},
		{"link down and up", [][]string{{"ip", "link", "set", "eth0", "down"}, {"ip", "link", "set", "eth0", "up"}, {"ip", "-6", "addr", "replace", "fd00:31:1::1/64", "dev", "eth0", "nodad"}}},
		{"source address lost and back", [][]string{{"ip", "addr", "del", "10.244.0.1/32", "dev", "weft-vxlan"}, {"ip", "addr", "add", "10.244.0.1/32", "dev", "weft-vxlan"}}},
		{"foreign route took the place and left", [][]string{
			{"ip", "route", "replace", "10.244.1.0/26", "via", "172.31.1.77", "dev", "eth0", "proto", "static", "metric", "1024"},
			{"ip", "route", "del", "10.244.1.0/26", "proto", "static"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.apply(t, smallPlan())
			r.quiet()
			for _, d := range c.damage {
				testkit.Run(t, r.ns, d...)
			}
			took := r.heal(t, smallPlan(), smallPlanInKernel)
			t.Logf("healed %v after the damage was complete", took.Round(time.Millisecond/10))
			if limit := testkit.Patient(time.Second); took > limit {
				t.Errorf("healed after %v, want at most %v", took, limit)
			}
			r.quiet()
			if got := r.apply(t, smallPlan()); got != "no change" {
				t.Errorf("Apply after healing: got %q", got)
			}
		})
	}
}

// TestLinkDown: while a link is down its routes are errors of their own, everything else is kept,
// and stale routes elsewhere are still removed.
func TestLinkDown(t *testing.T) {
	r := newRig(t)
	r.apply(t, smallPlan())
	testkit.Run(t, r.ns, "ip", "link", "set", podLink, "down")
	p := smallPlan()
	p.Routes = append(p.Routes[:2:2], p.Routes[3:]...) // the block of 10.244.1.0/26 is gone
	p.Routes = append(p.Routes, routing.Route{Dst: prefix("10.244.3.0/26"), Via: addr("172.31.1.4"), Device: "eth0"},
		routing.Route{Dst: prefix("10.244.0.6/32"), Device: "weftabsent"})
	testkit.Eventually(t, time.Second, "link event", func() bool { return len(r.events) > 0 })
	res, err := r.fib.Apply(t.Context(), p)
	if err == nil {
		t.Fatalf("Apply with a link down and one absent: no error, %v", res)
	}
	for _, want := range []string{"10.244.0.5/32", "fd10:244::5/128", "10.244.0.6/32", "weftabsent", "no such device", "network is down"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %q: %v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n != 2 {
		t.Errorf("want 3 errors, got %d: %v", n+1, err)
	}
	out := r.ours(t)
	if !strings.Contains(out, "10.244.3.0/26") || strings.Contains(out, "10.244.1.0/26") {
		t.Errorf("the rest was not applied:\n%s", out)
	}
	r.quiet()
	testkit.Run(t, r.ns, "ip", "link", "set", podLink, "up")
	r.heal(t, smallPlan(), smallPlanInKernel)
}

// TestForeignRoutes: routes of others stay as they are, also one that is in our way, which is an
// error that names it.
func TestForeignRoutes(t *testing.T) {
	r := newRig(t)
	var batch strings.Builder
	const n = 500
	for i := range n {
		fmt.Fprintf(&batch, "route add 10.%d.%d.0/24 via 172.31.1.9 dev eth0 proto static metric %d\n", 50+i/250, i%250, i)
	}
	if _, err := testkit.TryInput(t, r.ns, batch.String(), "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	clashes := []string{"10.244.1.0/26 via 172.31.1.9 dev eth0 proto static metric 1024", "fd10:244:1::/122 via fd00:31:1::9 dev eth0 proto static metric 1024"}
	for _, c := range clashes {
		testkit.Run(t, r.ns, append([]string{"ip", "route", "add"}, strings.Fields(c)...)...)
	}
	before := testkit.Routes(t, r.ns, true)
	_, err := r.fib.Apply(t.Context(), smallPlan())
	if err == nil || strings.Count(err.Error(), "another owner") != 2 || !strings.Contains(err.Error(), "10.244.1.0/26") {
		t.Errorf("want two errors that name the foreign routes, got %v", err)
	}
	if got := strings.Count(r.ours(t), "\n"); got != 8 {
		t.Errorf("%d of 8 other routes were written", got)
	}
	if _, err := r.fib.Apply(t.Context(), routing.Plan{}); err != nil {
		t.Fatal(err)
	}
	after := testkit.Routes(t, r.ns, true)
	if after != before {
		t.Errorf("foreign routes changed")
	}
	t.Logf("0 of %d foreign routes touched", strings.Count(before, "\n"))
	// Once the foreign routes are gone, an event says so.
	if _, err := r.fib.Apply(t.Context(), smallPlan()); err == nil {
		t.Fatal("no error")
	}
	r.quiet()
	for _, c := range clashes {
		testkit.Run(t, r.ns, append([]string{"ip", "route", "del"}, strings.Fields(c)...)...)
	}
	r.heal(t, smallPlan(), smallPlanInKernel)
}

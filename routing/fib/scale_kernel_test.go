package fib

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model/topology"
	"weft/routing"
)

// bigPlan has n routes, half of them IPv6, through the tunnel-like link.
func bigPlan(n int) routing.Plan {
	var p routing.Plan
	for i := range n / 2 {
		four := netip.AddrFrom4([4]byte{10, 100 + byte(i>>10), byte(i >> 2), byte(i<<6) & 0xc0})
		six := netip.AddrFrom16([16]byte{0xfd, 0x10, 0x02, 0x44, 0, 1, 13: byte(i >> 8), 14: byte(i)})
		via4 := netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)})
		via6 := topology.TunnelNextHop(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x31, 14: byte(i >> 8), 15: byte(i)}))
		p.Routes = append(p.Routes,
			routing.Route{Dst: netip.PrefixFrom(four, 26).Masked(), Via: via4, Device: "weft-vxlan", Source: addr("10.244.0.1"), MTU: 1450},
			routing.Route{Dst: netip.PrefixFrom(six, 120).Masked(), Via: via6, Device: "weft-vxlan", Source: addr("fd10:244::1"), MTU: 1430})
	}
	return p
}

// best runs f a few times and returns the shortest time: other work on the machine only adds.
func best(n int, f func()) time.Duration {
	var res time.Duration
	for i := range n {
		start := time.Now()
		f()
		if d := time.Since(start); i == 0 || d < res {
			res = d
		}
	}
	return res.Round(10 * time.Microsecond)
}

// TestScale programs the design point's routes from empty, adds one, and removes all; `ip -batch`
// does the same in a namespace beside it. Times are the best of several.
func TestScale(t *testing.T) {
	n := testkit.Count(5000)
	r := newRig(t)
	p := bigPlan(n)
	more := routing.Plan{Routes: append(slices.Clip(p.Routes), routing.Route{Dst: prefix("10.99.0.0/26"), Via: addr("172.20.9.9"), Device: "weft-vxlan"})}
	apply := func(p routing.Plan, want string) {
		t.Helper()
		if got := r.apply(t, p); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	var fill, empty time.Duration
	for range 3 {
		f := best(1, func() { apply(p, fmt.Sprintf("%d added, 0 changed, 0 removed", n)) })
		e := best(1, func() { apply(routing.Plan{}, fmt.Sprintf("0 added, 0 changed, %d removed", n)) })
		if fill == 0 || f < fill {
			fill, empty = f, e
		}
	}
	apply(p, fmt.Sprintf("%d added, 0 changed, 0 removed", n))
	busy := testkit.ProcessorTime()
	one := best(10, func() { apply(more, "1 added, 0 changed, 0 removed"); apply(p, "0 added, 0 changed, 1 removed") }) / 2
	oneCPU := ((testkit.ProcessorTime() - busy) / 20).Round(10 * time.Microsecond)
	none := best(10, func() { apply(p, "no change") })
	reread := best(5, func() { r.fib.Resync(); apply(p, "no change") })
	r.quiet()
	flush := best(1, func() { testkit.Run(t, r.ns, "ip", "route", "flush", "proto", "87") })
	select {
	case <-r.events:
	case <-time.After(10 * time.Second):
		t.Fatal("no event of the flush")
	}
	heal := best(1, func() {
		for repaired, deadline := 0, time.Now().Add(10*time.Second); repaired < n/2; { // the first may be ahead of the events
			res, err := r.fib.Apply(t.Context(), p)
			if repaired += res.Repaired; err != nil || res.Added != res.Repaired || res.Changed+res.Removed > 0 || time.Now().After(deadline) {
				t.Fatalf("got %v, %v, %d of %d repaired", res, err, repaired, n/2)
			}
		}
	})

	var batch strings.Builder
	for _, r := range p.Routes {
		fmt.Fprintf(&batch, "route add %s onlink proto 87 metric 1024\n", r)
	}
	var ip time.Duration
	for range 3 {
		other := newRig(t)
		d := best(1, func() {
			if _, err := testkit.TryInput(t, other.ns, batch.String(), "ip", "-batch", "-"); err != nil {
				t.Fatal(err)
			}
		})
		if ip == 0 || d < ip {
			ip = d
		}
	}
	t.Logf("%d routes from empty %v (ip -batch: %v), removed %v, one more %v (CPU %v), nothing %v, reading all %v", n, fill, ip, empty, one, oneCPU, none, reread)
	t.Logf("%d IPv4 routes flushed by ip in %v, healed in %v", n/2, flush, heal)
	if !testkit.Emulated() && fill > 2*time.Second && fill > 2*ip {
		t.Errorf("%d routes took %v, want at most 2 s, or twice what ip needs on a busy machine", n, fill)
	}
	// The CPU time is what a machine that has nothing else to do would need.
	if !testkit.Emulated() && one > 20*time.Millisecond && oneCPU > 20*time.Millisecond {
		t.Errorf("one more route took %v (CPU %v), want at most 20 ms", one, oneCPU)
	}
}

// prober asks the kernel for the route to an address until stop is closed.
type prober struct{ n, missed atomic.Int64 }

func (p *prober) run(ctx context.Context, h *kernel.Handle, a netip.Addr, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := h.RouteTo(ctx, a); err != nil {
			p.missed.Add(1)
		}
		p.n.Add(1)
	}
}

// TestNoGap: while the next hop of a prefix changes a thousand times, there is a route at every
// moment. The control shows that the probes would see a gap.
//
// IPv6 is held to "hardly ever": the kernel puts the new route in the old one's place at once, but a lookup
// that has just found the old one may be told "unreachable" when its last reference is dropped in that instant
// (net/ipv6/route.c, where fib6_info_hold_safe fails: the null entry). It is one lookup, not a gap, and no sequence
// of requests avoids it: of iproute2's own replacements alone, 120,000 in a batch, 45 of 129,306 probes missed
// (Linux 6.18, 2 cores). By this driver some 6 of 10,000 flips do under this hammering; on an emulated processor,
// where the instant is longer, 30 and 24 of 1,000 (6.12 and 6.1).
func TestNoGap(t *testing.T) {
	r := newRig(t)
	// From direct to a tunnel and back, as when a pool's mode changes.
	plan := func(i int) routing.Plan {
		four, six := addr("172.31.1.2"), addr("fd00:31:1::2")
		if i%2 == 0 {
			return routing.Plan{Routes: []routing.Route{
				{Dst: prefix("10.244.1.0/26"), Via: four, Device: "eth0"},
				{Dst: prefix("fd10:244:1::/122"), Via: six, Device: "eth0"},
			}}
		}
		return routing.Plan{Routes: []routing.Route{
			{Dst: prefix("10.244.1.0/26"), Via: topology.TunnelNextHop(four), Device: "weft-vxlan", MTU: 1450},
			{Dst: prefix("fd10:244:1::/122"), Via: topology.TunnelNextHop(six), Device: "weft-vxlan", MTU: 1430},
		}}
	}
	flips, mayMiss := int64(testkit.Count(1000)), int64(10)
	handles := []*kernel.Handle{r.ns.Open(t), r.ns.Open(t)}
	run := func(what string, flip func(i int, probed func())) (four, six int64) {
		r.apply(t, plan(0))
		stop := make(chan struct{})
		var p [2]prober
		var wg sync.WaitGroup
		for i, a := range []netip.Addr{addr("10.244.1.1"), addr("fd10:244:1::1")} {
			wg.Go(func() { p[i].run(t.Context(), handles[i], a, stop) })
		}
		probed := func() { // by both, from beginning to end: two answers each
			four, six := p[0].n.Load()+2, p[1].n.Load()+2
			for end := time.Now().Add(time.Second); (p[0].n.Load() < four || p[1].n.Load() < six) && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
		}
		i, limit := int64(1), time.Now().Add(20*time.Second)
		for ; i <= flips || min(p[0].n.Load(), p[1].n.Load()) < flips && time.Now().Before(limit); i++ {
			flip(int(i), probed)
		}
		close(stop)
		wg.Wait()
		t.Logf("%s: %d of %d IPv4 and %d of %d IPv6 probes found no route during %d flips",
			what, p[0].missed.Load(), p[0].n.Load(), p[1].missed.Load(), p[1].n.Load(), i-1)
		if min(p[0].n.Load(), p[1].n.Load()) < flips {
			t.Errorf("too few probes to tell")
		}
		return p[0].missed.Load(), p[1].missed.Load()
	}
	four, six := run("replace", func(i int, _ func()) {
		if got := r.apply(t, plan(i)); got != "0 added, 2 changed, 0 removed" {
			t.Errorf("flip %d: %s", i, got)
		}
	})
	if four > 0 || six > mayMiss {
		t.Errorf("replacing left a gap")
	}
	four, six = run("control, delete then add", func(i int, probed func()) {
		r.apply(t, routing.Plan{})
		probed() // where one processor does all, hardly a probe would fall into the gap by itself
		r.apply(t, plan(i))
	})
	if four < flips/10 || six < flips/10 {
		t.Errorf("the probes do not see a gap even where there is one")
	}
}

// BenchmarkOneMore is the cost of one route that comes or goes among 5,000.
func BenchmarkOneMore(b *testing.B) {
	r := newRig(b)
	p := bigPlan(5000)
	more := routing.Plan{Routes: append(slices.Clip(p.Routes), routing.Route{Dst: prefix("10.99.0.0/26"), Via: addr("172.20.9.9"), Device: "weft-vxlan"})}
	r.apply(b, p)
	b.ResetTimer()
	for i := range b.N {
		r.apply(b, []routing.Plan{more, p}[i%2])
	}
}

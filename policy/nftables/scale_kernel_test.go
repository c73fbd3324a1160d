package nftables

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/internal/testkit/figures"
	"weft/model"
	"weft/policy"
)

// town is a cluster for measurements: pods here and elsewhere, and global policies of three rules whose
// selectors spread over 20 labels of ten values each.
type town struct{ local, remote, policies int }

func (c town) labels(n int) map[string]string {
	l := map[string]string{"projectcalico.org/namespace": "ns"}
	for i := range 4 {
		l[fmt.Sprint("label", (n+5*i)%20)] = fmt.Sprint("value", (n/20+i)%10)
	}
	return l
}

func (c town) pod(n int) *model.Endpoint {
	return &model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}, Device: fmt.Sprintf("weft%011x", n),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}, MAC: model.MAC{2, 1, 0, 0, byte(n >> 8), byte(n)},
		Labels: c.labels(n), Profiles: []string{"kns.ns"}}
}

func (c town) policy(n, version int) *model.Policy {
	sel := func(k int) *string {
		s := fmt.Sprintf("label%d == 'value%d'", (n+k)%20, (n/20+k)%10)
		return &s
	}
	port := []model.Port{{Range: model.PortRange{First: uint16(80 + version), Last: uint16(80 + version)}}}
	order, _ := model.OrderOf(float64(n))
	rules := func(other func(model.EntityMatch) model.Rule) []model.Rule {
		allow, deny, udp := other(model.EntityMatch{Selector: sel(1)}), other(model.EntityMatch{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}), other(model.EntityMatch{Selector: sel(2)})
		allow.Action, allow.Protocol = model.Allow, model.TCP
		allow.Destination.Ports = port
		deny.Action = model.Deny
		udp.Action, udp.Protocol = model.Allow, model.UDP
		return []model.Rule{allow, deny, udp}
	}
	return &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: fmt.Sprint("policy", n)}, Order: order, Selector: *sel(0),
		Ingress: rules(func(e model.EntityMatch) model.Rule { return model.Rule{Source: e} })}
}

func (c town) build(tb testing.TB) *policy.Compiler {
	tb.Helper()
	k := policy.NewCompiler("n0")
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	all := []model.Rule{{Action: model.Allow}}
	must(k.SetProfile(&model.Profile{Name: "kns.ns", Ingress: all, Egress: all}))
	for n := range c.policies {
		must(k.SetPolicy(c.policy(n, 0)))
	}
	for n := range c.local {
		must(k.SetEndpoint(c.pod(n)))
	}
	for n := range c.remote {
		must(k.SetRemote(&model.RemoteEndpoint{ID: model.RemoteID{Node: "n1", EndpointID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(2 + n>>16), byte(n >> 8), byte(n)})}, Labels: c.labels(n), Profiles: []string{"kns.ns"}}))
	}
	return k
}

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// TestScale measures a node with 100 pods in a cluster of 5,000 more pods and 1,000 policies.
func TestScale(t *testing.T) {
	testkit.LeakCheck(t)
	ns := testkit.NewNetns(t)
	d := newDriver(t, ns)
	ctx := context.Background()
	c := town{100, testkit.Count(5_000), testkit.Count(1_000)}
	k := c.build(t)
	u := k.Flush()
	before := heap()
	start, busy := time.Now(), testkit.ProcessorTime()
	apply(t, d, u)
	whole, wholeCPU := time.Since(start), testkit.ProcessorTime()-busy
	kept := heap() - before
	p := d.state.whole()
	rules := 0
	for _, c := range p.Chains {
		rules += len(c.Rules)
	}
	t.Logf("%+v: whole in %v, %v of CPU: %d chains, %d rules, %d sets; %.1f MiB kept", c, whole.Round(time.Millisecond), wholeCPU.Round(time.Millisecond),
		len(p.Chains), rules, len(p.Sets), float64(kept)/(1<<20))
	const n = 300
	var took []time.Duration
	busy = testkit.ProcessorTime()
	for i := range n {
		// Twice each: there and back.
		if err := k.SetPolicy(c.policy(i/2*7%c.policies, (i+1)%2)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := d.Apply(ctx, k.Flush()); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	t.Logf("one policy changed: p50 %v, p99 %v, %v of CPU each, of %d", quantile(took, .5).Round(time.Microsecond), quantile(took, .99).Round(time.Microsecond), ((testkit.ProcessorTime() - busy) / n).Round(time.Microsecond), n)
}

// TestBigSet measures a network set of 100,000 prefixes, and counts what the kernel has of them.
func TestBigSet(t *testing.T) {
	testkit.LeakCheck(t)
	ns := testkit.NewNetns(t)
	d := newDriver(t, ns)
	n := testkit.Count(100_000)
	nets := make([]netip.Prefix, n)
	for i := range nets {
		nets[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), byte(i%8) * 32}), 27+i%5) // with gaps
	}
	c := town{1, 0, 0}
	k := c.build(t)
	set := func(nets []netip.Prefix) {
		if err := k.SetNetworkSet(&model.NetworkSet{ID: model.NetworkSetID{Name: "big"}, Labels: map[string]string{"big": "yes"}, Nets: nets}); err != nil {
			t.Fatal(err)
		}
	}
	selector := "has(big)"
	if err := k.SetPolicy(&model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}, Selector: "all()",
		Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{Selector: &selector}}}}); err != nil {
		t.Fatal(err)
	}
	apply(t, d, k.Flush())
	set(nets)
	u := k.Flush()
	start, busy := time.Now(), testkit.ProcessorTime()
	apply(t, d, u)
	load := testkit.ProcessorTime() - busy
	took := []time.Duration{time.Since(start)}
	t.Logf("%d prefixes loaded in %v, %v of CPU", n, took[0].Round(time.Millisecond), load.Round(time.Millisecond))
	setting := fmt.Sprintf("%d prefixes", n)
	figures.Write(t, "set", figures.Seconds("loaded", setting, took...)...)
	id := policy.SetID{Kind: policy.Selected, Family: model.IPv4, Selector: "has(big)"}
	count := func() (elements int) {
		for _, n := range d.state.sets[id].tables() {
			e, err := d.owner.CountElements(context.Background(), n.name)
			if err != nil {
				t.Fatal(err)
			}
			elements += e
		}
		return elements
	}
	if got := count(); got != n {
		t.Errorf("the kernel has %d elements, want %d", got, n)
	}
	took = nil
	var compile, work time.Duration
	for i := range 40 {
		less := slices.Clone(nets)
		less = slices.Delete(less, i*n/40, i*n/40+1)
		if i%2 == 1 {
			less = nets
		}
		busy := testkit.ProcessorTime()
		set(less)
		u := k.Flush()
		compile += testkit.ProcessorTime() - busy
		start := time.Now()
		busy = testkit.ProcessorTime()
		apply(t, d, u)
		took, work = append(took, time.Since(start)), work+testkit.ProcessorTime()-busy
	}
	if got := count(); got != n {
		t.Errorf("the kernel has %d elements after changes, want %d", got, n)
	}
	t.Logf("one member of %d changed: p50 %v, p99 %v, %v of CPU each, of %d (and %v of CPU to compile a network set of that size)", n, quantile(took, .5).Round(10*time.Microsecond),
		quantile(took, .99).Round(10*time.Microsecond), (work / 40).Round(10*time.Microsecond), len(took), (compile / 40).Round(time.Millisecond))
	figures.Write(t, "set", figures.Seconds("member_changed", setting, took...)...)
	// By processor time, so that other work on the machine makes no difference.
	if most := 100 * time.Microsecond * time.Duration(n); load > most { // 10 s for 100,000
		t.Errorf("%d prefixes took %v of CPU to load, want at most %v", n, load, most)
	}
	if one := work / 40; one > load/20 && !testkit.Emulated() { // there the sets are small
		t.Errorf("one member changed takes %v of CPU, all of them %v: want at most a twentieth", one, load)
	}
	if one := (work + compile) / 40; one > load && !testkit.Emulated() {
		t.Errorf("one member changed and compiled takes %v of CPU, all of them written %v: want less", one, load)
	}
}

package iptables

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

var changes = flag.Int("changes", 10, "policy changes that TestScale measures, for each backend")

// scale is a node of 100 pods in a cluster of 5,000 others, and 1,000 policies of three rules whose
// selectors spread over 20 labels of ten values.
func scale(t *testing.T) *policy.Compiler {
	t.Helper()
	c := policy.NewCompiler("n0")
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	all := []model.Rule{{Action: model.Allow}}
	check(c.SetProfile(&model.Profile{Name: "kns.ns", Ingress: all, Egress: all}))
	labels := func(n int) map[string]string {
		l := map[string]string{}
		for i := range 4 {
			l[fmt.Sprint("label", (n+5*i)%20)] = fmt.Sprint("value", (n/20+i)%10)
		}
		return l
	}
	for n := range 1000 {
		check(c.SetPolicy(scalePolicy(n, 0)))
	}
	for n := range 100 {
		check(c.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}, Device: fmt.Sprintf("weft%011x", n*0x12345678&0xfffffffffff),
			MAC: model.MAC{2, 0, 0, 0, 1, byte(n)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(n)}), netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n)})},
			Labels: labels(n), Profiles: []string{"kns.ns"}}))
	}
	for n := range 5000 {
		check(c.SetRemote(&model.RemoteEndpoint{ID: model.RemoteID{Node: model.NodeName(fmt.Sprint("n", 1+n/100)), EndpointID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 2, byte(n >> 8), byte(n)})}, Labels: labels(n), Profiles: []string{"kns.ns"}}))
	}
	return c
}

func scalePolicy(n, version int) *model.Policy {
	sel := func(k int) *string {
		s := fmt.Sprintf("label%d == 'value%d'", (n+k)%20, (n/20+k)%10)
		return &s
	}
	order, _ := model.OrderOf(float64(n))
	return &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: fmt.Sprint("policy", n)}, Order: order, Selector: *sel(0),
		Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Selector: sel(1)}, Destination: model.EntityMatch{Ports: ports(uint16(80 + version))}},
			{Action: model.Deny, Source: model.EntityMatch{Nets: prefixes("192.0.2.0/24")}},
			{Action: model.Allow, Protocol: model.UDP, Source: model.EntityMatch{Selector: sel(2)}}}}
}

// TestScale measures one policy's change among many, from the resource to the kernel.
func TestScale(t *testing.T) {
	if testkit.Emulated() {
		t.Skipf("%s times: those of an emulated processor say nothing", testkit.SkipMark)
	}
	backends(t, func(t *testing.T, b Backend) {
		c := scale(t)
		ns := testkit.NewNetns(t)
		d := newDriver(t, ns, b)
		u := c.Flush()
		var active []int
		for n := range 1000 {
			if u.Program.Chains[policy.PolicyChain(scalePolicy(n, 0).ID, model.Ingress)] != nil {
				active = append(active, n)
			}
		}
		measure := func(f func()) (wall, used time.Duration) {
			w, p := time.Now(), testkit.ProcessorTime()
			f()
			return time.Since(w), testkit.ProcessorTime() - p
		}
		wall, used := measure(func() { apply(t, d, u) })
		rules := 0
		for _, lines := range d.rules.chains {
			rules += len(lines)
		}
		t.Logf("%s: 100 pods, 1,000 policies (%d active), %d sets, %d rules in %d chains of both families: all written in %v, %v of CPU", b,
			len(active), len(d.sets), rules, len(d.rules.chains), wall.Round(time.Millisecond), used.Round(time.Millisecond))
		d.Invalidate()
		wall, used = measure(func() { apply(t, d, u) })
		t.Logf("%s: all compared in %v, %v of CPU", b, wall.Round(time.Millisecond), used.Round(time.Millisecond))
		var walls, uses []time.Duration
		for i := range *changes {
			p := scalePolicy(active[i*7%len(active)], 1+i)
			wall, used := measure(func() {
				if err := c.SetPolicy(p); err != nil {
					t.Fatal(err)
				}
				apply(t, d, c.Flush())
			})
			walls, uses = append(walls, wall), append(uses, used)
		}
		slices.Sort(walls)
		slices.Sort(uses)
		at := func(l []time.Duration, q int) time.Duration { return l[(len(l)-1)*q/100].Round(100 * time.Microsecond) }
		t.Logf("%s: %d policy changes: p50 %v, p99 %v, worst %v; CPU with the programs run p50 %v", b, len(walls), at(walls, 50), at(walls, 99), at(walls, 100), at(uses, 50))
	})
}

// TestBigSet: a set of 100,000 prefixes is loaded, counted, changed by one member, and exchanged.
func TestBigSet(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		ns := testkit.NewNetns(t)
		d := newDriver(t, ns, b)
		c, _ := closed(t)
		n := testkit.Count(100_000)
		nets := func(n int, second byte) []netip.Prefix {
			list := make([]netip.Prefix, n)
			for i := range list {
				list[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), second}), 30).Masked()
			}
			return list
		}
		set := func(nets []netip.Prefix) {
			t.Helper()
			if err := c.SetNetworkSet(&model.NetworkSet{ID: model.NetworkSetID{Name: "big"}, Labels: map[string]string{"big": ""}, Nets: nets}); err != nil {
				t.Fatal(err)
			}
		}
		sel := "has(big)"
		if err := c.SetPolicy(&model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "big"}, Selector: "app == 'web'", Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{Selector: &sel}}}}); err != nil {
			t.Fatal(err)
		}
		list := nets(n, 0)
		used := map[string]time.Duration{} // of processor time, that of the programs too: other work makes no difference
		change := func(what string, nets []netip.Prefix, want int) {
			t.Helper()
			busy, start := testkit.ProcessorTime(), time.Now()
			set(nets)
			u := c.Flush()
			apply(t, d, u)
			took := time.Since(start)
			used[what] = testkit.ProcessorTime() - busy
			counts, err := d.setCounts()
			if err != nil {
				t.Fatal(err)
			}
			for id := range u.Program.Sets {
				if id.Selector == sel && id.Family == model.IPv4 {
					if got := counts[setName(id)]; got != want {
						t.Errorf("%s: the kernel has %d members, want %d", what, got, want)
					}
				}
			}
			t.Logf("%s: %s, of %d, in %v, %v of CPU", b, what, n, took.Round(time.Millisecond), used[what].Round(time.Millisecond))
		}
		change("all loaded", list, n)
		change("one member added", append(slices.Clone(list), netip.MustParsePrefix("10.99.0.0/16")), n+1)
		change("one member removed", list, n)
		change("all members exchanged", nets(n, 128), n)
		if most := 100 * time.Microsecond * time.Duration(n); used["all loaded"] > most { // 10 s for 100,000
			t.Errorf("%d prefixes took %v of CPU to load, want at most %v", n, used["all loaded"], most)
		}
		for _, one := range []string{"one member added", "one member removed"} {
			if used[one] > used["all loaded"]/4 && !testkit.Emulated() { // there a program's start takes long
				t.Errorf("%s takes %v of CPU, all of them %v: want at most a quarter", one, used[one], used["all loaded"])
			}
		}
		d.again = time.Time{} // no doubt, but what shows
		if len(d.sets) == 0 || d.differs() {
			t.Error("the outline of the kernel differs from what was written")
		}
	})
}

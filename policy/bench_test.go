package policy

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"weft/model"
)

// city is a cluster for measurements: pods here, pods elsewhere, and global policies of three rules
// whose selectors spread over 20 labels.
type city struct {
	local, remote, policies int
}

func (c city) pod(n int) *model.Endpoint {
	return &model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}, Device: fmt.Sprintf("weft%011d", n),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)})}, Labels: c.labels(n, 0), Profiles: []string{"kns.ns"},
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
}

// labels are four of 20 labels, with ten values each; version turns one of them.
func (c city) labels(n, version int) map[string]string {
	l := map[string]string{"projectcalico.org/namespace": "ns", "projectcalico.org/orchestrator": "k8s"}
	for i := range 4 {
		l[fmt.Sprint("label", (n+5*i)%20)] = fmt.Sprint("value", (n/20+i)%10)
	}
	l[fmt.Sprint("label", n%20)] = fmt.Sprint("value", (n/20+version)%10)
	return l
}

func (c city) other(n, version int) *model.RemoteEndpoint {
	return &model.RemoteEndpoint{ID: model.RemoteID{Node: model.NodeName(fmt.Sprint("n", n/100)), EndpointID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", n), Interface: "eth0"}},
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(2 + n>>16), byte(n >> 8), byte(n)})}, Labels: c.labels(n, version), Profiles: []string{"kns.ns"},
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 8080}}}
}

func (c city) policy(n, version int) *model.Policy {
	sel := func(k int) *string {
		s := fmt.Sprintf("label%d == 'value%d'", (n+k)%20, (n/20+k)%10)
		return &s
	}
	port := func(p int) []model.Port {
		return []model.Port{{Range: model.PortRange{First: uint16(p), Last: uint16(p)}}}
	}
	order, _ := model.OrderOf(float64(n))
	return &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: fmt.Sprint("policy", n)}, Order: order, Selector: *sel(0),
		Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Selector: sel(1)}, Destination: model.EntityMatch{Ports: port(80 + version)}},
			{Action: model.Deny, Source: model.EntityMatch{Nets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}},
			{Action: model.Allow, Protocol: model.UDP, Source: model.EntityMatch{Selector: sel(2)}}}}
}

func (c city) build(tb testing.TB) *Compiler {
	k := NewCompiler("n0")
	must := func(err error) {
		if err != nil {
			tb.Fatal(err)
		}
	}
	all := []model.Rule{{Action: model.Allow}}
	must(k.SetProfile(&model.Profile{Name: "kns.ns", Labels: map[string]string{"pcns.name": "ns"}, Ingress: all, Egress: all}))
	for n := range c.policies {
		must(k.SetPolicy(c.policy(n, 0)))
	}
	for n := range c.local {
		must(k.SetEndpoint(c.pod(n)))
	}
	for n := range c.remote {
		must(k.SetRemote(c.other(n, 0)))
	}
	k.Flush()
	return k
}

// cpu is the processor time of this process: on a shared machine it says more than the clock.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkChange is one change and the Flush that makes it a Delta. The object that changes is
// made outside of the measured time, as a decoder would have.
func BenchmarkChange(b *testing.B) {
	for _, c := range []city{{100, 5_000, 1_000}, {100, 100_000, 2_000}} {
		before, start := heap(), cpu()
		k := c.build(b)
		built := cpu() - start
		size := heap() - before
		b.Logf("%d pods here, %d elsewhere, %d policies: %d sets, %d chains, built in %v of CPU, %d MiB", c.local, c.remote, c.policies,
			len(k.program.Sets), len(k.program.Chains), built.Round(time.Millisecond), size>>20)
		name := fmt.Sprintf("pods=%d/policies=%d", c.local+c.remote, c.policies)
		policies := make([]*model.Policy, 2*c.policies)
		for i := range policies {
			policies[i] = c.policy(i%c.policies, 1+i/c.policies)
		}
		remotes := make([]*model.RemoteEndpoint, 4000)
		for i := range remotes {
			remotes[i] = c.other(i%2000*7%c.remote, 1+i/2000)
		}
		run := func(what string, change func(i int) error) {
			b.Run(name+"/"+what, func(b *testing.B) {
				b.ReportAllocs()
				i, changed, start := 0, 0, cpu()
				for b.Loop() {
					if err := change(i); err != nil {
						b.Fatal(err)
					}
					if u := k.Flush(); !u.Delta.Empty() {
						changed++
					}
					i++
				}
				b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
				b.ReportMetric(float64(changed)/float64(b.N), "deltas/op")
			})
		}
		run("policy-rule", func(i int) error { return k.SetPolicy(policies[i%len(policies)]) })
		run("policy-selector", func(i int) error {
			p := *policies[i%c.policies]
			p.Selector = *policies[(i+i/c.policies+1)%c.policies].Ingress[0].Source.Selector
			return k.SetPolicy(&p)
		})
		run("label-of-remote-pod", func(i int) error { return k.SetRemote(remotes[i%len(remotes)]) })
		run("remote-pod-comes-and-goes", func(i int) error {
			e := remotes[i/2%len(remotes)]
			if i%2 == 0 {
				k.DeleteRemote(e.ID)
				return nil
			}
			return k.SetRemote(e)
		})
		run("label-of-local-pod", func(i int) error {
			e := *k.pods[model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("pod", i%c.local), Interface: "eth0"}].pod
			e.Labels = c.labels(i%c.local, 1+i/c.local%5)
			return k.SetEndpoint(&e)
		})
	}
}

// BenchmarkNetworkSet changes one prefix of a large set, whose list comes whole each time.
func BenchmarkNetworkSet(b *testing.B) {
	nets := make([]netip.Prefix, 100_000)
	for i := range nets {
		nets[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
	}
	sel := "role == 'blocked'"
	k := city{local: 1}.build(b)
	if err := k.SetPolicy(&model.Policy{ID: model.PolicyID{Name: "p"}, Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{Selector: &sel}}}}); err != nil {
		b.Fatal(err)
	}
	ns := func(nets []netip.Prefix) *model.NetworkSet {
		return &model.NetworkSet{ID: model.NetworkSetID{Name: "blocked"}, Labels: map[string]string{"role": "blocked"}, Nets: nets}
	}
	start := cpu()
	if err := k.SetNetworkSet(ns(nets)); err != nil {
		b.Fatal(err)
	}
	k.Flush()
	b.Logf("%d prefixes loaded in %v of CPU", len(nets), (cpu() - start).Round(time.Millisecond))
	b.Run("one-of-100000-prefixes", func(b *testing.B) {
		b.ReportAllocs()
		i, start := 0, cpu()
		for b.Loop() {
			next := append([]netip.Prefix{}, nets...)
			at := i * 7919 % len(next)
			next[at] = netip.PrefixFrom(netip.AddrFrom4([4]byte{30, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			nets = next
			if err := k.SetNetworkSet(ns(nets)); err != nil {
				b.Fatal(err)
			}
			if d := k.Flush().Delta; len(d.Members) != 1 || len(d.Members[0].Added) != 1 || len(d.Members[0].Removed) != 1 {
				b.Fatalf("delta %+v", d)
			}
			i++
		}
		b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
}

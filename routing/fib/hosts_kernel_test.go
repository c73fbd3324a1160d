package fib

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/routing"
)

// hostRig is a rig whose driver leads to encrypted hosts.
type hostRig struct {
	*rig
	hosts *Ruled
}

func newHostRig(t *testing.T) *hostRig {
	t.Helper()
	r := &hostRig{rig: newRig(t)}
	r.ns.Dummy(t, "weft-wg")
	r.ns.AddAddress(t, "weft-wg", "10.244.0.1/32")
	r.hosts = NewRuled(r.h, slog.New(slog.DiscardHandler), kernel.HostTable)
	return r
}

func hostPlan() routing.Ruled {
	wg := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4}
	host := func(dst, src string, mtu int) topology.Path {
		return topology.Path{Dst: prefix(dst), Node: "n2", Reach: topology.WireGuard, Device: "weft-wg", Source: addr(src), MTU: mtu, DeviceMTU: 1500}
	}
	return routing.CompileHosts(&topology.View{
		Tunnels: []topology.Tunnel{{Device: "weft-wg", Family: model.IPv4, Port: 51820, End: wg}},
		Hosts: []topology.Path{host("172.31.1.2/32", "172.31.1.1", 1440), {Dst: prefix("172.31.2.1/32"), Node: "n3"},
			host("fd00:31:1::2/128", "fd00:31:1::1", 1500)},
	}, routing.HostConfig{Priority: 99, Table: kernel.HostTable, Main: kernel.MainTable, Mark: kernel.UnderlayMark, Store: []uint16{2379}})
}

// ours is what the kernel has of the table and the rules.
func (r *hostRig) ours(t *testing.T) (routes string, rules int) {
	t.Helper()
	var all []string
	for _, f := range []string{"-4", "-6"} {
		out, _ := testkit.Try(t, r.ns, "ip", f, "route", "show", "table", fmt.Sprint(kernel.HostTable))
		for l := range strings.Lines(out) {
			if strings.Contains(l, "proto 87") {
				all = append(all, strings.Join(strings.Fields(l), " "))
			}
		}
		rules += strings.Count(testkit.Run(t, r.ns, "ip", "-N", f, "rule", "show"), "proto 87")
	}
	return strings.Join(all, "\n"), rules
}

// leaves asks the kernel by which device something goes.
func (r *hostRig) leaves(t *testing.T, dst string, more ...string) string {
	t.Helper()
	out := testkit.Run(t, r.ns, append([]string{"ip", "route", "get", dst}, more...)...)
	_, dev, _ := strings.Cut(out, " dev ")
	_, src, _ := strings.Cut(out, " src ")
	field := func(s string) string { f, _, _ := strings.Cut(s, " "); return f }
	return field(dev) + " " + field(src)
}

const hostRoutesInKernel = `172.31.1.2 dev weft-wg proto 87 scope link src 172.31.1.1 metric 1024 mtu 1440
unreachable 172.31.2.1 proto 87 metric 1024
fd00:31:1::2 dev weft-wg proto 87 src fd00:31:1::1 metric 1024 pref medium`

// TestHosts: routes and rules lead hosts' packets to the device, but not those that must stay; they are adopted,
// repaired by events, and go.
func TestHosts(t *testing.T) {
	r := newHostRig(t)
	apply := func(p routing.Ruled) string {
		t.Helper()
		res, err := r.hosts.Apply(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return res.String()
	}
	check := func(what string) {
		t.Helper()
		routes, rules := r.ours(t)
		if d := cmp.Diff(hostRoutesInKernel, routes); d != "" || rules != len(hostPlan().Rules) {
			t.Errorf("%s: %d rules, want %d, routes (-want +got):\n%s", what, rules, len(hostPlan().Rules), d)
		}
	}
	apply(hostPlan())
	check("at first")
	for _, c := range []struct {
		dst, want string
		more      []string
	}{
		{"172.31.1.2", "weft-wg 172.31.1.1", nil},
		{"fd00:31:1::2", "weft-wg fd00:31:1::1", nil},
		{"172.31.1.9", "eth0 172.31.1.1", nil},
		{"172.31.1.2", "weft-wg 172.31.1.1", []string{"ipproto", "tcp", "dport", "22"}},
		{"172.31.1.2", "eth0 172.31.1.1", []string{"ipproto", "tcp", "dport", "2379"}},
		{"172.31.1.2", "eth0 172.31.1.1", []string{"ipproto", "tcp", "sport", "2379"}},
		{"172.31.1.2", "weft-wg 172.31.1.1", []string{"ipproto", "udp", "dport", "2379"}},
		{"fd00:31:1::2", "eth0 fd00:31:1::1", []string{"ipproto", "tcp", "dport", "179"}},
		{"172.31.1.2", "eth0 172.31.1.1", []string{"ipproto", "udp", "dport", "51820"}},
		{"172.31.1.2", "eth0 172.31.1.1", []string{"mark", fmt.Sprint(kernel.UnderlayMark)}},
		{"172.31.1.2", "weft-wg 172.31.1.1", []string{"mark", "1"}},
	} {
		if got := r.leaves(t, c.dst, c.more...); got != c.want {
			t.Errorf("%s %v leaves by %s, want %s", c.dst, c.more, got, c.want)
		}
	}
	if out, err := testkit.Try(t, r.ns, "ip", "route", "get", "172.31.2.1"); err == nil {
		t.Errorf("what must be encrypted and cannot leaves by %s", out)
	}
	r.hosts = NewRuled(r.h, slog.New(slog.DiscardHandler), kernel.HostTable)
	if got := apply(hostPlan()); got != "no change" {
		t.Errorf("adopted: %s", got)
	}
	if got := apply(routing.Ruled{}); strings.Contains(got, "added") && !strings.HasPrefix(got, "0 added, 0 changed") {
		t.Errorf("removed: %s", got)
	}
	if routes, rules := r.ours(t); routes != "" || rules != 0 {
		t.Errorf("left behind: %d rules, routes\n%s", rules, routes)
	}
	if got := r.leaves(t, "172.31.1.2"); got != "eth0 172.31.1.1" {
		t.Errorf("when nothing is encrypted, it leaves by %s", got)
	}
}

// TestHostsRepaired: whatever somebody removes or adds of ours is as it was, by events alone.
func TestHostsRepaired(t *testing.T) {
	r := newHostRig(t)
	m, err := kernel.NewMonitor(t.Context(), r.ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	keep := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- m.Run(t.Context(), func(e kernel.Event) {
			if r.hosts.Observe(e) {
				select {
				case keep <- struct{}{}:
				default:
				}
			}
		})
	}()
	t.Cleanup(func() { <-done })
	if _, err := r.hosts.Apply(t.Context(), hostPlan()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		"ip rule del pref 99",
		"ip -6 rule del pref 99",
		"ip rule del pref 98 ipproto tcp dport 2379",
		"ip rule flush protocol 87",
		"ip -6 rule flush protocol 87",
		"ip rule add pref 5 iif lo lookup 9 protocol 87",
		"ip -6 rule add pref 98 ipproto tcp dport 2379-2400 lookup main protocol 87",
		"ip route flush table 8787",
		"ip -6 route flush table 8787",
		"ip route del 172.31.1.2 table 8787",
		"ip route replace 172.31.1.2 dev eth0 table 8787 metric 1024 protocol 87",
		"ip route add 172.31.1.99 dev eth0 table 8787 protocol 87",
		"ip link set weft-wg down && ip link set weft-wg up",
	} {
		before, n := r.ours(t)
		testkit.Run(t, r.ns, "sh", "-c", s)
		after, rules := r.ours(t)
		if after == before && rules == n {
			t.Errorf("%s: it changes nothing", s)
		}
		took := testkit.Eventually(t, 10*time.Second, "repaired: "+s, func() bool {
			select {
			case <-keep:
				_, _ = r.hosts.Apply(t.Context(), hostPlan()) // the next event is the retry
			default:
			}
			after, rules = r.ours(t)
			return after == before && rules == n
		})
		t.Logf("%-80s %v", s, took)
	}
	foreign := "77: from all lookup 8787"
	testkit.Run(t, r.ns, "ip", "rule", "add", "pref", "77", "table", "8787")
	testkit.Run(t, r.ns, "ip", "route", "add", "10.9.9.9", "dev", "eth0", "table", "8787")
	r.hosts.Resync()
	if _, err := r.hosts.Apply(t.Context(), routing.Ruled{}); err != nil {
		t.Fatal(err)
	}
	if all := testkit.Run(t, r.ns, "ip", "rule", "show"); !strings.Contains(strings.Join(strings.Fields(all), " "), foreign) {
		t.Errorf("somebody else's rule is gone:\n%s", all)
	}
	if all := testkit.Run(t, r.ns, "ip", "route", "show", "table", "8787"); !strings.Contains(all, "10.9.9.9") {
		t.Errorf("somebody else's route is gone:\n%s", all)
	}
}

package ipip

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/internal/traffic"
	"weft/tunnel"
)

// flow sends a packet each millisecond both ways between the pods until stop is called.
func flow(t *testing.T, a, b *host) *traffic.Run {
	t.Helper()
	r, err := traffic.Start(context.Background(), traffic.Config{Interval: time.Millisecond, Hosts: []traffic.Host{
		{Name: string(a.name), Netns: a.pod.Path, Addr: a.podIP}, {Name: string(b.name), Netns: b.pod.Path, Addr: b.podIP},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop() })
	return r
}

// flows waits until a hundred packets more were sent.
func flows(t *testing.T, r *traffic.Run) {
	t.Helper()
	mark := r.Mark()
	testkit.Eventually(t, 10*time.Second, "100 packets", func() bool { return r.Mark() >= mark+100 })
}

// lossless ends a flow and wants nothing lost.
func lossless(t *testing.T, what string, r *traffic.Run) {
	t.Helper()
	p := r.Stop().Total()
	if p.Lost != 0 || p.Sent == 0 {
		t.Errorf("%s: %d of %d packets lost: %v", what, p.Lost, p.Sent, p.Missing)
	}
	t.Logf("%s: %d of %d packets lost, longest gap %v", what, p.Lost, p.Sent, p.LongestGap.Round(time.Millisecond))
}

// helper names the environment variable that makes the test binary the node service of TestProcessDies, in
// the namespace that it names.
const helper = "WEFT_IPIP_HELPER"

// serve applies a plan, says so and waits to be killed.
func serve(ns string) error {
	h, err := kernel.OpenAt(ns)
	if err != nil {
		return err
	}
	w := way{EBPF, os.Getenv("WEFT_IPIP_CLSACT") != ""}
	self := &host{name: "n1", addr: netip.MustParseAddr("172.31.1.1"), block: netip.MustParsePrefix("10.244.1.0/26")}
	peer := &host{name: "n2", addr: netip.MustParseAddr("172.31.1.2"), block: netip.MustParsePrefix("10.244.2.0/26")}
	p, err := compiled(self, []*host{self, peer})
	if err != nil {
		return err
	}
	if _, err := w.driver(h).Apply(context.Background(), p); err != nil {
		return err
	}
	fmt.Println("applied")
	select {}
}

// TestProcessDies kills the process that made the tunnel: traffic goes on, and the next one takes over
// what is there, all with no packet lost.
func TestProcessDies(t *testing.T) {
	programWays(t, func(t *testing.T, w way) {
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		apply(t, n2, plan(t, n2, hosts))
		// It lives in a mount namespace of its own, as a node of the lab does: that goes with it.
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", os.Args[0])
		cmd.Env = append(os.Environ(), helper+"="+n1.Path)
		if w.clsact {
			cmd.Env = append(cmd.Env, "WEFT_IPIP_CLSACT=1")
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		b := make([]byte, 4096)
		said := ""
		for !strings.Contains(said, "applied") {
			n, err := out.Read(b)
			if err != nil {
				t.Fatalf("the process said %q, then %v", said, err)
			}
			said += string(b[:n])
		}
		for _, h := range hosts {
			h.routes(t, hosts, kernel.IPIPDevice)
		}
		r := flow(t, n1, n2)
		time.Sleep(300 * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		time.Sleep(500 * time.Millisecond)
		before := programIDs(t, n1)
		apply(t, n1, plan(t, n1, hosts))
		time.Sleep(300 * time.Millisecond)
		lossless(t, "process killed, the next one took over", r)
		if after := programIDs(t, n1); len(after) != 2 || after[place{2, kernel.Ingress}] != before[place{2, kernel.Ingress}] {
			t.Errorf("programs %v, before %v", after, before)
		}
		if d, err := n1.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
			t.Errorf("dropped %+v, %v", d, err)
		}
	})
}

// older returns the programs as another version of the source would have them.
func older(otherMap bool) func() (*ebpf.CollectionSpec, error) {
	return func() (*ebpf.CollectionSpec, error) {
		spec, err := loadPrograms()
		if err != nil {
			return nil, err
		}
		for _, p := range spec.Programs {
			first := p.Instructions[0]
			p.Instructions[0] = first.WithMetadata(asm.Metadata{}).WithSource(nil)
			p.Instructions = append(asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithMetadata(first.Metadata)}, p.Instructions...)
		}
		if otherMap {
			m := spec.Maps["weft_sources"]
			m.ValueSize, m.Value, m.Key = 4, nil, nil
			m.MaxEntries = 1 << 10
			spec.Maps["weft_counters"].MaxEntries++
		}
		return spec, nil
	}
}

// TestUpgrade swaps programs whose source changed, and those that need other maps, under traffic.
func TestUpgrade(t *testing.T) {
	programWays(t, func(t *testing.T, w way) {
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		n1.driver.bpf.spec = older(false)
		join(t, hosts)
		versions := []func() (*ebpf.CollectionSpec, error){loadPrograms, older(false), loadPrograms, older(true), loadPrograms}
		r := flow(t, n1, n2)
		for i, v := range versions {
			time.Sleep(200 * time.Millisecond)
			before := programIDs(t, n1)
			sources := n1.driver.bpf.maps["weft_sources"]
			n1.driver.Close()
			n1.driver = w.driver(n1.h)
			n1.driver.bpf.spec = v
			apply(t, n1, plan(t, n1, hosts))
			after := programIDs(t, n1)
			if len(after) != 2 {
				t.Errorf("version %d: %d programs run", i, len(after))
			}
			for at, id := range after {
				if before[at] == id {
					t.Errorf("version %d: the program at %v was not swapped", i, at)
				}
			}
			if same := sources == n1.driver.bpf.maps["weft_sources"]; same != (i < 3) {
				t.Errorf("version %d: the same map of sources: %v", i, same)
			}
		}
		time.Sleep(200 * time.Millisecond)
		lossless(t, "programs swapped 5 times, twice with other maps", r)
	})
}

// TestUplinks moves a peer from one underlay interface to another: it is heard at either, also while a
// route goes over both; and the interface with the node's address may change its name.
func TestUplinks(t *testing.T) {
	programWays(t, func(t *testing.T, w way) {
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		join(t, hosts)
		var p atomic.Pointer[tunnel.Plan]
		pl := plan(t, n1, hosts)
		p.Store(&pl)
		keep(t, n1, &p)
		var p2 atomic.Pointer[tunnel.Plan]
		pl2 := plan(t, n2, hosts)
		p2.Store(&pl2)
		keep(t, n2, &p2)
		if !ping(t, n2, n1) {
			t.Fatal("pods do not reach each other")
		}
		// A second wire between the two, used by both for the other's address.
		testkit.Wire(t, n1.NS, "second", n2.NS, "second")
		n1.AddAddress(t, "second", "192.168.9.1/24")
		n2.AddAddress(t, "second", "192.168.9.2/24")
		for _, dev := range []string{"all", "eth0", "second"} {
			n1.sysctl(t, "net/ipv4/conf/"+dev+"/rp_filter", "2")
			n2.sysctl(t, "net/ipv4/conf/"+dev+"/rp_filter", "2")
		}
		testkit.Run(t, n2.NS, "ip", "route", "replace", n1.addr.String(), "via", "192.168.9.1", "src", n2.addr.String())
		if ping(t, n2, n1) {
			t.Error("control: the peer is heard at an interface that no route leads to")
		}
		testkit.Run(t, n1.NS, "ip", "route", "replace", n2.addr.String(), "src", n1.addr.String(),
			"nexthop", "via", "192.168.9.2", "dev", "second", "nexthop", "via", n2.addr.String(), "dev", "eth0")
		testkit.Eventually(t, 10*time.Second, "the peer is heard at the second interface", func() bool { return ping(t, n2, n1) })
		testkit.Run(t, n1.NS, "ip", "route", "replace", n2.addr.String(), "via", "192.168.9.2", "src", n1.addr.String())
		done := sniff(t, n1.NS, "second", 4)
		if !ping(t, n1, n2) {
			t.Error("pods do not reach each other by the second interface")
		}
		if n := len(done()); n < 10 {
			t.Errorf("%d IPIP packets on the second interface, want 10", n)
		}
		testkit.Run(t, n1.NS, "ip", "route", "del", n2.addr.String())
		testkit.Run(t, n2.NS, "ip", "route", "del", n1.addr.String())
		// Renamed: the program stays where it is.
		before := programIDs(t, n1)
		testkit.Run(t, n1.NS, "sh", "-c", "ip link set eth0 down; ip link set eth0 name uplink0; ip link set uplink0 up")
		renamed := plan(t, n1, hosts)
		renamed.Links[0].Parent = "uplink0"
		p.Store(&renamed)
		apply(t, n1, renamed)
		n1.routes(t, hosts, kernel.IPIPDevice)
		if !ping(t, n1, n2) {
			t.Error("after a new name of the underlay interface, pods do not reach each other")
		}
		for at, id := range programIDs(t, n1) {
			if before[at] != id {
				t.Errorf("the program at %v was put there anew", at)
			}
		}
	})
}

// TestWayChanges replaces one way by another on a live host, under traffic.
func TestWayChanges(t *testing.T) {
	testkit.Require(t, testkit.IPIP)
	require(t, EBPF)
	testkit.LeakCheck(t)
	hosts := cluster(t, way{Kernel, false}, way{Kernel, false})
	n1, n2 := hosts[0], hosts[1]
	join(t, hosts)
	lossless := testkit.RenamesWhileUp(t)
	was, changes := n1.way, []way{{EBPF, false}, {Kernel, false}}
	if _, old := hooksOf(n1.h).(clsact); !old {
		changes = append(changes, way{EBPF, true}, way{Kernel, false}, way{EBPF, true}, way{Kernel, false})
	}
	// Where a clsact qdisc comes or goes the kernel drops what the link sends meanwhile, whoever asks: here it stays, but
	// for the last two changes.
	testkit.Run(t, n1.NS, "tc", "qdisc", "add", "dev", "eth0", "clsact")
	testkit.Run(t, n1.NS, "tc", "filter", "add", "dev", "eth0", "egress", "pref", "99", "matchall", "action", "pass")
	for i, w := range changes {
		what, bearable := fmt.Sprintf("way %s to %s", was, w), uint64(0)
		if i >= 4 {
			what, bearable = what+", with its qdisc", 3
		}
		if i == 4 {
			testkit.Run(t, n1.NS, "tc", "qdisc", "del", "dev", "eth0", "clsact")
		}
		r := flow(t, n1, n2)
		flows(t, r)
		n1.driver.Close()
		n1.driver = w.driver(n1.h)
		if was.clsact {
			n1.driver.bpf.hooks = clsact{n1.h} // as on a kernel that has nothing else
		}
		apply(t, n1, plan(t, n1, hosts))
		if !lossless {
			n1.routes(t, hosts, kernel.IPIPDevice) // they went with the device
		}
		flows(t, r)
		p := r.Stop().Total()
		t.Logf("%s: %d of %d packets lost, longest gap %v", what, p.Lost, p.Sent, p.LongestGap.Round(time.Millisecond))
		if lossless && p.Lost > bearable || p.Sent == 0 {
			t.Errorf("%s: %d of %d packets lost: %v", what, p.Lost, p.Sent, p.Missing)
		}
		if !ping(t, n1, n2) || !ping(t, n2, n1, "-s", "1452", "-M", "do") {
			t.Errorf("%s: pods do not reach each other", what)
		}
		want := 0
		if w.Way == EBPF {
			want = 2
		}
		if ids := programIDs(t, n1); len(ids) != want {
			t.Errorf("%s: programs %v, want %d", what, ids, want)
		}
		if l := testkit.Links(t, n1.NS); strings.Contains(l, aside) {
			t.Errorf("%s: the device before is left:\n%s", what, l)
		}
		was = w
	}
	// The control: without the old device nothing is carried until the routes are back.
	r := flow(t, n1, n2)
	flows(t, r)
	testkit.Run(t, n1.NS, "ip", "link", "del", kernel.IPIPDevice)
	n1.driver.Invalidate()
	apply(t, n1, plan(t, n1, hosts))
	n1.routes(t, hosts, kernel.IPIPDevice)
	flows(t, r)
	if p := r.Stop().Total(); p.Lost == 0 {
		t.Errorf("control: 0 of %d packets lost when the device was deleted: the test cannot tell anything", p.Sent)
	}
}

// TestInterop has the kernel's own device on one side and our programs on the other.
func TestInterop(t *testing.T) {
	testkit.Require(t, testkit.IPIP, testkit.Iperf3)
	require(t, EBPF)
	for _, clsact := range []bool{false, true} {
		w := way{EBPF, clsact}
		t.Run(w.String(), func(t *testing.T) {
			w.once(t)
			testkit.LeakCheck(t)
			hosts := cluster(t, way{Kernel, false}, w)
			join(t, hosts)
			a, b := hosts[0], hosts[1]
			for _, options := range [][]string{nil, {"-s", "1452", "-M", "do"}, {"-s", "3000"}} {
				if !ping(t, a, b, options...) || !ping(t, b, a, options...) {
					t.Errorf("ping %v fails", options)
				}
			}
			for i, to := range hosts {
				from := hosts[1-i]
				testkit.ServeStreams(t, to.pod)
				for _, protocol := range []string{"-C", "-u"} {
					args := []string{"iperf3", "-n", "2M", "-C", "cubic", "-c", to.podIP.String()}
					if protocol == "-u" {
						args = []string{"iperf3", "-n", "2M", "-u", "-b", "50M", "-l", "1400", "-c", to.podIP.String()}
					}
					testkit.Run(t, from.pod, args...)
				}
				arrived := testkit.CountUDP(t, to.pod)
				sendUDP(t, from, to.podIP, 0, 1400, 10, make([]byte, 20*1400))
				if got := arrived(200); got != 200 {
					t.Errorf("%s to %s: %d of 200 datagrams arrived, of 10 segmented writes", from.way, to.way, got)
				}
			}
			for _, h := range hosts {
				if d, err := h.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
					t.Errorf("way %s: dropped %+v, %v", h.way, d, err)
				}
			}
		})
	}
}

// TestPathMTU has a router between the nodes whose far link takes smaller packets only: what does not
// fit is answered to the pod, in each size, and TCP finds the size that fits.
func TestPathMTU(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.Require(t, testkit.Iperf3)
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		// b moves behind a router, on a link with MTU 1400.
		router := testkit.NewNetns(t)
		testkit.Wire(t, a.under, "rport", router, "eth0")
		testkit.Run(t, a.under, "ip", "link", "set", "rport", "master", "br0")
		router.AddAddress(t, "eth0", "172.31.1.254/24")
		testkit.Run(t, a.under, "ip", "link", "del", b.port)
		testkit.Wire(t, router, "far", b.NS, "eth0")
		router.AddAddress(t, "far", "172.31.2.254/24")
		b.addr = netip.MustParseAddr("172.31.2.2")
		b.AddAddress(t, "eth0", "172.31.2.2/24")
		testkit.Run(t, router, "ip", "link", "set", "far", "mtu", "1400")
		if err := kernel.SetSysctlAt(router.Path, "net/ipv4/ip_forward", "1"); err != nil {
			t.Fatal(err)
		}
		testkit.Run(t, a.NS, "ip", "route", "add", "172.31.2.0/24", "via", "172.31.1.254")
		testkit.Run(t, b.NS, "ip", "route", "add", "172.31.1.0/24", "via", "172.31.2.254")
		join(t, hosts)
		sizes, err := traffic.Probe{
			From: traffic.Host{Name: "a", Netns: a.pod.Path, Addr: a.podIP}, To: traffic.Host{Name: "b", Netns: b.pod.Path, Addr: b.podIP},
			Min: 1300, Max: 1480,
		}.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v", sizes)
		if sizes.Largest != 1380 || len(sizes.Vanished) != 0 || sizes.Delivered != 81 || sizes.Answered+sizes.Local != 100 {
			t.Errorf("got %+v, want sizes up to 1380 delivered and the others answered", sizes)
		}
		testkit.ServeStreams(t, b.pod)
		testkit.Run(t, a.pod, "ip", "route", "flush", "cache")
		testkit.Run(t, a.pod, "iperf3", "-n", "5M", "-C", "cubic", "-c", b.podIP.String())
		if d, err := a.driver.Dropped(context.Background()); w.Way == EBPF && (err != nil || d.TooBig == 0) {
			t.Errorf("dropped %+v, %v, want some that were too big", d, err)
		}
		// The host itself learns, too.
		if _, err := testkit.Try(t, a.NS, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-s", "1400", "-M", "do", "-I", a.tunnelIP().String(), b.podIP.String()); err == nil {
			t.Error("a packet of 1428 bytes arrived over a link of 1400")
		}
		if out := testkit.Run(t, a.NS, "ip", "route", "get", b.podIP.String(), "from", a.tunnelIP().String()); !strings.Contains(out, "mtu 1380") {
			t.Errorf("the host has not learnt: %s", out)
		}
	})
}

package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
)

// recorder keeps the events of a namespace.
type recorder struct {
	mu     sync.Mutex
	events []kernel.Event
	hold   chan struct{} // while not nil, events are not taken
}

func watch(t *testing.T, ns testkit.NS) *recorder {
	t.Helper()
	r := &recorder{}
	m, err := kernel.NewMonitor(t.Context(), ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- m.Run(ctx, func(e kernel.Event) {
			r.mu.Lock()
			hold := r.hold
			r.mu.Unlock()
			if hold != nil {
				<-hold
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		})
	}()
	t.Cleanup(func() {
		start := time.Now()
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			if d := time.Since(start); d > testkit.Patient(time.Second) {
				t.Errorf("Run took %v to end", d)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not end with its context")
		}
	})
	return r
}

func (r *recorder) seen(match func(kernel.Event) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.events, match)
}

func TestMonitorKinds(t *testing.T) {
	testkit.Require(t, testkit.Netns, testkit.Veth, testkit.VXLAN, testkit.IPRoute2, testkit.IPv6)
	ns := testkit.NewNetns(t)
	r := watch(t, ns)
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	mac := model.MAC{0x66, 1, 2, 3, 4, 5}
	for _, s := range []struct {
		command string
		match   func(kernel.Event) bool
	}{
		{"link add v0 type vxlan id 7 dstport 4789", func(e kernel.Event) bool {
			return e.Kind == kernel.EventLink && !e.Removed && e.Link.Name == "v0" && e.Link.Kind == "vxlan" && !e.Link.Up
		}},
		{"link set v0 up", func(e kernel.Event) bool { return e.Kind == kernel.EventLink && e.Link.Name == "v0" && e.Link.Up }},
		{"addr add 192.0.2.1/24 dev v0", func(e kernel.Event) bool {
			return e.Kind == kernel.EventAddr && e.Addr == p("192.0.2.1/24") && e.Link.Name == "v0" && !e.Removed
		}},
		{"addr add fd00::1/64 dev v0 nodad", func(e kernel.Event) bool { return e.Kind == kernel.EventAddr && e.Addr == p("fd00::1/64") }},
		{"route add 10.1.0.0/16 via 192.0.2.9 dev v0 proto 87 metric 5 mtu 1400", func(e kernel.Event) bool {
			return e.Kind == kernel.EventRoute && !e.Removed && e.Protocol == kernel.RouteProtocol &&
				e.RouteKey == kernel.RouteKey{Table: 254, Dst: p("10.1.0.0/16"), Metric: 5} &&
				e.Route == kernel.Route{Type: kernel.Unicast, Via: a("192.0.2.9"), Device: "v0", MTU: 1400}
		}},
		{"-6 route add fd01::/64 via fd00::9 dev v0 proto static", func(e kernel.Event) bool {
			return e.Kind == kernel.EventRoute && e.Protocol == unix.RTPROT_STATIC && e.RouteKey.Dst == p("fd01::/64") && e.RouteKey.Metric == 1024
		}},
		{"route del 10.1.0.0/16", func(e kernel.Event) bool {
			return e.Kind == kernel.EventRoute && e.Removed && e.RouteKey.Dst == p("10.1.0.0/16")
		}},
		{"neigh add 192.0.2.9 lladdr 66:01:02:03:04:05 dev v0 nud permanent", func(e kernel.Event) bool {
			return e.Kind == kernel.EventNeigh && e.NeighKey == kernel.NeighKey{Device: "v0", IP: a("192.0.2.9")} && e.MAC == mac && e.NeighState&unix.NUD_PERMANENT != 0
		}},
		{"neigh del 192.0.2.9 dev v0", func(e kernel.Event) bool {
			return e.Kind == kernel.EventNeigh && e.Removed && e.NeighKey.IP == a("192.0.2.9")
		}},
		{"fdb", func(e kernel.Event) bool {
			return e.Kind == kernel.EventFDB && !e.Removed && e.FDBKey == kernel.FDBKey{Device: "v0", MAC: mac} && e.FDBDst == a("198.51.100.7")
		}},
		{"link set v0 down", func(e kernel.Event) bool { return e.Kind == kernel.EventLink && e.Link.Name == "v0" && !e.Link.Up }},
		{"link set v0 name v1", func(e kernel.Event) bool { return e.Kind == kernel.EventLink && e.Link.Name == "v1" }},
		{"link del v1", func(e kernel.Event) bool { return e.Kind == kernel.EventLink && e.Removed && e.Link.Name == "v1" }},
	} {
		if s.command == "fdb" {
			testkit.Run(t, ns, "bridge", "fdb", "add", "66:01:02:03:04:05", "dev", "v0", "dst", "198.51.100.7")
		} else {
			testkit.Run(t, ns, append([]string{"ip"}, strings.Fields(s.command)...)...)
		}
		testkit.Eventually(t, 10*time.Second, "event of: "+s.command, func() bool { return r.seen(s.match) })
	}
}

// TestMonitorLost: a reader that is too slow learns that it missed something, and goes on.
func TestMonitorLost(t *testing.T) {
	if testkit.Emulated() {
		t.Skip("60,000 events take minutes on an emulated processor")
	}
	testkit.Require(t, testkit.Netns, testkit.Veth, testkit.IPRoute2)
	ns := testkit.NewNetns(t)
	ns.Dummy(t, "eth0")
	r := watch(t, ns)
	release := make(chan struct{})
	r.mu.Lock()
	r.hold = release
	r.mu.Unlock()
	var batch strings.Builder
	for i := range 30000 {
		fmt.Fprintf(&batch, "route add 10.%d.%d.%d dev eth0 proto 87\n", i>>16, i>>8&255, i&255)
	}
	if _, err := testkit.TryInput(t, ns, batch.String(), "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, ns, "ip", "route", "flush", "proto", "87")
	r.mu.Lock()
	r.hold = nil
	r.mu.Unlock()
	close(release)
	testkit.Eventually(t, 10*time.Second, "EventLost", func() bool {
		return r.seen(func(e kernel.Event) bool { return e.Kind == kernel.EventLost })
	})
	testkit.Run(t, ns, "ip", "link", "set", "eth0", "mtu", "1400")
	testkit.Eventually(t, 10*time.Second, "an event after the loss", func() bool {
		return r.seen(func(e kernel.Event) bool { return e.Kind == kernel.EventLink && e.Link.MTU == 1400 })
	})
	r.mu.Lock()
	t.Logf("%d events seen of 60,000 and the loss reported", len(r.events))
	r.mu.Unlock()
}

func TestNamedNetns(t *testing.T) {
	testkit.Require(t, testkit.Netns, testkit.Veth, testkit.IPRoute2)
	testkit.LeakCheck(t)
	ns := testkit.NewNetns(t)
	if ok, err := kernel.NetnsExists(ns.Name); !ok || err != nil {
		t.Errorf("NetnsExists: %v, %v", ok, err)
	}
	if _, err := kernel.NewNamedNetns(ns.Name); err == nil {
		t.Error("making it again: no error")
	}
	if out := testkit.Run(t, ns, "ip", "netns", "identify"); strings.TrimSpace(out) != ns.Name {
		t.Errorf("ip netns identify says %q in %s", out, ns.Name)
	}
	own, err := kernel.GetSysctl("net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	other := map[string]string{"0": "1", "1": "0"}[own]
	if err := kernel.SetSysctlAt(ns.Path, "net/ipv4/ip_forward", other); err != nil {
		t.Error(err)
	}
	if in, _ := kernel.GetSysctlAt(ns.Path, "net/ipv4/ip_forward"); in != other {
		t.Errorf("in the namespace: %s, want %s", in, other)
	}
	if out, _ := kernel.GetSysctl("net/ipv4/ip_forward"); out != own {
		t.Errorf("outside: %s, want %s as before", out, own)
	}
	if err := kernel.SetSysctlAt(ns.Path, "net/ipv4/ip_forward", "nonsense"); err == nil {
		t.Error("a value that the kernel refuses: no error")
	}
	for range 2 {
		if err := kernel.DeleteNamedNetns(ns.Name); err != nil {
			t.Error(err)
		}
	}
	if ok, _ := kernel.NetnsExists(ns.Name); ok {
		t.Error("it exists after it was deleted")
	}
}

func TestLinks(t *testing.T) {
	testkit.Require(t, testkit.Netns, testkit.Veth, testkit.IPRoute2)
	ns := testkit.NewNetns(t)
	ns.Dummy(t, "eth0")
	h, ctx := ns.Open(t), t.Context()
	l, ok, err := h.LinkByName(ctx, "eth0")
	if err != nil || !ok || l.Kind != "veth" || l.MTU != 1500 || !l.Up || !l.Running || l.MAC.IsZero() {
		t.Errorf("got %+v, %v, %v", l, ok, err)
	}
	if _, ok, err := h.LinkByName(ctx, "absent"); ok || err != nil {
		t.Errorf("an absent link: %v, %v", ok, err)
	}
	for _, name := range []string{"", "sixteen-bytes-xx"} {
		if _, _, err := h.LinkByName(ctx, name); err == nil {
			t.Errorf("link name %q: no error", name)
		}
		if err := h.LinkDelete(ctx, name); err == nil {
			t.Errorf("delete link %q: no error", name)
		}
	}
	if err := h.LinkSetMTU(ctx, "eth0", 1400); err != nil {
		t.Error(err)
	}
	if err := h.LinkSetDown(ctx, "eth0"); err != nil {
		t.Error(err)
	}
	if got, want := testkit.Links(t, ns), "eth0 veth mtu 1400 down\neth0x veth mtu 1500 up\n"; got != want {
		t.Errorf("links: got\n%swant\n%s", got, want)
	}
	if err := h.LinkSetUp(ctx, "absent"); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), "absent") {
		t.Errorf("set up an absent link: %v", err)
	}
	for range 2 {
		if err := h.LinkDelete(ctx, "eth0"); err != nil {
			t.Error(err)
		}
	}
	if got := testkit.Links(t, ns); got != "" {
		t.Errorf("links after the delete: %s", got)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Links(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("Links with an ended context: %v", err)
	}
	if _, err := h.Links(ctx); err != nil {
		t.Errorf("Links after a cancelled one: %v", err)
	}
}

func TestUnderlay(t *testing.T) {
	testkit.Require(t, testkit.Netns, testkit.Veth, testkit.IPRoute2, testkit.IPv6)
	ns := testkit.NewNetns(t)
	for _, d := range []string{"eth0", "eth1", "weft-vxlan"} {
		ns.Dummy(t, d)
	}
	ns.AddAddress(t, "eth0", "172.31.1.1/24", "fd00:31:1::1/64")
	ns.AddAddress(t, "eth1", "172.31.9.1/24")
	for _, c := range []string{
		"route add default via 172.31.1.254 metric 100", "route add default via 172.31.9.254 metric 50",
		"route add 172.31.2.0/24 nexthop via 172.31.1.254 nexthop via 172.31.9.254",
		"-6 route add fd00:31:2::/64 via fd00:31:1::ffff mtu 1400",
		"route add 10.244.1.0/26 via 172.31.1.2 proto 87", "route add 10.1.0.0/16 dev weft-vxlan",
		"route add 10.2.0.0/16 via 172.31.1.9 table 99", "route add blackhole 10.3.0.0/16",
	} {
		testkit.Run(t, ns, append([]string{"ip"}, strings.Fields(c)...)...)
	}
	u, err := kernel.Underlay(t.Context(), ns.Open(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range u.Links {
		got = append(got, fmt.Sprintf("%s %d %v %v", l.Name, l.MTU, l.Up, l.Addresses))
	}
	for _, r := range u.Routes {
		if !r.Dst.Addr().IsLinkLocalUnicast() {
			got = append(got, fmt.Sprintf("%v via %v dev %s src %v mtu %d metric %d", r.Dst, r.Via, r.Device, r.Src, r.MTU, r.Metric))
		}
	}
	want := []string{
		"eth0 1500 true [172.31.1.1/24 fd00:31:1::1/64]", "eth0x 1500 true []", "eth1 1500 true [172.31.9.1/24]", "eth1x 1500 true []",
		"0.0.0.0/0 via 172.31.9.254 dev eth1 src invalid IP mtu 0 metric 50",
		"172.31.1.0/24 via invalid IP dev eth0 src 172.31.1.1 mtu 0 metric 0",
		"172.31.2.0/24 via 172.31.1.254 dev eth0 src invalid IP mtu 0 metric 0",
		"172.31.9.0/24 via invalid IP dev eth1 src 172.31.9.1 mtu 0 metric 0",
		"fd00:31:1::/64 via invalid IP dev eth0 src invalid IP mtu 0 metric 256",
		"fd00:31:2::/64 via fd00:31:1::ffff dev eth0 src invalid IP mtu 1400 metric 1024",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	to, err := ns.Open(t).RouteTo(t.Context(), netip.MustParseAddr("172.31.1.77"))
	if err != nil || to.Device != "eth0" || to.Source != netip.MustParseAddr("172.31.1.1") || to.Via.IsValid() {
		t.Errorf("RouteTo: %v, %v", to, err)
	}
	if _, err := ns.Open(t).RouteTo(t.Context(), netip.MustParseAddr("2001:db8::1")); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("RouteTo without a route: %v", err)
	}
}

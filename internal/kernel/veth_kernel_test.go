package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
)

// podHost is a host namespace with its PodLinks, and what is needed to make pods beside it.
type podHost struct {
	t     *testing.T
	path  string
	links *kernel.PodLinks
}

func newPodHost(t *testing.T) *podHost {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.IPv6, testkit.IPRoute2)
	h := &podHost{t: t, path: newNamespace(t, "h")}
	err := kernel.Do(h.path, func() (err error) {
		if err = kernel.SetSysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
		if err = kernel.SetSysctl("net/ipv6/conf/all/forwarding", "1"); err != nil {
			return err
		}
		h.links, err = kernel.OpenPodLinks()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.links.Close)
	return h
}

func newNamespace(t testing.TB, role string) string {
	t.Helper()
	name := fmt.Sprintf("veth-%d-%s-%d", os.Getpid(), role, time.Now().UnixNano())
	path, err := kernel.NewNamedNetns(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kernel.DeleteNamedNetns(name); err != nil {
			t.Error(err)
		}
	})
	return path
}

// attach makes a whole pod link with its host routes, and returns the link.
func (h *podHost) attach(ns string, id model.EndpointID, addrs ...netip.Addr) kernel.PodLink {
	h.t.Helper()
	ctx := context.Background()
	f, err := os.Open(ns)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	l := kernel.PodLink{Device: kernel.PodDeviceName(id), IfName: id.Interface, MTU: 1450, Addresses: addrs}
	if l.MAC, err = h.links.Create(ctx, f, l); err != nil {
		h.t.Fatal(err)
	}
	if err = h.links.Configure(ctx, l); err != nil {
		h.t.Fatal(err)
	}
	for _, a := range addrs {
		h.ip(h.path, "route", "add", a.String(), "dev", l.Device)
	}
	if err = h.links.Activate(ctx, f, l); err != nil {
		h.t.Fatal(err)
	}
	if err = h.links.Check(ctx, f, l); err != nil {
		h.t.Errorf("check after attach: %v", err)
	}
	return l
}

func (h *podHost) ip(ns string, args ...string) string {
	h.t.Helper()
	var out []byte
	err := kernel.Do(ns, func() (err error) {
		out, err = exec.Command("ip", args...).CombinedOutput()
		return err
	})
	if err != nil {
		h.t.Fatalf("ip %v in %s: %v: %s", args, ns, err, out)
	}
	return string(out)
}

func udpOf(a netip.Addr) string {
	if a.Is4() {
		return "udp4"
	}
	return "udp6"
}

// talk sends one datagram from one namespace to an address in another and waits for the echo.
func talk(from, to string, dst netip.Addr) (took time.Duration, err error) {
	var server, client net.PacketConn
	addr := netip.AddrPortFrom(dst, 7777)
	if err = kernel.Do(to, func() (err error) {
		server, err = net.ListenPacket("udp", addr.String())
		return err
	}); err != nil {
		return 0, err
	}
	defer server.Close()
	if err = kernel.Do(from, func() (err error) {
		client, err = net.ListenPacket(udpOf(dst), ":0")
		return err
	}); err != nil {
		return 0, err
	}
	defer client.Close()
	deadline := time.Now().Add(2 * time.Second)
	server.SetDeadline(deadline)
	client.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 64)
		n, peer, err := server.ReadFrom(buf)
		if err == nil {
			_, err = server.WriteTo(buf[:n], peer)
		}
		done <- err
	}()
	start := time.Now()
	if _, err = client.WriteTo([]byte("weft"), net.UDPAddrFromAddrPort(addr)); err == nil {
		_, _, err = client.ReadFrom(make([]byte, 64))
	}
	return time.Since(start), errors.Join(err, <-done)
}

func TestPodLinkCarriesBothFamilies(t *testing.T) {
	h := newPodHost(t)
	a, b := newNamespace(t, "a"), newNamespace(t, "b")
	a4, a6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	b4, b6 := netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")
	h.attach(a, model.EndpointID{Namespace: "default", Pod: "a", Interface: "eth0"}, a4, a6)
	lb := h.attach(b, model.EndpointID{Namespace: "default", Pod: "b", Interface: "eth0"}, b4, b6)
	for _, dst := range []netip.Addr{b4, b6} {
		took, err := talk(a, b, dst)
		if err != nil {
			t.Errorf("first datagram from pod a to %s: %v\nhost:\n%s%s%s\npod:\n%s", dst, err, h.ip(h.path, "addr"), h.ip(h.path, "route"),
				h.ip(h.path, "-6", "route"), h.ip(a, "-6", "route"))
		}
		t.Logf("first datagram and its echo between pods to %s: %v", dst, took)
	}
	// proxy ARP answers too where a route leads elsewhere; the permanent entry does without.
	t.Logf("pod b:\n%s%s%s", h.ip(b, "addr"), h.ip(b, "route"), h.ip(b, "neigh"))

	f, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, harm := range [][2]string{{b, "link set eth0 mtu 1400"}, {b, "route del default"}, {b, "addr del 10.9.0.2/32 dev eth0"},
		{h.path, "route del 10.9.0.2"}} {
		h.ip(harm[0], strings.Fields(harm[1])...)
		if err := h.links.Check(context.Background(), f, lb); err == nil {
			t.Errorf("check found nothing wrong after %q", harm[1])
		} else {
			t.Logf("after %q: %v", harm[1], err)
		}
	}
	if err := h.links.Delete(context.Background(), lb.Device); err != nil {
		t.Error(err)
	}
	if err := h.links.Delete(context.Background(), lb.Device); err != nil {
		t.Errorf("delete of an absent link: %v", err)
	}
	devs, err := h.links.Devices(context.Background())
	if err != nil || len(devs) != 1 {
		t.Errorf("got devices %v, %v; want only pod a's", devs, err)
	}
}

func TestPodLinkSettings(t *testing.T) {
	h := newPodHost(t)
	a4, a6 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
	both := h.attach(newNamespace(t, "a"), model.EndpointID{Namespace: "d", Pod: "a", Interface: "eth0"}, a4, a6).Device
	only4 := h.attach(newNamespace(t, "b"), model.EndpointID{Namespace: "d", Pod: "b", Interface: "eth0"}, netip.MustParseAddr("10.9.0.2")).Device
	for _, s := range [][2]string{
		{"ipv4/conf/" + both + "/rp_filter", "1"}, {"ipv4/conf/" + both + "/route_localnet", "0"},
		{"ipv4/conf/" + both + "/accept_redirects", "0"}, {"ipv4/conf/" + both + "/send_redirects", "0"},
		{"ipv4/conf/" + both + "/forwarding", "1"}, {"ipv4/conf/" + both + "/proxy_arp", "1"},
		{"ipv4/neigh/" + both + "/proxy_delay", "0"}, {"ipv6/conf/" + both + "/accept_ra", "0"},
		{"ipv6/conf/" + both + "/forwarding", "1"}, {"ipv6/conf/" + both + "/accept_redirects", "0"},
		{"ipv6/conf/" + both + "/addr_gen_mode", "1"}, {"ipv6/conf/" + both + "/disable_ipv6", "0"},
		{"ipv6/conf/" + only4 + "/disable_ipv6", "1"}, {"ipv4/conf/" + only4 + "/rp_filter", "1"},
	} {
		if got, err := kernel.GetSysctlAt(h.path, "net/"+s[0]); err != nil || got != s[1] {
			t.Errorf("%s: got %q, %v; want %s", s[0], got, err, s[1])
		}
	}
}

func TestPodLinkRefusals(t *testing.T) {
	h := newPodHost(t)
	pod := newNamespace(t, "p")
	f, err := os.Open(pod)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h.ip(pod, "link", "add", "eth0", "type", "bridge")
	l := kernel.PodLink{Device: "weft00000000000", IfName: "eth0", MTU: 1450}
	_, err = h.links.Create(context.Background(), f, l)
	if !errors.Is(err, kernel.ErrPodInterfaceExists) {
		t.Errorf("create over an existing eth0: got %v, want ErrPodInterfaceExists", err)
	}
	if got := h.ip(h.path, "-o", "link", "show", "type", "veth"); got != "" {
		t.Errorf("a refused link left something behind: %s", got)
	}
	own, err := os.Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := h.links.CheckNamespace(own); err == nil {
		t.Error("the host's own namespace passed for a pod's")
	}
	plain, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := h.links.CheckNamespace(plain); err == nil {
		t.Error("a plain file passed for a network namespace")
	}
	if err := h.links.CheckNamespace(f); err != nil {
		t.Error(err)
	}
}

// A pod may send from its own address only (rp_filter): the spoofed datagram is lost, and the
// control from the true address arrives.
func TestPodCannotSpoofIPv4(t *testing.T) {
	h := newPodHost(t)
	a, b := newNamespace(t, "a"), newNamespace(t, "b")
	a4, b4 := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	h.attach(a, model.EndpointID{Namespace: "d", Pod: "a", Interface: "eth0"}, a4)
	h.attach(b, model.EndpointID{Namespace: "d", Pod: "b", Interface: "eth0"}, b4)
	var server, spoof, own net.PacketConn
	h.ip(a, "addr", "add", "10.9.0.77/32", "dev", "eth0")
	err := errors.Join(
		kernel.Do(b, func() (err error) { server, err = net.ListenPacket("udp", "10.9.0.2:7778"); return err }),
		kernel.Do(a, func() (err error) { spoof, err = net.ListenPacket("udp", "10.9.0.77:0"); return err }),
		kernel.Do(a, func() (err error) { own, err = net.ListenPacket("udp", "10.9.0.1:0"); return err }))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	defer spoof.Close()
	defer own.Close()
	dst := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.9.0.2:7778"))
	const n = 50
	for range n {
		spoof.WriteTo([]byte("spoof"), dst)
	}
	own.WriteTo([]byte("own"), dst)
	server.SetDeadline(time.Now().Add(time.Second))
	spoofed, owned := 0, 0
	buf := make([]byte, 16)
	for owned == 0 {
		m, _, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatalf("the datagram from the pod's own address did not arrive: %v", err)
		}
		if string(buf[:m]) == "own" {
			owned++
		} else {
			spoofed++
		}
	}
	t.Logf("%d of %d spoofed datagrams arrived, %d of 1 from the pod's own address", spoofed, n, owned)
	if spoofed > 0 {
		t.Errorf("%d of %d spoofed datagrams arrived", spoofed, n)
	}
}

func BenchmarkPodLink(b *testing.B) {
	testkit.Require(b, testkit.Root, testkit.Veth, testkit.IPv6)
	host, pod := newNamespace(b, "h"), newNamespace(b, "p")
	var links *kernel.PodLinks
	if err := kernel.Do(host, func() (err error) { links, err = kernel.OpenPodLinks(); return err }); err != nil {
		b.Fatal(err)
	}
	defer links.Close()
	f, err := os.Open(pod)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	ctx := context.Background()
	l := kernel.PodLink{Device: "weft00000000001", IfName: "eth0", MTU: 1450,
		Addresses: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}}
	var create, configure, activate, remove time.Duration
	for b.Loop() {
		t0 := time.Now()
		_, err := links.Create(ctx, f, l)
		t1 := time.Now()
		err = errors.Join(err, links.Configure(ctx, l))
		t2 := time.Now()
		err = errors.Join(err, links.Activate(ctx, f, l))
		t3 := time.Now()
		err = errors.Join(err, links.Delete(ctx, l.Device))
		if err != nil {
			b.Fatal(err)
		}
		create, configure, activate, remove = create+t1.Sub(t0), configure+t2.Sub(t1), activate+t3.Sub(t2), remove+time.Since(t3)
	}
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 / float64(b.N) }
	b.ReportMetric(ms(create), "create-ms")
	b.ReportMetric(ms(configure), "configure-ms")
	b.ReportMetric(ms(activate), "activate-ms")
	b.ReportMetric(ms(remove), "delete-ms")
}

package e2e

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// rogue is a router advertisement (RFC 4861, section 4.2; RFC 4191) that, where it is believed, makes
// its sender the default router and the way to all pods, gives an address, and lowers the MTU.
func rogue() []byte {
	b := []byte{134, 0, 0, 0, 64, 0x08, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0} // preference high, for 1,800 s
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	info := append([]byte{3, 4, 64, 0xc0}, make([]byte, 12)...)
	binary.BigEndian.PutUint32(info[4:], 3600)
	binary.BigEndian.PutUint32(info[8:], 3600)
	b = append(append(b, info...), prefix[:]...)
	b = append(b, 5, 1, 0, 0, 0, 0, 0x05, 0x14) // MTU 1300
	pods := netip.MustParseAddr("fd00:10:244::").As16()
	b = append(b, 24, 3, 47, 0x08, 0, 0, 0x07, 0x08)
	return append(b, pods[:]...)
}

// advertise sends rogue advertisements from a device to each destination and returns how many.
func advertise(t *testing.T, ns testkit.NS, device string, to []string) (sent int) {
	t.Helper()
	err := kernel.Do(ns.Path, func() error {
		link, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for opt, value := range map[int]int{unix.IPV6_MULTICAST_HOPS: 255, unix.IPV6_UNICAST_HOPS: 255, unix.IPV6_MULTICAST_IF: link.Index} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, opt, value); err != nil {
				return err
			}
		}
		// Only what comes from a link-local address is believed at all.
		own, err := linkLocal(link)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: own.As16(), ZoneId: uint32(link.Index)}); err != nil {
			return fmt.Errorf("bind to %v: %w", own, err)
		}
		for range 20 {
			for _, a := range to {
				dst := &unix.SockaddrInet6{Addr: netip.MustParseAddr(a).As16(), ZoneId: uint32(link.Index)}
				if err := unix.Sendto(fd, rogue(), 0, dst); err != nil {
					return fmt.Errorf("send to %s: %w", a, err)
				}
				sent++
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func linkLocal(link *net.Interface) (netip.Addr, error) {
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr().WithZone(""), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no link-local address", link.Name)
}

// ipv6State is what a router advertisement could change.
func ipv6State(t *testing.T, ns testkit.NS) string {
	t.Helper()
	// Not the neighbour table: a host notes the sender's own link address as that of a router even
	// where it believes nothing of what the router says, and that flag has no effect by itself.
	out := testkit.Run(t, ns, "sh", "-c", `ip -6 -o route show table all; ip -6 -o addr show
		grep . /proc/sys/net/ipv6/conf/*/mtu /proc/sys/net/ipv6/conf/*/hop_limit; true`)
	var lines []string
	for l := range strings.Lines(out) {
		lines = append(lines, strings.Join(strings.Fields(noise.ReplaceAllString(l, " ")), " "))
	}
	return strings.Join(lines, "\n")
}

// settledIPv6 waits until duplicate address detection is over and the routes that follow it are there.
func settledIPv6(t *testing.T, ns testkit.NS) (state string) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, ns.Name+" has its IPv6 addresses", func() bool {
		before := state
		if state != "" {
			time.Sleep(300 * time.Millisecond)
		}
		state = ipv6State(t, ns)
		return state == before && strings.Contains(state, "inet6 fe80:") && !strings.Contains(state, "tentative")
	})
	return state
}

// TestRogueRouterAdvertisement lets a pod pose as a router: neither its host nor another pod believes
// it. The control is a plain namespace with the kernel's defaults, which does.
func TestRogueRouterAdvertisement(t *testing.T) {
	c := newCluster(t, "e2era")
	c.dualPods(vxlanAlways)
	c.pod("n1", "other")
	victims := map[string]testkit.NS{"n1": c.nodeNetns("n1"), "n3": c.nodeNetns("n3"),
		"the other pod of n1": c.netns("other"), "the pod of n3": c.netns("n3")}
	settledIPv6(t, c.netns("n1"))
	gateway := strings.Fields(testkit.Run(t, c.netns("n1"), "ip", "-6", "route", "show", "default"))[2]
	before := map[string]string{}
	for name, ns := range victims {
		before[name] = settledIPv6(t, ns)
	}
	sent := advertise(t, c.netns("n1"), "eth0", []string{"ff02::1", "ff02::2", gateway, "fd00:31:1::1",
		c.every["other"][1].String(), c.every["n3"][1].String()})
	time.Sleep(500 * time.Millisecond)
	believed := 0
	for name, ns := range victims {
		if after := ipv6State(t, ns); after != before[name] {
			believed++
			t.Errorf("%s believed a pod that posed as a router:\n%s", name, difference(before[name], after))
		}
	}
	t.Logf("%d advertisements from a pod, believed by %d of %d", sent, believed, len(victims))

	plain, pod := testkit.NewNetns(t), testkit.NewNetns(t)
	for _, ns := range []testkit.NS{plain, pod} {
		testkit.Run(t, ns, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
	}
	testkit.Wire(t, plain, "link0", pod, "eth0")
	was := settledIPv6(t, plain)
	settledIPv6(t, pod)
	advertise(t, pod, "eth0", []string{"ff02::1"})
	testkit.Eventually(t, 3*time.Second, "the control believes the advertisement", func() bool {
		return strings.Contains(difference(was, ipv6State(t, plain)), "default via fe80:")
	})
	t.Logf("control: a plain namespace believed it:\n%s", difference(was, ipv6State(t, plain)))
}

package ipip

import (
	"context"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// open lets everybody in: the control of tests that expect nothing to arrive.
func (h *host) open(t *testing.T) {
	t.Helper()
	if h.way.Way == Kernel {
		testkit.Run(t, h.NS, "nft", "delete", "table", "inet", "weft")
		return
	}
	// Whoever sends, the program lets it in.
	for outer := range 256 {
		k := sourceKey{Bits: 32, Outer: [4]byte{172, 31, 1, byte(outer)}}
		if err := h.driver.bpf.objs.WeftSources.Put(k, uint32(1)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestInjectionIsRefused(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		const n = 200
		hosts := cluster(t, w, w, w, w)
		n1, n2, outsider := hosts[0], hosts[1], hosts[3] // n4 is on the underlay, but not of the cluster
		members := hosts[:3]
		join(t, members)
		arrived := testkit.CountUDP(t, n1.pod)
		good := packet{outerSrc: n2.addr, outerDst: n1.addr, src: n2.podIP, dst: n1.podIP}
		with := func(f func(*packet)) packet { p := good; f(&p); return p }

		// The positive control: what a peer may send arrives.
		inject(t, n1, n, good)
		if got := arrived(n); got != n {
			t.Fatalf("%d of %d packets of a known node arrived: the test cannot tell anything", got, n)
		}
		cases := []struct {
			name string
			p    packet
		}{
			{"outsider with a peer's pod as inner source", with(func(p *packet) { p.outerSrc = outsider.addr })},
			{"outsider with an address of the victim's block", with(func(p *packet) { p.outerSrc, p.src = outsider.addr, netip.MustParseAddr("10.244.1.9") })},
			{"outsider with an address of its own", with(func(p *packet) { p.outerSrc, p.src = outsider.addr, outsider.podIP })},
			{"known node with another node's pod", with(func(p *packet) { p.src = hosts[2].podIP })},
			{"known node with an address of the victim's block", with(func(p *packet) { p.src = netip.MustParseAddr("10.244.1.9") })},
			{"known node with an address of the world", with(func(p *packet) { p.src = netip.MustParseAddr("8.8.8.8") })},
			{"known node with the address after its block", with(func(p *packet) { p.src = netip.MustParseAddr("10.244.2.64") })},
			{"known node with its own underlay address", with(func(p *packet) { p.src = n2.addr })},
		}
		chances := 0
		for _, c := range cases {
			before, err := n1.driver.Dropped(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			inject(t, n1, n, c.p)
			if got := arrived(0); got != 0 {
				t.Errorf("%s: %d of %d packets arrived", c.name, got, n)
			}
			after, err := n1.driver.Dropped(context.Background())
			if err != nil || after.Unknown-before.Unknown != n {
				t.Errorf("%s: counted %d of %d refused packets, %v", c.name, after.Unknown-before.Unknown, n, err)
			}
			chances += n
		}
		t.Logf("0 of %d injected packets arrived, all counted", chances)

		// The control: the same packets without the guard.
		n1.open(t)
		for _, dev := range []string{"all", "eth0", kernel.IPIPDevice} {
			n1.sysctl(t, "net/ipv4/conf/"+dev+"/rp_filter", "0")
		}
		testkit.Run(t, n1.NS, "ip", "route", "add", "default", "via", n2.addr.String(), "dev", "eth0") // pods answer nobody
		total := 0
		for _, c := range cases {
			inject(t, n1, n, c.p)
			got := arrived(n)
			if got != n {
				t.Errorf("control, no guard: %s: %d of %d packets arrived, want all", c.name, got, n)
			}
			total += got
		}
		t.Logf("without the guard %d of %d arrived (%d kinds)", total, n*len(cases), len(cases))
	})
}

// TestMalformedIsRefused sends headers that contradict themselves, under the name of a known node
// (rule R18). The controls differ from them in that only.
func TestMalformedIsRefused(t *testing.T) {
	programWays(t, func(t *testing.T, w way) {
		const n = 50
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		join(t, hosts)
		arrived := testkit.CountUDP(t, n1.pod)
		good := packet{outerSrc: n2.addr, outerDst: n1.addr, src: n2.podIP, dst: n1.podIP, payload: 100}
		with := func(f func(*packet)) packet { p := good; f(&p); return p }
		cases := []struct {
			name string
			p    packet
			want Dropped
		}{
			{"control", good, Dropped{}},
			{"control: bytes after the outer packet", with(func(p *packet) { p.trailer = 40 }), Dropped{}},
			{"outer checksum", with(func(p *packet) { p.badSum = true }), Dropped{Malformed: n}},
			{"outer options", with(func(p *packet) { p.options = 1 }), Dropped{Malformed: n}},
			{"outer longer than what is there", with(func(p *packet) { p.outerExtra = 1 }), Dropped{Malformed: n}},
			{"outer shorter than two headers", with(func(p *packet) { p.outerExtra = -89 - 20 }), Dropped{Malformed: n}},
			{"first fragment", with(func(p *packet) { p.outerFlags = 0x2000 }), Dropped{Fragments: n}},
			{"later fragment", with(func(p *packet) { p.outerFlags = 0x0003 }), Dropped{Fragments: n}},
			{"inner version 6", with(func(p *packet) { p.innerFirst = 0x65 }), Dropped{Malformed: n}},
			{"inner version 0", with(func(p *packet) { p.innerFirst = 0x05 }), Dropped{Malformed: n}},
			{"inner header of 16 bytes", with(func(p *packet) { p.innerFirst = 0x44 }), Dropped{Malformed: n}},
			{"inner header longer than the packet", with(func(p *packet) { p.innerFirst = 0x4f; p.payload = 0 }), Dropped{Malformed: n}},
			{"inner longer than the outer", with(func(p *packet) { p.innerExtra = 1 }), Dropped{Malformed: n}},
			{"inner cut within its header", with(func(p *packet) { p.cut = 120 }), Dropped{Malformed: n}},
			{"inner length 0", with(func(p *packet) { p.innerExtra = -128 }), Dropped{Malformed: n}},
		}
		for _, c := range cases {
			before, _ := n1.driver.Dropped(context.Background())
			inject(t, n1, n, c.p)
			want := 0
			if c.want == (Dropped{}) {
				want = n
			}
			got := arrived(want)
			after, err := n1.driver.Dropped(context.Background())
			diff := Dropped{Malformed: after.Malformed - before.Malformed, Fragments: after.Fragments - before.Fragments, Unknown: after.Unknown - before.Unknown}
			if err != nil || got != want || diff != c.want {
				t.Errorf("%s: %d of %d arrived, want %d; counted %+v, want %+v; %v", c.name, got, n, want, diff, c.want, err)
			}
		}
	})
}

// sendProtocol4 sends n inner packets by a raw socket, under the source address if it is valid.
func sendProtocol4(t *testing.T, from testkit.NS, src, to netip.Addr, n int, p packet) {
	t.Helper()
	inner := p.bytes()[20:]
	from.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IPIP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if src.IsValid() {
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: src.As4()}); err != nil {
				return err
			}
		}
		for range n {
			_ = unix.Sendto(fd, inner, 0, &unix.SockaddrInet4{Addr: to.As4()}) // a refusal that is reported is one
		}
		return nil
	})
}

func TestPodsCannotSendTunnelPackets(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		const n = 200
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		join(t, hosts)
		arrived := testkit.CountUDP(t, n1.pod)
		// The worst case: the pod's packet leaves under its node's address, and the inner source is one
		// that this node may use. Only the node it runs on can tell.
		testkit.Run(t, n2.NS, "nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oifname eth0 ip saddr 10.244.0.0/16 masquerade")
		// To its own node, the pod lies about its own outer source.
		testkit.Run(t, n1.pod, "ip", "addr", "add", n2.addr.String()+"/32", "dev", "eth0")
		p := packet{outerSrc: n2.addr, outerDst: n1.addr, src: netip.MustParseAddr("10.244.2.33"), dst: n1.podIP}
		toOther := func(want int) int { sendProtocol4(t, n2.pod, netip.Addr{}, n1.addr, n, p); return arrived(want) }
		toOwn := func(want int) int { sendProtocol4(t, n1.pod, n2.addr, n1.addr, n, p); return arrived(want) }
		if got := toOther(0); got != 0 {
			t.Errorf("pod to another node: %d of %d packets arrived", got, n)
		}
		if got := toOwn(0); got != 0 {
			t.Errorf("pod to its own node: %d of %d packets arrived", got, n)
		}
		for _, h := range hosts {
			if d, err := h.driver.Dropped(context.Background()); err != nil || d.FromPods != n {
				t.Errorf("%s counted %d of %d packets of its pod, %v", h.name, d.FromPods, n, err)
			}
		}
		t.Logf("0 of %d packets of pods in IP protocol 4 arrived", 2*n)

		testkit.Run(t, n2.NS, "nft", "delete", "table", "inet", "weft")
		if got := toOther(n); got != n {
			t.Errorf("control, no guard on the pod's node: %d of %d arrived, want all", got, n)
		}
		testkit.Run(t, n1.NS, "nft", "delete", "table", "inet", "weft")
		want := n
		if w.Way == EBPF {
			want = 0 // without the program at the pod's link, the node takes nothing out of it
		}
		if got := toOwn(want); got != want {
			t.Errorf("control, no guard on the own node: %d of %d arrived, want %d", got, n, want)
		}
	})
}

// TestNothingLeaks sends to what no peer has, and through a device whose program somebody took away:
// nothing may appear on the underlay, neither within IPIP nor without.
func TestNothingLeaks(t *testing.T) {
	programWays(t, func(t *testing.T, w way) {
		const n = 100
		hosts := cluster(t, w, w)
		n1, n2 := hosts[0], hosts[1]
		join(t, hosts)
		arrived := testkit.CountUDP(t, n2.pod)
		testkit.Run(t, n1.NS, "ip", "route", "add", "10.99.0.0/16", "via", n2.addr.String(), "dev", kernel.IPIPDevice, "onlink")
		udp, ipip := sniff(t, n2.NS, "eth0", unix.IPPROTO_UDP), sniff(t, n2.NS, "eth0", unix.IPPROTO_IPIP)
		sendUDP(t, n1, netip.MustParseAddr("10.99.1.1"), 0, 0, n, []byte("no such peer"))
		if d, err := n1.driver.Dropped(context.Background()); err != nil || d.NoPeer != n {
			t.Errorf("counted %d of %d packets to no peer, %v", d.NoPeer, n, err)
		}
		dev, err := n1.driver.read(context.Background(), kernel.IPIPDevice)
		if err != nil {
			t.Fatal(err)
		}
		if err := n1.driver.bpf.hooks.detach(context.Background(), place{dev.Index, kernel.Egress}, n1.driver.bpf.objs.WeftIpipOut); err != nil {
			t.Fatal(err)
		}
		sendUDP(t, n1, n2.podIP, 0, 0, n, []byte("no program"))
		if u, i := len(udp()), len(ipip()); u+i != 0 {
			t.Errorf("%d of %d packets are on the underlay, %d of them in IPIP", u+i, 2*n, i)
		}
		n1.driver.Invalidate()
		apply(t, n1, plan(t, n1, hosts))
		udp, ipip = sniff(t, n2.NS, "eth0", unix.IPPROTO_UDP), sniff(t, n2.NS, "eth0", unix.IPPROTO_IPIP)
		sendUDP(t, n1, n2.podIP, 0, 0, n, []byte("control"))
		if u, i := len(udp()), len(ipip()); u != 0 || i < n {
			t.Errorf("control: %d plain and %d IPIP packets on the underlay, want 0 and at least %d", u, i, n)
		}
		if got := arrived(n); got != n {
			t.Errorf("control: %d of %d packets arrived", got, n)
		}
	})
}

package vxlan

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/tunnel"
)

// packet is a VXLAN packet as somebody might craft it.
type packet struct {
	vni       int
	mac       model.MAC // inner destination: the victim's VTEP
	etherType uint16
	src, dst  netip.Addr // inner
	payload   int        // bytes, inner
}

// bytes returns the UDP payload: VXLAN, Ethernet, IPv4 and UDP to port 9 without a checksum.
func (p packet) bytes() []byte {
	b := []byte{8, 0, 0, 0, byte(p.vni >> 16), byte(p.vni >> 8), byte(p.vni), 0}
	b = append(b, p.mac[:]...)
	b = append(b, 0x66, 1, 2, 3, 4, 5)
	b = binary.BigEndian.AppendUint16(b, p.etherType)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+p.payload))
	ip = append(append(ip, p.src.AsSlice()...), p.dst.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	b = append(b, ip...)
	b = append(b, 0, 9, 0, 9, byte((8+p.payload)>>8), byte(8+p.payload), 0, 0)
	return append(b, make([]byte, p.payload)...)
}

// inject sends n copies of each packet from the namespace to the address's tunnel port. A refusal
// by the local guard, which some kernels report to the sender, is not a failure of the test.
func inject(t *testing.T, from testkit.NS, to netip.Addr, n int, packets ...packet) {
	t.Helper()
	from.Do(t, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to, 4789).String())
		if err != nil {
			return err
		}
		defer c.Close()
		for range n {
			for _, p := range packets {
				if _, err := c.Write(p.bytes()); err != nil && !strings.Contains(err.Error(), "not permitted") && !strings.Contains(err.Error(), "refused") {
					return err
				}
			}
		}
		return nil
	})
}

// openGuard takes the guard away: the control of every test that expects nothing to arrive.
func openGuard(t *testing.T, hosts ...*host) {
	t.Helper()
	for _, h := range hosts {
		testkit.Run(t, h.NS, "nft", "delete", "table", "inet", "weft")
	}
}

func TestInjectionIsRefused(t *testing.T) {
	testkit.LeakCheck(t)
	const n = 200
	hosts := cluster(t, 4)
	n1, n2, outsider := hosts[0], hosts[1], hosts[3] // n4 is on the underlay, but not of the cluster
	members := hosts[:3]
	join(t, members)
	arrived := testkit.CountUDP(t, n1.pod)
	good := packet{vni: 4096, mac: tunnel.VTEPMAC("n1"), etherType: 0x0800, src: n2.podIP, dst: n1.podIP}
	with := func(f func(*packet)) packet { p := good; f(&p); return p }
	foreign := with(func(p *packet) { p.src = hosts[2].podIP })
	own := with(func(p *packet) { p.src = netip.MustParseAddr("10.244.1.9") })
	world := with(func(p *packet) { p.src = netip.MustParseAddr("8.8.8.8") })
	edge := with(func(p *packet) { p.src = netip.MustParseAddr("10.244.2.64") }) // just beyond n2's block

	// The positive control: what a peer may send arrives.
	inject(t, n2.NS, n1.addr, n, good)
	if got := arrived(n); got != n {
		t.Fatalf("%d of %d packets of a known node arrived: the test cannot tell anything", got, n)
	}
	cases := []struct {
		name string
		from testkit.NS
		p    packet
	}{
		{"outsider with a peer's pod as inner source", outsider.NS, good},
		{"outsider with an address of the victim's block", outsider.NS, own},
		{"outsider with an address of its own", outsider.NS, with(func(p *packet) { p.src = outsider.podIP })},
		{"known node with another node's pod", n2.NS, foreign},
		{"known node with an address of the victim's block", n2.NS, own},
		{"known node with an address of the world", n2.NS, world},
		{"known node with the address after its block", n2.NS, edge},
		{"outsider, in IP fragments", outsider.NS, with(func(p *packet) { p.payload = 1900 })},
		{"known node with another node's pod, in IP fragments", n2.NS, with(func(p *packet) { p.src = hosts[2].podIP; p.payload = 1900 })},
	}
	chances := 0
	for _, c := range cases {
		before, err := n1.driver.Dropped(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		inject(t, c.from, n1.addr, n, c.p)
		if got := arrived(0); got != 0 {
			t.Errorf("%s: %d of %d packets arrived", c.name, got, n)
		}
		after, err := n1.driver.Dropped(context.Background())
		if err != nil || after.Unknown-before.Unknown != n {
			t.Errorf("%s: counted %d of %d refused packets, %v", c.name, after.Unknown-before.Unknown, n, err)
		}
		chances += n
	}
	// Not IP inside, or not our VNI: nothing could arrive at the pod's port anyway, but all of it
	// has to stop at the guard.
	odd := []packet{
		with(func(p *packet) { p.etherType = 0x0806 }), with(func(p *packet) { p.etherType = 0x8100 }),
		with(func(p *packet) { p.etherType = 0x86dd }), with(func(p *packet) { p.vni = 4097 }), with(func(p *packet) { p.vni = 4096 + 1<<16 }),
	}
	before, _ := n1.driver.Dropped(context.Background())
	inject(t, n2.NS, n1.addr, n, odd...)
	if got := arrived(0); got != 0 {
		t.Errorf("%d of %d packets that are not IPv4 of our VNI arrived", got, n*len(odd))
	}
	if after, _ := n1.driver.Dropped(context.Background()); after.Unknown-before.Unknown != uint64(n*len(odd)) {
		t.Errorf("the guard counted %d of %d packets that are not IPv4 of our VNI", after.Unknown-before.Unknown, n*len(odd))
	}
	chances += n * len(odd)
	t.Logf("0 of %d injected packets arrived, all counted", chances)

	// The control: the same packets without the guard.
	openGuard(t, n1)
	total := 0
	for _, c := range cases {
		inject(t, c.from, n1.addr, n, c.p)
		got := arrived(n)
		if got != n {
			t.Errorf("control, no guard: %s: %d of %d packets arrived, want all", c.name, got, n)
		}
		total += got
	}
	t.Logf("without the guard %d of %d arrived (%d kinds)", total, n*len(cases), len(cases))
}

func TestPodsCannotSendTunnelPackets(t *testing.T) {
	testkit.LeakCheck(t)
	const n = 200
	hosts := cluster(t, 2)
	n1, n2 := hosts[0], hosts[1]
	join(t, hosts)
	arrived := testkit.CountUDP(t, n1.pod)
	// The worst case: the pod's packet leaves under its node's address, and the inner source is one
	// that this node may use. Only the node it runs on can tell.
	testkit.Run(t, n2.NS, "nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oifname eth0 ip saddr 10.244.0.0/16 masquerade")
	p := packet{vni: 4096, mac: tunnel.VTEPMAC("n1"), etherType: 0x0800, src: netip.MustParseAddr("10.244.2.33"), dst: n1.podIP}
	// To its own node, the pod lies about its own outer source.
	testkit.Run(t, n1.pod, "ip", "addr", "add", n2.addr.String()+"/32", "dev", "eth0")
	fromOwn := func() error {
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: n2.addr.AsSlice()}}
		var err error
		n1.pod.Do(t, func() error {
			c, derr := d.Dial("udp", netip.AddrPortFrom(n1.addr, 4789).String())
			if derr != nil {
				err = derr
				return nil
			}
			defer c.Close()
			for range n {
				if _, werr := c.Write(p.bytes()); werr != nil {
					err = errors.Join(err, werr)
				}
			}
			return nil
		})
		return err
	}
	inject(t, n2.pod, n1.addr, n, p)
	if got := arrived(0); got != 0 {
		t.Errorf("pod to another node: %d of %d packets arrived", got, n)
	}
	if err := fromOwn(); err != nil {
		t.Fatal(err)
	}
	if got := arrived(0); got != 0 {
		t.Errorf("pod to its own node: %d of %d packets arrived", got, n)
	}
	for _, h := range hosts {
		if d, err := h.driver.Dropped(context.Background()); err != nil || d.FromPods != n {
			t.Errorf("%s counted %d of %d packets of its pod, %v", h.name, d.FromPods, n, err)
		}
	}
	t.Logf("0 of %d packets of pods to the tunnel's port arrived", 2*n)

	openGuard(t, n2)
	inject(t, n2.pod, n1.addr, n, p)
	if got := arrived(n); got != n {
		t.Errorf("control, no guard on the pod's node: %d of %d arrived, want all", got, n)
	}
	openGuard(t, n1)
	if err := fromOwn(); err != nil {
		t.Fatal(err)
	}
	if got := arrived(n); got != n {
		t.Errorf("control, no guard on the own node: %d of %d arrived, want all", got, n)
	}
}

// TestGuardSharesItsTable has somebody else's chain and set in the table, through every kind of
// change of the guard.
func TestGuardSharesItsTable(t *testing.T) {
	hosts := cluster(t, 3)
	n1 := hosts[0]
	testkit.Run(t, n1.NS, "nft", "add table inet weft; add chain inet weft theirs { type filter hook forward priority 0 ; }; add rule inet weft theirs ip saddr 192.0.2.1 counter drop; add set inet weft pods { type ipv4_addr ; elements = { 192.0.2.7 } ; }")
	theirs := func() string {
		return testkit.Run(t, n1.NS, "nft", "list", "chain", "inet", "weft", "theirs") + testkit.Run(t, n1.NS, "nft", "list", "set", "inet", "weft", "pods")
	}
	before := theirs()
	borrowed := plan(t, n1, hosts)
	borrowed.Sources = append(borrowed.Sources, tunnel.Source{Device: "weft-vxlan", Outer: hosts[1].addr, Inner: netip.MustParsePrefix("10.244.9.9/32")})
	moved := plan(t, n1, hosts)
	moved.Links[0].Port, moved.Links[0].VNI = 4790, 7
	for i, p := range []tunnel.Plan{plan(t, n1, hosts), plan(t, n1, hosts[:2]), borrowed, moved, plan(t, n1, hosts[:1]), {}} {
		apply(t, n1, p)
		if got := theirs(); got != before {
			t.Errorf("plan %d changed what is not the guard's:\n%s", i, got)
		}
		rules := testkit.Run(t, n1.NS, "nft", "list", "table", "inet", "weft")
		want := len(p.Links) > 0
		if strings.Contains(rules, "chain tunnel-vxlan-input") != want || strings.Contains(rules, "tunnel-vxlan-ip4-in-ip4-32") != (i == 2) {
			t.Errorf("plan %d: the guard is not as wanted:\n%s", i, rules)
		}
		if want && !strings.Contains(rules, fmt.Sprintf("udp dport %d counter name \"tunnel-vxlan-unknown\" drop", p.Links[0].Port)) {
			t.Errorf("plan %d: no rule for port %d:\n%s", i, p.Links[0].Port, rules)
		}
	}
}

// TestNoDeviceWithoutGuard has the guard refused by the kernel, since somebody else's rule holds
// one of its chains: then nothing may receive.
func TestNoDeviceWithoutGuard(t *testing.T) {
	hosts := cluster(t, 2)
	n1 := hosts[0]
	testkit.Run(t, n1.NS, "nft", "add table inet weft; add chain inet weft tunnel-vxlan-input; add chain inet weft theirs; add rule inet weft theirs jump tunnel-vxlan-input")
	_, err := n1.driver.Apply(context.Background(), plan(t, n1, hosts))
	if err == nil || !strings.Contains(err.Error(), "guard") || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("got %v, want an error about the guard that says what to do", err)
	}
	if l := testkit.Links(t, n1.NS); strings.Contains(l, "vxlan") {
		t.Errorf("there is a device without a guard:\n%s", l)
	}
	testkit.Run(t, n1.NS, "nft", "delete table inet weft")
	apply(t, n1, plan(t, n1, hosts))
	if l := testkit.Links(t, n1.NS); !strings.Contains(l, "weft-vxlan vxlan mtu 1450 up") {
		t.Errorf("the device is missing once the guard is there:\n%s", l)
	}
}

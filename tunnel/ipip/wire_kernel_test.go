package ipip

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
)

// sendUDP sends datagrams from a pod to the other's port 9. segment asks the kernel to cut each write
// into datagrams of that size (UDP_SEGMENT).
func sendUDP(t *testing.T, from *host, to netip.Addr, tos, segment, n int, payload []byte) {
	t.Helper()
	from.pod.Do(t, func() error {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: to.AsSlice(), Port: 9})
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		err = raw.Control(func(fd uintptr) {
			if inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, tos); inner == nil && segment > 0 {
				inner = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, segment)
			}
		})
		if err != nil || inner != nil {
			return inner
		}
		for range n {
			if _, err := c.Write(payload); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestOnTheWire looks at the packet between the nodes byte by byte (RFC 2003, RFC 6040).
func TestOnTheWire(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		join(t, hosts)
		a, b := hosts[0], hosts[1]
		ping(t, a, b) // neighbours are known
		for _, tos := range []int{0, 0xb8, 0xb9, 0x02, 0x03} {
			done := sniff(t, b.NS, "eth0", unix.IPPROTO_IPIP)
			sendUDP(t, a, b.podIP, tos, 0, 1, []byte("weft"))
			var got [][]byte
			for _, p := range done() {
				if bytes.HasSuffix(p, []byte("weft")) && netip.AddrFrom4([4]byte(p[16:20])) == b.addr {
					got = append(got, p)
				}
			}
			if len(got) != 1 {
				t.Fatalf("TOS %#x: %d packets on the wire, want 1", tos, len(got))
			}
			p := got[0]
			wantTOS := byte(tos)
			if w.Way == Kernel && tos&3 == 3 {
				wantTOS = byte(tos)&^3 | 2 // the kernel's module resets CE to ECT0 (RFC 3168)
			}
			src, dst := a.addr.As4(), b.addr.As4()
			want := []byte{0x45, wantTOS, 0, 52, p[4], p[5], 0x40, 0, 64, 4, p[10], p[11],
				src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3]}
			if !bytes.Equal(p[:20], want) || sum(p[:20]) != 0 {
				t.Errorf("TOS %#x: outer header %x (sum %#x), want %x", tos, p[:20], sum(p[:20]), want)
			}
			inner := p[20:]
			if len(p) != 52 || inner[1] != byte(tos) || sum(inner[:20]) != 0 || inner[8] != 63 ||
				binary.BigEndian.Uint16(inner[2:]) != 32 || netip.AddrFrom4([4]byte(inner[12:16])) != a.podIP {
				t.Errorf("TOS %#x: inner packet %x", tos, inner)
			}
		}
	})
}

// TestCongestionMarks sends packets with every pair of marks and looks at what comes out (RFC 6040,
// figure 4).
func TestCongestionMarks(t *testing.T) {
	require(t, EBPF)
	testkit.LeakCheck(t)
	hosts := cluster(t, way{EBPF, false}, way{EBPF, false})
	join(t, hosts)
	n1, n2 := hosts[0], hosts[1]
	const drop = 9
	want := [4][4]byte{ // by inner, then outer: none, ECT1, ECT0, CE
		{0, 0, 0, drop},
		{1, 1, 1, 3},
		{2, 1, 2, 3},
		{3, 3, 3, 3},
	}
	for inner := range 4 {
		for outer := range 4 {
			done := sniff(t, n1.pod, "eth0", unix.IPPROTO_UDP)
			inject(t, n1, 1, packet{outerSrc: n2.addr, outerDst: n1.addr, src: n2.podIP, dst: n1.podIP,
				tos: byte(0xa0 | outer), innerTOS: byte(0xb8 | inner)})
			got := done()
			if want[inner][outer] == drop {
				if len(got) != 0 {
					t.Errorf("inner %d, outer %d: arrived, want it dropped", inner, outer)
				}
				continue
			}
			if len(got) != 1 || got[0][1] != 0xb8|want[inner][outer] || sum(got[0][:20]) != 0 {
				t.Errorf("inner %d, outer %d: got %x, want one packet with TOS %#x and a good checksum", inner, outer, got, 0xb8|want[inner][outer])
			}
		}
	}
	if d, err := n1.driver.Dropped(context.Background()); err != nil || d != (Dropped{Congested: 1}) {
		t.Errorf("dropped %+v, %v, want one for congestion", d, err)
	}
}

// TestSegmentsStayWhole sends what the kernel cuts late: TCP and UDP segments travel through the tunnel
// in one piece, and arrive complete; so they do when the underlay wants them cut, and when it joins them
// again before they are taken out of the tunnel, as network cards do.
func TestSegmentsStayWhole(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.Require(t, testkit.Iperf3)
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		join(t, hosts)
		a, b := hosts[0], hosts[1]
		ping(t, a, b)
		arrived := testkit.CountUDP(t, b.pod)
		testkit.ServeStreams(t, b.pod)
		const segments, size = 40, 1400
		writes := testkit.Count(20)
		for _, c := range []struct {
			name      string
			prepare   func()
			sent      bool // the longest packet that leaves the sender's underlay interface is a whole one
			delivered bool // TCP segments are whole when they reach the pod
		}{
			{"whole", func() {}, true, true},
			{"cut by the sender", func() {
				testkit.Run(t, a.NS, "ip", "link", "set", "dev", "eth0", "gso_max_size", "1500", "gso_max_segs", "1")
			}, false, false},
			{"and joined by the receiver", func() { offload(t, b.under, b.port, setTSO, 0); offload(t, b.NS, "eth0", setGRO, 1) }, false, true},
			{"and cut again before the pod", func() {
				testkit.Run(t, b.NS, "ip", "link", "set", "dev", podLink, "gso_max_size", "1500", "gso_max_segs", "1")
			}, false, false},
		} {
			c.prepare()
			wire := sniff(t, a.NS, "eth0", unix.IPPROTO_IPIP)
			sendUDP(t, a, b.podIP, 0, size, writes, make([]byte, segments*size))
			if got := arrived(writes * segments); got != writes*segments {
				t.Errorf("%s: %d of %d datagrams arrived, of %d segmented writes", c.name, got, writes*segments, writes)
			}
			udp := longest(wire())
			wire, pod := sniff(t, a.NS, "eth0", unix.IPPROTO_IPIP), sniff(t, b.pod, "eth0", unix.IPPROTO_TCP)
			testkit.Run(t, a.pod, "iperf3", "-n", amount(), "-C", "cubic", "-c", b.podIP.String())
			tcp, inPod := longest(wire()), longest(pod())
			t.Logf("%s: longest packets: UDP on the underlay %d bytes, TCP there %d, TCP in the pod %d", c.name, udp, tcp, inPod)
			if (udp > 1500) != c.sent || (tcp > 1500) != c.sent || (inPod > 1480) != c.delivered {
				t.Errorf("%s: want whole ones on the underlay %v, in the pod %v", c.name, c.sent, c.delivered)
			}
		}
		if d, err := a.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
			t.Errorf("dropped %+v, %v", d, err)
		}
		if d, err := b.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
			t.Errorf("dropped %+v, %v", d, err)
		}
	})
}

// amount is how much TCP carries where the size of segments is looked at.
func amount() string {
	if testkit.Emulated() {
		return "1M"
	}
	return "20M"
}

func longest(packets [][]byte) (n int) {
	for _, p := range packets {
		n = max(n, len(p))
	}
	return n
}

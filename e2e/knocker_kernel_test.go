package e2e

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// knock is how a prober asks: by echo requests, or by the first packet of a TCP connection, which a pod
// without a server answers too.
type knock struct {
	name string
	tcp  bool
	v6   bool
}

var (
	ping4 = knock{"IPv4 ping", false, false}
	ping6 = knock{"IPv6 ping", false, true}
	syn4  = knock{"IPv4 TCP", true, false}
	syn6  = knock{"IPv6 TCP", true, true}
)

// of returns those addresses that it can ask.
func (k knock) of(all []netip.Addr) (some []netip.Addr) {
	for _, a := range all {
		if a.Is6() == k.v6 {
			some = append(some, a)
		}
	}
	return some
}

// Each address is asked from source ports of its own, one after the other: each is a new connection.
const (
	knockFrom  = 20000
	knockPorts = 1000
	knockTo    = 81
)

// knock starts a prober of a kind from a pod to addresses of that kind's family.
func (c *cluster) knock(k knock, pod string, to ...netip.Addr) *prober {
	c.t.Helper()
	if k == ping4 {
		return c.probePings(c.netns(pod), to...)
	}
	p := newProber(c.t, to)
	family, proto := unix.AF_INET, unix.IPPROTO_TCP
	if k.v6 {
		family = unix.AF_INET6
		if !k.tcp {
			proto = unix.IPPROTO_ICMPV6
		}
	}
	err := kernel.Do(c.netns(pod).Path, func() (err error) {
		p.fd, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	if k == syn6 {
		if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 16); err != nil { // where TCP has it
			c.t.Fatal(err)
		}
	}
	var source netip.Addr
	for _, a := range k.of(c.every[pod]) {
		source = a
	}
	p.run(func(i int, seq uint16) []byte { return k.packet(p, source, i, seq) }, func(b []byte) (int, bool) { return k.answer(p, b) })
	return p
}

func (k knock) packet(p *prober, source netip.Addr, i int, seq uint16) []byte {
	if !k.tcp {
		m := []byte{128, 0, 0, 0, 0, 0, 0, 0, byte(i >> 8), byte(i)} // RFC 4443: echo; the kernel sums it up
		binary.BigEndian.PutUint16(m[4:], p.id)
		binary.BigEndian.PutUint16(m[6:], seq)
		return m
	}
	m := make([]byte, 20)
	binary.BigEndian.PutUint16(m, uint16(knockFrom+i*knockPorts+int(seq)%knockPorts))
	binary.BigEndian.PutUint16(m[2:], knockTo)
	binary.BigEndian.PutUint32(m[4:], uint32(seq)<<16)
	m[12], m[13] = 5<<4, 2 // a header of 20 bytes; SYN
	binary.BigEndian.PutUint16(m[14:], 1024)
	if !k.v6 {
		pseudo := append(append(source.AsSlice(), p.to[i].AsSlice()...), 0, unix.IPPROTO_TCP, 0, 20)
		binary.BigEndian.PutUint16(m[16:], internetSum(append(pseudo, m...)))
	}
	return m
}

func (k knock) answer(p *prober, b []byte) (int, bool) {
	if !k.v6 { // raw sockets get the header of IPv4, and none of IPv6
		if len(b) < 20 || len(b) < int(b[0]&15)*4 {
			return 0, false
		}
		b = b[int(b[0]&15)*4:]
	}
	if !k.tcp {
		if len(b) < 10 || b[0] != 129 || binary.BigEndian.Uint16(b[4:]) != p.id {
			return 0, false
		}
		return int(b[8])<<8 | int(b[9]), true
	}
	if len(b) < 20 || binary.BigEndian.Uint16(b) != knockTo || b[13]&(1<<2|1<<4) == 0 { // RST or ACK
		return 0, false
	}
	return (int(binary.BigEndian.Uint16(b[2:])) - knockFrom) / knockPorts, true
}

// The knocks are answered: a prober that hears nothing would show nothing.
func TestKnocksAreAnswered(t *testing.T) {
	c := newCluster(t, "e2eknock")
	c.dualPods(vxlanAlways)
	for _, k := range []knock{ping4, ping6, syn4, syn6} {
		to := append(k.of(c.every["n1"]), k.of(c.every["n3"])...)
		began := time.Now()
		p := c.knock(k, "n2", to...)
		for i := range to {
			t.Logf("%s to %s: after %v", k.name, to[i], p.begins(k.name+" is answered", i, began).Round(time.Millisecond))
		}
		p.end()
	}
}

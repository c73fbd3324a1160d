package offload

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/testkit"
	"weft/model"
)

// A service as kube-proxy's nftables mode writes it down: a map leads to the service, a random number to an endpoint, and
// what a pod sends to itself, or comes in by a port of the node, is masqueraded.
const (
	service   = "10.96.0.2:70"
	nodePort  = 30070
	proxyBase = `table ip proxy {
	map services { type ipv4_addr . inet_proto . inet_service : verdict; }
	chain prerouting { type nat hook prerouting priority dstnat; jump find; }
	chain find {
		ip daddr . meta l4proto . th dport vmap @services
		fib daddr type local meta l4proto { tcp, udp } th dport 30070 jump outside
	}
	chain outside { meta mark set meta mark or 0x4000; goto pick; }
	chain pick { }
	chain first { ip saddr 10.0.1.2 meta mark set meta mark or 0x4000; meta l4proto { tcp, udp } dnat to 10.0.1.2:7; }
	chain second { ip saddr 10.0.9.2 meta mark set meta mark or 0x4000; meta l4proto { tcp, udp } dnat to 10.0.9.2:7; }
	chain postrouting {
		type nat hook postrouting priority srcnat
		meta mark & 0x4000 == 0 return
		meta mark set meta mark & 0xffffbfff
		masquerade fully-random
	}
}
add element ip proxy services { 10.96.0.2 . tcp . 70 : goto pick, 10.96.0.2 . udp . 70 : goto pick }
`
)

// proxy makes these chains the endpoints of the service.
func (r *rig) proxy(endpoints ...string) {
	r.t.Helper()
	rules := "flush chain ip proxy pick\n"
	if len(endpoints) == 1 {
		rules += "add rule ip proxy pick goto " + endpoints[0]
	} else {
		rules += "add rule ip proxy pick numgen random mod 2 vmap { 0 : goto " + endpoints[0] + ", 1 : goto " + endpoints[1] + " }"
	}
	r.nft(rules)
}

func (r *rig) nft(rules string) {
	r.t.Helper()
	if out, err := testkit.TryInput(r.t, r.node, rules, "nft", "-f", "-"); err != nil {
		r.t.Fatalf("%v: %s", err, out)
	}
}

// forget deletes the entry of a UDP connection, by its original direction, as kube-proxy does.
func (r *rig) forget(c *conversation) error {
	r.t.Helper()
	from, to := netip.MustParseAddrPort(c.client.LocalAddr().String()), netip.MustParseAddrPort(c.client.RemoteAddr().String())
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Nested(1, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_ORIG
		e.Nested(1, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_IP
			e.Bytes(1, from.Addr().AsSlice())
			e.Bytes(2, to.Addr().AsSlice())
			return nil
		})
		e.Nested(2, func(e *netlink.AttributeEncoder) error { // CTA_TUPLE_PROTO
			e.Uint8(1, unix.IPPROTO_UDP)
			e.Uint16(2, from.Port())
			e.Uint16(3, to.Port())
			return nil
		})
		return nil
	})
	attrs, err := e.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	const del = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	r.node.Do(r.t, func() error {
		conn, dialErr := netlink.Dial(unix.NETLINK_NETFILTER, nil)
		if dialErr != nil {
			return dialErr
		}
		defer conn.Close()
		_, err = conn.Execute(netlink.Message{Header: netlink.Header{Type: del, Flags: netlink.Request | netlink.Acknowledge},
			Data: append([]byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0}, attrs...)})
		return nil
	})
	return err
}

// met counts which packets of a conversation the rules meet.
func (r *rig) met(c *conversation) int {
	before := r.seen()
	c.rounds(rounds)
	return r.seen() - before
}

// TCP to services is offloaded, translated both ways: to a pod, to another node's, from the outside by a port of the node,
// and of a pod to itself. An endpoint that is one no more keeps its connections, as kube-proxy leaves them, and gets no new
// ones.
func TestTCPToServices(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	r.nft(proxyBase)
	r.apply()
	to := netip.MustParseAddrPort(service)
	r.proxy("first")
	stop := r.serve("tcp", r.a)
	stays := r.dial("tcp", r.b, to)
	r.passesNow(stays)
	if n := r.met(stays); n > few {
		t.Errorf("the rules met %d of %d packets", n, 2*rounds)
	}
	r.proxy("second")
	r.serve("tcp", r.peer)
	next := r.dial("tcp", r.b, to)
	r.passesNow(next)
	r.passesNow(stays)
	entries := testkit.Run(t, r.node, "cat", "/proc/net/nf_conntrack")
	for _, answers := range []string{"src=10.0.1.2 dst=10.0.2.2 sport=7 ", "src=10.0.9.2 dst=10.0.2.2 sport=7 "} {
		if strings.Count(entries, answers) != 1 {
			t.Errorf("not one connection that has the answers %s:\n%s", answers, entries)
		}
	}
	_ = stays.client.Close()
	stop()
	for what, c := range map[string]struct {
		from testkit.NS
		to   netip.AddrPort
	}{
		"a pod to itself":  {r.a, to},
		"from the outside": {r.peer, netip.AddrPortFrom(address(9, model.IPv4).Prev(), nodePort)},
	} {
		r.proxy("first")
		stop := r.serve("tcp", r.a)
		one := r.dial("tcp", c.from, c.to)
		r.passesNow(one)
		if n := r.met(one); n > few {
			t.Errorf("%s: the rules met %d of %d packets", what, n, 2*rounds)
		}
		_ = one.client.Close()
		stop()
	}
}

// UDP to services is left to the rules, so that kube-proxy can delete the entry of an endpoint that is one no more on every
// kernel: the client, which keeps its port, gets to another one with its next packet.
func TestUDPToServices(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	r.nft(proxyBase)
	r.apply()
	r.proxy("first")
	stop := r.serve("udp", r.a)
	c := r.dial("udp", r.b, netip.MustParseAddrPort(service))
	if n := r.met(c); n != 2*rounds {
		t.Errorf("the rules met %d of %d packets", n, 2*rounds)
	}
	stop()
	r.serve("udp", r.peer)
	r.proxy("second")
	if err := r.forget(c); err != nil {
		t.Fatal(err)
	}
	c.rounds(rounds)

	// What went somewhere before that became a service's address is offloaded, since nobody could know. Its entry can
	// be deleted as well, but for some kernels before 6.4.
	stop = r.serve("udp", r.a)
	defer stop()
	outer := r.dial("udp", r.b, netip.MustParseAddrPort("10.0.9.2:7"))
	r.passesNow(outer)
	r.proxy("first")
	r.nft("add element ip proxy services { 10.0.9.2 . udp . 7 : goto pick }")
	switch err := r.forget(outer); {
	case errors.Is(err, unix.EBUSY):
		t.Logf("this kernel does not delete the entry of an offloaded connection: %v", err)
	case err != nil:
		t.Error(err)
	default:
		outer.rounds(3)
		if entries := testkit.Run(t, r.node, "cat", "/proc/net/nf_conntrack"); !strings.Contains(entries, "src=10.0.1.2 dst=10.0.2.2 sport=7 ") {
			t.Errorf("the connection does not lead to the endpoint:\n%s", entries)
		}
	}
}

// ipvs makes the node balance TCP to an address of its own, by IPVS with masquerading (setsockopt of linux/ip_vs.h).
func (r *rig) ipvs(to, endpoint netip.AddrPort) {
	r.t.Helper()
	const add, addEndpoint = 1154, 1159 // IP_VS_SO_SET_ADD, IP_VS_SO_SET_ADDDEST
	be, ne := binary.BigEndian, binary.NativeEndian
	s := make([]byte, 44) // struct ip_vs_service_user
	ne.PutUint16(s, unix.IPPROTO_TCP)
	copy(s[4:], to.Addr().AsSlice())
	be.PutUint16(s[8:], to.Port())
	copy(s[16:], "rr")
	ne.PutUint32(s[40:], ^uint32(0))
	d := make([]byte, 24) // struct ip_vs_dest_user
	copy(d, endpoint.Addr().AsSlice())
	be.PutUint16(d[4:], endpoint.Port())
	ne.PutUint32(d[12:], 1) // weight
	testkit.Run(r.t, r.node, "modprobe", "ip_vs")
	r.node.Do(r.t, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return errors.Join(unix.SetsockoptString(fd, unix.IPPROTO_IP, add, string(s)),
			unix.SetsockoptString(fd, unix.IPPROTO_IP, addEndpoint, string(s)+string(d)))
	})
	testkit.Run(r.t, r.node, "sysctl", "-qw", "net.ipv4.vs.conntrack=1")
}

// What IPVS balances is left to it: of its connections only answers are forwarded, with the service's address as their
// source by then, and a flow table would not translate them.
func TestIPVS(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRig(t)
	to := netip.MustParseAddrPort(service)
	r.node.AddAddress(t, "lo", netip.PrefixFrom(to.Addr(), 32).String())
	r.ipvs(to, netip.MustParseAddrPort("10.0.1.2:7"))
	r.apply()
	r.serve("tcp", r.a)
	c := r.dial("tcp", r.b, to)
	if n := r.met(c); n < rounds {
		t.Errorf("the rules met %d of %d answers", n, rounds)
	}
	entries := testkit.Run(t, r.node, "cat", "/proc/net/nf_conntrack")
	if !strings.Contains(entries, "dst=10.96.0.2 sport=") || strings.Contains(entries, "[OFFLOAD]") {
		t.Errorf("a connection that IPVS balances is offloaded, or is none:\n%s", entries)
	}
}

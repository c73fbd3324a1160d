package nftables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy/policytest"
)

// crossing is a node with three pods' devices and three uplinks, each a wire to a namespace where frames
// are sent and caught. A packet's traffic class says by which interface it leaves, whatever its
// destination is, or that it is for the node itself.
//
//	weft00000000000, 1, 2 --- node --- eth0, eth1, eth2
type crossing struct {
	node      testkit.NS
	ifaces    []string // an index is a traffic class; the last is the node itself
	nodeMAC   map[string]model.MAC
	frames    map[string]int                  // packet sockets at the far ends
	own       map[string]map[model.Family]int // raw sockets of the node, bound to an interface
	caught    []int                           // sockets that see what arrived
	conntrack *netlink.Conn
	sent      uint32
	quoted    func(port uint16) []byte // what ICMP errors quote
}

func newCrossing(t *testing.T) *crossing {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.NFTables, testkit.IPRoute2, testkit.IPv6)
	x := &crossing{node: testkit.NewNetns(t), nodeMAC: map[string]model.MAC{}, frames: map[string]int{}, own: map[string]map[model.Family]int{}}
	x.ifaces = []string{policytest.Device(0), policytest.Device(1), policytest.Device(2), "eth0", "eth1", "eth2", ""}
	// What is a module is loaded by whoever asks for it, and has no settings before.
	testkit.Run(t, x.node, "nft", "add table ip first; add chain ip first c; add rule ip first c ct state new; delete table ip first")
	for _, s := range []string{"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1", "net/ipv6/conf/default/accept_dad=0",
		"net/ipv4/conf/all/accept_local=1", "net/ipv4/conf/default/accept_local=1", "net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/default/rp_filter=0",
		"net/netfilter/nf_conntrack_checksum=0", "net/ipv4/conf/all/send_redirects=0", "net/ipv4/conf/default/send_redirects=0"} {
		name, value, _ := strings.Cut(s, "=")
		if err := kernel.SetSysctlAt(x.node.Path, name, value); err != nil {
			t.Fatal(err)
		}
	}
	var batch strings.Builder
	for i, name := range x.ifaces {
		for _, six := range []string{"", "-6 "} {
			table, to, any := 100+i, "default dev "+name, "0.0.0.0/0"
			if six != "" {
				any = "::/0"
			}
			if name == "" {
				to = "local " + any + " dev lo"
			} else {
				fmt.Fprintf(&batch, "%srule add pref %d oif %s lookup %d\n", six, 200+i, name, table)
			}
			fmt.Fprintf(&batch, "%srule add pref %d tos %#x lookup %d\n%sroute add %s table %d\n", six, 100+i, class(i), table, six, to, table)
		}
	}
	for _, name := range x.ifaces[:6] {
		far := testkit.NewNetns(t)
		if err := kernel.SetSysctlAt(far.Path, "net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			t.Fatal(err)
		}
		testkit.Wire(t, x.node, name, far, "far0")
		testkit.Run(t, x.node, "ip", "link", "set", name, "arp", "off")
		x.nodeMAC[name] = macOf(t, x.node, name)
		x.frames[name] = x.packetSocket(t, far)
		x.caught = append(x.caught, x.frames[name])
	}
	for _, line := range strings.Split(strings.TrimSpace(batch.String()), "\n") {
		testkit.Run(t, x.node, append([]string{"ip"}, strings.Fields(line)...)...)
	}
	for _, name := range x.ifaces[:6] {
		x.own[name] = map[model.Family]int{}
		for _, f := range families {
			x.own[name][f] = x.socket(t, x.node, domain(f), unix.SOCK_RAW, unix.IPPROTO_RAW, name)
		}
	}
	for _, f := range families {
		for _, proto := range []int{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, 4, 47} {
			x.caught = append(x.caught, x.socket(t, x.node, domain(f), unix.SOCK_RAW, proto, ""))
		}
	}
	x.node.Do(t, func() (err error) {
		x.conntrack, err = netlink.Dial(unix.NETLINK_NETFILTER, nil)
		return err
	})
	t.Cleanup(func() { x.conntrack.Close() })
	return x
}

func domain(f model.Family) int {
	if f == model.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// class is the traffic class of an interface by its index.
func class(i int) byte { return byte(i+1) << 2 }

func macOf(t *testing.T, ns testkit.NS, device string) model.MAC {
	t.Helper()
	f := strings.Fields(testkit.Run(t, ns, "ip", "-o", "link", "show", device))
	m, err := model.ParseMAC(f[slices.Index(f, "link/ether")+1])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (x *crossing) socket(t *testing.T, ns testkit.NS, domain, kind, proto int, device string) (fd int) {
	t.Helper()
	ns.Do(t, func() (err error) {
		if fd, err = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto); err != nil || device == "" {
			return err
		}
		return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device)
	})
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (x *crossing) packetSocket(t *testing.T, ns testkit.NS) int {
	t.Helper()
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	fd := x.socket(t, ns, unix.AF_PACKET, unix.SOCK_RAW, int(all), "")
	ns.Do(t, func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links { // some kernels add devices of their own, which are down
			if l.Flags&net.FlagUp != 0 && l.Flags&net.FlagLoopback == 0 {
				return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Index})
			}
		}
		return errors.New("no link to bind to")
	})
	return fd
}

const magic = "weft-test"

// send sends a packet with a number to be found by, and returns the number. mac is the sender's.
func (x *crossing) send(p *model.Packet, mac model.MAC) (id uint32, err error) {
	x.sent++
	id = x.sent
	out := slices.Index(x.ifaces, p.Out)
	ip := ipPacket(p, class(out), id)
	if x.quoted != nil && (p.Protocol == model.ICMP || p.Protocol == model.ICMPv6) {
		ip = errorPacket(p, class(out), id, x.quoted(p.DstPort))
	}
	if p.In != "" {
		to := x.nodeMAC[p.In]
		frame := append(append(append([]byte{}, to[:]...), mac[:]...), 0x08, 0)
		if p.Src.Is6() {
			frame[12], frame[13] = 0x86, 0xdd
		}
		return id, unix.Send(x.frames[p.In], append(frame, ip...), 0)
	}
	if p.Dst.Is4() {
		return id, unix.Sendto(x.own[p.Out][model.IPv4], ip, 0, &unix.SockaddrInet4{Addr: p.Dst.As4()})
	}
	return id, unix.Sendto(x.own[p.Out][model.IPv6], ip, 0, &unix.SockaddrInet6{Addr: p.Dst.As16()})
}

// receive calls f with the number of each packet that arrived, until f says that it has seen enough or
// nothing arrives for the time given.
func (x *crossing) receive(quiet time.Duration, f func(id uint32) (enough bool)) error {
	polls := make([]unix.PollFd, len(x.caught))
	for i, fd := range x.caught {
		polls[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	buf := make([]byte, 4096)
	for {
		n, err := unix.Poll(polls, int(quiet.Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		enough := false
		for _, p := range polls {
			if p.Revents == 0 {
				continue
			}
			for {
				n, from, err := unix.Recvfrom(int(p.Fd), buf, 0)
				if err != nil {
					break
				}
				if l, is := from.(*unix.SockaddrLinklayer); is && l.Pkttype == unix.PACKET_OUTGOING {
					continue
				}
				if at := bytes.Index(buf[:n], []byte(magic)); at >= 0 && at+len(magic)+4 <= n {
					enough = f(binary.BigEndian.Uint32(buf[at+len(magic):])) || enough
				}
			}
		}
		if enough {
			return nil
		}
	}
}

// forget makes the node forget all connections, so that the next packet of each is its first.
func (x *crossing) forget() error {
	_, err := x.conntrack.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | 2, Flags: netlink.Request | netlink.Acknowledge}, // IPCTNL_MSG_CT_DELETE
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0}})
	return err
}

// ipPacket is a packet that may be the first of its connection, with valid checksums.
func ipPacket(p *model.Packet, class byte, id uint32) []byte {
	return withHeader(p, class, id, l4(p, binary.BigEndian.AppendUint32([]byte(magic), id)))
}

func withHeader(p *model.Packet, class byte, id uint32, payload []byte) []byte {
	if p.Src.Is4() {
		h := make([]byte, 20)
		h[0], h[1], h[8], h[9] = 0x45, class, 64, byte(p.Protocol)
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		binary.BigEndian.PutUint16(h[4:], uint16(id))
		copy(h[12:], p.Src.AsSlice())
		copy(h[16:], p.Dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^sum(h))
		return append(h, payload...)
	}
	h := make([]byte, 40)
	h[0], h[1] = 0x60|class>>4, class<<4
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	h[6], h[7] = byte(p.Protocol), 64
	copy(h[8:], p.Src.AsSlice())
	copy(h[24:], p.Dst.AsSlice())
	return append(h, payload...)
}

// errorPacket is an ICMP message about a packet.
func errorPacket(p *model.Packet, class byte, id uint32, about []byte) []byte {
	b := append(append([]byte{p.ICMPType, p.ICMPCode, 0, 0, 0, 0, 5, 0}, about...), binary.BigEndian.AppendUint32([]byte(magic), id)...)
	if copy(b[bytes.Index(b, []byte(magic)):], "--------"); p.Protocol == model.ICMP {
		binary.BigEndian.PutUint16(b[2:], ^sum(b))
	} else {
		binary.BigEndian.PutUint16(b[2:], ^sum(pseudo(p, len(b)), b))
	}
	return withHeader(p, class, id, b)
}

func l4(p *model.Packet, data []byte) []byte {
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, p.SrcPort), p.DstPort)
	switch p.Protocol {
	case model.TCP:
		b := append(ports, make([]byte, 16)...)
		b[12], b[13], b[14] = 5<<4, 2, 16 // SYN
		b = append(b, data...)
		binary.BigEndian.PutUint16(b[16:], ^sum(pseudo(p, len(b)), b))
		return b
	case model.UDP, model.UDPLite:
		b := append(append(ports, make([]byte, 4)...), data...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[6:], ^sum(pseudo(p, len(b)), b))
		return b
	case model.SCTP:
		for len(data)%4 != 0 {
			data = append(data, 0)
		}
		b := append(ports, make([]byte, 8)...) // no verification tag: INIT
		chunk := make([]byte, 20)
		chunk[0], chunk[4], chunk[12], chunk[13], chunk[14], chunk[15] = 1, 1, 0, 1, 0, 1
		param := append([]byte{0xc0, 1, 0, byte(4 + len(data))}, data...) // unknown ones are skipped
		binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)+len(param)))
		b = append(append(b, chunk...), param...)
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
		return b
	case model.ICMP, model.ICMPv6:
		b := append([]byte{p.ICMPType, p.ICMPCode, 0, 0, data[len(data)-2], data[len(data)-1], 0, 1}, make([]byte, 16)...)
		b = append(b, data...)
		if p.Protocol == model.ICMP {
			binary.BigEndian.PutUint16(b[2:], ^sum(b))
		} else {
			binary.BigEndian.PutUint16(b[2:], ^sum(pseudo(p, len(b)), b))
		}
		return b
	}
	return append(make([]byte, 24), data...)
}

// pseudo is the part of the IP header that checksums include.
func pseudo(p *model.Packet, length int) []byte {
	b := append(p.Src.AsSlice(), p.Dst.AsSlice()...)
	return append(binary.BigEndian.AppendUint32(b, uint32(length)), 0, 0, 0, byte(p.Protocol))
}

// sum is the Internet checksum's sum (RFC 1071); parts but the last have an even length.
func sum(parts ...[]byte) uint16 {
	var n uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			n += uint32(b[i]) << 8
			if i+1 < len(b) {
				n += uint32(b[i+1])
			}
		}
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}

// plausible changes a packet to one that connection tracking takes for the first of a connection: no
// answers, no ICMP of the other family.
func plausible(p *model.Packet) {
	if p.Protocol != model.ICMP && p.Protocol != model.ICMPv6 {
		return
	}
	if p.Src.Is4() {
		p.Protocol, p.ICMPType = model.ICMP, 8
		return
	}
	if p.Protocol = model.ICMPv6; p.ICMPType < 128 || p.ICMPType == 129 || p.ICMPType > 136 {
		p.ICMPType = 128
	}
}

// tuple is what tells connections apart; both directions are the same.
func tuple(p *model.Packet) string {
	if p.Protocol == model.ICMP || p.Protocol == model.ICMPv6 {
		return ""
	}
	a, b := netip.AddrPortFrom(p.Src, p.SrcPort).String(), netip.AddrPortFrom(p.Dst, p.DstPort).String()
	if !p.Protocol.HasPorts() {
		a, b = p.Src.String(), p.Dst.String()
	}
	return p.Protocol.String() + " " + min(a, b) + " " + max(a, b)
}

// Package wire holds a policy driver's kernel to what policy/eval says, with real packets: a node
// with three pods and three uplinks, whose other ends are sockets that send any frame and see every
// frame that arrives. It is for tests of drivers, and is no part of the product.
package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"os"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy/policytest"
)

// Pods and uplinks are the node's devices.
const (
	Pods    = 3
	Uplinks = 3
)

// host stands for the node itself among the places where packets come from and go to.
const host = Pods + Uplinks

// Rig is a node under test. Its routing follows the packet's type of service alone, so that every
// address can come from and go to every device.
type Rig struct {
	Node testkit.NS
	// Patience is how long an answer that is due is waited for, at first: 100 ms. Whoever expects many
	// to be missing makes it shorter.
	Patience time.Duration
	// Linger is how long Check waits, after all that is due, for what should not come, and usually 0: at the
	// end what came too late is an error. Whoever expects wrong answers waits for them, and is not told.
	Linger time.Duration

	shape   shape
	outside testkit.NS
	send    int             // an AF_PACKET socket outside
	local   map[string]int  // raw sockets on the node that send
	index   [host]int       // of the outer ends
	mac     [host]model.MAC // of the node's devices

	mu      sync.Mutex
	arrived map[uint64]string        // where a packet of that number was seen
	refused map[uint64]*model.Packet // what must never arrive, of all batches
	next    uint64
	changed chan struct{} // something arrived
}

// device is a place's name on the node; "" is the node itself.
func device(n int) string {
	switch {
	case n < Pods:
		return policytest.Device(n)
	case n < host:
		return fmt.Sprintf("eth%d", n-Pods)
	}
	return ""
}

func place(called string) int {
	for n := range host {
		if device(n) == called {
			return n
		}
	}
	return host
}

// class is the type of service that leads to a place: the bits of RT_TOS, which both families' rules
// match.
func class(place int) byte { return byte(place+1) << 2 }

// New makes a rig, which is gone when the test ends.
func New(t testing.TB) *Rig {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.IPv6, testkit.IPRoute2)
	r := &Rig{Patience: 100 * time.Millisecond, Node: testkit.NewNetns(t), outside: testkit.NewNetns(t), arrived: map[uint64]string{}, refused: map[uint64]*model.Packet{}, changed: make(chan struct{}, 1), local: map[string]int{}}
	r.outside.Do(t, func() error { return quiet("default") })
	r.Node.Do(t, func() error {
		return errors.Join(quiet("all"), quiet("default"), kernel.SetSysctl("net/ipv6/conf/all/forwarding", "1"), kernel.SetSysctl("net/ipv4/ip_forward", "1"))
	})
	for n := range host {
		testkit.Wire(t, r.Node, device(n), r.outside, fmt.Sprintf("far%d", n))
	}
	r.addresses(t)
	for n := range host + 1 {
		r.route(t, n)
	}
	t.Cleanup(func() { r.late(t) })
	r.listen(t)
	return r
}

// quiet keeps the kernel from sending by itself, and from refusing our sources.
func quiet(conf string) error {
	var errs []error
	for path, value := range map[string]string{"ipv4/conf/%s/rp_filter": "0", "ipv4/conf/%s/accept_local": "1", "ipv4/conf/%s/send_redirects": "0",
		"ipv6/conf/%s/accept_dad": "0", "ipv6/conf/%s/accept_ra": "0", "ipv6/conf/%s/router_solicitations": "0"} {
		errs = append(errs, kernel.SetSysctl("net/"+fmt.Sprintf(path, conf), value))
	}
	return errors.Join(errs...)
}

func (r *Rig) addresses(t testing.TB) {
	t.Helper()
	h, far := r.Node.Open(t), r.outside.Open(t)
	ours, err := h.Links(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := far.Links(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for n := range host {
		for _, l := range ours {
			if l.Name == device(n) {
				r.mac[n] = l.MAC
			}
		}
		for _, l := range theirs {
			if l.Name == fmt.Sprintf("far%d", n) {
				r.index[n] = l.Index
			}
		}
	}
}

// route makes the node send packets of a place's class there, whatever their destination is.
func (r *Rig) route(t testing.TB, n int) {
	t.Helper()
	table := fmt.Sprint(100 + n)
	for _, f := range []string{"-4", "-6"} {
		gateway := map[string]string{"-4": "169.254.1.1", "-6": "fe80::1"}[f]
		testkit.Run(t, r.Node, "ip", f, "rule", "add", "pref", table, "tos", fmt.Sprintf("%#x", class(n)), "lookup", table)
		if n == host {
			testkit.Run(t, r.Node, "ip", f, "route", "add", "local", "default", "dev", "lo", "table", table)
			continue
		}
		testkit.Run(t, r.Node, "ip", f, "neigh", "add", gateway, "lladdr", "02:00:00:00:01:00", "dev", device(n))
		testkit.Run(t, r.Node, "ip", f, "route", "add", "default", "via", gateway, "dev", device(n), "onlink", "table", table)
	}
}

// protocols are those that the node itself receives, besides the ones of an IP version.
var protocols = []model.Protocol{model.ICMP, 4, model.TCP, model.UDP, 47, model.ICMPv6, model.SCTP, model.UDPLite}

// listen opens the sockets, and reads them until the test ends.
func (r *Rig) listen(t testing.TB) {
	t.Helper()
	var readers []func()
	var files []*os.File
	open := func(ns testkit.NS, domain, kind, protocol int, seen func([]byte, unix.Sockaddr)) int {
		var fd int
		ns.Do(t, func() (err error) {
			fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
			return err
		})
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		file := os.NewFile(uintptr(fd), "socket") // non-blocking, so that Close ends a read
		files = append(files, file)
		if seen != nil {
			readers = append(readers, func() { read(file, seen) })
		}
		return fd
	}
	all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})) // in network order
	r.send = open(r.outside, unix.AF_PACKET, unix.SOCK_RAW, all, r.frame)
	for _, p := range protocols {
		open(r.Node, unix.AF_INET, unix.SOCK_RAW, int(p), func(b []byte, _ unix.Sockaddr) { r.packet(b, host) })
		open(r.Node, unix.AF_INET6, unix.SOCK_RAW, int(p), func(b []byte, _ unix.Sockaddr) { r.payload(p, b, host) })
	}
	for n := range host {
		for f, domain := range map[model.Family]int{model.IPv4: unix.AF_INET, model.IPv6: unix.AF_INET6} {
			fd := open(r.Node, domain, unix.SOCK_RAW, unix.IPPROTO_RAW, nil)
			r.local[localKey(f, n)] = fd
			r.Node.Do(t, func() error { return sendsBy(fd, f, n) })
		}
	}
	var wg sync.WaitGroup
	for _, f := range readers {
		wg.Go(f)
	}
	t.Cleanup(func() {
		time.Sleep(100 * time.Millisecond) // for what is late
		for _, f := range files {
			f.Close()
		}
		wg.Wait()
	})
}

func localKey(f model.Family, n int) string { return fmt.Sprint(f, n) }

// sendsBy makes a raw socket's packets leave by a place's device.
func sendsBy(fd int, f model.Family, n int) error {
	err := unix.BindToDevice(fd, device(n))
	if f == model.IPv4 {
		return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(class(n))))
	}
	const hdrincl = 36 // IPV6_HDRINCL
	return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(class(n))),
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, hdrincl, 1))
}

func read(file *os.File, seen func([]byte, unix.Sockaddr)) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 4096)
	for {
		var n int
		var from unix.Sockaddr
		var inner error
		err := raw.Read(func(fd uintptr) bool {
			n, from, inner = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(inner, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		if inner == nil {
			seen(buf[:n], from)
		}
	}
}

// frame is called for every frame that the outer ends see.
func (r *Rig) frame(b []byte, from unix.Sockaddr) {
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok || ll.Pkttype == unix.PACKET_OUTGOING || len(b) < 14 {
		return
	}
	for n, index := range r.index {
		if index == ll.Ifindex {
			r.packet(b[14:], n)
		}
	}
}

func (r *Rig) packet(b []byte, at int) {
	if _, _, p, payload, ok := parse(b); ok {
		r.payload(p, payload, at)
	}
}

func (r *Rig) payload(p model.Protocol, b []byte, at int) {
	id, ok := number(p, b)
	if !ok {
		return
	}
	r.mu.Lock()
	r.arrived[id] = name(at)
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func name(n int) string {
	if n == host {
		return "this host"
	}
	return device(n)
}

// transmit sends a packet from where it says.
func (r *Rig) transmit(p *model.Packet, mac model.MAC, id uint64) error {
	to := place(p.Out)
	b := network(p, class(to), transport(p, id, r.shape.pad))
	if r.shape.cut != nil {
		for _, b := range r.shape.cut(p, uint32(id), b) {
			if err := r.inject(p, mac, b); err != nil {
				return err
			}
		}
		return nil
	}
	if p.In == "" {
		fd := r.local[localKey(model.FamilyOf(p.Dst), to)]
		var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: p.Dst.As16()}
		if p.Dst.Is4() {
			sa = &unix.SockaddrInet4{Addr: p.Dst.As4()}
		}
		err := unix.Sendto(fd, b, 0, sa)
		if errors.Is(err, unix.EPERM) {
			return nil // dropped on its way out
		}
		return err
	}
	return r.inject(p, mac, b)
}

// inject sends an IP packet into the node.
func (r *Rig) inject(p *model.Packet, mac model.MAC, b []byte) error {
	from := place(p.In)
	kind := []byte{0x08, 0}
	if p.Src.Is6() {
		kind = []byte{0x86, 0xdd}
	}
	frame := append(append(append(r.mac[from][:], mac[:]...), kind...), b...)
	return unix.Sendto(r.send, frame, 0, &unix.SockaddrLinklayer{Ifindex: r.index[from]})
}

// Forget makes the node forget all connections.
func (r *Rig) Forget(t testing.TB) {
	t.Helper()
	ns, err := os.Open(r.Node.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const ctDelete = 2 // IPCTNL_MSG_CT_DELETE, without a tuple: all
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil {
		t.Fatalf("flush conntrack: %v", err)
	}
}

// wait waits until all numbers have been seen, or time is up.
func (r *Rig) wait(ids []uint64, limit time.Duration) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		missing := false
		r.mu.Lock()
		for _, id := range ids {
			_, seen := r.arrived[id]
			missing = missing || !seen
		}
		r.mu.Unlock()
		if !missing {
			return
		}
		select {
		case <-r.changed:
		case <-deadline.C:
			return
		}
	}
}

package nftables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/nat"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node with two pods, an uplink to the world outside and a tunnel to a pod of another node.
// The tunnel is a wire that has a tunnel's name: the rules know no more of it.
//
//	pod, pod2 --- node --- eth0 --- out
//	               |
//	           weft-vxlan --- far
type world struct {
	node, pod, pod2, out, far testkit.NS
	driver                    *Driver
}

// Addresses of the world. out has all that begin with to, and a route to whatever a packet may come from,
// so that every answer arrives and tells the source that was seen.
const (
	nodeAddr, nodeAddr6 = "172.31.9.1", "fd31:9::1"
	natAddr             = "192.0.2.7" // further one of the node
	podAddr, podAddr6   = "10.244.1.5", "fd10:244:1::5"
	pod2Addr            = "10.244.1.6"
	toWorld, toWorld6   = "172.31.9.2", "fd31:9::2"
	toHost, toHost6     = "172.31.9.3", "fd31:9::3" // a node of the cluster
	toPool, toPool6     = "10.245.0.9", "fd10:245::9"
	toDisabled          = "10.9.0.5"
	tunnelAddr          = "10.244.1.0"
	farAddr             = "10.244.2.5"
)

func newWorld(t *testing.T) *world {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Veth, testkit.NFTables, testkit.IPRoute2, testkit.IPv6)
	w := &world{node: testkit.NewNetns(t), pod: testkit.NewNetns(t), pod2: testkit.NewNetns(t), out: testkit.NewNetns(t), far: testkit.NewNetns(t)}
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := kernel.SetSysctlAt(w.node.Path, s, "1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, ns := range []testkit.NS{w.node, w.out, w.far} {
		for _, s := range []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter"} {
			if err := kernel.SetSysctlAt(ns.Path, s, "0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, ns := range []testkit.NS{w.node, w.pod, w.out} {
		if err := kernel.SetSysctlAt(ns.Path, "net/ipv6/conf/default/accept_dad", "0"); err != nil {
			t.Fatal(err)
		}
	}
	w.attach(t, w.pod, "weft00000000001", podAddr, podAddr6)
	w.attach(t, w.pod2, "weft00000000002", pod2Addr, "")
	testkit.Wire(t, w.node, "eth0", w.out, "eth0")
	w.node.AddAddress(t, "eth0", nodeAddr+"/24", nodeAddr6+"/64")
	w.node.AddAddress(t, "lo", natAddr+"/32")
	w.out.AddAddress(t, "eth0", toWorld+"/24", toHost+"/24", toPool+"/32", toDisabled+"/32", toWorld6+"/64", toHost6+"/64", toPool6+"/128")
	run(t, w.node, "ip route add default via "+toWorld, "ip -6 route add default via "+toWorld6)
	run(t, w.out, "ip route add default via "+nodeAddr, "ip -6 route add default via "+nodeAddr6)

	testkit.Wire(t, w.node, kernel.VXLANDevice, w.far, "eth0")
	w.node.AddAddress(t, kernel.VXLANDevice, tunnelAddr+"/32")
	w.far.AddAddress(t, "eth0", farAddr+"/32")
	run(t, w.node, "ip route add 10.244.2.0/26 dev weft-vxlan src "+tunnelAddr)
	run(t, w.far, "ip route add 10.244.1.0/26 via "+tunnelAddr+" dev eth0 onlink") // and no other: answers to the node address do not come back
	w.driver = w.newDriver(t)
	testkit.Eventually(t, 5*time.Second, "IPv6 link-local addresses are usable", func() bool {
		_, err1 := testkit.Try(t, w.node, "ping", "-n", "-c", "1", "-W", "1", toWorld6)
		_, err2 := testkit.Try(t, w.pod, "ping", "-n", "-c", "1", "-W", "1", nodeAddr6)
		return err1 == nil && err2 == nil
	})
	return w
}

func (w *world) newDriver(t *testing.T) *Driver {
	t.Helper()
	d := New(w.node.Open(t), slog.New(slog.DiscardHandler))
	t.Cleanup(d.Close)
	return d
}

func (w *world) attach(t *testing.T, pod testkit.NS, link, addr, addr6 string) {
	t.Helper()
	testkit.Wire(t, w.node, link, pod, "eth0")
	run(t, w.node, "ip link set "+link+" address ee:ee:ee:ee:ee:ee")
	pod.AddAddress(t, "eth0", addr+"/32")
	run(t, pod, "ip route add 169.254.1.1 dev eth0", "ip route add default via 169.254.1.1",
		"ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent")
	run(t, w.node, "ip route add "+addr+" dev "+link)
	if addr6 != "" {
		pod.AddAddress(t, "eth0", addr6+"/128")
		run(t, pod, "ip -6 route add fe80::1 dev eth0", "ip -6 route add default via fe80::1 dev eth0",
			"ip neigh add fe80::1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent")
		run(t, w.node, "ip -6 route add "+addr6+" dev "+link)
	}
}

func run(t *testing.T, ns testkit.NS, commands ...string) {
	t.Helper()
	for _, c := range commands {
		testkit.Run(t, ns, strings.Fields(c)...)
	}
}

func pools() []model.Pool {
	p := func(cidr string, outgoing bool) model.Pool {
		return model.Pool{Name: cidr, CIDR: netip.MustParsePrefix(cidr), NATOutgoing: outgoing}
	}
	return []model.Pool{p("10.244.0.0/16", true), p("10.245.0.0/16", false), p("10.9.0.0/16", false), p("fd10:244::/32", true), p("fd10:245::/64", false)}
}

func nodes() map[model.NodeName]*model.Node {
	n := func(name, a, b string) *model.Node {
		return &model.Node{Name: model.NodeName(name), Addresses: []netip.Prefix{netip.MustParsePrefix(a + "/24"), netip.MustParsePrefix(b + "/64")}}
	}
	return map[model.NodeName]*model.Node{"n1": n("n1", nodeAddr, nodeAddr6), "n2": n("n2", toHost, toHost6)}
}

func tunnels() []topology.Tunnel {
	return []topology.Tunnel{{Device: kernel.VXLANDevice, Port: 4789, Addresses: []netip.Addr{netip.MustParseAddr(tunnelAddr)}}}
}

func compile(t *testing.T, cfg model.NATConfig) nat.Plan {
	t.Helper()
	p, err := nat.Compile(cfg, pools(), nodes(), tunnels())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) apply(t *testing.T, p nat.Plan) {
	t.Helper()
	if _, err := w.driver.Apply(context.Background(), p); err != nil {
		t.Fatal(err)
	}
}

const echoPort = 9000

// echo answers on the addresses until the test ends: over UDP each packet, over TCP first and after
// each line, with the source that it sees.
func echo(t *testing.T, ns testkit.NS, addrs ...string) {
	t.Helper()
	var wg sync.WaitGroup
	var closers []io.Closer
	t.Cleanup(func() {
		for _, c := range closers {
			c.Close()
		}
		wg.Wait()
	})
	for _, a := range addrs {
		at := netip.AddrPortFrom(netip.MustParseAddr(a), echoPort).String()
		var udp net.PacketConn
		var tcp net.Listener
		ns.Do(t, func() (err error) {
			if udp, err = net.ListenPacket("udp", at); err != nil {
				return err
			}
			tcp, err = net.Listen("tcp", at)
			return errors.Join(err, testkit.Roomy(udp.(*net.UDPConn)))
		})
		closers = append(closers, udp, tcp)
		wg.Go(func() {
			b := make([]byte, 100)
			for {
				n, from, err := udp.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = udp.WriteTo(fmt.Appendf(b[:n:n], " %s", from), from)
			}
		})
		wg.Go(func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					line := fmt.Appendln(nil, c.RemoteAddr())
					b := make([]byte, 100)
					for {
						if _, err := c.Write(line); err != nil {
							return
						}
						_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
						if _, err := c.Read(b); err != nil {
							return
						}
					}
				})
			}
		})
	}
}

// dial connects from a namespace; local may be empty.
func dial(t *testing.T, from testkit.NS, network, local, to string) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: time.Second}
	if local != "" {
		ap := netip.MustParseAddrPort(local)
		if d.LocalAddr = net.UDPAddrFromAddrPort(ap); network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(ap)
		}
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			var inner error
			err := raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, inner)
		}
	}
	from.Do(t, func() error {
		c, err = d.Dial(network, netip.AddrPortFrom(netip.MustParseAddr(to), echoPort).String())
		return nil
	})
	return c, err
}

// seen returns the source that an address outside sees of a connection from the namespace.
func seen(t *testing.T, from testkit.NS, network, local, to string) (netip.AddrPort, error) {
	t.Helper()
	c, err := dial(t, from, network, local, to)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("x")); err != nil {
			return netip.AddrPort{}, err
		}
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap, err := netip.ParseAddrPort(strings.TrimSpace(strings.TrimPrefix(string(b[:n]), "x ")))
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), err
}

package ipip

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/model/topology"
	"weft/tunnel"
)

func TestMain(m *testing.M) {
	if ns := os.Getenv(helper); ns != "" {
		fmt.Fprintln(os.Stderr, serve(ns))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// ways runs a test in each way that this machine has: the kernel's, eBPF by TCX, eBPF by clsact.
func ways(t *testing.T, test func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range []way{{Kernel, false}, {EBPF, false}, {EBPF, true}} {
		t.Run(w.String(), func(t *testing.T) {
			require(t, w.Way)
			w.once(t)
			test(t, w)
		})
	}
}

type way struct {
	Way
	clsact bool // although the kernel has TCX
}

func (w way) String() string {
	if w.clsact {
		return string(w.Way) + "-clsact"
	}
	return string(w.Way)
}

// programWays runs a test with TCX and with clsact.
func programWays(t *testing.T, test func(t *testing.T, w way)) {
	t.Helper()
	for _, w := range []way{{EBPF, false}, {EBPF, true}} {
		t.Run(w.String(), func(t *testing.T) {
			require(t, EBPF)
			w.once(t)
			testkit.LeakCheck(t)
			test(t, w)
		})
	}
}

// once skips clsact where there is nothing else, and the other way has it.
func (w way) once(t *testing.T) {
	t.Helper()
	if h, err := kernel.Open(); err == nil && w.clsact {
		defer h.Close()
		if _, ok := hooksOf(h).(clsact); ok {
			t.Skip("skipped: this kernel has no TCX, so that the other way of eBPF is this one")
		}
	}
}

func (w way) driver(h *kernel.Handle) *Driver {
	d := New(h, w.Way, slog.New(slog.DiscardHandler))
	if w.clsact {
		d.bpf.hooks = clsact{h}
	}
	return d
}

func require(t *testing.T, w Way) {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.Bridge, testkit.NFTables, testkit.IPRoute2)
	if w == Kernel {
		testkit.Require(t, testkit.IPIP)
	} else if err := Check(context.Background(), EBPF); err != nil {
		t.Fatalf("the eBPF way needs no module, and yet: %v", err)
	}
}

// host is a namespace on the underlay; a node of the cluster when it has a pod.
type host struct {
	testkit.NS
	under  testkit.NS // the other end of its wire is there, as port
	port   string
	name   model.NodeName
	addr   netip.Addr // underlay
	block  netip.Prefix
	podIP  netip.Addr
	pod    testkit.NS
	way    way
	driver *Driver
	h      *kernel.Handle
}

const podLink = "weft00000000001" // host side of each node's one pod

func (h *host) tunnelIP() netip.Addr { return h.block.Addr() }

// cluster makes an underlay (a bridge in a namespace of its own) and a node with a pod for each
// way. Node i has 172.31.1.i and the block 10.244.i.0/26, of which .0 is its tunnel address.
func cluster(t *testing.T, ways ...way) []*host {
	t.Helper()
	under := testkit.NewNetns(t)
	if err := under.Open(t).AddBridge("br0", 1500); err != nil {
		t.Fatal(err)
	}
	var hosts []*host
	for i, w := range ways {
		h := attach(t, under, i+1)
		h.way = w
		h.populate(t, i+1)
		hosts = append(hosts, h)
	}
	return hosts
}

// populate gives a host a pod and a driver.
func (h *host) populate(t *testing.T, i int) {
	t.Helper()
	h.block = netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/26", i))
	h.podIP = netip.MustParseAddr(fmt.Sprintf("10.244.%d.5", i))
	h.pod = testkit.NewNetns(t)
	testkit.Wire(t, h.NS, podLink, h.pod, "eth0")
	ip(t, h.pod, "addr add "+h.podIP.String()+"/32 dev eth0", "link set eth0 mtu 1480", "route add 169.254.1.1 dev eth0",
		"route add default via 169.254.1.1", "neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent")
	ip(t, h.NS, "link set "+podLink+" address ee:ee:ee:ee:ee:ee mtu 1480", "route add "+h.podIP.String()+" dev "+podLink)
	h.sysctl(t, "net/ipv4/ip_forward", "1")
	h.h = h.Open(t)
	h.driver = h.way.driver(h.h)
	t.Cleanup(func() { h.driver.Close() })
}

// ip runs commands of ip(8) by one process, which is cheap also where processors are emulated.
func ip(t *testing.T, ns testkit.NS, commands ...string) {
	t.Helper()
	if _, err := testkit.TryInput(t, ns, strings.Join(commands, "\n")+"\n", "ip", "-batch", "-"); err != nil {
		t.Fatalf("%v: %v", commands, err)
	}
}

func (h *host) sysctl(t *testing.T, path, value string) {
	t.Helper()
	if err := kernel.SetSysctlAt(h.Path, path, value); err != nil {
		t.Fatal(err)
	}
}

// attach makes a namespace with 172.31.1.i on the underlay.
func attach(t *testing.T, under testkit.NS, i int) *host {
	t.Helper()
	h := &host{NS: testkit.NewNetns(t), under: under, port: fmt.Sprintf("port%d", i), name: model.NodeName(fmt.Sprintf("n%d", i)),
		addr: netip.AddrFrom4([4]byte{172, 31, 1, byte(i)})}
	testkit.Wire(t, under, h.port, h.NS, "eth0")
	testkit.Run(t, under, "ip", "link", "set", h.port, "master", "br0")
	h.AddAddress(t, "eth0", h.addr.String()+"/24")
	return h
}

// plan compiles what node self wants, given who else is a member.
func plan(t *testing.T, self *host, members []*host) tunnel.Plan {
	t.Helper()
	p, err := compiled(self, members)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compiled(self *host, members []*host) (tunnel.Plan, error) {
	v := &topology.View{Self: self.name, Tunnels: []topology.Tunnel{{
		Driver: tunnel.IPIP, Device: kernel.IPIPDevice, Family: model.IPv4, Local: self.addr, Parent: "eth0",
		Addresses: []netip.Addr{self.tunnelIP()}, MTU: 1480,
	}}}
	for _, m := range members {
		if m != self {
			v.Peers = append(v.Peers, topology.Peer{Node: m.name, Address: m.addr, Prefixes: []netip.Prefix{m.block}})
		}
	}
	return tunnel.Compile(v)
}

func apply(t *testing.T, h *host, p tunnel.Plan) {
	t.Helper()
	if _, err := h.driver.Apply(context.Background(), p); err != nil {
		t.Fatalf("node %s: %v", h.name, err)
	}
}

// join makes all hosts a cluster, with the routes that the routing area would write.
func join(t *testing.T, hosts []*host) {
	t.Helper()
	for _, h := range hosts {
		apply(t, h, plan(t, h, hosts))
		h.routes(t, hosts, kernel.IPIPDevice)
	}
}

func (h *host) routes(t *testing.T, hosts []*host, device string) {
	t.Helper()
	var commands []string
	for _, o := range hosts {
		if o != h {
			commands = append(commands, fmt.Sprintf("route replace %v via %v dev %s onlink src %v proto %d", o.block, o.addr, device, h.tunnelIP(), kernel.RouteProtocol))
		}
	}
	ip(t, h.NS, commands...)
}

// ping sends 5 packets from one pod to the other and tells whether all came back.
func ping(t *testing.T, from, to *host, options ...string) bool {
	t.Helper()
	args := append([]string{"ping", "-n", "-c", "5", "-i", "0.01", "-W", "1", to.podIP.String()}, options...)
	_, err := testkit.Try(t, from.pod, args...)
	return err == nil
}

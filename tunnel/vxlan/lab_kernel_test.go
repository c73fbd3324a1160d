package vxlan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a namespace on the underlay; a node of the cluster when it has a pod.
type host struct {
	testkit.NS
	name   model.NodeName
	addr   netip.Addr // underlay
	block  netip.Prefix
	podIP  netip.Addr
	pod    testkit.NS
	driver *Driver
	h      *kernel.Handle
}

const podLink = "weft00000000001" // host side of each node's one pod

func (h *host) vtep() netip.Addr { return h.block.Addr() }

// cluster makes an underlay (a bridge in a namespace of its own) and n nodes with a pod each.
// Node i has 172.31.1.i and the block 10.244.i.0/26, of which .0 is its tunnel address.
func cluster(t *testing.T, n int) []*host {
	t.Helper()
	testkit.Require(t, testkit.Root, testkit.VXLAN, testkit.Bridge, testkit.NFTables, testkit.IPRoute2)
	under := testkit.NewNetns(t)
	if err := under.Open(t).AddBridge("br0", 1500); err != nil {
		t.Fatal(err)
	}
	// Not to have the bridge ask netfilter, where it can: no network's switches do.
	if err := kernel.SetSysctlAt(under.Path, "net/bridge/bridge-nf-call-iptables", "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var hosts []*host
	for i := 1; i <= n; i++ {
		h := attach(t, under, i)
		h.block = netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/26", i))
		h.podIP = netip.MustParseAddr(fmt.Sprintf("10.244.%d.5", i))
		h.pod = testkit.NewNetns(t)
		testkit.Wire(t, h.NS, podLink, h.pod, "eth0")
		h.pod.AddAddress(t, "eth0", h.podIP.String()+"/32")
		testkit.Run(t, h.pod, "ip", "link", "set", "eth0", "mtu", "1450")
		testkit.Run(t, h.pod, "ip", "route", "add", "169.254.1.1", "dev", "eth0")
		testkit.Run(t, h.pod, "ip", "route", "add", "default", "via", "169.254.1.1")
		testkit.Run(t, h.NS, "ip", "link", "set", podLink, "address", "ee:ee:ee:ee:ee:ee", "mtu", "1450")
		testkit.Run(t, h.pod, "ip", "neigh", "add", "169.254.1.1", "lladdr", "ee:ee:ee:ee:ee:ee", "dev", "eth0", "nud", "permanent")
		if err := kernel.SetSysctlAt(h.Path, "net/ipv4/ip_forward", "1"); err != nil {
			t.Fatal(err)
		}
		testkit.Run(t, h.NS, "ip", "route", "add", h.podIP.String(), "dev", podLink)
		h.h = h.Open(t)
		h.driver = New(h.h, slog.New(slog.DiscardHandler))
		t.Cleanup(h.driver.Close)
		hosts = append(hosts, h)
	}
	return hosts
}

// attach makes a namespace with 172.31.1.i on the underlay.
func attach(t *testing.T, under testkit.NS, i int) *host {
	t.Helper()
	h := &host{NS: testkit.NewNetns(t), name: model.NodeName(fmt.Sprintf("n%d", i)),
		addr: netip.AddrFrom4([4]byte{172, 31, 1, byte(i)})}
	port := fmt.Sprintf("port%d", i)
	testkit.Wire(t, under, port, h.NS, "eth0")
	testkit.Run(t, under, "ip", "link", "set", port, "master", "br0")
	h.AddAddress(t, "eth0", h.addr.String()+"/24")
	return h
}

// plan compiles what node self wants, given who else is a member.
func plan(t *testing.T, self *host, members []*host) tunnel.Plan {
	t.Helper()
	return planEnds(t, self, members, map[string]end{kernel.VXLANDevice: {4096, 4789}})
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
		h.routes(t, hosts, kernel.VXLANDevice)
	}
}

func (h *host) routes(t *testing.T, hosts []*host, device string) {
	t.Helper()
	for _, o := range hosts {
		if o != h {
			testkit.Run(t, h.NS, "ip", "route", "replace", o.block.String(), "via", o.addr.String(), "dev", device, "onlink", "src", h.vtep().String())
		}
	}
}

// ping sends 5 packets from one pod to the other and tells whether all came back.
func ping(t *testing.T, from, to *host) bool {
	t.Helper()
	_, err := testkit.Try(t, from.pod, "ping", "-n", "-c", "5", "-i", "0.01", "-W", "1", to.podIP.String())
	return err == nil
}

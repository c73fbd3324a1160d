package offload

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/testkit"
	"weft/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a node with two pods, and a peer behind its uplink. The node's rule counts what it forwards.
type rig struct {
	t                *testing.T
	node, a, b, peer testkit.NS
	driver           *Driver
	plan             Plan
}

const (
	podA, podB, uplink = "weft00000000001", "weft00000000002", "eth0"
	// The service 10.96.0.1 is pod a; what pod a sends to the peer is masqueraded. The counter is before the driver's chain.
	ruleset = `table inet test {
	chain seen { type filter hook forward priority 0; counter; }
	chain service { type nat hook prerouting priority dstnat; ip daddr 10.96.0.1 dnat ip to 10.0.1.2; }
	chain outgoing { type nat hook postrouting priority srcnat; ip saddr 10.0.1.2 oifname "eth0" masquerade; }
}`
)

// address is that of a host: 1 and 2 the pods, 9 the peer.
func address(n byte, f model.Family) netip.Addr {
	if f == model.IPv4 {
		return netip.AddrFrom4([4]byte{10, 0, n, 2})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: n, 15: 2})
}

func newRig(t *testing.T) *rig {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.NFTables, testkit.IPv6)
	r := &rig{t: t, node: testkit.NewNetns(t), a: testkit.NewNetns(t), b: testkit.NewNetns(t), peer: testkit.NewNetns(t),
		plan: Plan{Pods: []string{podA, podB, "weft0000000gone"}, Other: []string{uplink, "weft-vxlan"}}}
	for _, h := range []struct {
		ns     testkit.NS
		device string
		n      byte
	}{{r.a, podA, 1}, {r.b, podB, 2}, {r.peer, uplink, 9}} {
		r.wire(h.ns, h.device, h.n)
	}
	testkit.Run(t, r.node, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.netfilter.nf_conntrack_acct=1")
	if _, err := testkit.TryInput(t, r.node, ruleset, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	r.driver = New(r.node.Open(t), slog.New(slog.DiscardHandler))
	t.Cleanup(r.driver.Close)
	return r
}

func (r *rig) wire(ns testkit.NS, device string, n byte) {
	r.t.Helper()
	testkit.Wire(r.t, r.node, device, ns, "eth0")
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		own, bits := address(n, f), 24
		if f == model.IPv6 {
			bits = 64
		}
		r.node.AddAddress(r.t, device, netip.PrefixFrom(own.Prev(), bits).String())
		ns.AddAddress(r.t, "eth0", netip.PrefixFrom(own, bits).String())
		testkit.Run(r.t, ns, "ip", "route", "add", "default", "via", own.Prev().String())
	}
}

func (r *rig) apply() {
	r.t.Helper()
	if _, err := r.driver.Apply(r.t.Context(), r.plan); err != nil {
		r.t.Fatal(err)
	}
}

// seen is how many packets the rules of hook forward met.
func (r *rig) seen() (n int) {
	r.t.Helper()
	out := testkit.Run(r.t, r.node, "nft", "list", "chain", "inet", "test", "seen")
	if _, err := fmt.Sscanf(out[strings.Index(out, "counter packets"):], "counter packets %d", &n); err != nil {
		r.t.Fatalf("%v in %s", err, out)
	}
	return n
}

// conversation is a connection whose server sends back what it gets.
type conversation struct {
	t      *testing.T
	client net.Conn
	size   int
}

// talk opens a connection to port 7 of an address, and makes it one that may be offloaded.
func (r *rig) talk(network string, from, server testkit.NS, to netip.Addr) *conversation {
	r.t.Helper()
	r.serve(network, server)
	return r.dial(network, from, netip.AddrPortFrom(to, 7))
}

// serve answers at port 7 until the test ends, or until stop is called.
func (r *rig) serve(network string, server testkit.NS) (stop func()) {
	r.t.Helper()
	server.Do(r.t, func() (err error) { stop, err = echo(network); return err })
	stop = sync.OnceFunc(stop)
	r.t.Cleanup(stop)
	return stop
}

// dial is talk to somebody who serves already.
func (r *rig) dial(network string, from testkit.NS, to netip.AddrPort) *conversation {
	r.t.Helper()
	c := &conversation{t: r.t, size: 64}
	from.Do(r.t, func() (err error) {
		c.client, err = net.Dial(network, to.String())
		return err
	})
	r.t.Cleanup(func() { _ = c.client.Close() })
	c.rounds(1)
	if network == "udp" {
		time.Sleep(2200 * time.Millisecond) // until then it counts as a question and its answer
	}
	c.rounds(3)
	return c
}

// rounds sends something and waits for it to come back, n times.
func (c *conversation) rounds(n int) {
	c.t.Helper()
	b := make([]byte, c.size)
	for i := range n {
		_ = c.client.SetDeadline(time.Now().Add(5 * time.Second))
		_, err := c.client.Write(b)
		for got := 0; err == nil && got < len(b); {
			var m int
			m, err = c.client.Read(b[got:])
			got += m
		}
		if err != nil {
			c.t.Fatalf("round %d of %d: %v", i, n, err)
		}
	}
}

func echo(network string) (stop func(), err error) {
	done := make(chan struct{}, 1)
	if network == "udp" {
		p, err := net.ListenPacket("udp", ":7")
		if err != nil {
			return nil, err
		}
		go func() {
			defer close(done)
			b := make([]byte, 65536)
			for {
				n, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo(b[:n], from)
			}
		}()
		return func() { _ = p.Close(); <-done }, nil
	}
	l, err := net.Listen("tcp", ":7")
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 65536)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	return func() { _ = l.Close(); <-done }, nil
}

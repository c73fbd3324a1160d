package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

const natPort = 7777

// witness answers UDP packets to the addresses of a namespace with the source that it sees, and says
// of each who sent it, also when no answer would get there.
type witness struct {
	mu   sync.Mutex
	seen map[string]netip.AddrPort // by payload
}

func (c *cluster) witness(ns testkit.NS, addrs ...netip.Addr) *witness {
	c.t.Helper()
	w := &witness{seen: map[string]netip.AddrPort{}}
	var conns []net.PacketConn
	var wg sync.WaitGroup
	c.t.Cleanup(func() {
		for _, p := range conns {
			p.Close()
		}
		wg.Wait()
	})
	for _, a := range addrs {
		ns.Do(c.t, func() error {
			p, err := net.ListenPacket("udp4", netip.AddrPortFrom(a, natPort).String())
			if err != nil {
				return err
			}
			conns = append(conns, p)
			wg.Go(func() {
				b := make([]byte, 100)
				for {
					n, from, err := p.ReadFrom(b)
					if err != nil {
						return
					}
					ap := netip.MustParseAddrPort(from.String())
					w.mu.Lock()
					w.seen[string(b[:n])] = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
					w.mu.Unlock()
					_, _ = p.WriteTo([]byte(from.String()), from)
				}
			})
			return nil
		})
	}
	return w
}

// ask sends a packet from a namespace and returns which source the witness saw, and whether its answer
// came back.
func (w *witness) ask(t *testing.T, from testkit.NS, local netip.Addr, to netip.Addr) (source netip.AddrPort, answered bool) {
	t.Helper()
	var c net.Conn
	from.Do(t, func() (err error) {
		d := net.Dialer{}
		if local.IsValid() {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
		}
		c, err = d.DialContext(context.Background(), "udp4", netip.AddrPortFrom(to, natPort).String())
		return err
	})
	defer c.Close()
	token := c.LocalAddr().String() + time.Now().String()
	_, _ = c.Write([]byte(token))
	_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, err := c.Read(make([]byte, 100))
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[token], err == nil
}

// TestNATOutgoing has pods and hosts speak to the underlay's router, to nodes and to pods, and looks at
// the sources that arrive, while modes and settings change.
func TestNATOutgoing(t *testing.T) {
	c := newCluster(t, "e2enat")
	c.pool("Always")
	c.pods()
	router, n1 := netip.MustParseAddr("172.31.1.254"), netip.MustParseAddr("172.31.1.1")
	n2, n3 := netip.MustParseAddr("172.31.1.2"), netip.MustParseAddr("172.31.2.1")
	outside := c.witness(c.nodeNetns("router"), router)
	nodes := c.witness(c.nodeNetns("n2"), n2)
	far := c.witness(c.nodeNetns("n3"), n3)
	pods := c.witness(c.netns("n3"), c.addrs["n3"])
	pod := c.netns("n1")
	var none netip.Addr
	check := func(what string, w *witness, from testkit.NS, local, to netip.Addr, want netip.Addr) {
		t.Helper()
		if got, answered := w.ask(t, from, local, to); got.Addr() != want || !answered {
			t.Errorf("%s: seen as %v, answered: %v; want %v", what, got, answered, want)
		}
	}

	s := natStream(t, pod, router)
	for _, mode := range []string{"Always", "CrossSubnet", "Always"} {
		c.pool(mode)
		want := map[string]string{"Always": "VXLAN", "CrossSubnet": "Direct"}[mode]
		c.reach("n1", "n2", want)
		check(mode+": pod to the router", outside, pod, none, router, n1)
		check(mode+": pod to a node", nodes, pod, none, n2, n1)
		check(mode+": pod to a pod", pods, pod, none, c.addrs["n3"], c.addrs["n1"])
		tunnel := ownTunnelAddress(t, c, "n1")
		check(mode+": host to a pod behind the tunnel", pods, c.nodeNetns("n1"), none, c.addrs["n3"], tunnel)
		check(mode+": host, bound to the node's address, to a pod behind the tunnel", pods, c.nodeNetns("n1"), n1, c.addrs["n3"], tunnel)
	}

	c.apply("apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: default}\nspec: {natOutgoingExclusions: IPPoolsAndHostIPs, natPortRange: \"20000:20999\"}\n")
	testkit.Eventually(t, 3*time.Second, "nodes are spared", func() bool {
		got, answered := nodes.ask(t, pod, none, n2)
		return got.Addr() == c.addrs["n1"] && answered
	})
	check("pod to a node of another rack", far, pod, none, n3, c.addrs["n1"])
	check("pod to the router, nodes spared", outside, pod, none, router, n1)
	for range 50 {
		if got, _ := outside.ask(t, pod, none, router); got.Port() < 20000 || got.Port() > 20999 {
			t.Errorf("port %d is not in natPortRange 20000:20999", got.Port())
		}
	}

	testkit.Eventually(t, 5*time.Second, "enough packets", func() bool { return s.sent.Load() > 1000 })
	sent, lost := s.end()
	if lost != 0 {
		t.Errorf("%d of %d packets of a translated stream were lost", lost, sent)
	}
	t.Logf("%d of %d packets of a translated stream were lost through changes of modes and settings", lost, sent)

	testkit.Run(t, c.nodeNetns("n1"), "nft", "flush", "ruleset")
	testkit.Eventually(t, time.Second, "healed", func() bool {
		out, err := testkit.Try(t, c.nodeNetns("n1"), "nft", "list", "chain", "inet", "weft", "nat-postrouting")
		return err == nil && strings.Contains(out, "nat-outgoing4")
	})
	check("pod to the router, after a flush", outside, pod, none, router, n1)
	// The control: without natOutgoing the router sees the pod, and has no way back to it.
	c.apply("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: default-ipv4-ippool}\nspec: {cidr: 10.244.0.0/16, blockSize: 26, vxlanMode: Always, natOutgoing: false, nodeSelector: all()}\n")
	testkit.Eventually(t, 3*time.Second, "control: without natOutgoing the pod itself is seen", func() bool {
		got, answered := outside.ask(t, pod, none, router)
		return got.Addr() == c.addrs["n1"] && !answered
	})
}

// ownTunnelAddress reads the address of a node's VXLAN device.
func ownTunnelAddress(t *testing.T, c *cluster, node string) netip.Addr {
	t.Helper()
	f := strings.Fields(testkit.Run(t, c.nodeNetns(node), "ip", "-4", "-o", "addr", "show", "dev", kernel.VXLANDevice))
	for i := range f {
		if f[i] == "inet" && i+1 < len(f) {
			return netip.MustParsePrefix(f[i+1]).Addr()
		}
	}
	t.Fatalf("no address on %s: %v", kernel.VXLANDevice, f)
	return netip.Addr{}
}

// numbered is a stream of packets from one socket, each of which is answered.
type numbered struct {
	c              net.Conn
	stop           chan struct{}
	wg             sync.WaitGroup
	sent, answered atomic.Int64
}

func natStream(t *testing.T, from testkit.NS, to netip.Addr) *numbered {
	t.Helper()
	s := &numbered{stop: make(chan struct{})}
	from.Do(t, func() (err error) {
		s.c, err = net.Dial("udp4", netip.AddrPortFrom(to, natPort).String())
		return err
	})
	s.wg.Go(func() {
		b := make([]byte, 100)
		for {
			if _, err := s.c.Read(b); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil {
				s.answered.Add(1)
			}
		}
	})
	var sender sync.WaitGroup
	sender.Go(func() {
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			select {
			case <-s.stop:
				tick.Stop()
				return
			case <-tick.C:
				if _, err := s.c.Write([]byte("stream")); err == nil {
					s.sent.Add(1)
				}
			}
		}
	})
	s.wg.Go(sender.Wait)
	t.Cleanup(func() { s.end() })
	return s
}

func (s *numbered) end() (sent, lost int64) {
	select {
	case <-s.stop:
	default:
		close(s.stop)
		time.Sleep(300 * time.Millisecond)
		s.c.Close()
	}
	s.wg.Wait()
	return s.sent.Load(), s.sent.Load() - s.answered.Load()
}

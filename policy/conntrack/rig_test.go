package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/nftables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a node with two pods, and a peer behind its uplink. Its ruleset accepts what is established and
// asks about what is new, as every policy driver's does, with sets of denied source and destination.
type rig struct {
	t                     *testing.T
	node, web, shop, peer testkit.NS
	handle                *kernel.Handle
	compiler              *policy.Compiler
	driver                *nftables.Driver // nil: ruleset
}

const ruleset = `table inet driver {
	set denied4 { type ipv4_addr . ipv4_addr; }
	set denied6 { type ipv6_addr . ipv6_addr; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		ct state established,related accept
		ct state invalid drop
		ip saddr . ip daddr @denied4 counter drop
		ip6 saddr . ip6 daddr @denied6 counter drop
	}
}`

// address is that of a host: 1 web, 2 shop, 9 peer; web has 10.0.1.2 behind the node's 10.0.1.1.
func address(n byte, f model.Family) netip.Addr {
	if f == model.IPv4 {
		return netip.AddrFrom4([4]byte{10, 0, n, 2})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 3: n, 15: 2})
}

func newRig(t *testing.T) *rig { return newRigOf(t, false) }

// newRigOf is driven by policy/nftables instead of the ruleset.
func newRigOf(t *testing.T, driven bool) *rig {
	testkit.Require(t, testkit.Root, testkit.Netns, testkit.Veth, testkit.NFTables, testkit.IPv6)
	r := &rig{t: t, node: testkit.NewNetns(t), web: testkit.NewNetns(t), shop: testkit.NewNetns(t), peer: testkit.NewNetns(t)}
	r.handle = r.node.Open(t)
	for _, h := range []struct {
		ns     testkit.NS
		device string
		n      byte
	}{{r.web, device(1), 1}, {r.shop, device(2), 2}, {r.peer, "eth0", 9}} {
		testkit.Wire(t, r.node, h.device, h.ns, "eth0")
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			own, bits := address(h.n, f), 24
			if f == model.IPv6 {
				bits = 64
			}
			gateway := own.Prev()
			r.node.AddAddress(t, h.device, netip.PrefixFrom(gateway, bits).String())
			h.ns.AddAddress(t, "eth0", netip.PrefixFrom(own, bits).String())
			testkit.Run(t, h.ns, "ip", "route", "add", "default", "via", gateway.String())
		}
	}
	testkit.Run(t, r.node, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	r.compiler = policy.NewCompiler("n1")
	for n, name := range map[byte]string{1: "web", 2: "shop"} {
		mac, err := model.ParseMAC(strings.Fields(testkit.Run(t, map[byte]testkit.NS{1: r.web, 2: r.shop}[n], "ip", "-br", "link", "show", "eth0"))[2])
		if err != nil {
			t.Fatal(err)
		}
		e := &model.Endpoint{ID: model.EndpointID{Namespace: "default", Pod: name, Interface: "eth0"}, Device: device(n), MAC: mac,
			Labels: map[string]string{"app": name}, Addresses: []netip.Addr{address(n, model.IPv4), address(n, model.IPv6)}}
		if err := r.compiler.SetEndpoint(e); err != nil {
			t.Fatal(err)
		}
	}
	r.policy("web", "app == 'web'")
	r.policy("shop", "app == 'shop'")
	if driven {
		r.driver = nftables.New(r.handle, slog.New(slog.DiscardHandler))
		t.Cleanup(r.driver.Close)
		r.enforce(r.compiler.Flush())
	} else if _, err := testkit.TryInput(t, r.node, ruleset, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) enforce(u policy.Update) {
	r.t.Helper()
	if _, err := r.driver.Apply(r.t.Context(), u); err != nil {
		r.t.Fatal(err)
	}
}

func device(n byte) string { return fmt.Sprintf("weft%011d", n) }

// policy allows what is denied from nobody but these addresses.
func (r *rig) policy(name, selector string, denied ...netip.Addr) {
	r.t.Helper()
	p := &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: name}, Selector: selector,
		Types: model.Types{Ingress: true, Egress: true}, Egress: []model.Rule{{Action: model.Allow}}}
	for _, a := range denied {
		p.Ingress = append(p.Ingress, model.Rule{Action: model.Deny, Source: model.EntityMatch{Nets: []netip.Prefix{model.HostPrefix(a)}}})
	}
	p.Ingress = append(p.Ingress, model.Rule{Action: model.Allow})
	if err := r.compiler.SetPolicy(p); err != nil {
		r.t.Fatal(err)
	}
}

// deny makes policy and ruleset deny new connections from the peer to web, or allow them again, and has
// the cutter, if there is one, look at those that there are.
func (r *rig) deny(c *Cutter, yes bool) Result {
	r.t.Helper()
	verb, denied := "delete", []netip.Addr(nil)
	if yes {
		verb, denied = "add", []netip.Addr{address(9, model.IPv4), address(9, model.IPv6)}
	}
	r.policy("web", "app == 'web'", denied...)
	u := r.compiler.Flush()
	if r.driver != nil {
		r.enforce(u)
		return r.apply(c, u)
	}
	script := fmt.Sprintf("%s element inet driver denied4 { %s . %s }\n", verb, address(9, model.IPv4), address(1, model.IPv4)) +
		fmt.Sprintf("%s element inet driver denied6 { %s . %s }\n", verb, address(9, model.IPv6), address(1, model.IPv6))
	if _, err := testkit.TryInput(r.t, r.node, script, "nft", "-f", "-"); err != nil {
		r.t.Fatal(err)
	}
	if c == nil {
		return Result{}
	}
	return r.apply(c, u)
}

func (r *rig) apply(c *Cutter, u policy.Update) Result {
	r.t.Helper()
	res, err := c.Apply(r.t.Context(), u)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *rig) cutter(o Options) *Cutter {
	c := New(r.handle, slog.New(slog.DiscardHandler), o)
	r.t.Cleanup(c.Close)
	return c
}

// stream is a long connection: the client sends a number every 2 ms, the server answers each.
type stream struct {
	name     string
	port     uint16
	family   model.Family
	network  string
	arrived  atomic.Int64 // when the server last read something, Unix nanoseconds
	answered atomic.Int64 // when the client did
	client   net.Conn
	stop     chan struct{}
	wg       sync.WaitGroup
	closers  []io.Closer
}

func (r *rig) stream(network string, f model.Family, from testkit.NS, port uint16) *stream {
	r.t.Helper()
	s := &stream{name: fmt.Sprintf("%s over %s, port %d", network, f, port), family: f, network: network, port: port, stop: make(chan struct{})}
	to := netip.AddrPortFrom(address(1, f), port)
	r.web.Do(r.t, func() error { return s.serve(to) })
	from.Do(r.t, func() (err error) {
		if network == "tcp" {
			s.client, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		} else {
			s.client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		}
		return err
	})
	s.closers = append(s.closers, s.client)
	s.wg.Go(s.send)
	s.wg.Go(func() { copyNumbers(s.client, nil, &s.answered) })
	r.t.Cleanup(func() {
		close(s.stop)
		for _, c := range s.closers {
			_ = c.Close()
		}
		s.wg.Wait()
	})
	testkit.Eventually(r.t, 5*time.Second, s.name+" runs", func() bool { return s.answered.Load() > 0 })
	return s
}

func (s *stream) serve(at netip.AddrPort) error {
	if s.network == "udp" {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		s.closers = append(s.closers, c)
		s.wg.Go(func() {
			var b [8]byte
			for {
				n, from, err := c.ReadFromUDPAddrPort(b[:])
				if err != nil {
					return
				}
				s.arrived.Store(time.Now().UnixNano())
				_, _ = c.WriteToUDPAddrPort(b[:n], from)
			}
		})
		return nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, l)
	s.wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		s.wg.Go(func() { <-s.stop; _ = c.Close() })
		copyNumbers(c, c, &s.arrived)
	})
	return nil
}

func (s *stream) send() {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var b [8]byte
	for n := uint64(1); ; n++ {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		binary.BigEndian.PutUint64(b[:], n)
		_ = s.client.SetWriteDeadline(time.Now().Add(time.Millisecond))
		if _, err := s.client.Write(b[:]); errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// copyNumbers notes when something arrives, and writes it to w unless that is nil.
func copyNumbers(from io.Reader, w io.Writer, last *atomic.Int64) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if n > 0 {
			last.Store(time.Now().UnixNano())
			if w != nil {
				_, _ = w.Write(b[:n])
			}
		}
		var ne net.Error
		if err != nil && !(errors.As(err, &ne) && ne.Timeout()) && !strings.Contains(err.Error(), "refused") {
			return
		}
	}
}

// last is when something last arrived at either end.
func (s *stream) last() time.Time {
	return time.Unix(0, max(s.arrived.Load(), s.answered.Load()))
}

// runs tells whether something arrived at both ends after a moment.
func (s *stream) runs(after time.Time) bool {
	return time.Unix(0, min(s.arrived.Load(), s.answered.Load())).After(after)
}

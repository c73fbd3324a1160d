package wireguard

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/encryption"
	"weft/internal/testkit"
	"weft/model"
)

// TestPeersDiffed: peers that come and go do not disturb others; replacing all does.
func TestPeersDiffed(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w, w)
		a, b, c := hosts[0], hosts[1], hosts[2]
		join(t, model.IPv4, hosts...)
		meet(t, a, b, c)
		with, without := a.plan(model.IPv4, b, c), a.plan(model.IPv4, b)
		_, stop := flow(t, false, a, b)
		changes := testkit.Count(200)
		for i := range changes {
			p := without
			if i%2 == 1 {
				p = with
			}
			res, err := a.driver.Apply(context.Background(), p)
			if err != nil || res.Added+res.Removed != 1 || res.Changed != 0 {
				t.Fatalf("change %d: %v, %v", i, res, err)
			}
			time.Sleep(5 * time.Millisecond) // so that packets go in each state
		}
		rep := stop()
		n := rep.Total()
		t.Logf("a peer added or removed %d times: %d of %d packets to another lost", changes, n.Lost, n.Sent)
		if n.Lost > 0 || n.Sent <= uint64(changes) { // each state had one at least
			t.Errorf("%d of %d packets lost, want 0 of more than %d", n.Lost, n.Sent, changes)
		}

		run, stop := flow(t, false, a, b)
		replaced := 0
		for begin := time.Now(); (replaced < 20 || run.Mark() < 20) && time.Since(begin) < testkit.Patient(10*time.Second); replaced++ {
			a.replaceAll(t, with)
		}
		n = stop().Total()
		t.Logf("control: all peers replaced %d times: %d of %d packets lost", replaced, n.Lost, n.Sent)
		if n.Lost == 0 {
			t.Error("the control, which replaces all peers, loses nothing")
		}
		a.driver.Invalidate()
	})
}

// replaceAll configures the peers in the way that this driver never does.
func (h *host) replaceAll(t *testing.T, p encryption.Plan) {
	t.Helper()
	if h.way == Kernel {
		h.Do(t, func() error {
			c, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer c.Close()
			cfg := wgtypes.Config{ReplacePeers: true}
			for _, x := range additions(p) {
				cfg.Peers = append(cfg.Peers, x.config())
			}
			return c.ConfigureDevice(wg, cfg)
		})
		return
	}
	h.set(t, "replace_peers=true\n"+encode(change{peers: additions(p)})[len("set=1\n"):])
}

func additions(p encryption.Plan) (out []peerChange) {
	for i := range p.Peers {
		w := &p.Peers[i]
		out = append(out, peerChange{key: w.Key, endpoint: w.Endpoint, add: w.AllowedIPs})
	}
	return out
}

// set writes to a process's socket, as somebody else may.
func (h *host) set(t testing.TB, text string) {
	t.Helper()
	e, done, err := (&socketControl{dir: h.options().SocketDir}).dial(context.Background(), wg)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if err := e.do("set=1\n"+text, nil); err != nil {
		t.Fatal(err)
	}
}

// TestPrefixMoves: while a prefix goes from one peer to the other and back, each packet gets to one of
// them, and other prefixes that come and go disturb nothing.
func TestPrefixMoves(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w, w)
		a := hosts[0]
		join(t, model.IPv4, hosts...)
		meet(t, hosts...)
		moving, extra := netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("10.98.0.0/24")
		testkit.Run(t, a.NS, "ip", "route", "add", moving.String(), "dev", wg, "src", a.ip4().String())
		dest := moving.Addr().Next()
		var counts []func() map[uint64]int
		for _, h := range hosts[1:] {
			testkit.Run(t, h.NS, "ip", "addr", "add", dest.String()+"/32", "dev", "lo")
			counts = append(counts, numbered(t, h, dest))
		}
		plans := make([]encryption.Plan, 4)
		for i := range plans {
			p := a.plan(model.IPv4, hosts...)
			p.Peers[i%2].AllowedIPs = sortPrefixes(append(p.Peers[i%2].AllowedIPs, moving))
			if i < 2 { // so that a prefix is dropped in the same step, too
				p.Peers[1-i%2].AllowedIPs = sortPrefixes(append(p.Peers[1-i%2].AllowedIPs, extra))
			}
			plans[i] = p
		}
		a.apply(t, plans[0])
		stop := numbers(t, a, dest)
		moves := testkit.Count(200)
		for i := range moves {
			a.apply(t, plans[(i+1)%4])
			time.Sleep(5 * time.Millisecond) // so that packets go each way
		}
		sent := stop()
		first, second := counts[0](), counts[1]()
		lost, twice := 0, 0
		for n := range sent {
			switch first[n] + second[n] {
			case 0:
				lost++
			case 1:
			default:
				twice++
			}
		}
		t.Logf("moved %d times: of %d packets %d went to one peer, %d to the other, %d got lost, %d arrived twice", moves, sent, len(first), len(second), lost, twice)
		if lost > 0 || twice > 0 || len(first) == 0 || len(second) == 0 {
			t.Error("want each packet to arrive once, and some at each")
		}
	})
}

// numbers sends numbered packets, 1,000 a second, until the returned function is called.
func numbers(t *testing.T, h *host, dest netip.Addr) (stop func() uint64) {
	t.Helper()
	var c net.Conn
	h.Do(t, func() (err error) {
		c, err = net.Dial("udp", netip.AddrPortFrom(dest, 7778).String())
		return err
	})
	quit, sent := make(chan struct{}), make(chan uint64)
	go func() {
		defer c.Close()
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		n := uint64(0)
		for {
			select {
			case <-quit:
				sent <- n
				return
			case <-tick.C:
				_, _ = c.Write(binary.BigEndian.AppendUint64(nil, n))
				n++
			}
		}
	}()
	return func() uint64 { close(quit); return <-sent }
}

// numbered counts the packets of numbers that arrive, until nothing came for 300 ms after the returned
// function was called.
func numbered(t *testing.T, h *host, dest netip.Addr) func() map[uint64]int {
	t.Helper()
	var c net.PacketConn
	h.Do(t, func() (err error) {
		c, err = net.ListenPacket("udp", netip.AddrPortFrom(dest, 7778).String())
		return err
	})
	t.Cleanup(func() { c.Close() })
	got, quit := make(chan map[uint64]int, 1), make(chan struct{})
	go func() {
		seen := map[uint64]int{}
		b := make([]byte, 64)
		for {
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			n, _, err := c.ReadFrom(b)
			if err == nil && n == 8 {
				seen[binary.BigEndian.Uint64(b)]++
				continue
			}
			select {
			case <-quit:
				got <- seen
				return
			default:
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-quit:
		default:
			close(quit)
		}
	})
	return func() map[uint64]int { close(quit); return <-got }
}

// TestRotation: the devices of two epochs work side by side, and traffic that moves from one to the other
// loses nothing.
func TestRotation(t *testing.T) {
	ways(t, func(t *testing.T, w Way) {
		_, hosts := cluster(t, w, w)
		join(t, model.IPv4, hosts...)
		meet(t, hosts...)
		const second = wg + "2"
		both := func(h *host) encryption.Plan {
			p := h.plan(model.IPv4, hosts...)
			d := p.Devices[0]
			d.Name, d.Epoch, d.Key, d.Port = second, 1, testKey(100+h.i), d.Port+2
			p.Devices = append(p.Devices, d)
			for _, o := range hosts {
				if o != h {
					q := h.peer(model.IPv4, o)
					q.Device, q.Key, q.Endpoint = second, public(testKey(100+o.i)), netip.AddrPortFrom(o.under(model.IPv4), uint16(d.Port))
					p.Peers = append(p.Peers, q)
				}
			}
			return p
		}
		run, stop := flow(t, true, hosts...)
		// Both devices have the same addresses, and either takes what the other's peer sends.
		for _, h := range hosts {
			h.apply(t, both(h))
		}
		testkit.Eventually(t, 15*time.Second, "the new devices have sessions", func() bool { return sessions(t, second, hosts) == len(hosts) })
		for _, h := range hosts {
			h.routes(t, second, hosts...)
			time.Sleep(100 * time.Millisecond) // when one has moved and the other has not
		}
		rx, since := received(t, wg, hosts), run.Mark()
		testkit.Eventually(t, 10*time.Second, "nothing is under way by the old devices any more", func() bool {
			if now := received(t, wg, hosts); now != rx {
				rx, since = now, run.Mark()
			}
			return run.Mark() > since+100
		})
		for _, h := range hosts {
			p := both(h)
			p.Devices, p.Peers = p.Devices[1:], p.Peers[1:]
			h.apply(t, p)
		}
		since = run.Mark()
		testkit.Eventually(t, 10*time.Second, "100 packets by the new devices alone", func() bool { return run.Mark() > since+100 })
		rep := stop()
		n := rep.Total()
		t.Logf("rotated: %d of %d packets lost", n.Lost, n.Sent)
		if n.Lost > 0 || len(rep.Errs()) > 0 {
			t.Errorf("%d of %d packets lost, %v", n.Lost, n.Sent, rep.Errs())
		}
		for _, h := range hosts {
			if _, ok, _ := h.h.LinkByName(context.Background(), wg); ok {
				t.Errorf("%s still has the old device", h.name)
			}
		}
	})
}

// received is how many bytes came by the devices of a name.
func received(t *testing.T, device string, hosts []*host) (n uint64) {
	t.Helper()
	for _, h := range hosts {
		peers, err := h.driver.Peers(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			if p.Device == device {
				n += uint64(p.Rx)
			}
		}
	}
	return n
}

func sessions(t *testing.T, device string, hosts []*host) (n int) {
	t.Helper()
	for _, h := range hosts {
		peers, err := h.driver.Peers(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range peers {
			if p.Device == device && !p.LastHandshake.IsZero() {
				n++
			}
		}
	}
	return n
}

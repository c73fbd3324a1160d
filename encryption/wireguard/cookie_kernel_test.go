package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/testkit"
)

// cookie is in every packet that is to be secret.
var cookie = []byte("a-cookie-that-nobody-on-the-wire-may-see")

// talk is traffic from one host to another and back.
type talk struct {
	back atomic.Int64
	sent atomic.Int64
	quit chan struct{}
	once sync.Once
	done sync.WaitGroup
}

func (c *talk) echoed() int64 { return c.back.Load() }

// stop ends it and returns how many packets were sent, answers not counted.
func (c *talk) stop() int64 {
	c.once.Do(func() { close(c.quit) })
	c.done.Wait()
	return c.sent.Load()
}

// chatter sends cookies by UDP from a to b, 2,000 a second of each family, which b sends back.
func chatter(t *testing.T, a, b *host) *talk {
	t.Helper()
	c := &talk{quit: make(chan struct{})}
	var conns []net.PacketConn
	listen := func(h *host, address string) net.PacketConn {
		var p net.PacketConn
		h.Do(t, func() (err error) {
			p, err = (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", address)
			return err
		})
		conns = append(conns, p)
		return p
	}
	for _, ends := range [][2]net.IP{{a.ip4().AsSlice(), b.ip4().AsSlice()}, {a.ip6().AsSlice(), b.ip6().AsSlice()}} {
		from := listen(a, net.JoinHostPort(ends[0].String(), "0"))
		to := listen(b, net.JoinHostPort(ends[1].String(), "7777"))
		c.done.Go(func() { echo(to) })
		c.done.Go(func() { count(from, &c.back) })
		c.done.Go(func() {
			tick := time.NewTicker(500 * time.Microsecond)
			defer tick.Stop()
			for {
				select {
				case <-c.quit:
					return
				case <-tick.C:
					c.sent.Add(1)
					_, _ = from.WriteTo(cookie, to.LocalAddr())
				}
			}
		})
	}
	c.done.Go(func() {
		<-c.quit
		for _, p := range conns {
			p.Close()
		}
	})
	t.Cleanup(func() { c.stop() })
	return c
}

func echo(p net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := p.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = p.WriteTo(b[:n], from)
	}
}

func count(p net.PacketConn, n *atomic.Int64) {
	b := make([]byte, 2048)
	for {
		if _, _, err := p.ReadFrom(b); err != nil {
			return
		}
		n.Add(1)
	}
}

// capture reads every packet that passes an interface, until the returned function is called; it tells
// how many there were, and in how many the cookie was.
func capture(t *testing.T, ns testkit.NS, device string) func() (packets, clear int) {
	t.Helper()
	fd := -1
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	ns.Do(t, func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	quit, done := make(chan struct{}), make(chan struct{})
	packets, clear := 0, 0
	go func() {
		defer close(done)
		b := make([]byte, 1<<17)
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if err == nil {
				packets++
				if bytes.Contains(b[:n], cookie) {
					clear++
				}
				continue
			}
			select {
			case <-quit:
				return
			default:
			}
		}
	}()
	var once sync.Once
	stop := func() (int, int) {
		once.Do(func() {
			close(quit)
			<-done
			if s, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || s.Drops > 0 {
				t.Errorf("the capture missed packets: %+v, %v", s, err)
			}
			unix.Close(fd)
		})
		return packets, clear
	}
	t.Cleanup(func() { stop() })
	return stop
}

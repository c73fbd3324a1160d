package e2e

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/testkit"
)

// prober asks addresses from one namespace, each about once a millisecond, and notes when answers come.
type prober struct {
	t    *testing.T
	fd   int
	id   uint16
	to   []netip.Addr
	stop chan struct{}
	done sync.WaitGroup
	sent []atomic.Int64 // by address

	mu       sync.Mutex
	answered [][]time.Time // by address
}

// probePings starts a prober, which ends with the test at the latest.
func (c *cluster) probePings(from testkit.NS, to ...netip.Addr) *prober {
	c.t.Helper()
	p := newProber(c.t, to)
	err := kernel.Do(from.Path, func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	p.run(p.echo, p.echoed)
	return p
}

func newProber(t *testing.T, to []netip.Addr) *prober {
	return &prober{t: t, to: to, id: uint16(time.Now().UnixNano() >> 10), stop: make(chan struct{}), sent: make([]atomic.Int64, len(to)), answered: make([][]time.Time, len(to))}
}

// run sends what packet makes for each address, and takes what answer finds an index in for an answer.
func (p *prober) run(packet func(i int, seq uint16) []byte, answer func([]byte) (i int, ok bool)) {
	p.t.Helper()
	if err := unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000}); err != nil {
		p.t.Fatal(err)
	}
	_ = unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	p.done.Go(func() { p.send(packet) })
	p.done.Go(func() { p.receive(answer) })
	p.t.Cleanup(p.end)
}

func (p *prober) send(packet func(i int, seq uint16) []byte) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for seq := uint16(0); ; seq++ {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		for i, a := range p.to {
			var to unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
			if a.Is4() {
				to = &unix.SockaddrInet4{Addr: a.As4()}
			}
			if unix.Sendto(p.fd, packet(i, seq), 0, to) == nil {
				p.sent[i].Add(1)
			}
		}
	}
}

// echo is an echo request (RFC 792) that tells which address it is for.
func (p *prober) echo(i int, seq uint16) []byte {
	m := []byte{8, 0, 0, 0, 0, 0, 0, 0, byte(i >> 8), byte(i)}
	binary.BigEndian.PutUint16(m[4:], p.id)
	binary.BigEndian.PutUint16(m[6:], seq)
	binary.BigEndian.PutUint16(m[2:], internetSum(m))
	return m
}

func (p *prober) echoed(b []byte) (int, bool) {
	if len(b) < 30 {
		return 0, false
	}
	m := b[int(b[0]&15)*4:]
	if len(m) < 10 || m[0] != 0 || binary.BigEndian.Uint16(m[4:]) != p.id {
		return 0, false
	}
	return int(m[8])<<8 | int(m[9]), true
}

// internetSum is the checksum of RFC 1071 of an even number of bytes.
func internetSum(b []byte) uint16 {
	var sum uint32
	for j := 0; j < len(b); j += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[j:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func (p *prober) receive(answer func([]byte) (int, bool)) {
	buf := make([]byte, 256)
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, 0)
		select {
		case <-p.stop:
			return
		default:
		}
		if err != nil {
			continue
		}
		if i, ok := answer(buf[:n]); ok && i >= 0 && i < len(p.to) {
			p.mu.Lock()
			p.answered[i] = append(p.answered[i], time.Now())
			p.mu.Unlock()
		}
	}
}

// end stops the prober. It may be called again.
func (p *prober) end() {
	p.mu.Lock()
	select {
	case <-p.stop:
		p.mu.Unlock()
		return
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	p.done.Wait()
	_ = unix.Close(p.fd)
}

// answers returns how many answers of the i-th address came after a moment, and the first of them.
func (p *prober) answers(i int, after time.Time) (n int, first time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.answered[i] {
		if at.After(after) {
			if n == 0 {
				first = at
			}
			n++
		}
	}
	return n, first
}

// last returns when the i-th address answered last.
func (p *prober) last(i int) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.answered[i]); n > 0 {
		return p.answered[i][n-1]
	}
	return time.Time{}
}

// begins waits until the i-th address answers after a moment, and returns how long after.
func (p *prober) begins(what string, i int, after time.Time) time.Duration {
	p.t.Helper()
	testkit.Eventually(p.t, 10*time.Second, what, func() bool { n, _ := p.answers(i, after); return n > 0 })
	_, first := p.answers(i, after)
	return first.Sub(after)
}

// ends waits until the i-th address has been silent for 200 probes, and returns how long after a moment
// it answered last.
func (p *prober) ends(what string, i int, after time.Time) time.Duration {
	p.t.Helper()
	seen, sent := p.last(i), p.sent[i].Load()
	testkit.Eventually(p.t, 10*time.Second, what, func() bool {
		if now := p.last(i); now != seen {
			seen, sent = now, p.sent[i].Load()
		}
		return p.sent[i].Load() > sent+200
	})
	return max(0, p.last(i).Sub(after))
}

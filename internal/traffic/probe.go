package traffic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	probeBurst = 16 // packets before the answers are collected and a moment is waited
	probePause = 500 * time.Microsecond
	// probeWait is how long an answer may take after the last packet of a round.
	probeWait = 150 * time.Millisecond
)

// Probe sends UDP packets with DF (over IPv6 no packet is ever fragmented on its way) of every size
// from one host to another, and notes what became of each.
type Probe struct {
	From, To Host
	// Min and Max are the sizes of the first and the last packet, in bytes with the IP header.
	Min, Max int
	// Rounds is how often a size is sent at most, as long as nothing came of it; 0 means 3. One packet
	// without an answer is allowed by the protocols: a tunnel that learns of a narrow underlay by the
	// loss of its own packet can tell the sender only about the next one.
	Rounds int
}

// Sizes is what became of the packets of each size.
type Sizes struct {
	From, To  string
	Probed    int // sizes
	Sent      int // packets
	Delivered int // sizes that arrived whole
	Local     int // sizes that the sender's own kernel refused as too big
	Answered  int // sizes for which a router on the way sent "too big" (RFC 792, RFC 4443)
	Vanished  []int
	// Largest is the largest size that arrived, Smallest the smallest that was answered or refused; 0
	// when there was none.
	Largest, Smallest int
	// Told is the set of MTUs that answers named.
	Told []int
	// Repeated counts sizes for which something was known only after another packet.
	Repeated int
}

// fate of a size.
type fate uint8

const (
	unknown fate = iota
	delivered
	refused
	answered
)

// Run probes. An error means that it could not be done, not that sizes vanished.
func (p Probe) Run(ctx context.Context) (Sizes, error) {
	out, in, err := p.open()
	if err != nil {
		return Sizes{}, err
	}
	defer unix.Close(out.fd)
	defer unix.Close(in)
	s := &prober{Probe: p, socket: out, in: in, fates: make([]fate, p.Max-p.Min+1), token: rand.Uint64(), told: map[int]bool{}}
	rounds := p.Rounds
	if rounds == 0 {
		rounds = 3
	}
	repeated := 0
	for round := range rounds {
		left := s.left()
		if round == 1 {
			repeated = left
		}
		if left == 0 {
			break
		}
		if err := s.round(ctx); err != nil {
			return Sizes{}, fmt.Errorf("probe from %s to %s: %w", p.From.Name, p.To.Name, err)
		}
	}
	return s.sizes(repeated), nil
}

type proberSocket struct {
	fd       int
	overhead int // of IP and UDP, bytes
	to       unix.Sockaddr
}

type prober struct {
	Probe
	socket proberSocket
	in     int
	fates  []fate
	token  uint64
	told   map[int]bool
	sent   int
}

// open returns a socket that sends every size with DF whatever the kernel believes to know of the
// path (IP_PMTUDISC_PROBE, ip(7)) and keeps the errors that come back, and one that receives.
func (p Probe) open() (out proberSocket, in int, err error) {
	if p.Min < headerBytes+48 || p.Max < p.Min || p.Max > 65535 {
		return out, 0, fmt.Errorf("probe sizes %d to %d: want %d to 65535", p.Min, p.Max, headerBytes+48)
	}
	in, port, err := openSocket(p.To)
	if err != nil {
		return out, 0, err
	}
	out.overhead, out.to = 28, sockaddr(p.To.Addr, port)
	level, discover, recverr := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_RECVERR
	if p.From.Addr.Is6() {
		out.overhead, level, discover, recverr = 48, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR
	}
	if out.fd, _, err = openSocket(p.From); err != nil {
		unix.Close(in)
		return out, 0, err
	}
	err = errors.Join(unix.SetsockoptInt(out.fd, level, discover, unix.IP_PMTUDISC_PROBE), unix.SetsockoptInt(out.fd, level, recverr, 1))
	if err != nil {
		unix.Close(in)
		unix.Close(out.fd)
		return out, 0, fmt.Errorf("prepare a socket on %s for probing: %w", p.From.Name, err)
	}
	return out, in, nil
}

func (s *prober) left() (n int) {
	for _, f := range s.fates {
		if f == unknown {
			n++
		}
	}
	return n
}

// round sends every size of which nothing is known.
func (s *prober) round(ctx context.Context) error {
	b := make([]byte, s.Max)
	binary.NativeEndian.PutUint64(b, s.token)
	burst := 0
	for i := range s.fates {
		if s.fates[i] != unknown {
			continue
		}
		if err := s.send(b, i); err != nil {
			return err
		}
		if s.fates[i] == refused {
			continue // nothing left the host
		}
		if burst++; burst%probeBurst == 0 {
			time.Sleep(probePause)
			s.collect()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	for end := time.Now().Add(probeWait); s.left() > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		s.collect()
	}
	return nil
}

// send sends one size. An error that an earlier packet brought back is reported by the next call
// (udp(7)); only when the kernel queued an error of its own was it this packet that was refused.
func (s *prober) send(b []byte, i int) error {
	size := s.Min + i
	binary.NativeEndian.PutUint64(b[8:], uint64(size))
	for range 100 {
		err := unix.Sendto(s.socket.fd, b[:size-s.socket.overhead], unix.MSG_DONTWAIT, s.socket.to)
		switch {
		case err == nil:
			s.sent++
			return nil
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS):
			time.Sleep(time.Millisecond)
		case errors.Is(err, unix.EMSGSIZE):
			if s.errors() {
				s.sent++
				s.fates[i] = refused
				return nil
			}
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("send %d bytes: %w", size, err)
		}
	}
	return fmt.Errorf("send %d bytes: the socket does not take them", size)
}

// collect notes what arrived and what was answered.
func (s *prober) collect() {
	s.errors()
	b := make([]byte, s.Max)
	for {
		n, _, err := unix.Recvfrom(s.in, b, unix.MSG_DONTWAIT)
		if err != nil {
			return
		}
		if i, ok := s.index(b[:n]); ok && n+s.socket.overhead == s.Min+i {
			s.fates[i] = delivered
		}
	}
}

// index returns which size a payload, perhaps cut short, belongs to.
func (s *prober) index(b []byte) (int, bool) {
	if len(b) < 16 || binary.NativeEndian.Uint64(b) != s.token {
		return 0, false
	}
	i := int(binary.NativeEndian.Uint64(b[8:])) - s.Min
	return i, i >= 0 && i < len(s.fates)
}

// errors empties the socket's error queue and notes the sizes that were answered. It tells whether
// the sender's own kernel refused one.
func (s *prober) errors() (local bool) {
	data, control := make([]byte, 512), make([]byte, 256)
	for {
		n, cn, _, _, err := unix.Recvmsg(s.socket.fd, data, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return local
		}
		e, ok := extendedError(control[:cn])
		if !ok || e.Errno != uint32(unix.EMSGSIZE) {
			continue
		}
		if e.Origin == unix.SO_EE_ORIGIN_LOCAL {
			local = true
			continue
		}
		// A router's answer quotes the packet.
		if i, ok := s.index(data[:n]); ok && s.fates[i] == unknown {
			s.fates[i] = answered
			s.told[int(e.Info)] = true
		}
	}
}

func extendedError(control []byte) (unix.SockExtendedErr, bool) {
	all, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return unix.SockExtendedErr{}, false
	}
	for _, m := range all {
		v4 := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if (v4 || v6) && len(m.Data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			return *(*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0])), true
		}
	}
	return unix.SockExtendedErr{}, false
}

func (s *prober) sizes(repeated int) Sizes {
	r := Sizes{From: s.From.Name, To: s.To.Name, Probed: len(s.fates), Sent: s.sent}
	for i, f := range s.fates {
		size := s.Min + i
		switch f {
		case delivered:
			r.Delivered++
			r.Largest = size
		case refused:
			r.Local++
		case answered:
			r.Answered++
		case unknown:
			r.Vanished = append(r.Vanished, size)
		}
		if (f == refused || f == answered) && r.Smallest == 0 {
			r.Smallest = size
		}
	}
	r.Repeated = repeated - len(r.Vanished)
	for mtu := range s.told {
		r.Told = append(r.Told, mtu)
	}
	slices.Sort(r.Told)
	return r
}

// String prints one line.
func (r Sizes) String() string {
	s := fmt.Sprintf("%s to %s: of %d sizes %d delivered (up to %d), %d answered by a router %v, %d refused by the own kernel, %d after another packet, %d vanished",
		r.From, r.To, r.Probed, r.Delivered, r.Largest, r.Answered, r.Told, r.Local, r.Repeated, len(r.Vanished))
	if len(r.Vanished) > 0 {
		s += fmt.Sprintf(" (%d to %d)", r.Vanished[0], r.Vanished[len(r.Vanished)-1])
	}
	return s
}

package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

const (
	tcpInterval = 20 * time.Millisecond
	tcpChunk    = 2048 // bytes each interval
	cookieEvery = 512  // bytes: so that every full segment holds a Cookie
	// tcpPatience is how long a stream may need to deliver its last byte.
	tcpPatience = 15 * time.Second
)

// content is what every stream carries, again and again. Its length is a prime, so that a piece
// that was left out or came twice is seen wherever it was cut.
var content = func() []byte {
	b := make([]byte, 65521)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	for at := 0; at+len(Cookie) <= len(b); at += cookieEvery {
		copy(b[at:], Cookie)
	}
	return b
}()

// tcpRun is one TCP stream for each pair.
type tcpRun struct {
	streams []*tcpStream // by pair
}

type tcpStream struct {
	out, in net.Conn
	result  Stream
	writeMu sync.Mutex // of result.Sent and the writer's error
	wrote   error
}

func openTCP(ctx context.Context, c Config, pairs []pairOf) (_ *tcpRun, err error) {
	r := &tcpRun{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	listeners := make([]net.Listener, len(c.Hosts))
	defer func() {
		for _, l := range listeners {
			if l != nil {
				_ = l.Close()
			}
		}
	}()
	for i, h := range c.Hosts {
		err := kernel.Do(h.Netns, func() (err error) {
			listeners[i], err = net.Listen("tcp", netip.AddrPortFrom(h.Addr, 0).String())
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("traffic: listen on %s: %w", h.Name, err)
		}
	}
	for _, p := range pairs {
		s, err := connect(ctx, c.Hosts[p.from], listeners[p.to], c.Warm)
		if err != nil {
			return nil, fmt.Errorf("traffic: TCP from %s to %s: %w", c.Hosts[p.from].Name, c.Hosts[p.to].Name, err)
		}
		r.streams = append(r.streams, s)
	}
	return r, nil
}

// connect makes one stream. The accepting end is the next connection of that listener, since they
// are made one after the other.
func connect(ctx context.Context, from Host, l net.Listener, limit time.Duration) (*tcpStream, error) {
	s := &tcpStream{}
	// One literal address: with two to try, or a name to look up, the socket would be opened by
	// another goroutine, in another namespace.
	d := net.Dialer{Timeout: limit, LocalAddr: &net.TCPAddr{IP: from.Addr.AsSlice()}}
	err := kernel.Do(from.Netns, func() (err error) {
		s.out, err = d.DialContext(ctx, "tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return nil, err
	}
	err = l.(*net.TCPListener).SetDeadline(time.Now().Add(limit))
	if err == nil {
		s.in, err = l.Accept()
	}
	if err != nil {
		_ = s.out.Close()
		return nil, err
	}
	return s, nil
}

func (r *tcpRun) close() {
	for _, s := range r.streams {
		_ = s.out.Close()
		_ = s.in.Close()
	}
}

// start lets the streams flow until stop is closed; done is released when each is at its end.
func (r *tcpRun) start(stop <-chan struct{}, done *sync.WaitGroup) {
	for _, s := range r.streams {
		done.Add(2)
		go func() {
			defer done.Done()
			s.write(stop)
		}()
		go func() {
			defer done.Done()
			s.read()
		}()
	}
}

// write sends a chunk each interval; after stop it sends the end, which the reader waits for.
func (s *tcpStream) write(stop <-chan struct{}) {
	tick := time.NewTicker(tcpInterval)
	defer tick.Stop()
	var sent uint64
	var err error
	for err == nil && !closed(stop) {
		from := sent % uint64(len(content))
		var n int
		_ = s.out.SetWriteDeadline(time.Now().Add(tcpPatience))
		n, err = s.out.Write(content[from:min(from+tcpChunk, uint64(len(content)))])
		sent += uint64(n)
		select {
		case <-stop:
		case <-tick.C:
		}
	}
	_ = s.in.SetReadDeadline(time.Now().Add(tcpPatience))
	if tcp, ok := s.out.(*net.TCPConn); ok && err == nil {
		err = tcp.CloseWrite()
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.result.Sent, s.wrote = sent, err
	s.result.Retransmissions = retransmissions(s.out)
}

// read checks every byte and notes the longest silence.
func (s *tcpStream) read() {
	buf := make([]byte, 16<<10)
	last := time.Now()
	for {
		n, err := s.in.Read(buf)
		if now := time.Now(); n > 0 {
			s.result.LongestGap = max(s.result.LongestGap, now.Sub(last))
			last = now
			if bad := compare(buf[:n], s.result.Received); bad >= 0 {
				s.result.Err = fmt.Errorf("byte %d is not the one that was sent", s.result.Received+uint64(bad))
			}
			s.result.Received += uint64(n)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && s.result.Err == nil {
				s.result.Err = fmt.Errorf("after %d bytes: %w", s.result.Received, err)
			}
			return
		}
	}
}

// compare returns the index of the first byte of b that differs from the content at offset, or -1.
func compare(b []byte, offset uint64) int {
	for at := 0; at < len(b); {
		from := (offset + uint64(at)) % uint64(len(content))
		n := min(len(b)-at, len(content)-int(from))
		if !bytes.Equal(b[at:at+n], content[from:int(from)+n]) {
			for i := range n {
				if b[at+i] != content[int(from)+i] {
					return at + i
				}
			}
		}
		at += n
	}
	return -1
}

// retransmissions asks the kernel how many segments were sent again (tcpi_total_retrans, tcp(7)).
func retransmissions(c net.Conn) int {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = int(info.Total_retrans)
		}
	})
	return n
}

func (r *tcpRun) report(rep *Report) {
	for i, s := range r.streams {
		res := s.result
		switch {
		case res.Err != nil:
		case s.wrote != nil:
			res.Err = fmt.Errorf("after %d bytes: %w", res.Sent, s.wrote)
		case res.Received != res.Sent:
			res.Err = fmt.Errorf("%d of %d bytes arrived", res.Received, res.Sent)
		}
		rep.Pairs[i].TCP = &res
	}
	r.close()
}

package sctp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/sctp"
)

// userConn is an association of pion's, of which stream 0 is used.
type userConn struct {
	*sctp.Stream
	association *sctp.Association
}

// Close sends what is left and ends the association.
func (c userConn) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for c.BufferedAmount() > 0 && ctx.Err() == nil { // Shutdown would lose it
		time.Sleep(2 * time.Millisecond)
	}
	if err := c.association.Shutdown(ctx); err != nil {
		_ = c.association.Close() // the peer did not answer in time: it is over all the same
	}
	return nil
}

// associate shakes hands over w, as the one who begins or as the other.
func associate(w *wire, begin func(sctp.Config) (*sctp.Association, error)) (*SCTPConn, error) {
	a, err := begin(sctp.Config{NetConn: w, LoggerFactory: logging.NewDefaultLoggerFactory()})
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	s, err := a.OpenStream(0, sctp.PayloadTypeWebRTCBinary)
	if err != nil { // the peer's first data have opened it
		if s, err = a.AcceptStream(); err != nil {
			_ = w.Close()
			return nil, err
		}
	}
	return &SCTPConn{userConn{s, a}, &SCTPAddr{[]net.IPAddr{*w.peer}, int(w.remote)}}, nil
}

func dialUser(to *SCTPAddr) (*SCTPConn, error) {
	raw, err := net.DialIP(network, nil, &to.IPAddrs[0])
	if err != nil {
		return nil, fmt.Errorf("raw socket of SCTP: %w", err)
	}
	w := newWire(&to.IPAddrs[0], uint16(32768+rand.IntN(28000)), uint16(to.Port))
	w.send = raw.Write
	w.gone = func() { _ = raw.Close() }
	go func() {
		b := make([]byte, maxPacket)
		for {
			n, _, err := raw.ReadFromIP(b) // Read would leave the IP header
			if err != nil {
				w.fail(err) // such as ICMP's port or protocol unreachable
				return
			}
			if p, ok := parse(b[:n]); ok && p.from == w.remote && p.to == w.local {
				w.take(p)
			}
		}
	}()
	return associate(w, sctp.Client)
}

// listener has the associations of a port.
type listener struct {
	raw   *net.IPConn
	port  uint16
	ready chan *SCTPConn

	mu    sync.Mutex
	wires map[string]*wire // by the peer's address and port
}

func listenUser(at *SCTPAddr) (*SCTPListener, error) {
	raw, err := net.ListenIP(network, &net.IPAddr{IP: net.IPv4zero})
	if err != nil {
		return nil, fmt.Errorf("raw socket of SCTP: %w", err)
	}
	l := &listener{raw: raw, port: uint16(at.Port), ready: make(chan *SCTPConn, 128), wires: map[string]*wire{}}
	go l.read()
	accept := func() (*SCTPConn, error) {
		c, ok := <-l.ready
		if !ok {
			return nil, net.ErrClosed
		}
		return c, nil
	}
	return &SCTPListener{accept, raw.Close}, nil
}

// read hands every packet to its association, and makes one for each INIT of somebody unknown.
func (l *listener) read() {
	defer close(l.ready)
	b := make([]byte, maxPacket)
	for {
		n, from, err := l.raw.ReadFromIP(b)
		if err != nil {
			return
		}
		p, ok := parse(b[:n])
		if !ok || p.to != l.port {
			continue
		}
		key := fmt.Sprintf("%v %d", from.IP, p.from)
		l.mu.Lock()
		w := l.wires[key]
		if w == nil && p.isInit {
			w = l.begin(key, from, p.from)
		}
		l.mu.Unlock()
		if w != nil {
			w.take(p)
		}
	}
}

func (l *listener) begin(key string, from *net.IPAddr, port uint16) *wire {
	w := newWire(from, l.port, port)
	w.send = func(b []byte) (int, error) { return l.raw.WriteToIP(b, from) }
	w.gone = func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wires, key)
	}
	l.wires[key] = w
	limit := time.AfterFunc(10*time.Second, func() { _ = w.Close() }) // whoever begins and says no more
	go func() {
		c, err := associate(w, sctp.Server)
		if limit.Stop() && err == nil {
			l.ready <- c
		}
	}()
	return w
}

package userspace

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

const (
	// answerTime is how long an initiation of the other end waits for the answer to this one's: longer than
	// most round trips, and short beside the 5 s after which either end tries again.
	answerTime = 250 * time.Millisecond
	// readTime is how long one of this end waits for the device to answer one that it just got.
	readTime = 50 * time.Millisecond
)

// crossing is a bind that decides between two handshakes that cross. Each end would answer the other's
// initiation and thereby forget its own, so that it understands no answer; both try again 5 s later and,
// where there is traffic both ways, at the same moment. So the initiation with the lower ephemeral key
// goes first: the end that sent it keeps the other for as long as an answer may take. And an end that just
// got one does not send its own before the device had the time to answer.
type crossing struct {
	conn.Bind

	mu    sync.Mutex
	turns map[netip.AddrPort]*turn
	late  chan message // of what is received after all; nil while closed
}

// turn is a handshake with one address in which one end waits for the other.
type turn struct {
	sent     []byte   // this end's initiation, not answered yet; nil when it is the other end's turn
	kept     *message // the other end's, which waits
	unsent   *message // this end's, which waits
	answered bool     // the other end's, which thereby won
}

type message struct {
	packet []byte
	peer   conn.Endpoint
}

func newCrossing(b conn.Bind) *crossing {
	return &crossing{Bind: b, turns: map[netip.AddrPort]*turn{}}
}

// Open adds a function that receives what was kept.
func (c *crossing) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := c.Bind.Open(port)
	if err != nil {
		return nil, 0, err
	}
	late := make(chan message, 128)
	c.mu.Lock()
	c.late = late
	c.mu.Unlock()
	for i, receive := range fns {
		fns[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, eps)
			for j := range n {
				if !c.passes(message{packets[j][:sizes[j]], eps[j]}) {
					sizes[j] = 0
				}
			}
			return n, err
		}
	}
	return append(fns, func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		m, ok := <-late
		if !ok {
			return 0, net.ErrClosed
		}
		sizes[0], eps[0] = copy(packets[0], m.packet), m.peer
		return 1, nil
	}), actual, nil
}

// Close forgets what was kept.
func (c *crossing) Close() error {
	c.mu.Lock()
	if c.late != nil {
		close(c.late)
	}
	c.late = nil
	clear(c.turns)
	c.mu.Unlock()
	return c.Bind.Close()
}

// Send sends packets; of an initiation whose turn it is not, that is later, or never.
func (c *crossing) Send(bufs [][]byte, ep conn.Endpoint) error {
	if len(bufs) == 1 && !c.begins(message{bufs[0], ep}) {
		return nil
	}
	return c.Bind.Send(bufs, ep)
}

// is tells whether a packet is a message of a type that has but one size (the WireGuard paper, section 5.4).
func (m message) is(kind uint32, size int) bool {
	return len(m.packet) == size && binary.LittleEndian.Uint32(m.packet) == kind
}

func (m message) initiation() bool {
	return m.is(device.MessageInitiationType, device.MessageInitiationSize)
}

func (m message) response() bool {
	return m.is(device.MessageResponseType, device.MessageResponseSize)
}

func (m message) clone() *message { return &message{bytes.Clone(m.packet), m.peer} }

// address is invalid where there is none.
func (m message) address() netip.AddrPort {
	a, _ := netip.ParseAddrPort(m.peer.DstToString())
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// begins tells whether a packet of this end is sent now.
func (c *crossing) begins(m message) bool {
	if !m.initiation() && !m.response() {
		return true
	}
	to := m.address()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.turns[to]
	switch {
	case m.response():
		c.take(to, &turn{answered: true}, readTime)
	case t != nil && t.answered: // made at the same moment: it would undo what the answer did
		return false
	case t != nil && t.sent == nil:
		t.unsent = m.clone()
		return false
	default:
		c.take(to, &turn{sent: bytes.Clone(m.packet)}, answerTime)
	}
	return true
}

// take notes whose turn it is for a time; it is called with mu held.
func (c *crossing) take(peer netip.AddrPort, t *turn, d time.Duration) {
	c.turns[peer] = t
	time.AfterFunc(d, func() { c.end(peer, t) })
}

// end ends a turn in which nothing was answered.
func (c *crossing) end(peer netip.AddrPort, t *turn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turns[peer] != t {
		return
	}
	delete(c.turns, peer)
	switch {
	case c.late == nil: // closed meanwhile: nothing is received and nothing can be sent
	case t.kept != nil:
		select {
		case c.late <- *t.kept:
		default: // the other end will try again
		}
	case t.unsent != nil:
		c.take(peer, &turn{sent: t.unsent.packet}, answerTime)
		_ = c.Bind.Send([][]byte{t.unsent.packet}, t.unsent.peer) // if not, the device will try again
	}
}

// passes tells whether a packet of the other end is for the device now.
func (c *crossing) passes(m message) bool {
	if !m.initiation() && !m.response() {
		return true
	}
	from := m.address()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.turns[from]
	switch {
	case m.response():
		if t != nil && t.sent != nil && bytes.Equal(t.sent[4:8], m.packet[8:12]) { // sender and receiver
			delete(c.turns, from)
		}
	case t == nil || t.answered || t.sent != nil && bytes.Compare(t.sent[8:40], m.packet[8:40]) > 0: // by ephemeral key
		c.take(from, &turn{}, readTime)
	case t.sent != nil:
		t.kept = m.clone()
		return false
	}
	return true
}

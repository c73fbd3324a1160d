package sctp

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"sync"
	"time"
)

const (
	network   = "ip4:132"
	maxPacket = 65536
	header    = 12   // RFC 9260 3.1: ports, verification tag, checksum
	pionPort  = 5000 // what pion/sctp has for both ports, since it is made for tunnels
	chunkInit = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum writes that of RFC 9260 6.8 into a packet.
func checksum(b []byte) {
	clear(b[8:12])
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
}

// packet is one that came, with pion's ports.
type packet struct {
	from, to uint16
	isInit   bool
	bytes    []byte
}

// parse copies a packet whose checksum is right.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < header+4 {
		return p, false
	}
	p = packet{binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), b[header] == chunkInit, append([]byte(nil), b...)}
	checksum(p.bytes)
	if [4]byte(p.bytes[8:12]) != [4]byte(b[8:12]) {
		return p, false
	}
	setPorts(p.bytes, pionPort, pionPort)
	return p, true
}

func setPorts(b []byte, from, to uint16) {
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	checksum(b)
}

// wire is the net.Conn that pion/sctp has for one association: it knows the ports.
type wire struct {
	peer          *net.IPAddr
	local, remote uint16
	send          func([]byte) (int, error)
	gone          func()

	in     chan []byte
	closed chan struct{}
	once   sync.Once
	err    error // set before closed is
}

func newWire(peer *net.IPAddr, local, remote uint16) *wire {
	return &wire{peer: peer, local: local, remote: remote, in: make(chan []byte, 256), closed: make(chan struct{}), err: net.ErrClosed}
}

// take gives a packet to the association, or loses it, as a network does.
func (w *wire) take(p packet) {
	select {
	case w.in <- p.bytes:
	default:
	}
}

func (w *wire) fail(err error) {
	w.once.Do(func() { w.err = err; close(w.closed); w.gone() })
}

// Read is the next packet.
func (w *wire) Read(b []byte) (int, error) {
	select {
	case p := <-w.in:
		return copy(b, p), nil
	case <-w.closed:
		return 0, w.err
	}
}

// Write sends a packet.
func (w *wire) Write(b []byte) (int, error) {
	b = append([]byte(nil), b...)
	setPorts(b, w.local, w.remote)
	return w.send(b)
}

func (w *wire) Close() error                     { w.fail(net.ErrClosed); return nil }
func (w *wire) LocalAddr() net.Addr              { return &SCTPAddr{[]net.IPAddr{{}}, int(w.local)} }
func (w *wire) RemoteAddr() net.Addr             { return &SCTPAddr{[]net.IPAddr{*w.peer}, int(w.remote)} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

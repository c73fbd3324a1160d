package load

import (
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
)

const (
	// bufferBytes is what one read or write of a stream takes at most.
	bufferBytes = 256 << 10
	batch       = 64 // packets of one system call

	packetHeader = keyBytes + 1 // the session's key, and the kind
	kindCount    = 0
	kindEcho     = 1

	maxPacket = 65507 // payload of a UDP packet over IPv4
)

func echo(c net.Conn, size int) {
	b := make([]byte, size)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// messages are buffers for one system call. The type is x/net's for both families.
func messages(n, size int) []ipv4.Message {
	all := make([]ipv4.Message, n)
	for i := range all {
		all[i].Buffers = [][]byte{make([]byte, size)}
	}
	return all
}

// servePackets counts and echoes the packets of sessions. What has no session's key, or comes from another address than
// the session's client, is left unanswered.
func (s *Server) servePackets(c *net.UDPConn) {
	in := messages(batch, maxPacket)
	conn := ipv4.NewPacketConn(c)
	for {
		n, err := conn.ReadBatch(in, 0)
		if err != nil {
			if isClosed(err) {
				return
			}
			continue // an ICMP error of a packet that was echoed
		}
		var last *session
		var lastKey [keyBytes]byte
		for i := range in[:n] {
			b := in[i].Buffers[0][:in[i].N]
			if len(b) < packetHeader {
				continue
			}
			key := [keyBytes]byte(b)
			if last == nil || key != lastKey {
				s.mu.Lock()
				last, lastKey = s.sessions[key], key
				s.mu.Unlock()
			}
			if last != nil && udpFrom(in[i].Addr) == last.from {
				last.packet(c, b, in[i].Addr)
			}
		}
	}
}

func udpFrom(a net.Addr) netip.Addr {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return u.AddrPort().Addr().Unmap()
}

func (ses *session) packet(c *net.UDPConn, b []byte, from net.Addr) {
	switch b[keyBytes] {
	case kindCount:
		ses.packets.Add(1)
	case kindEcho:
		_, _ = c.WriteTo(b, from)
	}
}

package flows

import (
	"encoding/binary"
	"net/netip"

	"weft/model"
)

// mostHeaders is how many IPv6 extension headers are followed. A packet with more is of no protocol
// that we name: never taken for TCP or UDP.
const mostHeaders = 8

// The next headers that are followed or end a packet (RFC 8200, RFC 4302).
const (
	hopByHop     = 0
	routing      = 43
	fragment     = 44
	authHeader   = 51
	noNext       = 59
	destinations = 60
)

// packet is what the headers of a packet say. Ports, types and codes are there when HasPorts or HasICMP.
type packet struct {
	Src, Dst           netip.Addr
	Protocol           model.Protocol
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
	HasPorts, HasICMP  bool
	Fragment           bool // not the first one: without ports
}

// parse reads a packet from its IP header on, of which only the beginning may be there. ok is false when
// there are not even addresses.
func parse(b []byte) (p packet, ok bool) {
	if len(b) == 0 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return p, false
}

func parse4(b []byte) (p packet, ok bool) {
	const least = 20
	size := int(b[0]&15) * 4
	if len(b) < least || size < least {
		return p, false
	}
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	p.Protocol = model.Protocol(b[9])
	p.Fragment = binary.BigEndian.Uint16(b[6:])&0x1fff != 0
	if !p.Fragment && size <= len(b) {
		p.transport(b[size:], model.ICMP)
	}
	return p, true
}

func parse6(b []byte) (p packet, ok bool) {
	const size = 40
	if len(b) < size {
		return p, false
	}
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	next, rest := b[6], b[size:]
	for range mostHeaders {
		length := 0
		switch next {
		case hopByHop, routing, destinations:
			if len(rest) >= 2 {
				length = (int(rest[1]) + 1) * 8
			}
		case authHeader:
			if len(rest) >= 2 {
				length = (int(rest[1]) + 2) * 4
			}
		case fragment:
			length = 8
			if len(rest) >= length && binary.BigEndian.Uint16(rest[2:])&^7 != 0 {
				p.Fragment = true
				p.Protocol = model.Protocol(rest[0])
				return p, true
			}
		default:
			p.Protocol = model.Protocol(next)
			p.transport(rest, model.ICMPv6)
			return p, true
		}
		if length == 0 || len(rest) < length {
			p.Protocol = model.Protocol(next)
			return p, true
		}
		next, rest = rest[0], rest[length:]
	}
	p.Protocol = noNext
	return p, true
}

// transport reads the ports, or the type and code of the family's own ICMP.
func (p *packet) transport(b []byte, icmp model.Protocol) {
	switch {
	case p.Protocol.HasPorts() && len(b) >= 4:
		p.SrcPort, p.DstPort, p.HasPorts = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), true
	case p.Protocol == icmp && len(b) >= 2:
		p.ICMPType, p.ICMPCode, p.HasICMP = b[0], b[1], true
	}
}

package wire

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"

	"weft/model"
)

// magic begins what each packet carries; its number follows. Together with where they stand they tell
// a packet of ours from whatever the kernel answers.
const (
	magic  = "weftwire"
	idSize = len(magic) + 8
)

// number finds the number of a packet of ours from its payload behind the IP header.
func number(p model.Protocol, payload []byte) (uint64, bool) {
	at := len(header(p)) // before the magic
	if len(payload) < at+idSize || string(payload[at:at+len(magic)]) != magic {
		return 0, false
	}
	return binary.BigEndian.Uint64(payload[at+len(magic):]), true
}

// header is as much room as a protocol's own header takes.
func header(p model.Protocol) []byte {
	switch p {
	case model.TCP:
		return make([]byte, 20)
	case model.SCTP:
		return make([]byte, 12+20+4) // common header, INIT, and a parameter that it carries
	}
	return make([]byte, 8)
}

// transport builds what is behind the IP header: the first packet of a connection. pad is how many bytes
// follow the number.
func transport(p *model.Packet, id uint64, pad int) []byte {
	h := header(p.Protocol)
	b := append(binary.BigEndian.AppendUint64(append(h, magic...), id), make([]byte, pad)...)
	put := binary.BigEndian
	if p.Protocol.HasPorts() || p.Protocol == model.UDPLite {
		put.PutUint16(b, p.SrcPort)
		put.PutUint16(b[2:], p.DstPort)
	}
	switch p.Protocol {
	case model.TCP:
		b[12], b[13] = 5<<4, 2 // SYN
		put.PutUint16(b[14:], 1<<15)
		put.PutUint16(b[16:], checksum(p, b))
	case model.UDP, model.UDPLite:
		put.PutUint16(b[4:], uint16(len(b)))
		put.PutUint16(b[6:], checksum(p, b))
	case model.ICMP, model.ICMPv6:
		b[0], b[1] = p.ICMPType, p.ICMPCode
		put.PutUint16(b[4:], uint16(id))
		put.PutUint16(b[6:], uint16(id>>16))
		put.PutUint16(b[2:], checksum(p, b))
	case model.SCTP:
		b[12] = 1 // INIT
		put.PutUint16(b[14:], uint16(len(b)-12))
		put.PutUint32(b[16:], 1)       // initiate tag
		put.PutUint32(b[20:], 1<<16)   // window
		put.PutUint32(b[24:], 1<<16|1) // streams
		put.PutUint16(b[32:], 0xc000)  // a parameter to skip
		put.PutUint16(b[34:], uint16(4+idSize+pad))
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	}
	return b
}

// checksum is the Internet checksum (RFC 1071) with the pseudo header, but for ICMP over IPv4.
func checksum(p *model.Packet, b []byte) uint16 {
	var sum uint32
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		if len(b)%2 == 1 {
			sum += uint32(b[len(b)-1]) << 8
		}
	}
	add(b)
	if p.Protocol != model.ICMP {
		add(p.Src.AsSlice())
		add(p.Dst.AsSlice())
		protocol := p.Protocol
		if protocol == model.UDPLite {
			protocol = model.UDP // as the kernel's connection tracking has it; other sums are invalid to it
		}
		sum += uint32(protocol) + uint32(len(b))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	if s := ^uint16(sum); s != 0 {
		return s
	}
	return 0xffff
}

// network puts the IP header before what transport built. class is the type of service or traffic
// class, by which the node under test routes.
func network(p *model.Packet, class byte, payload []byte) []byte {
	put := binary.BigEndian
	if p.Src.Is4() {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[1], b[8], b[9] = 0x45, class, 64, byte(p.Protocol)
		put.PutUint16(b[2:], uint16(20+len(payload)))
		copy(b[12:], p.Src.AsSlice())
		copy(b[16:], p.Dst.AsSlice())
		put.PutUint16(b[10:], checksum(&model.Packet{Protocol: model.ICMP}, b))
		return append(b, payload...)
	}
	b := make([]byte, 40, 40+len(payload))
	put.PutUint32(b, 6<<28|uint32(class)<<20)
	put.PutUint16(b[4:], uint16(len(payload)))
	b[6], b[7] = byte(p.Protocol), 64
	copy(b[8:], p.Src.AsSlice())
	copy(b[24:], p.Dst.AsSlice())
	return append(b, payload...)
}

// parse finds what a frame's IP packet carries.
func parse(packet []byte) (src, dst netip.Addr, p model.Protocol, payload []byte, ok bool) {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		n := int(packet[0]&15) * 4
		if n < 20 || n > len(packet) {
			return
		}
		return netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:])), model.Protocol(packet[9]), packet[n:], true
	case len(packet) >= 40 && packet[0]>>4 == 6:
		next, rest := packet[6], packet[40:]
		for len(rest) >= 8 && (next == extDestination || next == extFragment) {
			n := 8
			if next == extDestination {
				n += 8 * int(rest[1])
			}
			if n > len(rest) {
				return
			}
			next, rest = rest[0], rest[n:]
		}
		return netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:])), model.Protocol(next), rest, true
	}
	return
}

package userspace

import "encoding/binary"

const (
	headerIPv6 = 40
	headerUDP  = 8
	protoUDP   = 17
)

// mendChecksum corrects a packet of UDP over IPv6 whose checksum was computed as 0, which must be sent as
// 0xffff (RFC 8200, section 8.1): receivers drop the other, one packet of 65,536. The library computes
// checksums that the kernel left to it and sends 0. A packet that has none on purpose (RFC 6935) stays as
// it is. One with extension headers is left alone.
func mendChecksum(p []byte) {
	if len(p) < headerIPv6+headerUDP || p[0]>>4 != 6 || p[6] != protoUDP || p[46] != 0 || p[47] != 0 {
		return
	}
	if sumUDP(p) == 0xffff { // of which the checksum is the complement
		p[46], p[47] = 0xff, 0xff
	}
}

// sumUDP is the one's complement sum of the pseudo header and what follows it (RFC 8200, section 8.1).
func sumUDP(p []byte) uint16 {
	sum := uint32(len(p)-headerIPv6) + protoUDP
	for b := p[8:]; len(b) > 0; b = b[2:] { // from the addresses to the end
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
			break
		}
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

package ipip

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// packet is an IPIP packet as somebody might craft it. What is zero is as it should be.
type packet struct {
	outerSrc, outerDst netip.Addr
	src, dst           netip.Addr // inner
	tos, innerTOS      byte
	payload            int // bytes of inner UDP

	outerFlags uint16 // 0 is DF
	options    int    // words of outer options
	badSum     bool   // of the outer header
	outerExtra int    // is added to the outer length field
	innerFirst byte   // version and IHL of the inner header
	innerExtra int    // is added to the inner length field
	trailer    int    // bytes after the outer packet, as Ethernet pads
	cut        int    // bytes taken off the end, the outer length says so
}

func sum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func ipHeader(first, tos byte, length int, flags uint16, protocol byte, src, dst netip.Addr, options int) []byte {
	h := []byte{first, tos, 0, 0, 0x12, 0x34, 0, 0, 64, protocol, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	binary.BigEndian.PutUint16(h[6:], flags)
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	for range 4 * options {
		h = append(h, 1) // no operation
	}
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return h
}

// bytes returns the packet from the outer header on: inner UDP to port 9 without a checksum.
func (p packet) bytes() []byte {
	first := p.innerFirst
	if first == 0 {
		first = 0x45
	}
	inner := ipHeader(first, p.innerTOS, 28+p.payload+p.innerExtra, 0, unix.IPPROTO_UDP, p.src, p.dst, 0)
	inner = append(inner, 0, 9, 0, 9, byte((8+p.payload)>>8), byte(8+p.payload), 0, 0)
	inner = append(inner, make([]byte, p.payload)...)
	inner = inner[:len(inner)-p.cut]
	flags := p.outerFlags
	if flags == 0 {
		flags = 0x4000
	}
	header := 20 + 4*p.options
	outer := ipHeader(0x40|byte(header/4), p.tos, header+len(inner)+p.outerExtra, flags, unix.IPPROTO_IPIP, p.outerSrc, p.outerDst, p.options)
	if p.badSum {
		outer[10] ^= 0x55
	}
	return append(append(outer, inner...), make([]byte, p.trailer)...)
}

// inject sends n copies of each packet to the host, from the other end of its wire by Ethernet, so that
// nothing in between corrects or refuses them.
func inject(t *testing.T, to *host, n int, packets ...packet) {
	t.Helper()
	mac, own := linkMAC(t, to.NS, "eth0"), linkMAC(t, to.under, to.port)
	to.under.Do(t, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		index, err := indexOf(to.port)
		if err != nil {
			return err
		}
		for _, p := range packets {
			frame := append(append(append([]byte{}, mac...), own...), 8, 0)
			frame = append(frame, p.bytes()...)
			for range n {
				if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

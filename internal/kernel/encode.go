package kernel

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"weft/model"
)

// encoder builds the body of a netlink message: a fixed struct, then attributes.
type encoder struct{ b []byte }

func (e *encoder) raw(b ...byte) *encoder { e.b = append(e.b, b...); return e }

func (e *encoder) rawU32(v uint32) *encoder {
	e.b = binary.NativeEndian.AppendUint32(e.b, v)
	return e
}

// attr appends one attribute with its padding.
func (e *encoder) attr(typ uint16, v []byte) *encoder {
	e.b = binary.NativeEndian.AppendUint16(e.b, uint16(4+len(v)))
	e.b = binary.NativeEndian.AppendUint16(e.b, typ)
	e.b = append(e.b, v...)
	for len(e.b)%4 != 0 {
		e.b = append(e.b, 0)
	}
	return e
}

func (e *encoder) u32(typ uint16, v uint32) *encoder {
	return e.attr(typ, binary.NativeEndian.AppendUint32(nil, v))
}

func (e *encoder) addr(typ uint16, a netip.Addr) *encoder { return e.attr(typ, a.AsSlice()) }

func (e *encoder) mac(typ uint16, m model.MAC) *encoder { return e.attr(typ, m[:]) }

func (e *encoder) str(typ uint16, s string) *encoder { return e.attr(typ, append([]byte(s), 0)) }

// nest appends an attribute whose value is attributes.
func (e *encoder) nest(typ uint16, f func(*encoder)) *encoder {
	var inner encoder
	f(&inner)
	return e.attr(typ|unix.NLA_F_NESTED, inner.b)
}

// eachAttr calls f for every attribute in b, with the flag bits of the type taken off. It stops at
// the first one that is cut short.
func eachAttr(b []byte, f func(typ uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min(align4(n), len(b)):]
	}
}

func align4(n int) int { return (n + 3) &^ 3 }

// getU32 reads a native 32-bit attribute; one of another length reads as 0.
func getU32(v []byte) uint32 {
	if len(v) != 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

// getAddr reads an address attribute of 4 or 16 bytes; any other reads as invalid.
func getAddr(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

// getMAC reads a link-layer address of 6 bytes; any other reads as none.
func getMAC(v []byte) model.MAC {
	var m model.MAC
	if len(v) == len(m) {
		copy(m[:], v)
	}
	return m
}

func cString(v []byte) string {
	if i := bytes.IndexByte(v, 0); i >= 0 {
		v = v[:i]
	}
	return string(v)
}

// familyOf returns the kernel's number of an address's family.
func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

package conntrack

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/model"
)

// entry is one connection as the kernel tracks it.
type entry struct {
	src, dst         netip.Addr // of the first packet, before translation
	srcPort, dstPort uint16
	to               netip.Addr // where it went, as translated: what the other end answers from
	toPort           uint16
	protocol         model.Protocol
	icmpType         uint8
	icmpCode         uint8
	zone             bool // in a zone of somebody's: not ours to judge
	mark             uint32

	rawOrig, rawID []byte // of the buffer that the entry was read from
}

func (e *entry) held() bool { return e.mark&kernel.HeldMark != 0 }

// parse reads a message of ctnetlink; false when it is none of a whole entry.
//
// An entry with a master (a data connection that a helper expected) was let in as part of that one and
// is judged by it.
func (e *entry) parse(b []byte) bool {
	*e = entry{}
	if len(b) < 4 {
		return false
	}
	var reply, master tuple
	var orig tuple
	attrs(b[4:], func(typ uint16, v []byte) {
		switch typ {
		case attrOrig:
			orig.parse(v)
			e.rawOrig = v
		case attrReply:
			reply.parse(v)
		case attrMaster:
			master.parse(v)
		case attrMark:
			if len(v) == 4 {
				e.mark = binary.BigEndian.Uint32(v)
			}
		case attrID:
			e.rawID = v
		case attrZone:
			e.zone = true
		}
	})
	e.src, e.dst, e.srcPort, e.dstPort = orig.src, orig.dst, orig.srcPort, orig.dstPort
	e.protocol, e.icmpType, e.icmpCode = orig.protocol, orig.icmpType, orig.icmpCode
	e.to, e.toPort = reply.src, reply.srcPort
	e.zone = e.zone || orig.zone || reply.zone
	if master.src.IsValid() && master.dst.IsValid() {
		e.src, e.dst, e.srcPort, e.dstPort, e.protocol = master.src, master.dst, master.srcPort, master.dstPort, master.protocol
		e.to, e.toPort = master.dst, master.dstPort
	}
	return e.src.IsValid() && e.dst.IsValid() && e.to.IsValid() && len(e.rawID) == 4
}

type tuple struct {
	src, dst           netip.Addr
	protocol           model.Protocol
	srcPort, dstPort   uint16
	icmpType, icmpCode uint8
	zone               bool
}

func (t *tuple) parse(b []byte) {
	attrs(b, func(typ uint16, v []byte) {
		switch typ {
		case attrTupleIP:
			attrs(v, func(typ uint16, v []byte) {
				a, _ := netip.AddrFromSlice(v)
				switch typ { // CTA_IP_V4_SRC, V4_DST, V6_SRC, V6_DST
				case 1, 3:
					t.src = a
				case 2, 4:
					t.dst = a
				}
			})
		case attrTupleProto:
			attrs(v, t.parseProto)
		case attrTupleZone:
			t.zone = true
		}
	})
}

// parseProto reads what enum ctattr_l4proto lists.
func (t *tuple) parseProto(typ uint16, v []byte) {
	switch {
	case len(v) == 1 && typ == 1:
		t.protocol = model.Protocol(v[0])
	case len(v) == 2 && typ == 2:
		t.srcPort = binary.BigEndian.Uint16(v)
	case len(v) == 2 && typ == 3:
		t.dstPort = binary.BigEndian.Uint16(v)
	case len(v) == 1 && (typ == 5 || typ == 8):
		t.icmpType = v[0]
	case len(v) == 1 && (typ == 6 || typ == 9):
		t.icmpCode = v[0]
	}
}

// attrs calls f for every attribute in b, with the flag bits of the type taken off. It stops at the
// first one that is cut short.
func attrs(b []byte, f func(typ uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

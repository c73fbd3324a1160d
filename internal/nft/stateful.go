package nft

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Native is a number as the kernel keeps it in a register: in the machine's own byte order.
func Native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// InState matches packets whose connection is in one of the states, bits of expr.CtStateBit... Once a rule
// asks, the kernel tracks connections.
func InState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: regScratch},
		&expr.Bitwise{SourceRegister: regScratch, DestRegister: regScratch, Len: 4, Mask: Native(bits), Xor: Native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regScratch, Data: Native(0)},
	}
}

// Assured matches packets of connections that were answered and go on: TCP's handshake is over, or UDP went
// both ways for more than two seconds.
func Assured() []expr.Any {
	return append(InState(expr.CtStateBitESTABLISHED), withStatus(statusAssured)...)
}

// DestTranslated matches packets, of both directions, of connections whose destination is translated.
func DestTranslated() []expr.Any { return withStatus(statusDestTranslated) }

// IPS_ASSURED and IPS_DST_NAT of include/uapi/linux/netfilter/nf_conntrack_common.h.
const (
	statusAssured        = 1 << 2
	statusDestTranslated = 1 << 5
)

func withStatus(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: regScratch},
		&expr.Bitwise{SourceRegister: regScratch, DestRegister: regScratch, Len: 4, Mask: Native(bit), Xor: Native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regScratch, Data: Native(0)},
	}
}

// FromWhereItsSourceIs matches packets that came in by the device that the route to their source leads to.
func FromWhereItsSourceIs() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: regScratch, ResultOIF: true, FlagSADDR: true, FlagIIF: true, FlagPRESENT: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regScratch, Data: []byte{0}},
	}
}

// NotConnMarked matches packets whose connection's mark has none of the bits.
func NotConnMarked(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeyMARK, Register: regScratch},
		&expr.Bitwise{SourceRegister: regScratch, DestRegister: regScratch, Len: 4, Mask: Native(bits), Xor: Native(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regScratch, Data: Native(0)},
	}
}

// Marked matches packets with one of the bits in their mark.
func Marked(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regScratch},
		&expr.Bitwise{SourceRegister: regScratch, DestRegister: regScratch, Len: 4, Mask: Native(bits), Xor: Native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regScratch, Data: Native(0)},
	}
}

// SetMark makes the bits of field in a packet's mark those of bits, and leaves the others.
func SetMark(field, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regScratch},
		&expr.Bitwise{SourceRegister: regScratch, DestRegister: regScratch, Len: 4, Mask: Native(^field), Xor: Native(bits & field)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: regScratch},
	}
}

// Counted counts packets and bytes in the rule.
func Counted() []expr.Any { return []expr.Any{&expr.Counter{}} }

// NoTrack keeps the kernel from tracking the packet's connection. At priorities before conntrack's only.
func NoTrack() []expr.Any { return []expr.Any{&expr.Notrack{}} }

// AtMost matches so many packets a second, and burst at once.
func AtMost(perSecond uint64, burst uint32) []expr.Any {
	return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: perSecond, Unit: expr.LimitTimeSecond, Burst: burst}}
}

// LogTo sends the first snap bytes of the packet, with a prefix of at most 127 bytes, to an NFLOG group.
// Without a listener that costs next to nothing.
func LogTo(group uint16, snap uint32, prefix string) []expr.Any {
	return []expr.Any{&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
		Group: group, Snaplen: snap, Data: []byte(prefix)}}
}

// InRange matches a field from first to last, both included, in the packet's byte order.
func (f Field) InRange(first, last []byte) []expr.Any {
	return append(f.load(regScratch), &expr.Range{Op: expr.CmpOpEq, Register: regScratch, FromData: first, ToData: last})
}

// NotInRange is the opposite of InRange.
func (f Field) NotInRange(first, last []byte) []expr.Any {
	return append(f.load(regScratch), &expr.Range{Op: expr.CmpOpNeq, Register: regScratch, FromData: first, ToData: last})
}

// SourceMAC is the Ethernet address that a packet came from.
func SourceMAC() Field { return Payload(expr.PayloadBaseLLHeader, 6, 6) }

// ICMPType and ICMPTypeAndCode are those of ICMP and of ICMPv6.
func ICMPType() Field        { return Payload(expr.PayloadBaseTransportHeader, 0, 1) }
func ICMPTypeAndCode() Field { return Payload(expr.PayloadBaseTransportHeader, 0, 2) }

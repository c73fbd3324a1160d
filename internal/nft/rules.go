package nft

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/model"
)

// Registers. A comparison uses the first 16 bytes, a key all that it needs from there on, 4 bytes a
// register.
const (
	regScratch = unix.NFT_REG_1
	regKey     = unix.NFT_REG32_00
)

// Rule puts the parts of a rule together.
func Rule(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// Field is something of a packet that a rule can compare or look up.
type Field struct {
	Len  uint32 // bytes
	load func(reg uint32) []expr.Any
}

// Payload is length bytes of the packet from offset.
func Payload(base expr.PayloadBase, offset, length uint32) Field {
	return Field{length, func(reg uint32) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: reg, Base: base, Offset: offset, Len: length}}
	}}
}

// Meta is what the kernel knows about a packet, of a length in bytes that depends on the key.
func Meta(key expr.MetaKey, length uint32) Field {
	return Field{length, func(reg uint32) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: reg}} }}
}

// Fields that most owners need. A fragment that is not the first has no ports: rules about them do not
// match it.
func L4Proto() Field         { return Meta(expr.MetaKeyL4PROTO, 1) }
func DestPort() Field        { return Payload(expr.PayloadBaseTransportHeader, 2, 2) }
func SourcePort() Field      { return Payload(expr.PayloadBaseTransportHeader, 0, 2) }
func InputInterface() Field  { return Meta(expr.MetaKeyIIFNAME, unix.IFNAMSIZ) }
func OutputInterface() Field { return Meta(expr.MetaKeyOIFNAME, unix.IFNAMSIZ) }

// SourceAddr is the packet's source address. Without Family before it, it matches garbage of the other
// family.
func SourceAddr(f model.Family) Field {
	offset, length := SourceAt(f)
	return Payload(expr.PayloadBaseNetworkHeader, offset, length)
}

// DestAddr is the packet's destination address; see SourceAddr.
func DestAddr(f model.Family) Field {
	offset, length := SourceAt(f)
	return Payload(expr.PayloadBaseNetworkHeader, offset+length, length)
}

// SourceAt returns where the source address stands in an IP header, and its length; the destination
// follows it.
func SourceAt(f model.Family) (offset, length uint32) {
	if f == model.IPv4 {
		return 12, 4
	}
	return 8, 16
}

// Masked is the field cut by a mask of its length; a nil mask cuts nothing.
func (f Field) Masked(mask []byte) Field {
	if mask == nil {
		return f
	}
	return Field{f.Len, func(reg uint32) []expr.Any {
		return append(f.load(reg), &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: f.Len, Mask: mask, Xor: make([]byte, f.Len)})
	}}
}

// Is matches a field that begins with these bytes, in the packet's order. A name that is to match as a
// whole ends in a zero byte.
func (f Field) Is(b ...byte) []expr.Any { return f.compare(expr.CmpOpEq, b) }

// IsNot matches a field that does not begin with these bytes.
func (f Field) IsNot(b ...byte) []expr.Any { return f.compare(expr.CmpOpNeq, b) }

// IsAndIsNot matches a field that begins with is, but not with not; it is loaded once.
func (f Field) IsAndIsNot(is, not []byte) []expr.Any {
	return append(f.compare(expr.CmpOpEq, is), &expr.Cmp{Op: expr.CmpOpNeq, Register: regScratch, Data: not})
}

func (f Field) compare(op expr.CmpOp, b []byte) []expr.Any {
	return append(f.load(regScratch), &expr.Cmp{Op: op, Register: regScratch, Data: b})
}

// In matches when the fields together are a key of the set.
func In(set string, fields ...Field) []expr.Any {
	return append(key(fields), &expr.Lookup{SourceRegister: regKey, SetName: set})
}

// NotIn matches when the fields together are no key of the set.
func NotIn(set string, fields ...Field) []expr.Any {
	return append(key(fields), &expr.Lookup{SourceRegister: regKey, SetName: set, Invert: true})
}

// VerdictOf does what the verdict map says of the fields together; what it does not have goes on.
func VerdictOf(vmap string, fields ...Field) []expr.Any {
	return append(key(fields), &expr.Lookup{SourceRegister: regKey, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: vmap})
}

func key(fields []Field) []expr.Any {
	var e []expr.Any
	reg := uint32(regKey)
	for _, f := range fields {
		e = append(e, f.load(reg)...)
		reg += (f.Len + 3) / 4
	}
	return e
}

// Family matches packets of the family.
func Family(f model.Family) []expr.Any {
	proto := byte(unix.NFPROTO_IPV4)
	if f == model.IPv6 {
		proto = unix.NFPROTO_IPV6
	}
	return Meta(expr.MetaKeyNFPROTO, 1).Is(proto)
}

// Port returns a port as it stands in a packet.
func Port(p int) []byte { return []byte{byte(p >> 8), byte(p)} }

// PrefixMask returns the mask of a prefix length in an address of the family; nil when it cuts nothing.
func PrefixMask(f model.Family, bits int) []byte {
	_, n := SourceAt(f)
	if bits == int(n)*8 {
		return nil
	}
	m := make([]byte, n)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// Range is the element of an interval set that holds all of the prefix.
func Range(p netip.Prefix) nftables.SetElement {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return nftables.SetElement{Key: p.Addr().AsSlice(), KeyEnd: last}
}

// AddrType is the type of an address as a key.
func AddrType(f model.Family) nftables.SetDatatype {
	if f == model.IPv4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

// Count counts in a named counter.
func Count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

// Verdicts.
func Accept() []expr.Any           { return verdict(expr.VerdictAccept, "") }
func Drop() []expr.Any             { return verdict(expr.VerdictDrop, "") }
func Return() []expr.Any           { return verdict(expr.VerdictReturn, "") }
func Jump(chain string) []expr.Any { return verdict(expr.VerdictJump, chain) }
func GoTo(chain string) []expr.Any { return verdict(expr.VerdictGoto, chain) }

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

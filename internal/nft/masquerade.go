package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// MasqueradeTo gives a packet the source address of the interface that it leaves by, and a source port
// from first to last, chosen at random. It uses registers 1 and 2. For protocols with ports only.
func MasqueradeTo(first, last int) []expr.Any {
	const regFirst, regLast = unix.NFT_REG_1, unix.NFT_REG_2
	return []expr.Any{
		&expr.Immediate{Register: regFirst, Data: Port(first)},
		&expr.Immediate{Register: regLast, Data: Port(last)},
		masqueradeTo{&expr.Redir{RegisterProtoMin: regFirst, RegisterProtoMax: regLast,
			Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED | unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY}},
	}
}

// masqueradeTo is a masquerade with ports and flags. The library (v0.3.0) leaves the flags out when there
// are ports, and then the kernel ignores the ports. It is encoded as a redirect, whose message has the
// same layout and which the kernel refuses where masquerading is allowed; rename makes it what it stands
// for.
type masqueradeTo struct{ *expr.Redir }

// hasMasqueradeTo tells whether a rule needs renaming.
func hasMasqueradeTo(rule []expr.Any) bool {
	return slices.ContainsFunc(rule, func(e expr.Any) bool { _, is := e.(masqueradeTo); return is })
}

// renameLast makes the redirect in the last message that c has collected a masquerade. The messages are
// a private field of the library.
func renameLast(c *nftables.Conn) error {
	messages := reflect.ValueOf(c).Elem().FieldByName("messages")
	if messages.IsValid() && messages.Kind() == reflect.Slice && messages.Len() > 0 {
		data := messages.Index(messages.Len() - 1).FieldByName("Data")
		if data.IsValid() && data.Kind() == reflect.Slice && data.Type().Elem().Kind() == reflect.Uint8 && rename(data.Bytes()) {
			return nil
		}
	}
	return errors.New("nftables: cannot say masquerade with ports by this version of github.com/google/nftables")
}

// rename changes the one redirect in a rule's message, in place; false when there is none.
//
// Both are an attribute with the name and a nested one with three numbers. Those of a redirect are, in
// this order, ports from (1), to (2) and flags (3); those of a masquerade are flags (1), from (2), to (3)
// in any order (linux/netfilter/nf_tables.h).
func rename(message []byte) bool {
	const number = 8 // bytes of an attribute with a number: header 4, value 4
	name := []byte("redir\x00")
	at := bytes.Index(message, name)
	numbers := at + 8 + 4 // the name is padded; the header of the nested attribute follows
	if at < 0 || numbers+3*number > len(message) {
		return false
	}
	for i, kind := range [3]struct{ redirect, masquerade uint16 }{
		{unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_MASQ_REG_PROTO_MIN},
		{unix.NFTA_REDIR_REG_PROTO_MAX, unix.NFTA_MASQ_REG_PROTO_MAX},
		{unix.NFTA_REDIR_FLAGS, unix.NFTA_MASQ_FLAGS},
	} {
		header := message[numbers+i*number:]
		if binary.NativeEndian.Uint16(header) != number || binary.NativeEndian.Uint16(header[2:]) != kind.redirect {
			return false
		}
		binary.NativeEndian.PutUint16(header[2:], kind.masquerade)
	}
	copy(message[at:], "masq\x00\x00")
	return true
}

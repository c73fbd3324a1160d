package nft

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// addElements adds the elements in one message. Those of sets are mostly keys and nothing else, by the hundred thousand when a
// node starts: for these the library allocates three times an element.
func (tx *Tx) addElements(set *nftables.Set, e []nftables.SetElement) error {
	if set.Anonymous || slices.ContainsFunc(e, func(e nftables.SetElement) bool { return !isKey(set, &e) }) {
		return tx.nft.SetAddElements(set, e)
	}
	all, err := messages(tx.nft)
	if err != nil {
		return err
	}
	*all = append(*all, netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
		Data:   keysMessage(set, e)})
	return nil
}

// isKey tells whether an element is no more than a key.
func isKey(set *nftables.Set, e *nftables.SetElement) bool {
	return len(e.KeyEnd)+len(e.Val)+len(e.Comment) == 0 && e.VerdictData == nil && !e.IntervalEnd && !(set.HasTimeout && e.Timeout != 0)
}

// keysMessage is the body of a message that adds keys: struct nfgenmsg and attributes (linux/netfilter/nf_tables.h).
func keysMessage(set *nftables.Set, e []nftables.SetElement) []byte {
	const header = unix.SizeofNlAttr
	size := 64 + len(set.Name) + len(set.Table.Name)
	for i := range e {
		size += 3*header + aligned(len(e[i].Key))
	}
	b := append(make([]byte, 0, size), byte(set.Table.Family), 0, 0, 0)
	b = appendAttr(b, unix.NFTA_SET_ELEM_LIST_SET, append([]byte(set.Name), 0))
	b = appendAttr(b, unix.NFTA_SET_ELEM_LIST_SET_ID, binary.BigEndian.AppendUint32(nil, set.ID))
	b = appendAttr(b, unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(set.Table.Name), 0))
	list := len(b)
	b = appendHeader(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, 0)
	for i := range e {
		value := header + len(e[i].Key)
		key := header + aligned(value)
		b = appendHeader(b, uint16(i+1)|unix.NLA_F_NESTED, header+key)
		b = appendHeader(b, unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, key)
		b = appendAttr(b, unix.NFTA_DATA_VALUE, e[i].Key)
	}
	binary.NativeEndian.PutUint16(b[list:], uint16(len(b)-list))
	return b
}

func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = append(appendHeader(b, kind, unix.SizeofNlAttr+len(value)), value...)
	return append(b, make([]byte, aligned(len(value))-len(value))...)
}

// appendHeader begins an attribute of a length in bytes, its header included and what fills it up left out.
func appendHeader(b []byte, kind uint16, length int) []byte {
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, uint16(length)), kind)
}

func aligned(n int) int { return (n + 3) &^ 3 }

package nft

import (
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// part is what one read of a dump may return: a message with attributes.
func part(t testing.TB, kind uint16, attrs ...netlink.Attribute) []byte {
	t.Helper()
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		t.Fatal(err)
	}
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+4+len(body)))
	b = binary.NativeEndian.AppendUint16(b, unix.NFNL_SUBSYS_NFTABLES<<8|kind)
	b = append(b, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, unix.NFPROTO_INET, 0, 0, 0)
	return append(b, body...)
}

func nested(t testing.TB, attrs ...netlink.Attribute) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// told is what the readers of dumps make of some bytes.
type told struct {
	elements, rules  int
	packets          uint64
	elementsWrong    bool
	twin             int // of elements, by the library's decoding; -1: it refuses them
	chains, counters map[string]int
}

func readDump(b []byte) told {
	r := told{chains: map[string]int{}, counters: map[string]int{}}
	decoder := func(data []byte) *netlink.AttributeDecoder {
		if len(data) < 4 {
			return nil
		}
		ad, err := netlink.NewAttributeDecoder(data[4:])
		if err != nil {
			return nil
		}
		return ad
	}
	_, _ = split(b, func(_ header, data []byte) (bool, error) {
		if ad := decoder(data); ad != nil {
			n, err := elementsIn(ad)
			r.elements, r.elementsWrong = r.elements+n, r.elementsWrong || err != nil
		}
		if ad := decoder(data); ad != nil {
			for ad.Next() {
				if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS || r.twin < 0 {
					continue
				}
				list, err := netlink.UnmarshalAttributes(ad.Bytes())
				if r.twin += len(list); err != nil {
					r.twin = -1
				}
			}
			if ad.Err() != nil {
				r.twin = -1
			}
		}
		if ad := decoder(data); ad != nil {
			if chain, ok := chainIn(ad); ok {
				r.rules++
				r.chains[chain]++
			}
		}
		if ad := decoder(data); ad != nil {
			if c, found := countIn(ad); found {
				r.packets += c.Packets
				r.counters[c.Chain]++
			}
		}
		return false, nil
	})
	return r
}

func elementsPart(t testing.TB, n int) []byte {
	list := make([]netlink.Attribute, n)
	for i := range list {
		list[i] = netlink.Attribute{Type: unix.NFTA_LIST_ELEM, Data: make([]byte, i%9)}
	}
	return part(t, unix.NFT_MSG_NEWSETELEM, netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: []byte("weft\x00")},
		netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_ELEMENTS, Data: nested(t, list...)})
}

func rulePart(t testing.TB, chain string, packets uint64) []byte {
	count := nested(t, netlink.Attribute{Type: unix.NFTA_COUNTER_BYTES, Data: make([]byte, 8)},
		netlink.Attribute{Type: unix.NFTA_COUNTER_PACKETS, Data: binary.BigEndian.AppendUint64(nil, packets)})
	one := nested(t, netlink.Attribute{Type: unix.NFTA_EXPR_NAME, Data: []byte("counter\x00")}, netlink.Attribute{Type: unix.NFTA_EXPR_DATA, Data: count})
	return part(t, unix.NFT_MSG_NEWRULE, netlink.Attribute{Type: unix.NFTA_RULE_TABLE, Data: []byte("weft\x00")}, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")},
		netlink.Attribute{Type: unix.NFTA_RULE_EXPRESSIONS, Data: nested(t, netlink.Attribute{Type: unix.NFTA_LIST_ELEM, Data: one})})
}

func TestReadDump(t *testing.T) {
	for _, n := range []int{0, 1, 2, 500} {
		if r := readDump(elementsPart(t, n)); r.elements != n || r.elementsWrong || r.twin != n {
			t.Errorf("of %d elements: %+v", n, r)
		}
	}
	r := readDump(append(append(rulePart(t, "a", 3), rulePart(t, "a", 4)...), rulePart(t, "b", 5)...))
	if r.rules != 3 || r.chains["a"] != 2 || r.chains["b"] != 1 || r.counters["a"] != 2 || r.packets != 12 {
		t.Errorf("of three rules: %+v", r)
	}
}

// FuzzReadDump: whatever the bytes are, nobody panics, and as many elements are counted as the library decodes.
func FuzzReadDump(f *testing.F) {
	f.Add(elementsPart(f, 3))
	f.Add(rulePart(f, "policy-input", 7))
	f.Add(append(elementsPart(f, 1), rulePart(f, "x", 1)...))
	f.Add([]byte{16, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := readDump(b)
		if r.twin >= 0 && !r.elementsWrong && r.elements != r.twin { // it skips attributes without a length
			t.Errorf("%d elements counted; the library decodes %d", r.elements, r.twin)
		}
	})
}

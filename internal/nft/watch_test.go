package nft

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

func event(kind int, family byte, attrs ...netlink.Attribute) netlink.Message {
	data, _ := netlink.MarshalAttributes(attrs)
	return netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind)},
		Data: append([]byte{family, 0, 0, 0}, data...)}
}

func str(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}

func TestEventsThatAreOurs(t *testing.T) {
	for _, c := range []struct {
		name string
		m    netlink.Message
		want bool
	}{
		{"our table deleted", event(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, str(unix.NFTA_TABLE_NAME, "weft")), true},
		{"another table deleted", event(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, str(unix.NFTA_TABLE_NAME, "filter")), false},
		{"a table of our name of another family", event(unix.NFT_MSG_DELTABLE, unix.NFPROTO_IPV4, str(unix.NFTA_TABLE_NAME, "weft")), false},
		{"our chain", event(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_INET, str(unix.NFTA_CHAIN_TABLE, "weft"), str(unix.NFTA_CHAIN_NAME, "tunnel-vxlan-input")), true},
		{"another chain of the table", event(unix.NFT_MSG_NEWCHAIN, unix.NFPROTO_INET, str(unix.NFTA_CHAIN_TABLE, "weft"), str(unix.NFTA_CHAIN_NAME, "policy")), false},
		{"a chain of another owner", event(unix.NFT_MSG_DELCHAIN, unix.NFPROTO_INET, str(unix.NFTA_CHAIN_TABLE, "weft"), str(unix.NFTA_CHAIN_NAME, "tunnel-ipip-input")), false},
		{"our rule", event(unix.NFT_MSG_NEWRULE, unix.NFPROTO_INET, str(unix.NFTA_RULE_TABLE, "weft"), str(unix.NFTA_RULE_CHAIN, "tunnel-vxlan-forward")), true},
		{"our element", event(unix.NFT_MSG_NEWSETELEM, unix.NFPROTO_INET, str(unix.NFTA_SET_ELEM_LIST_TABLE, "weft"), str(unix.NFTA_SET_ELEM_LIST_SET, "tunnel-vxlan-ip4-in-ip4-26")), true},
		{"our counter", event(unix.NFT_MSG_DELOBJ, unix.NFPROTO_INET, str(unix.NFTA_OBJ_TABLE, "weft"), str(unix.NFTA_OBJ_NAME, "tunnel-vxlan-from-pods")), true},
		{"end of a transaction", event(unix.NFT_MSG_NEWGEN, unix.NFPROTO_UNSPEC), false},
		{"cut short", netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES << 8}, Data: []byte{1}}, false},
	} {
		if got := concerns(uint16(c.m.Header.Type), c.m.Data, "tunnel-vxlan-"); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Every owner is told of every event of other programs, which may make thousands.
func TestForeignEvents(t *testing.T) {
	o := New(nil, "policy-", nil)
	var stream []byte
	send := func(chain string) {
		m := event(unix.NFT_MSG_NEWRULE, unix.NFPROTO_INET, str(unix.NFTA_RULE_TABLE, "weft"), str(unix.NFTA_RULE_CHAIN, chain))
		m.Header.Length = uint32(unix.SizeofNlMsghdr + len(m.Data))
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		stream = append(stream, b...)
	}
	for range 20 {
		send("tunnel-another")
	}
	if o.foreignIn(stream) {
		t.Error("an event about another owner's part is taken for one about ours")
	}
	if n := testing.AllocsPerRun(10, func() { o.foreignIn(stream) }); n > 0 {
		t.Errorf("looking at 20 events takes %v allocations", n)
	}
	send("policy-mine")
	if !o.foreignIn(stream) {
		t.Error("somebody else's event about our part is not noticed behind 20 others")
	}
	if !o.foreignIn([]byte{0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) {
		t.Error("an event that cannot be read is not looked at")
	}
}

func FuzzEvent(f *testing.F) {
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE), event(unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, str(unix.NFTA_TABLE_NAME, "weft")).Data)
	f.Add(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE), []byte{1, 0, 0, 0, 3, 0, 1, 0})
	f.Fuzz(func(t *testing.T, typ uint16, data []byte) {
		before := bytes.Clone(data)
		concerns(typ, data, "a")
		if !bytes.Equal(before, data) {
			t.Error("the message was changed")
		}
	})
}

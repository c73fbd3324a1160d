package nft

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestMasqueradeTo compares the message with one made by hand.
func TestMasqueradeTo(t *testing.T) {
	number := func(kind uint16, n byte) netlink.Attribute {
		return netlink.Attribute{Type: kind, Data: []byte{0, 0, 0, n}}
	}
	numbers, err := netlink.MarshalAttributes([]netlink.Attribute{
		number(unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFT_REG_1), number(unix.NFTA_MASQ_REG_PROTO_MAX, unix.NFT_REG_2),
		number(unix.NFTA_MASQ_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED|unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY)})
	if err != nil {
		t.Fatal(err)
	}
	want, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_EXPR_NAME, Data: []byte("masq\x00\x00")}, {Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: numbers}})
	if err != nil {
		t.Fatal(err)
	}
	c := &nftables.Conn{}
	add := func(e []expr.Any) []byte {
		c.AddRule(&nftables.Rule{Table: table(), Chain: &nftables.Chain{Name: "nat-a", Table: table()}, Exprs: e})
		m := reflect.ValueOf(c).Elem().FieldByName("messages")
		return m.Index(m.Len() - 1).FieldByName("Data").Bytes()
	}
	rule := Rule(L4Proto().Is(unix.IPPROTO_UDP), MasqueradeTo(20000, 29999))
	got := add(rule)
	if !hasMasqueradeTo(rule) || hasMasqueradeTo(rule[:3]) {
		t.Error("a rule with MasqueradeTo is not told from others")
	}
	if err := renameLast(c); err != nil || !bytes.HasSuffix(got, want) {
		t.Errorf("%v, the message is\n%q, want at its end\n%q", err, got, want)
	}
	// What is no such rule stays as it is.
	plain := add([]expr.Any{&expr.Masq{FullyRandom: true}})
	before := bytes.Clone(plain)
	if err := renameLast(c); err == nil || !bytes.Equal(before, plain) {
		t.Errorf("a rule without it was changed, %v", err)
	}
}

package nft

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"weft/internal/testkit/allocs"
)

// The transaction of one change: a member of a large set for another, and a chain of 20 rules written anew. It is built and
// not sent.
func TestAllocsOfATransaction(t *testing.T) {
	set := nftables.Set{Name: "weft-t-set", KeyType: nftables.TypeIPAddr}
	element := func(i byte) []nftables.SetElement { return []nftables.SetElement{{Key: []byte{10, 0, 0, i}}} }
	chain := Chain{Name: "weft-t-chain"}
	for range 20 {
		chain.Rules = append(chain.Rules, []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{6}}, &expr.Verdict{Kind: expr.VerdictAccept}})
	}
	o := New(nil, "weft-t-", nil)
	build := func(d changes) func() {
		return func() {
			conn := &nftables.Conn{}
			tx := &Tx{nft: conn, owner: o, table: table()}
			if err := tx.change(d); err != nil || tx.err != nil {
				t.Fatal(err, tx.err)
			}
			if all, err := messages(conn); err != nil || len(*all) == 0 {
				t.Fatal("no message", err)
			}
		}
	}
	t.Run("element", func(t *testing.T) {
		allocs.Most(t, 35, build(changes{elements: []elementsChange{{set: set, add: element(1), del: element(2)}}}))
	})
	t.Run("chain", func(t *testing.T) { allocs.Most(t, 570, build(changes{rules: []Chain{chain}})) })
	many := make([]nftables.SetElement, elementsPerMessage)
	for i := range many {
		many[i].Key = []byte{10, 0, byte(i >> 8), byte(i)}
	}
	spec := nftables.Set{Name: "weft-t-set", Table: table()}
	t.Run("keys", func(t *testing.T) {
		allocs.Most(t, 8, func() {
			if err := (&Tx{nft: &nftables.Conn{}, table: table()}).addElements(&spec, many); err != nil {
				t.Fatal(err)
			}
		})
	})
}

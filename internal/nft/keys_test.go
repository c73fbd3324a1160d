package nft

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestAddElementsIsTheLibrarys: whatever the elements are, the messages are those of the library.
func TestAddElementsIsTheLibrarys(t *testing.T) {
	key := func(n int) []byte { return bytes.Repeat([]byte{byte(n), 7}, n)[:n] }
	set := nftables.Set{Name: "weft-t-set", Table: table(), ID: 259, HasTimeout: true}
	for name, e := range map[string][]nftables.SetElement{
		"addresses": {{Key: key(4)}, {Key: key(4)}, {Key: key(4)}}, "IPv6": {{Key: key(16)}}, "odd": {{Key: key(1)}, {Key: key(6)}, {Key: key(12)}},
		"ranges": {{Key: key(4)}, {Key: key(4), IntervalEnd: true}}, "end": {{Key: key(4), KeyEnd: key(4)}},
		"map": {{Key: key(4), Val: key(4)}}, "comment": {{Key: key(4)}, {Key: key(4), Comment: "c"}}, "timeout": {{Key: key(4), Timeout: time.Second}},
	} {
		theirs, ours := &nftables.Conn{}, &nftables.Conn{}
		tx := &Tx{nft: ours, table: table()}
		if err := theirs.SetAddElements(&set, e); err != nil {
			t.Fatal(err)
		}
		if err := tx.addElements(&set, e); err != nil {
			t.Fatal(err)
		}
		want, err := messages(theirs)
		if err != nil {
			t.Fatal(err)
		}
		got, err := messages(ours)
		if err != nil {
			t.Fatal(err)
		}
		if len(*got) != 1 || len(*want) != 1 || (*got)[0].Header != (*want)[0].Header || !bytes.Equal((*got)[0].Data, (*want)[0].Data) {
			t.Errorf("%s: the message is\n%v, want\n%v", name, *got, *want)
		}
	}
}

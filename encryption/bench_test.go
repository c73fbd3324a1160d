package encryption

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"weft/internal/testkit/allocs"
	"weft/model"
	"weft/model/topology"
)

// peers returns a view of n nodes with a key and a block each.
func peers(n int) (*topology.View, map[int]PrivateKey, error) {
	own, err := NewPrivateKey([32]byte{1, 1})
	v := &topology.View{Self: "n0", Tunnels: []topology.Tunnel{{Driver: "wireguard", Device: "weft-wg", Family: model.IPv4, MTU: 1440,
		End: model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820}}}}
	for i := range n {
		var key model.PublicKey
		binary.BigEndian.PutUint32(key[:], uint32(i+1))
		v.Peers = append(v.Peers, topology.Peer{Node: model.NodeName(fmt.Sprint("n", i)), Address: netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}),
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)}, Keys: []model.NodeKey{{Key: key}}})
	}
	return v, map[int]PrivateKey{0: own}, err
}

func BenchmarkCompile5000(b *testing.B) {
	v, keys, err := peers(5000)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := Compile(v, model.EncryptionConfig{}, keys); err != nil || len(p.Peers) != 5000 {
			b.Fatal(len(p.Peers), err)
		}
	}
}

// Compile is of the whole view: some allocations for each peer.
func TestAllocs(t *testing.T) {
	v, keys, err := peers(500)
	if err != nil {
		t.Fatal(err)
	}
	allocs.Most(t, 3350, func() {
		if p, err := Compile(v, model.EncryptionConfig{}, keys); err != nil || len(p.Peers) != 500 {
			t.Fatal(len(p.Peers), err)
		}
	})
}

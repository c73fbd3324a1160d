package wireguard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft/encryption"
	"weft/model"
)

// BenchmarkPlan is what a plan of 5,000 peers costs, read as a whole and by the one that differs.
func BenchmarkPlan(b *testing.B) {
	own := public(testKey(1))
	peers := manyPeers(5000)
	w := want(wg, own, peers)
	s := &state{peers: map[model.PublicKey]peerState{}}
	s.take(w.all(nil))
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w := want(wg, own, peers)
			come, gone := w.all(s.peers)
			diffPeers(s.peers, come, gone, w.claimed, nil, time.Now())
		}
	})
	b.Run("one", func(b *testing.B) {
		b.ReportAllocs()
		other := slices.Clone(peers)
		other[77].AllowedIPs = other[77].AllowedIPs[:1]
		for i := 0; b.Loop(); i++ {
			come, gone, ok := w.next([][]encryption.Peer{other, peers}[i%2])
			if changes, _ := diffPeers(s.peers, come, gone, w.claimed, nil, time.Now()); !ok || len(changes) > 1 {
				b.Fatal(ok, changes)
			}
		}
	})
}

// manyPeers are peers with a block and a borrowed address each.
func manyPeers(n int) (out []encryption.Peer) {
	for i := range n {
		out = append(out, encryption.Peer{
			Device: wg, Node: model.NodeName(fmt.Sprintf("n%05d", i)), Key: public(testKey(1000 + i)),
			Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 31, 1, byte(100 + i%100)}), uint16(10000+i)),
			AllowedIPs: []netip.Prefix{
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 26),
				netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 64}), 32),
			},
		})
	}
	return out
}

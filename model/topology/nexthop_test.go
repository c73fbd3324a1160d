package topology

import (
	"net/netip"
	"testing"
)

func TestTunnelNextHop(t *testing.T) {
	if a := netip.MustParseAddr("172.31.1.2"); TunnelNextHop(a) != a {
		t.Errorf("IPv4: got %v, want the address itself", TunnelNextHop(a))
	}
	seen := map[netip.Addr]netip.Addr{}
	for i := range 5000 {
		a := netip.AddrFrom16([16]byte{0xfd, 6: byte(i >> 4), 14: byte(i >> 8), 15: byte(i)})
		n := TunnelNextHop(a)
		if !n.IsLinkLocalUnicast() || !n.Is6() {
			t.Fatalf("%v: got %v, want a link-local IPv6 address", a, n)
		}
		if other, ok := seen[n]; ok {
			t.Errorf("%v and %v share %v", a, other, n)
		}
		seen[n] = a
	}
	if got := TunnelNextHop(netip.Addr{}); got.IsValid() {
		t.Errorf("no address: got %v", got)
	}
}

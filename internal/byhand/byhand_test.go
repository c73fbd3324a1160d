package byhand

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommands(t *testing.T) {
	a, b := netip.MustParseAddr("172.31.1.1"), netip.MustParseAddr("172.31.1.2")
	got := slices.Concat(
		Pod{Link: "p1", Netns: "/proc/7/fd/3", Address: netip.MustParseAddr("10.0.1.5"), MTU: 1450}.OnHost(),
		VXLAN{Device: "hand0", Parent: "eth0", VNI: 77, Port: 8472, MTU: 1450, MAC: "02:00:00:00:00:01", Address: netip.MustParseAddr("10.0.1.0"), Local: a,
			Peer: b, PeerOuter: b, PeerMAC: "02:00:00:00:00:02"}.Commands(),
		IPIP{Device: "hand1", MTU: 1480, Local: a, Peer: b}.Commands(),
		Routes("hand0", b, netip.MustParsePrefix("10.0.2.0/24")), Routes("hand1", netip.Addr{}, netip.MustParsePrefix("10.0.3.0/24")))
	want := strings.Split(strings.TrimSpace(`
ip link add p1 address ee:ee:ee:ee:ee:ee mtu 1450 type veth peer name eth0 mtu 1450 netns /proc/7/fd/3
ip link set p1 up
ip route add 10.0.1.5 dev p1
ip link add hand0 address 02:00:00:00:00:01 mtu 1450 type vxlan id 77 dstport 8472 local 172.31.1.1 dev eth0 nolearning
ip addr add 10.0.1.0/32 dev hand0
ip link set hand0 up
ip neigh add 172.31.1.2 lladdr 02:00:00:00:00:02 dev hand0 nud permanent
bridge fdb add 02:00:00:00:00:02 dev hand0 dst 172.31.1.2 self permanent
ip link add hand1 mtu 1480 type ipip local 172.31.1.1 remote 172.31.1.2 ttl 64
ip link set hand1 up
ip route replace 10.0.2.0/24 via 172.31.1.2 dev hand0 onlink
ip route replace 10.0.3.0/24 dev hand1
`), "\n")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("commands (-want +got):\n%s", d)
	}
}

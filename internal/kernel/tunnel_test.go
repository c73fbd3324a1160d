package kernel

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/model"
)

func vxlanMessage() []byte {
	return ifInfo(7, unix.IFF_UP, 0).str(unix.IFLA_IFNAME, "weft-vxlan").u32(unix.IFLA_MTU, 1450).
		mac(unix.IFLA_ADDRESS, model.MAC{0x66, 1, 2, 3, 4, 5}).str(unix.IFLA_IFALIAS, tunnelAlias).
		nest(unix.IFLA_LINKINFO, func(e *encoder) {
			e.str(unix.IFLA_INFO_KIND, "vxlan")
			e.nest(unix.IFLA_INFO_DATA, func(e *encoder) {
				e.u32(nl.IFLA_VXLAN_ID, 4096).attr(nl.IFLA_VXLAN_PORT, []byte{0x12, 0xb5}).u32(nl.IFLA_VXLAN_LINK, 2)
				e.addr(nl.IFLA_VXLAN_LOCAL, netip.MustParseAddr("172.31.1.1")).attr(nl.IFLA_VXLAN_LEARNING, []byte{1})
			})
		}).b
}

func TestParseVXLAN(t *testing.T) {
	got, ok := parseVXLAN(vxlanMessage())
	want := VXLAN{Name: "weft-vxlan", Index: 7, VNI: 4096, Port: 4789, Local: netip.MustParseAddr("172.31.1.1"), Parent: 2,
		MAC: model.MAC{0x66, 1, 2, 3, 4, 5}, MTU: 1450, Up: true, Learning: true, Ours: true}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); !ok || d != "" {
		t.Errorf("ok %v, (-want +got):\n%s", ok, d)
	}
	if _, ok := parseVXLAN(ifInfo(1, 0, 0).str(unix.IFLA_IFNAME, "eth0").b); ok {
		t.Error("a link of another kind is taken for a VXLAN device")
	}
}

// FuzzTunnelMessages feeds the parsers of what tunnels read with anything.
func FuzzTunnelMessages(f *testing.F) {
	f.Add(vxlanMessage())
	f.Add(addNeigh(3, netip.MustParseAddr("172.31.1.2"), model.MAC{0x66}).body)
	f.Add(addAddr(3, netip.MustParsePrefix("10.244.0.1/32"), 0).body)
	f.Add([]byte{2, 200, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		parseVXLAN(b)
		if n, ok := parseNeigh(b); ok {
			_ = n.static()
		}
		if _, p, ok := parseAddrMsg(b); ok && !p.IsValid() {
			t.Errorf("an invalid prefix %v is taken for good", p)
		}
	})
}

package topology

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
)

func TestOverlay(t *testing.T) {
	addr := netip.MustParseAddr
	v := View{
		Peers: []Peer{{Node: "n2", Address: addr("172.31.1.12")}, {Node: "n2", Address: addr("fd00:31:1::12")},
			{Node: "n3", Address: addr("10.0.0.3"), Outside: addr("192.0.2.3")}, {Node: "n4", Address: addr("172.31.1.12")}},
		Tunnels: []Tunnel{
			{Driver: "wireguard", Family: model.IPv4, Local: addr("172.31.1.11"), Port: 51820, End: model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4}},
			{Driver: "vxlan", Family: model.IPv4, Local: addr("172.31.1.11"), Port: 4789, End: model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv4}},
			{Driver: "vxlan", Family: model.IPv6, Local: addr("fd00:31:1::11"), Port: 4789, End: model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv6}},
			{Driver: "vxlan", Family: model.IPv4, Port: 4789, VNI: 5, Kept: true, End: model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv4, VNI: 5}},
			{Driver: "ipip", Family: model.IPv4, End: model.TunnelEnd{Encap: model.EncapIPIP, Family: model.IPv4}},
		},
	}
	want := model.Overlay{
		Peers: []netip.Addr{addr("10.0.0.3"), addr("172.31.1.12"), addr("192.0.2.3"), addr("fd00:31:1::12")},
		Carriers: []model.Carrier{{Family: model.IPv4, Protocol: model.IPIP}, {Family: model.IPv4, Protocol: model.UDP, Port: 4789},
			{Family: model.IPv4, Protocol: model.UDP, Port: 51820}, {Family: model.IPv6, Protocol: model.UDP, Port: 4789}},
		Local: []netip.Addr{addr("172.31.1.11"), addr("fd00:31:1::11")}, // an IPIP tunnel without an address has none
	}
	if diff := cmp.Diff(want, v.Overlay(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("overlay (-want +got):\n%s", diff)
	}
	if o := (&View{}).Overlay(); len(o.Peers)+len(o.Carriers) > 0 {
		t.Errorf("of nobody: got %+v", o)
	}
}

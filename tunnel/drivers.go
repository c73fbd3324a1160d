package tunnel

import (
	"weft/model"
	"weft/model/topology"
)

// Names of the rows of Drivers.
const (
	IPIP        = "ipip"
	VXLAN       = "vxlan"
	CrossSubnet = "crosssubnet"
	WireGuard   = "wireguard"
)

// Drivers returns the table of the interchangeable tunnel drivers, a fresh copy for each caller.
// The topology, the MTU planner, status and the docs read it; a new driver is one more row.
//
// The overheads are those of RFC 2003 (IPIP: one IPv4 header), RFC 7348 (VXLAN: outer IP, UDP 8,
// VXLAN 8, inner Ethernet 14) and of WireGuard's transport message (outer IP, UDP 8, 32 of its own).
func Drivers() []topology.Driver {
	v4, v6 := model.IPv4, model.IPv6
	both := func() []model.Family { return []model.Family{v4, v6} }
	return []topology.Driver{
		{
			Name: IPIP, Reach: topology.IPIP, Encap: model.EncapIPIP, Device: "weft-ipip",
			Outer: "IP protocol 4", Overhead: map[model.Family]int{v4: 20}, Families: []model.Family{v4},
			Needs: "ipip", SelectedBy: "ipipMode Always or CrossSubnet",
		},
		{
			Name: VXLAN, Reach: topology.VXLAN, Encap: model.EncapVXLAN, Device: "weft-vxlan",
			Outer: "UDP 4789", Overhead: map[model.Family]int{v4: 50, v6: 70}, Families: both(),
			Needs: "vxlan, nf_tables", SelectedBy: "vxlanMode Always or CrossSubnet",
		},
		{
			// It composes: peers on the same link are reached directly, the others through the
			// pool's encapsulation. So it has no device, and adds nothing to a packet.
			Name: CrossSubnet, Reach: topology.Direct, Encap: model.EncapNone,
			Outer: "none", Overhead: map[model.Family]int{v4: 0, v6: 0}, Families: both(),
			Needs: "nothing", SelectedBy: "vxlanMode or ipipMode CrossSubnet, for peers on the same link",
		},
		{
			Name: WireGuard, Reach: topology.WireGuard, Encap: model.EncapWireGuard, Device: "weft-wg",
			Outer: "UDP 51820", Overhead: map[model.Family]int{v4: 60, v6: 80}, Families: both(),
			Needs: "wireguard or tun", SelectedBy: "wireguardEnabled or wireguardEnabledV6",
		},
	}
}

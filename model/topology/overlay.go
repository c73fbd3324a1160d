package topology

import (
	"net/netip"
	"slices"

	"weft/model"
)

// Overlay returns what the underlay carries for the tunnels: between whom, and by which protocols and
// ports. A peer behind NAT sends from its outside address; one whose outside address nobody knows is
// not among the peers by any that its packets have.
func (v *View) Overlay() model.Overlay {
	var o model.Overlay
	for i := range v.Peers {
		for _, a := range []netip.Addr{v.Peers[i].Address, v.Peers[i].Outside} {
			if a.IsValid() {
				o.Peers = append(o.Peers, a)
			}
		}
	}
	slices.SortFunc(o.Peers, netip.Addr.Compare)
	o.Peers = slices.Compact(o.Peers)
	for i := range v.Tunnels {
		t := &v.Tunnels[i]
		if t.Local.IsValid() {
			o.Local = append(o.Local, t.Local)
		}
		c := model.Carrier{Family: t.Family, Protocol: model.UDP, Port: uint16(t.Port)}
		if t.End.Encap == model.EncapIPIP {
			c.Protocol, c.Port = model.IPIP, 0
		}
		o.Carriers = append(o.Carriers, c)
	}
	slices.SortFunc(o.Local, netip.Addr.Compare)
	o.Local = slices.Compact(o.Local)
	slices.SortFunc(o.Carriers, model.Carrier.Compare)
	o.Carriers = slices.Compact(o.Carriers)
	return o
}

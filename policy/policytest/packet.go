package policytest

import (
	"net/netip"

	"weft/model"
)

// Packet is a random packet that may come up: mostly between pods of this node and the rest of the
// world, with the addresses and ports that policies of a world speak of.
func (w *World) Packet() *model.Packet {
	p := &model.Packet{In: w.iface(), Out: w.iface()}
	for p.In == p.Out {
		p.Out = w.iface()
	}
	f := w.family()
	p.Src, p.Dst = w.endOf(p.In, f), w.endOf(p.Out, f)
	if w.IntN(8) == 0 {
		p.MAC = model.MAC{2, 0, 0, 0, 0, byte(w.IntN(3))}
	}
	switch w.IntN(8) {
	case 0, 1:
		p.Protocol, p.ICMPType, p.ICMPCode = w.icmpOf(f), pick[uint8](w, 0, 8, 128, 130, 133, 134, 135, 136, 137), pick[uint8](w, 0, 1)
	case 2:
		p.Protocol = pick[model.Protocol](w, model.UDPLite, 4, 47)
	default:
		p.Protocol, p.SrcPort, p.DstPort = w.portProtocol(), w.port(), w.port()
	}
	if o := w.Snapshot.Policy.Overlay; len(o.Carriers) > 0 && len(o.Peers) > 0 && (p.In == "" || p.Out == "") && w.IntN(3) == 0 {
		w.carry(p, pick(w, o.Carriers...), pick(w, o.Peers...))
	}
	return p
}

// carry makes the packet one of a tunnel's, mostly between this host and another node.
func (w *World) carry(p *model.Packet, c model.Carrier, peer netip.Addr) {
	p.Protocol, p.SrcPort, p.DstPort, p.ICMPType, p.ICMPCode = c.Protocol, 0, c.Port, 0, 0
	if c.Port != 0 {
		p.SrcPort = w.port()
	}
	f := model.FamilyOf(peer)
	if p.Src, p.Dst = w.addr(f), w.addr(f); w.IntN(4) == 0 {
		return
	}
	if p.In == "" {
		p.Dst = peer
	} else {
		p.Src = peer
	}
}

// icmpOf is rarely that of the other family, which only a hand-made packet carries.
func (w *World) icmpOf(f model.Family) model.Protocol {
	if (f == model.IPv4) != (w.IntN(20) == 0) {
		return model.ICMP
	}
	return model.ICMPv6
}

func (w *World) iface() string {
	if n := w.IntN(10); n < 6 {
		return Device(n % 3)
	}
	if !w.Hosts {
		return pick(w, "eth0", "eth0", "")
	}
	return pick(w, "eth0", "eth1", "eth2", "")
}

// endOf is mostly the address of the pod on the device.
func (w *World) endOf(iface string, f model.Family) netip.Addr {
	for n := range 3 {
		if iface == Device(n) && w.IntN(10) > 0 {
			if f == model.IPv4 {
				return Local4(n)
			}
			return Local6(n)
		}
	}
	return w.addr(f)
}

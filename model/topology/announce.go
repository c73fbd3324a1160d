package topology

import (
	"slices"

	"weft/model"
)

// Announce returns what this node's record is to say of its tunnels, once v, compiled from s, has
// been applied. ready tells of a tunnel driver whether its devices are as wanted; settled, whether
// everything of v is in the kernel: only then is anything taken back.
//
// The order in which a change of encapsulation takes place, without loss, follows from three rules.
// A node that is ready for a new end announces that it receives, and will send, by it. A node sends
// by an end only when the peer has announced the former and itself, as the store tells, the latter
// (decide). A node takes an announcement back only when no pool asks for the end, its own paths do
// not use it and no peer may send by it; the device goes after that (keepTunnels). The store orders
// the records: either a sender sees that the receiver took its word back before it uses it, or the
// receiver sees the sender's announcement and keeps the device.
func Announce(s *model.Snapshot, v *View, ready func(driver string) bool, settled bool) model.Tunnels {
	was := model.Tunnels{}
	if n := s.Nodes[s.Self]; n != nil && n.Tunnels != nil {
		was = *n.Tunnels
	}
	var next model.Tunnels
	for i := range v.Tunnels {
		t := &v.Tunnels[i]
		used := !settled || !t.Kept || v.uses(t.Device)
		if slices.Contains(was.Receives, t.End) || ready(t.Driver) {
			if used || peersSend(s, t.End) {
				next.Receives = append(next.Receives, t.End)
			}
			if used && (!t.Kept || slices.Contains(was.Sends, t.End)) {
				next.Sends = append(next.Sends, t.End)
			}
		}
	}
	direct := model.TunnelEnd{}
	if slices.ContainsFunc(s.Pools, func(p model.Pool) bool { return p.Encap == model.EncapNone || p.CrossSubnet }) ||
		slices.Contains(was.Sends, direct) && (!settled || v.goesDirect()) {
		next.Sends = append(next.Sends, direct)
	}
	SortEnds(next.Receives)
	SortEnds(next.Sends)
	return next
}

func (v *View) uses(device string) bool {
	return slices.ContainsFunc(v.Paths, func(p Path) bool { return p.Device == device })
}

func (v *View) goesDirect() bool {
	return slices.ContainsFunc(v.Paths, func(p Path) bool { return p.Reach == Direct })
}

func peersSend(s *model.Snapshot, e model.TunnelEnd) bool {
	for name, n := range s.Nodes {
		if name != s.Self && n.Tunnels != nil && slices.Contains(n.Tunnels.Sends, e) {
			return true
		}
	}
	return false
}

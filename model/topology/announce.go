package topology

import (
	"net/netip"
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
//
// Likewise with clear text: a node refuses it only after it said so (guard), and says that it takes it
// again only after it does; until then senders keep to cipher text (decide).
func Announce(s *model.Snapshot, v *View, ready func(driver string) bool, settled bool) model.Tunnels {
	was := model.Tunnels{}
	if n := s.Nodes[s.Self]; n != nil && n.Tunnels != nil {
		was = *n.Tunnels
	}
	var next model.Tunnels
	clear := goesClear(s)
	for i := range v.Tunnels {
		t := &v.Tunnels[i]
		used := !settled || !t.Kept && (clear || isWireGuard(t.End)) || v.uses(t.Device)
		if slices.Contains(was.Receives, t.End) || ready(t.Driver) {
			if used || peersSend(s, t.End) {
				next.Receives = append(next.Receives, t.End)
			}
			if used && (!t.Kept && (clear || isWireGuard(t.End)) || slices.Contains(was.Sends, t.End)) {
				next.Sends = append(next.Sends, t.End)
			}
		}
	}
	direct := model.TunnelEnd{}
	if clear && slices.ContainsFunc(s.Pools, func(p model.Pool) bool { return p.Encap == model.EncapNone || p.CrossSubnet }) ||
		slices.Contains(was.Sends, direct) && (!settled || v.goesDirect()) {
		next.Sends = append(next.Sends, direct)
	}
	for _, p := range s.Pools {
		if p.Encap == model.EncapNone && clear {
			next.Routed = append(next.Routed, p.CIDR)
		}
	}
	for _, p := range was.Routed {
		if !slices.Contains(next.Routed, p) && (!settled || v.goesRouted(s, p)) {
			next.Routed = append(next.Routed, p)
		}
	}
	slices.SortFunc(next.Routed, netip.Prefix.Compare)
	next.EncryptedOnly = refuses(s) || was.EncryptedOnly && !settled
	SortEnds(next.Receives)
	SortEnds(next.Sends)
	return next
}

// refuses tells whether this node is to refuse clear text from any node.
func refuses(s *model.Snapshot) bool {
	e, st := &s.Encryption, &s.EncryptionState
	if !e.Any() || e.Preferred {
		return false
	}
	if st.Over || len(st.Seen) > 0 {
		return true
	}
	for name, n := range s.Nodes {
		if name != s.Self && neverClear(s, n) {
			return true
		}
	}
	return false
}

// goesClear tells whether this node is to send anything in clear.
func goesClear(s *model.Snapshot) bool {
	e, st := &s.Encryption, &s.EncryptionState
	if !e.Any() || e.Preferred {
		return true
	}
	for _, p := range s.Pools {
		if !e.Enabled(model.FamilyOf(p.CIDR.Addr())) {
			return true
		}
	}
	if st.Over {
		return false
	}
	for name, n := range s.Nodes {
		if name != s.Self && !st.Seen[name] && !neverClear(s, n) {
			return true
		}
	}
	return false
}

// RolledOut tells whether every node is ready to encrypt, and sends nothing in clear any more. Then the
// rollout is over.
func RolledOut(s *model.Snapshot) bool {
	for name, n := range s.Nodes {
		ready := n.Tunnels != nil && slices.ContainsFunc(n.Tunnels.Receives, isWireGuard) && !SendsClear(n)
		if name != s.Self && !ready {
			return false
		}
	}
	return !goesClear(s)
}

func (v *View) uses(device string) bool {
	by := func(p Path) bool { return p.Device == device }
	return slices.ContainsFunc(v.Paths, by) || slices.ContainsFunc(v.Hosts, by)
}

func (v *View) goesDirect() bool {
	return slices.ContainsFunc(v.Paths, func(p Path) bool { return p.Reach == Direct })
}

// goesRouted tells whether anything of a pool goes without a tunnel by a gateway of the underlay.
func (v *View) goesRouted(s *model.Snapshot, pool netip.Prefix) bool {
	return slices.ContainsFunc(v.Paths, func(p Path) bool {
		if p.Reach != Direct || !pool.Contains(p.Dst.Addr()) {
			return false
		}
		n := s.Nodes[p.Node]
		if n == nil {
			return false
		}
		a, ok := n.Address(model.FamilyOf(p.Via))
		return ok && a.Addr() != p.Via
	})
}

func peersSend(s *model.Snapshot, e model.TunnelEnd) bool {
	for name, n := range s.Nodes {
		if name != s.Self && n.Tunnels != nil && slices.Contains(n.Tunnels.Sends, e) {
			return true
		}
	}
	return false
}

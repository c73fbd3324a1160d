package policy

import (
	"net/netip"
	"slices"

	"weft/model"
)

// peerMembers calls f for those of the addresses that the set is for.
func peerMembers(peers []netip.Addr, id SetID, f func(Member)) {
	for _, a := range peers {
		if a.IsValid() && model.FamilyOf(a) == id.Family {
			f(Member{Prefix: netip.PrefixFrom(a, a.BitLen())})
		}
	}
}

// flushOverlay comes after the hosts: without any, and where tunnels are tracked, nobody asks about them.
func (c *Compiler) flushOverlay(d *Delta) {
	if o := c.dirty.overlay; o != nil {
		gone, came := apart(c.overlay.Peers, o.Peers)
		for _, f := range []model.Family{model.IPv4, model.IPv6} {
			if s := c.sets[PeersOf(f)]; s != nil {
				peerMembers(gone, s.set.ID, func(m Member) { c.change(s, m, false) })
				peerMembers(came, s.set.ID, func(m Member) { c.change(s, m, true) })
			}
		}
		c.overlay = *o
	}
	var now []model.Carrier
	local := c.overlay.Local
	if len(c.program.Hosts)+len(local) > 0 {
		now = c.overlay.Carriers
	}
	before := c.program.Carriers
	if !slices.Equal(c.program.Local, local) {
		c.program.Local, d.ConfigChanged = local, true
	}
	if slices.Equal(before, now) {
		return
	}
	c.program.Carriers, d.ConfigChanged = now, true
	for _, t := range now {
		c.acquire(PeersOf(t.Family))
	}
	for _, t := range before {
		c.release(PeersOf(t.Family))
	}
}

// apart returns what only one of two sorted lists has.
func apart(before, now []netip.Addr) (gone, came []netip.Addr) {
	for len(before) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(before) > 0 && before[0].Less(now[0]):
			gone, before = append(gone, before[0]), before[1:]
		case len(before) == 0 || now[0].Less(before[0]):
			came, now = append(came, now[0]), now[1:]
		default:
			before, now = before[1:], now[1:]
		}
	}
	return gone, came
}

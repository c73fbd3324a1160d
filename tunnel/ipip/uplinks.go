package ipip

import (
	"context"
	"net/netip"

	"weft/internal/kernel"
	"weft/tunnel"
)

// fewPeers is up to how many new peers are looked up one by one.
const fewPeers = 16

// uplinks returns the interfaces at which peers' packets can arrive: the one that has the local
// address, and those through which the kernel's routes lead to the peers. Interfaces of ours are not
// among them: no pod sends tunnel packets.
func (d *Driver) uplinks(ctx context.Context, links []kernel.TunnelLink, now *applied) (map[int]bool, error) {
	addrs := make([]netip.Addr, 0, len(now.outers))
	for a := range now.outers {
		addrs = append(addrs, a)
	}
	lead, err := d.h.UplinksTo(ctx, addrs)
	if err != nil {
		return nil, err
	}
	out := map[int]bool{now.parent: true}
	for _, l := range links {
		if lead[l.Index] && l.Ethernet && !kernel.Owned(l.Name) && !l.Ours {
			out[l.Index] = true
		}
	}
	return out, nil
}

func outersOf(sources []tunnel.Source) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, s := range sources {
		out[s.Outer] = true
	}
	return out
}

// knownUplinks tells whether the peers that are new since the last Apply are reached through the
// interfaces at which the program runs already.
func (d *Driver) knownUplinks(ctx context.Context, there *applied, sources []tunnel.Source) (bool, error) {
	if d.way == Kernel {
		return true, nil
	}
	if d.bpf.filled && sameSources(d.bpf.want, sources) {
		return true, nil
	}
	come := map[netip.Addr]bool{}
	for _, s := range sources {
		if !there.outers[s.Outer] {
			come[s.Outer] = true
		}
	}
	if len(come) > fewPeers {
		return false, nil
	}
	for a := range come {
		r, err := d.h.UnderlayTo(ctx, a)
		if err != nil {
			continue // no route yet: its coming is an event
		}
		l, ok, err := d.h.LinkByName(ctx, r.Device)
		if err != nil {
			return false, err
		}
		if ok && !there.uplinks[l.Index] && !kernel.Owned(l.Name) {
			return false, nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for a := range come {
		there.outers[a] = true
	}
	return true, nil
}

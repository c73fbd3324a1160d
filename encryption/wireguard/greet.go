package wireguard

import (
	"context"
	"slices"
	"time"

	"weft/encryption"
	"weft/model"
)

const (
	// greetings is how many peers are greeted at once: each greeting is a handshake, and one that nobody
	// answers is repeated for 90 s.
	greetings = 100
	// patience is how much later than the end with the lower key the other greets.
	patience = time.Second
)

// greeting is a peer with which a handshake is to begin.
type greeting struct {
	key  model.PublicKey
	node model.NodeName
	due  time.Time
}

// greetNew has a handshake with new peers begin before there is traffic. Where both ends begin at the same
// moment neither succeeds, and they try again after 5 s: so the end with the lower key begins at once, and
// the other a second later, which is for when the first was not answered since this end did not know it
// yet. With a session, all that does is one empty packet. Of many peers, Watch greets the rest bit by bit.
// Handshakes that traffic begins cross all the same; a process sorts those out (package userspace).
func (d *Driver) greetNew(ctx context.Context, dev *device, added []*encryption.Peer) error {
	now := time.Now()
	for _, p := range added {
		if p.Keepalive != 0 || !p.Endpoint.IsValid() {
			continue // it begins by itself, or the other end must
		}
		g := greeting{p.Key, p.Node, now}
		if slices.Compare(dev.own[:], p.Key[:]) > 0 {
			g.due = now.Add(patience)
		}
		dev.greet = append(dev.greet, g)
	}
	slices.SortStableFunc(dev.greet, func(a, b greeting) int { return a.due.Compare(b.due) })
	return d.greetSome(ctx, dev)
}

// greetSome greets the next peers of those that are still as they were when they were added.
func (d *Driver) greetSome(ctx context.Context, dev *device) error {
	d.mu.Lock()
	have := dev.have
	d.mu.Unlock()
	if have == nil || len(dev.greet) == 0 {
		return nil
	}
	var on, off []peerChange
	nudge, none := 1, 0
	n, now := 0, time.Now()
	for ; n < min(len(dev.greet), greetings) && !dev.greet[n].due.After(now); n++ {
		g := dev.greet[n]
		if p, ok := have.peers[g.key]; ok && p.keepalive == 0 {
			// Turning it on sends one, for which a session is needed.
			on = append(on, peerChange{key: g.key, node: g.node, keepalive: &nudge})
			off = append(off, peerChange{key: g.key, node: g.node, keepalive: &none})
		}
	}
	dev.greet = slices.Clone(dev.greet[n:])
	if len(on) == 0 {
		return nil
	}
	d.setState(dev, nil)
	revision, err := d.write(ctx, &dev.want, have.revision, change{peers: append(on, off...)})
	if err != nil {
		return err
	}
	if revision == foreignRevision {
		d.ask()
		return nil
	}
	have.revision = revision
	d.setState(dev, have)
	return nil
}

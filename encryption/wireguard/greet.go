package wireguard

import (
	"context"
	"slices"

	"weft/encryption"
	"weft/model"
)

// greetings is how many peers are greeted at once: each greeting is a handshake, and one that nobody
// answers is repeated for 90 s.
const greetings = 100

// greeting is a peer with which a handshake is to begin.
type greeting struct {
	key  model.PublicKey
	node model.NodeName
}

// greetNew has a handshake with new peers begin now, before there is traffic, and from one end only, that
// of the lower key. Where both ends begin at the same moment, as when traffic of both directions moves to
// a device, neither succeeds, and they try again after 5 s. Of many peers, Watch greets the rest bit by
// bit.
func (d *Driver) greetNew(ctx context.Context, dev *device, added []*encryption.Peer) error {
	own := dev.own
	for _, p := range added {
		// Those with a keepalive begin by themselves.
		if p.Keepalive == 0 && p.Endpoint.IsValid() && slices.Compare(own[:], p.Key[:]) < 0 {
			dev.greet = append(dev.greet, greeting{p.Key, p.Node})
		}
	}
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
	var c change
	nudge, none := 1, 0
	n := min(len(dev.greet), greetings)
	for _, g := range dev.greet[:n] {
		if p, ok := have.peers[g.key]; ok && p.keepalive == 0 {
			// Turning it on sends one, for which a session is needed.
			c.peers = append(c.peers, peerChange{key: g.key, node: g.node, keepalive: &nudge}, peerChange{key: g.key, node: g.node, keepalive: &none})
		}
	}
	dev.greet = slices.Clone(dev.greet[n:])
	if c.empty() {
		return nil
	}
	d.setState(dev, nil)
	revision, err := d.write(ctx, &dev.want, have.revision, c)
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

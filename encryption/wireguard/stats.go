package wireguard

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/internal/kernel"
	"weft/model"
)

// PeerStatus is what a device knows of a peer.
type PeerStatus struct {
	Device string
	Port   int // UDP, of the device
	// Node is whose key it is by the last plan; empty for a peer that somebody else added.
	Node     model.NodeName
	Key      model.PublicKey
	Endpoint netip.AddrPort // where it is sent to; invalid: not known yet
	// LastHandshake is when keys were last agreed on; zero: never.
	LastHandshake time.Time
	Rx, Tx        uint64 // bytes, with the protocol's own
	AllowedIPs    []netip.Prefix
}

// Peers reads the peers of all devices, sorted by device and node.
func (d *Driver) Peers(ctx context.Context) ([]PeerStatus, error) {
	d.running.Lock()
	defer d.running.Unlock()
	d.mu.Lock()
	devices := maps.Clone(d.devices)
	d.mu.Unlock()
	var out []PeerStatus
	var errs []error
	for name, dev := range devices {
		s, err := d.control.read(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for k, p := range s.peers {
			out = append(out, statusOf(name, s.port, dev.nodes[k], k, p))
		}
	}
	slices.SortFunc(out, func(a, b PeerStatus) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Node, b.Node), slices.Compare(a.Key[:], b.Key[:]))
	})
	return out, errors.Join(errs...)
}

func statusOf(device string, port int, node model.NodeName, k model.PublicKey, p peerState) PeerStatus {
	return PeerStatus{Device: device, Port: port, Node: node, Key: k, Endpoint: p.endpoint, LastHandshake: p.handshake,
		Rx: p.rx, Tx: p.tx, AllowedIPs: p.allowed}
}

// leftTime bounds how long a start waits for processes that hang.
const leftTime = 2 * time.Second

// Left reads, before the first Apply, the peers of the devices that an earlier process left, without their
// nodes. A device that does not answer within leftTime has none.
func (d *Driver) Left(ctx context.Context) ([]PeerStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, leftTime)
	defer cancel()
	d.running.Lock()
	defer d.running.Unlock()
	links, err := d.h.TunnelLinks(ctx)
	if err != nil || d.control == nil {
		return nil, err
	}
	var out []PeerStatus
	for _, l := range links {
		if !strings.HasPrefix(l.Name, kernel.WireGuardDevice) {
			continue
		}
		s, err := d.control.read(ctx, l.Name)
		if err != nil {
			d.log.Debug("a WireGuard device that was left does not answer", "device", l.Name, "err", err)
			continue
		}
		for k, p := range s.peers {
			out = append(out, statusOf(l.Name, s.port, "", k, p))
		}
	}
	return out, nil
}

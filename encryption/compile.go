package encryption

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/model/topology"
)

// natKeepalive is how often, in seconds, a node behind NAT sends something to keep the way open, when
// wireguardKeepAlive says nothing: less than the 30 s after which NATs may forget UDP (RFC 4787, REQ-5 has
// 2 min, few keep to it).
const natKeepalive = 25

// Compile says which WireGuard devices this host keeps, and what they know of the peers: their keys,
// where they are, and which addresses are behind them. keys has this host's private keys by epoch.
//
// A device without a key, and a peer whose key or addresses are another's too, is left out; the error
// joins one entry for each. The plan is good for everything else and is to be applied also when there
// is an error: what is left out is sent to nobody.
func Compile(v *topology.View, cfg model.EncryptionConfig, keys map[int]PrivateKey) (Plan, error) {
	var p Plan
	var errs []error
	for i := range v.Tunnels {
		t := &v.Tunnels[i]
		if t.End.Encap != model.EncapWireGuard {
			continue
		}
		key, ok := keys[t.End.Epoch]
		if !ok || key.IsZero() {
			errs = append(errs, fmt.Errorf("device %s: this node has no private key of epoch %d", t.Device, t.End.Epoch))
			continue
		}
		own, err := key.Public()
		if err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", t.Device, err))
			continue
		}
		p.Devices = append(p.Devices, Device{Name: t.Device, Epoch: t.End.Epoch, Key: key, Port: t.End.Port,
			Addresses: t.Addresses, MTU: t.MTU, FwMark: cfg.Mark, Threading: cfg.Threading})
		peers, err := peersOf(t, v.Peers, cfg, own)
		p.Peers = append(p.Peers, peers...)
		errs = append(errs, err)
	}
	slices.SortFunc(p.Devices, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Peers, ComparePeers)
	return p, errors.Join(errs...)
}

// peersOf returns the peers of a device: the nodes that have an address of its family and a key of its
// epoch.
func peersOf(t *topology.Tunnel, all []topology.Peer, cfg model.EncryptionConfig, own model.PublicKey) ([]Peer, error) {
	var peers []Peer
	whose := map[model.PublicKey][]string{own: {"this node"}}
	behind := map[netip.Prefix][]string{}
	for i := range all {
		n := &all[i]
		key, ok := keyOf(n, t.End.Epoch)
		if !ok || model.FamilyOf(n.Address) != t.Family {
			continue
		}
		peer := Peer{Device: t.Device, Node: n.Node, Key: key, Endpoint: endpoint(n, cfg, t), AllowedIPs: allowed(n), Keepalive: cfg.Keepalive}
		if peer.Keepalive == 0 && n.BehindNAT {
			peer.Keepalive = natKeepalive
		}
		whose[key] = append(whose[key], "node "+string(n.Node))
		for _, a := range peer.AllowedIPs {
			behind[a] = append(behind[a], "node "+string(n.Node))
		}
		peers = append(peers, peer)
	}
	var errs []error
	peers = slices.DeleteFunc(peers, func(p Peer) bool {
		if who := whose[p.Key]; len(who) > 1 {
			errs = append(errs, fmt.Errorf("device %s: %s have one public key: nothing is sent to node %s", p.Device, strings.Join(who, " and "), p.Node))
			return true
		}
		for _, a := range p.AllowedIPs {
			if who := behind[a]; len(who) > 1 {
				errs = append(errs, fmt.Errorf("device %s: %s is said to be behind %s: nothing is sent to node %s", p.Device, a, strings.Join(who, " and "), p.Node))
				return true
			}
		}
		return false
	})
	return peers, errors.Join(errs...)
}

func keyOf(p *topology.Peer, epoch int) (model.PublicKey, bool) {
	for _, k := range p.Keys {
		if k.Epoch == epoch {
			return k.Key, k.Key != model.PublicKey{}
		}
	}
	return model.PublicKey{}, false
}

func endpoint(p *topology.Peer, cfg model.EncryptionConfig, t *topology.Tunnel) netip.AddrPort {
	addr := p.Address
	if p.Outside.IsValid() && model.FamilyOf(p.Outside) == t.Family {
		addr = p.Outside
	}
	return netip.AddrPortFrom(addr, uint16(cfg.Port(t.Family, t.End.Epoch)))
}

// allowed lists what the peer may send from: its blocks, what it borrowed, its tunnel and node addresses, of both
// families. From the latter its own processes answer pods.
func allowed(p *topology.Peer) []netip.Prefix {
	var ips []netip.Prefix
	for _, q := range slices.Concat(p.Prefixes, p.Other) {
		if q.IsValid() {
			ips = append(ips, q.Masked())
		}
	}
	slices.SortFunc(ips, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(ips)
}

// Format prints the plan; private keys do not show.
func (p Plan) Format() string {
	if len(p.Devices) == 0 {
		return "no WireGuard device\n"
	}
	var b strings.Builder
	for _, d := range p.Devices {
		public, err := d.Key.Public()
		key := public.String()
		if err != nil {
			key = err.Error()
		}
		fmt.Fprintf(&b, "device %s epoch %d public %s udp %d mtu %d", d.Name, d.Epoch, key, d.Port, d.MTU)
		for _, a := range d.Addresses {
			fmt.Fprintf(&b, " address %s", a)
		}
		if d.FwMark != 0 {
			fmt.Fprintf(&b, " fwmark 0x%x", d.FwMark)
		}
		if d.Threading {
			b.WriteString(" threading")
		}
		b.WriteByte('\n')
		for i := range p.Peers {
			if q := &p.Peers[i]; q.Device == d.Name {
				fmt.Fprintf(&b, "  peer %s public %s at %s", q.Node, q.Key, q.Endpoint)
				if q.Keepalive > 0 {
					fmt.Fprintf(&b, " keepalive %ds", q.Keepalive)
				}
				for _, a := range q.AllowedIPs {
					fmt.Fprintf(&b, " %s", a)
				}
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}

package tunnel

import (
	"cmp"
	"crypto/sha1"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
	"weft/model/topology"
)

// VTEPMAC returns the Ethernet address of a node's VTEP: 66 (locally administered, unicast) and
// the first five octets of the SHA-1 of the node's name, so that every node knows it before the
// other one published it. The hash spreads the names; nothing trusts it.
func VTEPMAC(node model.NodeName) model.MAC {
	sum := sha1.Sum([]byte(node))
	return model.MAC{0x66, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// Compile says which tunnel devices this host keeps, and what they know of the peers. A peer that
// cannot be told from another (the same address or MAC twice) is left out, since traffic for it
// could reach the wrong host; so is a device that cannot be made. The error joins one entry for
// each, naming who is involved; the plan is good for everything else and is to be applied also
// when there is an error.
func Compile(v *topology.View) (Plan, error) {
	rows := map[string]topology.Driver{}
	for _, d := range Drivers() {
		rows[d.Name] = d
	}
	var p Plan
	var errs []error
	seen := map[string]bool{}
	tunnels := slices.SortedFunc(slices.Values(v.Tunnels), func(a, b topology.Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
	for _, t := range tunnels {
		row, ok := rows[t.Driver]
		if !ok {
			errs = append(errs, fmt.Errorf("tunnel device %s: no driver is named %q", t.Device, t.Driver))
			continue
		}
		if seen[t.Device] {
			errs = append(errs, fmt.Errorf("tunnel device %s: wanted twice, the one over %s is left out", t.Device, t.Family))
			continue
		}
		seen[t.Device] = true
		errs = append(errs, p.addTunnel(v, t, row)...)
	}
	p.sort()
	return p, errors.Join(errs...)
}

func (p *Plan) addTunnel(v *topology.View, t topology.Tunnel, row topology.Driver) []error {
	ethernet := row.Reach == topology.VXLAN
	mac := t.MAC
	if ethernet && mac.IsZero() {
		mac = VTEPMAC(v.Self)
	}
	addrs := slices.Clone(t.Addresses)
	slices.SortFunc(addrs, netip.Addr.Compare)
	p.Links = append(p.Links, Link{
		Driver: t.Driver, Name: t.Device, Local: t.Local, Parent: t.Parent, Addresses: addrs,
		MAC: mac, MTU: t.MTU, VNI: t.VNI, Port: t.Port,
	})
	peers, errs := usable(v, t, mac, ethernet)
	for _, peer := range peers {
		if ethernet {
			p.Neighbours = append(p.Neighbours, Neighbour{t.Device, topology.TunnelNextHop(peer.Address), peer.MAC})
			p.FDB = append(p.FDB, FDBEntry{t.Device, peer.MAC, peer.Address})
		}
		for _, inner := range peer.Prefixes {
			if slices.Contains(row.Families, model.FamilyOf(inner.Addr())) {
				p.Sources = append(p.Sources, Source{t.Device, peer.Address, inner.Masked()})
			}
		}
	}
	return errs
}

// usable returns the peers of t's underlay family that can be told apart from each other and from
// this host, each with the MAC of its VTEP.
func usable(v *topology.View, t topology.Tunnel, own model.MAC, ethernet bool) ([]topology.Peer, []error) {
	var peers []topology.Peer
	addrs := map[netip.Addr][]model.NodeName{t.Local: {v.Self}}
	macs := map[model.MAC][]model.NodeName{own: {v.Self}}
	for _, peer := range v.Peers {
		if model.FamilyOf(peer.Address) != t.Family {
			continue
		}
		if peer.MAC.IsZero() {
			peer.MAC = VTEPMAC(peer.Node)
		}
		peers = append(peers, peer)
		addrs[peer.Address] = append(addrs[peer.Address], peer.Node)
		macs[peer.MAC] = append(macs[peer.MAC], peer.Node)
	}
	slices.SortFunc(peers, func(a, b topology.Peer) int { return cmp.Compare(a.Node, b.Node) })

	var errs []error
	clash := func(what fmt.Stringer, nodes []model.NodeName) {
		slices.Sort(nodes)
		errs = append(errs, fmt.Errorf("tunnel device %s: nodes %s share %s, none of them is reached through it: give each its own",
			t.Device, joinNames(nodes), what))
	}
	ok := peers[:0:0]
	told := map[string]bool{}
	for _, peer := range peers {
		switch {
		case len(addrs[peer.Address]) > 1:
			if k := peer.Address.String(); !told[k] {
				told[k] = true
				clash(peer.Address, addrs[peer.Address])
			}
		case ethernet && len(macs[peer.MAC]) > 1:
			if k := peer.MAC.String(); !told[k] {
				told[k] = true
				clash(peer.MAC, macs[peer.MAC])
			}
		case ethernet && peer.MAC[0]&1 != 0:
			errs = append(errs, fmt.Errorf("tunnel device %s: node %s has the multicast address %s as its VXLAN MAC: set vxlanTunnelMACAddr of its Node to a unicast one",
				t.Device, peer.Node, peer.MAC))
		default:
			ok = append(ok, peer)
		}
	}
	return ok, errs
}

func joinNames(nodes []model.NodeName) string {
	s := ""
	for i, n := range nodes {
		if i > 0 {
			s += " and "
		}
		s += string(n)
	}
	return s
}

// sort puts the plan in canonical order and drops repetitions.
func (p *Plan) sort() {
	slices.SortFunc(p.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(p.Neighbours, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.IP.Compare(b.IP))
	})
	slices.SortFunc(p.FDB, func(a, b FDBEntry) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), slices.Compare(a.MAC[:], b.MAC[:]))
	})
	slices.SortFunc(p.Sources, func(a, b Source) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), a.Outer.Compare(b.Outer),
			a.Inner.Addr().Compare(b.Inner.Addr()), cmp.Compare(a.Inner.Bits(), b.Inner.Bits()))
	})
	p.Sources = slices.Compact(p.Sources)
}

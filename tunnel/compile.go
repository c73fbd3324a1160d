package tunnel

import (
	"cmp"
	"crypto/sha1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

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
	if ethernet {
		p.addEntries(t.Device, peers)
	}
	p.addSources(t.Device, peers, row.Families)
	return errs
}

// addEntries adds what an Ethernet device must know of its peers. Devices come in order of their
// names and peers in that of theirs, so that nothing is left to sort.
func (p *Plan) addEntries(device string, peers []topology.Peer) {
	p.Neighbours, p.FDB = slices.Grow(p.Neighbours, len(peers)), slices.Grow(p.FDB, len(peers))
	for i := range peers {
		peer := &peers[i]
		p.Neighbours = append(p.Neighbours, Neighbour{device, peer.Node, topology.TunnelNextHop(peer.Address), peer.MAC})
		p.FDB = append(p.FDB, FDBEntry{device, peer.Node, peer.MAC, peer.Address})
	}
}

// addSources adds what the peers may send, of the families that the tunnel carries.
func (p *Plan) addSources(device string, peers []topology.Peer, carried []model.Family) {
	prefixes := 0
	for i := range peers {
		prefixes += len(peers[i].Prefixes)
	}
	p.Sources = slices.Grow(p.Sources, prefixes)
	for i := range peers {
		peer, first := &peers[i], len(p.Sources)
		for _, inner := range peer.Prefixes {
			if slices.Contains(carried, model.FamilyOf(inner.Addr())) {
				p.Sources = append(p.Sources, Source{device, peer.Node, peer.Address, inner.Masked()})
			}
		}
		own := p.Sources[first:]
		slices.SortFunc(own, CompareSources)
		p.Sources = p.Sources[:first+len(slices.Compact(own))]
	}
}

// usable returns the peers of t's underlay family that can be told apart from each other and from
// this host, each with the MAC of its VTEP, sorted by node and address.
func usable(v *topology.View, t topology.Tunnel, own model.MAC, ethernet bool) ([]topology.Peer, []error) {
	peers := make([]topology.Peer, 0, len(v.Peers))
	addrs := make(map[netip.Addr]bool, len(v.Peers)+1) // true: more than one has it
	macs := make(map[model.MAC]bool, len(v.Peers)+1)
	addrs[t.Local], macs[own] = false, false
	clean := true
	for i := range v.Peers {
		if model.FamilyOf(v.Peers[i].Address) != t.Family {
			continue
		}
		peers = append(peers, v.Peers[i])
		peer := &peers[len(peers)-1]
		if peer.MAC.IsZero() {
			peer.MAC = VTEPMAC(peer.Node)
		}
		_, addrTaken := addrs[peer.Address]
		_, macTaken := macs[peer.MAC]
		addrs[peer.Address], macs[peer.MAC] = addrTaken, macTaken
		clean = clean && !addrTaken && !macTaken && !multicast(peer.MAC)
	}
	if !slices.IsSortedFunc(peers, comparePeers) {
		slices.SortFunc(peers, comparePeers)
	}
	if clean {
		return peers, nil
	}
	c := clashes{self: v.Self, t: t, peers: peers, told: map[string]bool{}}
	ok := make([]topology.Peer, 0, len(peers))
	for _, peer := range peers {
		switch {
		case addrs[peer.Address]:
			c.add(peer.Address, func(p topology.Peer) bool { return p.Address == peer.Address }, t.Local == peer.Address)
		case ethernet && macs[peer.MAC]:
			c.add(peer.MAC, func(p topology.Peer) bool { return p.MAC == peer.MAC }, own == peer.MAC)
		case ethernet && multicast(peer.MAC):
			c.errs = append(c.errs, fmt.Errorf("tunnel device %s: node %s has the multicast address %s as its VXLAN MAC: set vxlanTunnelMACAddr of its Node to a unicast one",
				t.Device, peer.Node, peer.MAC))
		default:
			ok = append(ok, peer)
		}
	}
	slices.SortFunc(c.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return ok, c.errs
}

func comparePeers(a, b topology.Peer) int {
	return cmp.Or(cmp.Compare(a.Node, b.Node), a.Address.Compare(b.Address))
}

func multicast(m model.MAC) bool { return m[0]&1 != 0 }

// clashes collects one error for each address that several nodes have.
type clashes struct {
	self  model.NodeName
	t     topology.Tunnel
	peers []topology.Peer
	told  map[string]bool
	errs  []error
}

func (c *clashes) add(what fmt.Stringer, same func(topology.Peer) bool, withSelf bool) {
	if c.told[what.String()] {
		return
	}
	c.told[what.String()] = true
	var nodes []string
	if withSelf {
		nodes = append(nodes, string(c.self))
	}
	for _, p := range c.peers {
		if same(p) {
			nodes = append(nodes, string(p.Node))
		}
	}
	slices.Sort(nodes)
	c.errs = append(c.errs, fmt.Errorf("tunnel device %s: nodes %s share %s, none of them is reached through it: give each its own",
		c.t.Device, strings.Join(nodes, " and "), what))
}

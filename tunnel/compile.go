package tunnel

import (
	"cmp"
	"crypto/sha1"
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
func Compile(v *topology.View) (Plan, error) { return new(Compiler).Compile(v) }

// all compiles without the memory.
func (c *Compiler) all(v *topology.View) {
	rows := map[string]topology.Driver{}
	for _, d := range Drivers() {
		rows[d.Name] = d
	}
	c.devices, c.unmade, c.plan.Links = nil, nil, nil
	seen := map[string]bool{}
	tunnels := slices.SortedFunc(slices.Values(v.Tunnels), func(a, b topology.Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
	for _, t := range tunnels {
		row, ok := rows[t.Driver]
		if !ok {
			c.unmade = append(c.unmade, fmt.Errorf("tunnel device %s: no driver is named %q", t.Device, t.Driver))
			continue
		}
		if seen[t.Device] {
			c.unmade = append(c.unmade, fmt.Errorf("tunnel device %s: wanted twice, the one over %s is left out", t.Device, t.Family))
			continue
		}
		seen[t.Device] = true
		d := &device{tunnel: t, self: v.Self, ethernet: row.Reach == topology.VXLAN, families: row.Families, mac: t.MAC}
		if d.ethernet && d.mac.IsZero() {
			d.mac = VTEPMAC(v.Self)
		}
		d.compile(v.Peers)
		c.devices = append(c.devices, d)
		c.plan.Links = append(c.plan.Links, d.link())
	}
	c.assemble()
}

func (d *device) link() Link {
	t := d.tunnel
	return Link{
		Driver: t.Driver, Name: t.Device, Local: t.Local, Parent: t.Parent,
		Addresses: slices.SortedFunc(slices.Values(t.Addresses), netip.Addr.Compare),
		MAC:       d.mac, MTU: t.MTU, VNI: t.VNI, Port: t.Port,
	}
}

// compile makes the entries of all peers.
func (d *device) compile(all []topology.Peer) {
	peers := d.ofFamily(all)
	d.addrs, d.macs = make(map[netip.Addr]int, len(peers)+1), make(map[model.MAC]int, len(peers)+1)
	d.addrs[d.tunnel.Local], d.macs[d.mac] = 1, 1
	for i := range peers {
		d.addrs[peers[i].Address]++
		d.macs[peers[i].MAC]++
	}
	peers, d.errs = d.apart(peers)
	d.neighbours, d.fdb, d.sources = nil, nil, nil
	d.add(peers)
}

// ofFamily returns the peers of the underlay's family, each with the MAC of its VTEP, sorted.
func (d *device) ofFamily(all []topology.Peer) []topology.Peer {
	peers := make([]topology.Peer, 0, len(all))
	for i := range all {
		if model.FamilyOf(all[i].Address) != d.tunnel.Family {
			continue
		}
		peers = append(peers, all[i])
		if p := &peers[len(peers)-1]; p.MAC.IsZero() {
			p.MAC = VTEPMAC(p.Node)
		}
	}
	if !slices.IsSortedFunc(peers, comparePeers) {
		slices.SortFunc(peers, comparePeers)
	}
	return peers
}

// add adds what the device must know of peers, and what these may send, of the families that the
// tunnel carries. Peers come in the order of the plan, so that nothing is left to sort.
func (d *device) add(peers []topology.Peer) {
	prefixes := 0
	for i := range peers {
		prefixes += len(peers[i].Prefixes)
	}
	if d.ethernet {
		d.neighbours, d.fdb = slices.Grow(d.neighbours, len(peers)), slices.Grow(d.fdb, len(peers))
	}
	d.sources = slices.Grow(d.sources, prefixes)
	name := d.tunnel.Device
	for i := range peers {
		peer, first := &peers[i], len(d.sources)
		if d.ethernet {
			d.neighbours = append(d.neighbours, Neighbour{name, peer.Node, topology.TunnelNextHop(peer.Address), peer.MAC})
			d.fdb = append(d.fdb, FDBEntry{name, peer.Node, peer.MAC, peer.Address})
		}
		for _, inner := range peer.Prefixes {
			if slices.Contains(d.families, model.FamilyOf(inner.Addr())) {
				d.sources = append(d.sources, Source{name, peer.Node, peer.Address, inner.Masked()})
			}
		}
		own := d.sources[first:]
		slices.SortFunc(own, func(a, b Source) int { return comparePrefix(a.Inner, b.Inner) })
		d.sources = d.sources[:first+len(slices.Compact(own))]
	}
}

// usable tells whether the peer, which is counted, can be told from all others and from this host.
func (d *device) usable(p *topology.Peer) bool {
	return d.addrs[p.Address] == 1 && (!d.ethernet || d.macs[p.MAC] == 1 && !multicast(p.MAC))
}

// apart returns the peers that are usable, and an error for each reason why others are not.
func (d *device) apart(peers []topology.Peer) ([]topology.Peer, []error) {
	if !slices.ContainsFunc(peers, func(p topology.Peer) bool { return !d.usable(&p) }) {
		return peers, nil
	}
	c := clashes{self: d.self, t: d.tunnel, peers: peers, told: map[string]bool{}}
	ok := make([]topology.Peer, 0, len(peers))
	for _, peer := range peers {
		switch {
		case d.addrs[peer.Address] > 1:
			c.add(peer.Address, func(p topology.Peer) bool { return p.Address == peer.Address }, d.tunnel.Local == peer.Address)
		case d.ethernet && d.macs[peer.MAC] > 1:
			c.add(peer.MAC, func(p topology.Peer) bool { return p.MAC == peer.MAC }, d.mac == peer.MAC)
		case d.ethernet && multicast(peer.MAC):
			c.errs = append(c.errs, fmt.Errorf("tunnel device %s: node %s has the multicast address %s as its VXLAN MAC: set vxlanTunnelMACAddr of its Node to a unicast one",
				d.tunnel.Device, peer.Node, peer.MAC))
		default:
			ok = append(ok, peer)
		}
	}
	slices.SortFunc(c.errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return ok, c.errs
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

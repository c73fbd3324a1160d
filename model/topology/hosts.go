package topology

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
)

// hostEncryption tells whether what this host sends to other nodes' own addresses of a family is to be encrypted:
// where pods' traffic is.
func hostEncryption(e *model.EncryptionConfig, f model.Family) bool { return e.Host && e.Enabled(f) }

// hosts decides how this host reaches the other nodes' own addresses, where these are to be encrypted; sorted by
// Dst. A peer takes host traffic in either way at any time: so each end moves by itself, as soon as the
// peer receives by a device and answers there, and back at once. Who was reached in cipher text is not reached
// otherwise any more where that is required; who never was goes on in clear, however long: a node that
// is on its way into the cluster needs more of the others than could be named here.
func (c *compiler) hosts() []Path {
	if !hostEncryption(&c.s.Encryption, model.IPv4) && !hostEncryption(&c.s.Encryption, model.IPv6) {
		return nil
	}
	var paths []Path
	for name, n := range c.s.Nodes {
		if name == c.s.Self {
			continue
		}
		for _, a := range n.Addresses {
			f := model.FamilyOf(a.Addr())
			if own, ok := c.self.Address(f); ok && own.Addr() != a.Addr() && hostEncryption(&c.s.Encryption, f) {
				paths = append(paths, c.host(n, a.Addr(), own.Addr()))
			}
		}
	}
	slices.SortFunc(paths, comparePaths)
	return c.withoutRivals(paths)
}

// host decides one address of a peer; own is this node's of the same family.
func (c *compiler) host(n *model.Node, to, own netip.Addr) Path {
	f := model.FamilyOf(to)
	d, missing := c.encrypted(n, f, false)
	switch {
	case missing == "":
	case c.closedHost(n.Name):
		var not string
		if d, not = c.encrypted(n, f, true); not != "" {
			d = decision{why: fmt.Sprintf("traffic to node %s was encrypted and must stay so, and %s", n.Name, not)}
		}
	default:
		d = c.inClear(to, "not encrypted, since "+missing)
	}
	if d.reach == WireGuard {
		d.source = own
	}
	return Path{Dst: model.HostPrefix(to), Node: n.Name, Reach: d.reach, Via: d.via, Device: d.device, Source: d.source,
		MTU: d.mtu, DeviceMTU: d.deviceMTU, Unready: d.unready, Why: d.why}
}

// closedHost tells whether nothing may go to a node's own addresses in clear any more.
func (c *compiler) closedHost(node model.NodeName) bool {
	return !c.s.Encryption.Preferred && c.s.EncryptionState.Hosts[node]
}

// inClear is the way of the underlay, which its own routes lead.
func (c *compiler) inClear(to netip.Addr, why string) decision {
	h, ok := c.under.towards(to)
	if !ok {
		return decision{reach: Direct, why: why + "; this host has no route towards " + to.String()}
	}
	return decision{reach: Direct, via: h.via, device: h.device, mtu: c.hopMTU(h), deviceMTU: h.mtu, why: why}
}

// withoutRivals leaves, of an address that several nodes say is theirs, one path: no device has it as a peer's
// (encryption.Compile), so it is refused, unless it was in clear for all of them.
func (c *compiler) withoutRivals(paths []Path) []Path {
	out := paths[:0]
	for len(paths) > 0 {
		n := 1
		for n < len(paths) && paths[n].Dst == paths[0].Dst {
			n++
		}
		p := paths[0]
		if n > 1 {
			why := fmt.Sprintf("nodes %s and %s both have the address %s in their records", p.Node, paths[1].Node, p.Dst.Addr())
			if slices.ContainsFunc(paths[:n], func(q Path) bool { return q.Reach != Direct }) {
				p = Path{Dst: p.Dst, Node: p.Node, Why: why}
			}
			p.Why = why
		}
		out, paths = append(out, p), paths[n:]
	}
	return out
}

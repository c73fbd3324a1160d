package topology

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// kind is what a pool asks for: the settings of the tunnel are the cluster's.
type kind struct {
	encap  model.Encap
	family model.Family
}

// findTunnels names the devices that this host must have: one for each encapsulation and family that
// a pool asks for, and those that some node may still be using.
func (c *compiler) findTunnels() {
	wanted := map[kind]string{}
	for _, p := range c.s.Pools {
		w := kind{p.Encap, model.FamilyOf(p.CIDR.Addr())}
		if _, ok := wanted[w]; !ok && p.Encap != model.EncapNone {
			wanted[w] = "IPPool " + p.Name
		}
	}
	c.wantEncryption(wanted)
	for w, who := range wanted {
		t, err := c.tunnel(c.current(w))
		if err != nil {
			c.problem("%s wants %s, %v", who, w.encap, err)
			continue
		}
		t.Why = who + " asks for it"
		c.tunnels = append(c.tunnels, t)
	}
	c.keepTunnels()
	slices.SortFunc(c.tunnels, func(a, b Tunnel) int {
		return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Family, b.Family))
	})
}

// current returns the end of a kind with the cluster's settings of now.
func (c *compiler) current(k kind) model.TunnelEnd {
	e := model.TunnelEnd{Encap: k.encap, Family: k.family}
	switch k.encap {
	case model.EncapVXLAN:
		e.VNI, e.Port = c.s.VXLAN.VNI, c.s.VXLAN.Port
	case model.EncapWireGuard:
		e.Epoch, e.Port = c.s.Encryption.Epoch, c.s.Encryption.Port(k.family, c.s.Encryption.Epoch)
	}
	return e
}

// wants tells whether a pool asks for e.
func (c *compiler) wants(e model.TunnelEnd) bool {
	return slices.ContainsFunc(c.tunnels, func(t Tunnel) bool { return t.End == e && !t.Kept })
}

// keepTunnels adds the devices that no pool asks for any more and that are still in use: this node's
// record promises that it receives by them, or a peer's says that it may send. What a peer says
// counts only for what this node would make by its own settings: no record of another node makes it
// build devices at will.
func (c *compiler) keepTunnels() {
	if c.s.IgnoreReadiness {
		return
	}
	kept := map[model.TunnelEnd][]string{} // by which peers
	if c.self.Tunnels != nil {
		for _, e := range c.self.Tunnels.Receives {
			if e.Encap != model.EncapNone && !c.wants(e) {
				kept[e] = nil
			}
		}
	}
	for name, n := range c.s.Nodes {
		if n.Tunnels == nil || name == c.s.Self {
			continue
		}
		for _, e := range n.Tunnels.Sends {
			_, promised := kept[e]
			if promised || e.Encap != model.EncapNone && !c.wants(e) && c.would(e) {
				kept[e] = append(kept[e], string(name))
			}
		}
	}
	for _, e := range sortedEnds(kept) {
		t, err := c.tunnel(e)
		if err != nil {
			continue // it is not there, and nothing asks for it
		}
		if isWireGuard(e) && slices.ContainsFunc(c.tunnels, func(o Tunnel) bool { return o.Device == t.Device }) {
			continue // a device has one key and one port: who uses the old ones follows
		}
		t.Kept, t.Why = true, keptWhy(kept[e])
		if t.Device = c.freeName(t); t.Device != "" {
			c.tunnels = append(c.tunnels, t)
		}
	}
}

// would tells whether this node would make the device of an end by its own settings, and by the keys
// that it published.
func (c *compiler) would(e model.TunnelEnd) bool {
	if isWireGuard(e) {
		_, ok := c.self.Key(e.Epoch)
		return ok && e.Port == c.s.Encryption.Port(e.Family, e.Epoch)
	}
	return e == c.current(kind{e.Encap, e.Family})
}

// keptWhy names at most three of the nodes that a device waits for.
func keptWhy(nodes []string) string {
	if len(nodes) == 0 {
		return "no pool asks for it; it goes when this node has moved all its traffic"
	}
	slices.Sort(nodes)
	more := ""
	if len(nodes) > 3 {
		more = fmt.Sprintf(" and %d more", len(nodes)-3)
		nodes = nodes[:3]
	}
	return "no pool asks for it; kept since these may still send by it: " + strings.Join(nodes, ", ") + more
}

// SortEnds puts ends in the order in which records list them.
func SortEnds(ends []model.TunnelEnd) { slices.SortFunc(ends, compareEnds) }

func sortedEnds(m map[model.TunnelEnd][]string) []model.TunnelEnd {
	ends := make([]model.TunnelEnd, 0, len(m))
	for e := range m {
		ends = append(ends, e)
	}
	slices.SortFunc(ends, compareEnds)
	return ends
}

func compareEnds(a, b model.TunnelEnd) int {
	return cmp.Or(cmp.Compare(a.Encap, b.Encap), cmp.Compare(a.Family, b.Family), cmp.Compare(a.VNI, b.VNI), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Port, b.Port))
}

// freeName returns the first name for a kept device that no other one has: its own, where nothing
// new took that, else one that says that it is the old one; "" when there are too many.
func (c *compiler) freeName(t Tunnel) string {
	base := t.Device
	if t.Family == model.IPv6 {
		base = strings.TrimSuffix(base, "-v6") + "6" // an interface name has 15 bytes
	}
	for _, name := range []string{t.Device, base + "-old", base + "-ol2", base + "-ol3"} {
		if !slices.ContainsFunc(c.tunnels, func(o Tunnel) bool { return o.Device == name }) {
			return name
		}
	}
	return ""
}

// tunnel describes this host's device of an end; the error says why it cannot have it.
func (c *compiler) tunnel(e model.TunnelEnd) (Tunnel, error) {
	d, ok := c.driver(e.Encap)
	if !ok {
		return Tunnel{}, fmt.Errorf("which this node has no driver for")
	}
	f := e.Family
	overhead, ok := d.Overhead[f]
	if !ok || !slices.Contains(d.Families, f) {
		return Tunnel{}, fmt.Errorf("which does not carry %s", f)
	}
	addr, ok := c.self.Address(f)
	if !ok {
		return Tunnel{}, fmt.Errorf("but this node has no %s underlay address", f)
	}
	parent, ok := c.under.carrier(c.s.Underlay.Links, addr.Addr())
	if !ok {
		return Tunnel{}, fmt.Errorf("but no interface of this host has the node address %s", addr.Addr())
	}
	mtu, err := c.tunnelMTU(e, parent, overhead)
	if err != nil {
		return Tunnel{}, err
	}
	t := Tunnel{Driver: d.Name, Device: d.DeviceOver(f), Family: f, Local: addr.Addr(), Parent: parent.Name,
		MTU: mtu, End: e, VNI: e.VNI, Port: e.Port}
	if d.Reach == VXLAN {
		t.MAC = c.self.VXLANMAC
	}
	if isWireGuard(e) {
		t.Device = WireGuardDevice(e)
	}
	for _, inner := range []model.Family{model.IPv4, model.IPv6} {
		if a, ok := c.self.TunnelAddress(inner); ok && (inner == f || d.Reach == WireGuard) {
			t.Addresses = append(t.Addresses, a)
		}
	}
	return t, nil
}

// WireGuardDevice names the device of an end. Keys move from one device to another, side by side: the one
// keeps its name while the other comes.
func WireGuardDevice(e model.TunnelEnd) string {
	d := Driver{Device: "weft-wg" + [2]string{"", "2"}[e.Epoch&1]}
	return d.DeviceOver(e.Family)
}

// pick chooses the tunnel towards a peer for a pool that wants e: the one that it wants once both
// ends are ready for it, else another that both have, which is what was in use before the pool
// changed. why says what is missing; i < 0 when there is none.
func (c *compiler) pick(peer *model.Node, e model.Encap, f model.Family) (i int, why string) {
	i, why = -1, "this node has no driver for "+e.String()
	if _, ok := c.driver(e); ok {
		why = fmt.Sprintf("this node cannot have a %s device over %s", e, f)
	}
	wanted := slices.IndexFunc(c.tunnels, func(t Tunnel) bool { return t.End == c.current(kind{e, f}) })
	if wanted >= 0 {
		switch end := c.tunnels[wanted].End; {
		case c.s.IgnoreReadiness || peer.Receives(end) && c.self.MaySend(end):
			return wanted, ""
		case !peer.Receives(end):
			why = fmt.Sprintf("node %s does not receive %s yet", peer.Name, end)
		default:
			why = fmt.Sprintf("this node has not announced yet that it sends %s", end)
		}
	}
	for j := range c.tunnels {
		t := &c.tunnels[j]
		better := i < 0 || t.End.Encap == e && c.tunnels[i].End.Encap != e
		if t.Family == f && t.End.Encap != model.EncapWireGuard && j != wanted && better && peer.Receives(t.End) && c.self.MaySend(t.End) {
			i = j
		}
	}
	return i, why
}

// mayGoDirect tells whether, for want of a tunnel that both ends have, traffic may go without: that
// is how it went before the pool changed. Behind a gateway only where the underlay carried addresses of that pool then.
func (c *compiler) mayGoDirect(pool *model.Pool, link linkView) bool {
	own := c.self.Tunnels
	return own != nil && (slices.Contains(own.Routed, pool.CIDR) || link.both() && slices.Contains(own.Sends, model.TunnelEnd{}))
}

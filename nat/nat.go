// Package nat compiles, purely, how this host translates source addresses: those of pods that speak
// to the world outside the cluster (IPPool.natOutgoing), and those of its own processes that speak
// through a tunnel. It knows no pod and no policy; the driver below it (nat/nftables) makes the
// kernel so.
package nat

import (
	"net/netip"

	"weft/model"
)

// Plan is everything that the NAT driver keeps in the kernel. The zero plan means "gone".
type Plan struct {
	Outgoing []Outgoing // at most one a family, IPv4 first
	Tunnels  []Tunnel   // sorted by device, then address
	Pods     []Range    // destinations of a Tunnel with Pods, of both families; as Merge gives them
	// Hold keeps what translates the packets of connections that were translated before, although
	// no new one would be. It makes nothing that is not there.
	Hold bool
}

// Outgoing says which packets of one family get another source when they leave this host by an
// interface that is not ours.
type Outgoing struct {
	Family model.Family
	From   []Range      // sources that are translated; as Merge gives them
	Spared []Range      // destinations that are not: all pools; as Merge gives them
	Hosts  []netip.Addr // further destinations that are not, sorted; nil: none
	// To is the new source address; invalid: the one of the interface.
	To netip.Addr
	// Ports are the new source ports of protocols with ports, UDPPorts those of UDP; zero: any.
	Ports, UDPPorts model.PortRange
	// Interface limits it to what leaves by this one; a + at the end stands for the rest of a name.
	Interface string
}

// Tunnel gives packets of this host's own processes that leave through Device the source Address,
// whatever local address their socket has: the answer to any other would come by another way.
type Tunnel struct {
	Device  string
	Address netip.Addr
	// Pods limits it to what is sent to addresses of pools: nodes' own may be reached through Device, too, and
	// answer there whatever the source.
	Pods bool
}

// IsZero tells whether p means "gone".
func (p Plan) IsZero() bool { return len(p.Outgoing) == 0 && len(p.Tunnels) == 0 && !p.Hold }

// Package topology decides, for every prefix of the cluster, how this host reaches it: locally,
// directly over the underlay, through a tunnel, or not at all; with next hop, MTU and a sentence
// that says why. It is pure: the same Snapshot gives the same View, byte for byte.
//
// The areas (tunnel, routing, encryption) compile their plans from the View and never import each
// other; what two of them need to agree on is decided here.
package topology

import (
	"net/netip"

	"weft/model"
)

// Reach is how a prefix is reached.
type Reach int

// The ways to reach a prefix.
const (
	Unreachable Reach = iota // no path: nothing is told to send there
	Local                    // a block of this host
	Direct                   // the underlay carries pod addresses itself
	VXLAN
	IPIP
	WireGuard
)

var reachNames = [...]string{"Unreachable", "Local", "Direct", "VXLAN", "IPIP", "WireGuard"}

// String prints the name that status and plans show.
func (r Reach) String() string { return reachNames[r] }

// Driver is one row of the table of interchangeable tunnel drivers (package tunnel holds the
// table). Adding a driver adds a row.
type Driver struct {
	Name   string // "vxlan": the driver's folder and its name in status
	Reach  Reach
	Encap  model.Encap // the pool mode that selects it; EncapNone when no pool mode does
	Device string      // the shared device: "weft-vxlan"
	Outer  string      // outer protocol or port, for people: "UDP 4789"
	// Overhead is the number of bytes that the encapsulation adds, by family of the underlay;
	// a family that is absent is not supported.
	Overhead map[model.Family]int
	Families []model.Family // of the inner packet
	Needs    string         // of the kernel, for people
	// SelectedBy says, for people, which setting leads to this row: "vxlanMode Always".
	SelectedBy string
}

// DeviceOver names the device over an underlay of family f. A device has one family of outer
// addresses, so a dual-stack node has two; the one over IPv4 has the plain name.
func (d Driver) DeviceOver(f model.Family) string {
	if f == model.IPv6 {
		return d.Device + "-v6"
	}
	return d.Device
}

// Path is how one prefix is reached from this host.
type Path struct {
	Dst   netip.Prefix
	Node  model.NodeName // who holds Dst; this host for Local
	Reach Reach
	// Via is the next hop: the peer's node address for Direct, or the underlay's gateway towards
	// it where it is not on link; TunnelNextHop of it for a tunnel. Invalid for Local and
	// Unreachable.
	Via netip.Addr
	// Device is the interface that Via is on: an underlay interface for Direct, the tunnel's
	// device otherwise, empty for Local and Unreachable.
	Device string
	// Source is the address that this host itself should use towards Dst; invalid: no preference.
	Source netip.Addr
	MTU    int // bytes that an inner packet may have
	// DeviceMTU is the MTU of Device: a route needs an MTU of its own only where MTU is smaller.
	DeviceMTU int
	// Foreign tells that no pool holds Dst, so that nobody may claim it: no route at all is made of
	// it, not even one that refuses.
	Foreign bool
	// Unready tells that the peer is not known to be ready for what is sent this way, which is the only one left.
	Unready bool
	Why     string // one sentence
}

// Peer is another node, as the tunnels see it.
type Peer struct {
	Node    model.NodeName
	Address netip.Addr // underlay address: outer source and destination of tunnel packets
	MAC     model.MAC  // of its VTEP
	// Prefixes are what this peer may send from inside a tunnel: its blocks, the addresses it
	// borrowed, its tunnel address. Sorted.
	Prefixes []netip.Prefix
	// Other are those of the other family than Address, and the node's addresses of it, for tunnels that
	// carry both. Sorted.
	Other []netip.Prefix
	// Keys, Outside and BehindNAT are the node's own.
	Keys      []model.NodeKey
	Outside   netip.Addr
	BehindNAT bool
}

// Guard is what must not pass the underlay in clear: packets to addresses of Pools, and from elsewhere those between
// two addresses of Pools, unless the other end is in Clear. The zero value guards nothing.
type Guard struct {
	Pools []netip.Prefix // sorted
	Clear []netip.Prefix // of nodes that are not, or not yet, spoken to in cipher text only; sorted
}

// Tunnel is a tunnel device that this host must have.
type Tunnel struct {
	Driver    string // name of the row
	Device    string
	Family    model.Family // of the underlay
	Local     netip.Addr   // outer source
	Parent    string       // underlay interface that carries Local
	Addresses []netip.Addr // of the device itself
	MAC       model.MAC
	MTU       int // bytes, inner
	VNI       int
	Port      int // UDP
	// End is what peers know the device by.
	End model.TunnelEnd
	// Kept tells that no pool asks for the device any more: it stays until nobody can be using it.
	Kept bool
	Why  string // one sentence: who asks for it, or who may still use it
}

// View is what the areas compile from.
type View struct {
	Self    model.NodeName
	Paths   []Path   // sorted by Dst
	Peers   []Peer   // sorted by Node; all nodes but this one that have an underlay address
	Tunnels []Tunnel // sorted by Device
	Uplinks []string // the interfaces that carry this node's addresses, sorted
	Guard   Guard
	// Hosts are the paths to the other nodes' own addresses, where these are to be encrypted; sorted by Dst. Direct
	// leaves an address to the underlay's own routes.
	Hosts []Path
	// Encrypted are the nodes that this host can reach by WireGuard as soon as the View is applied.
	Encrypted map[model.NodeName]bool
	PodMTU    int // bytes: what a pod interface may have so that every path takes it
	// PodMTUWhy says where PodMTU comes from.
	PodMTUWhy string
	// Problems are the things that keep part of the cluster from being reached, for status; each
	// a sentence that names what it is about.
	Problems []string
}

package model

import (
	"fmt"
	"net/netip"
	"slices"
)

// NodeName is the name of a node: a DNS-1123 subdomain, unique in the cluster.
type NodeName string

// Family is an IP address family, 4 or 6. Code is written once for both; the family is a property
// of an address or prefix and never part of a name.
type Family int

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address. A v4-mapped IPv6 address counts as IPv6; callers
// unmap what they read from outside.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// String prints "IPv4" or "IPv6".
func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// HostPrefix returns the /32 or /128 that holds just a.
func HostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// MAC is an Ethernet address. Its zero value means "none".
type MAC [6]byte

// IsZero tells whether m is the zero value.
func (m MAC) IsZero() bool { return m == MAC{} }

// String prints the usual six colon-separated octets.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// ParseMAC reads six colon-separated octets of two hex digits each.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) != 17 {
		return MAC{}, fmt.Errorf("MAC address %q: want six octets such as 66:01:02:03:04:05", s)
	}
	for i := range m {
		if i > 0 && s[3*i-1] != ':' {
			return MAC{}, fmt.Errorf("MAC address %q: want colons between the octets", s)
		}
		hi, lo := hexDigit(s[3*i]), hexDigit(s[3*i+1])
		if hi < 0 || lo < 0 {
			return MAC{}, fmt.Errorf("MAC address %q: octet %d is not two hex digits", s, i+1)
		}
		m[i] = byte(hi<<4 | lo)
	}
	return m, nil
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Encap is how a pool wants traffic between nodes to travel (IPPool.vxlanMode, IPPool.ipipMode).
type Encap int

// The encapsulations that a pool can ask for.
const (
	EncapNone      Encap = iota // both modes Never
	EncapVXLAN                  // vxlanMode Always or CrossSubnet
	EncapIPIP                   // ipipMode Always or CrossSubnet
	EncapWireGuard              // no pool's: encryption takes the place of what the pool asks for
)

// String prints the name that users see in status and plans.
func (e Encap) String() string {
	switch e {
	case EncapVXLAN:
		return "VXLAN"
	case EncapIPIP:
		return "IPIP"
	case EncapWireGuard:
		return "WireGuard"
	default:
		return "none"
	}
}

// Node is one host of the cluster, as its Node record tells.
type Node struct {
	Name   NodeName
	Labels map[string]string
	// Addresses are the node's underlay addresses with their prefix lengths, at most one a family
	// (Node.spec.bgp.ipv4Address, ipv6Address).
	Addresses []netip.Prefix
	// OnLink is what the node published of its own underlay routing: see OnLink. Empty means that
	// it published nothing (another implementation wrote the record); then the prefix length of
	// its address decides.
	OnLink []OnLink
	// TunnelAddresses are the addresses of the node's tunnel devices. Weft's own records hold one
	// a family, which all devices of that family share (Node.spec.ipv4VXLANTunnelAddr,
	// ipv6VXLANTunnelAddr, bgp.ipv4IPIPTunnelAddr).
	TunnelAddresses []netip.Addr
	// Tunnels is what the node published of its tunnels (Node.status.tunnels); nil when it
	// published nothing: an earlier release, or another implementation, wrote the record.
	Tunnels *Tunnels
	// IPIP tells that the record names an address of an IPIP device.
	IPIP bool
	// VXLANMAC is the Ethernet address of the node's VTEP (Node.spec.vxlanTunnelMACAddr).
	VXLANMAC MAC
	// Keys are the public keys that the node published, sorted by epoch.
	Keys []NodeKey
	// Outside is where others reach the node's WireGuard devices when that is not its underlay address
	// (annotation weft.io/wireguard-endpoint); BehindNAT, that it has to keep the way open itself.
	Outside   netip.Addr
	BehindNAT bool
	BGP       NodeBGP
}

// OnLink is one entry of a node's published view of its link: addresses in Prefix are reached
// directly, or, when Gateway is set, by a router although a wider entry would say directly.
// Longest prefix wins.
type OnLink struct {
	Prefix  netip.Prefix
	Gateway bool
}

// TunnelEnd is one way of tunnelling: two ends fit when they are equal.
type TunnelEnd struct {
	Encap  Encap  // EncapNone, in Tunnels.Sends only: without a tunnel
	Family Family // of the underlay; 0 with EncapNone
	VNI    int    // with EncapVXLAN
	Port   int    // UDP, with EncapVXLAN and EncapWireGuard
	Epoch  int    // of the keys, with EncapWireGuard
}

// String prints "VXLAN over IPv4, VNI 4096, UDP 4789".
func (e TunnelEnd) String() string {
	switch e.Encap {
	case EncapVXLAN:
		return fmt.Sprintf("%s over %s, VNI %d, UDP %d", e.Encap, e.Family, e.VNI, e.Port)
	case EncapWireGuard:
		return fmt.Sprintf("%s over %s, key %d, UDP %d", e.Encap, e.Family, e.Epoch, e.Port)
	case EncapNone:
		return "no encapsulation"
	default:
		return fmt.Sprintf("%s over %s", e.Encap, e.Family)
	}
}

// Tunnels is what a node says about its tunnels, so that a change of encapsulation loses nothing:
// peers use only what it receives, and it takes nothing away that a peer may still use.
type Tunnels struct {
	// Receives are the ends that stand ready in the node's kernel. Sorted.
	Receives []TunnelEnd
	// Sends are the ends that the node may be sending by. It is written before the first packet
	// goes that way and withdrawn after the last. Sorted.
	Sends []TunnelEnd
	// EncryptedOnly tells that the node refuses, from nodes that can encrypt, what is not encrypted.
	EncryptedOnly bool
	// Routed are the pools whose traffic the node sends without a tunnel to nodes behind gateways too, or did before they changed: the
	// underlay knows the way to their pods. Sorted; Sends has EncapNone then.
	Routed []netip.Prefix
}

// Receives tells whether packets to the node may travel by e. A node that published nothing is
// taken at what its record says: it has VXLAN at the cluster's settings, and IPIP when it has an
// address for that device.
func (n *Node) Receives(e TunnelEnd) bool {
	if n.Tunnels == nil {
		return e.Encap == EncapVXLAN || e.Encap == EncapNone || e.Encap == EncapIPIP && n.IPIP
	}
	return slices.Contains(n.Tunnels.Receives, e)
}

// MaySend tells whether the node has announced that it may send by e.
func (n *Node) MaySend(e TunnelEnd) bool {
	return n.Tunnels == nil || slices.Contains(n.Tunnels.Sends, e)
}

// Pending returns n, or a copy, as it is while said is on its way into the record: it keeps what said
// promises to receive by, and what said takes back it does not send by before it has announced it
// anew.
func (n *Node) Pending(said Tunnels) *Node {
	if n.Tunnels == nil {
		return n
	}
	t := Tunnels{Receives: slices.Clone(n.Tunnels.Receives), EncryptedOnly: n.Tunnels.EncryptedOnly && said.EncryptedOnly,
		Routed: slices.Clone(n.Tunnels.Routed)}
	for _, p := range said.Routed {
		if !slices.Contains(t.Routed, p) {
			t.Routed = append(t.Routed, p)
		}
	}
	for _, e := range said.Receives {
		if !slices.Contains(t.Receives, e) {
			t.Receives = append(t.Receives, e)
		}
	}
	for _, e := range n.Tunnels.Sends {
		if slices.Contains(said.Sends, e) {
			t.Sends = append(t.Sends, e)
		}
	}
	// Without encapsulation there is nothing at the peer to wait for, and whoever began with it goes on, unless
	// peers have to know before clear text comes.
	direct, wireguard := TunnelEnd{}, func(e TunnelEnd) bool { return e.Encap == EncapWireGuard }
	if slices.Contains(said.Sends, direct) && !slices.Contains(t.Sends, direct) && !slices.ContainsFunc(n.Tunnels.Sends, wireguard) {
		t.Sends = append(t.Sends, direct)
	}
	if len(t.Receives) == len(n.Tunnels.Receives) && len(t.Sends) == len(n.Tunnels.Sends) && t.EncryptedOnly == n.Tunnels.EncryptedOnly &&
		len(t.Routed) == len(n.Tunnels.Routed) {
		return n
	}
	c := *n
	c.Tunnels = &t
	return &c
}

// Key returns the key that the node published for an epoch.
func (n *Node) Key(epoch int) (PublicKey, bool) {
	for _, k := range n.Keys {
		if k.Epoch == epoch {
			return k.Key, true
		}
	}
	return PublicKey{}, false
}

// Address returns the node's underlay address of family f.
func (n *Node) Address(f Family) (netip.Prefix, bool) {
	for _, p := range n.Addresses {
		if FamilyOf(p.Addr()) == f {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// TunnelAddress returns the address of the node's tunnel device of family f.
func (n *Node) TunnelAddress(f Family) (netip.Addr, bool) {
	for _, a := range n.TunnelAddresses {
		if FamilyOf(a) == f {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Pool is an IPPool: a range that pods get addresses from, and how its traffic travels.
type Pool struct {
	Name        string
	CIDR        netip.Prefix
	Encap       Encap
	CrossSubnet bool // with Encap: only towards nodes that are not on link
	NATOutgoing bool
	Disabled    bool // no new allocations; traffic of existing ones goes on
	// Unadvertised (disableBGPExport) keeps the pool out of BGP.
	Unadvertised bool
}

// Block is an allocation block: a part of a pool whose addresses one node hands out.
type Block struct {
	CIDR netip.Prefix
	// Node has the block's affinity; empty when no node has.
	Node NodeName
	// Borrowed holds addresses of this block that another node than Node uses.
	Borrowed map[netip.Addr]NodeName
}

// EndpointID names a workload endpoint: the pod and its interface.
type EndpointID struct {
	Namespace string
	Pod       string
	Interface string // inside the pod: "eth0"
}

// String prints "namespace/pod/eth0".
func (id EndpointID) String() string { return id.Namespace + "/" + id.Pod + "/" + id.Interface }

// Endpoint is a pod's attachment to the network on this node.
type Endpoint struct {
	ID        EndpointID
	Device    string // host side of the veth pair, "weft" and 11 hex digits
	Addresses []netip.Addr
	MAC       MAC // inside the pod
	// Labels, Profiles and Ports are what policy needs to know of the pod: its own labels (with
	// projectcalico.org/namespace and the like), the profiles it inherits from and falls back to,
	// first wins, and its named ports.
	Labels   map[string]string
	Profiles []string
	Ports    []EndpointPort
	// Sources are prefixes that the pod may send from besides its addresses
	// (allowSpoofedSourcePrefixes).
	Sources []netip.Prefix
}

// Link is an interface of the underlay.
type Link struct {
	Name      string
	MTU       int // bytes
	Up        bool
	Addresses []netip.Prefix // global unicast only, in the kernel's order
}

// UnderlayRoute is a route of this host that is not ours: it tells how a peer's node address is
// reached. Via is invalid when the destination is on link.
type UnderlayRoute struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Device string
	MTU    int        // bytes; 0 when the route has none of its own
	Src    netip.Addr // preferred source address; may be invalid
	Metric int
}

// Underlay is this host's own view of the network that carries the tunnels.
type Underlay struct {
	Links  []Link
	Routes []UnderlayRoute
}

// VXLANConfig is the part of FelixConfiguration that shapes the VXLAN device.
type VXLANConfig struct {
	VNI  int // 24 bits; 4096 by default
	Port int // UDP; 4789 by default
}

// MTUConfig is the part of FelixConfiguration that the MTU planner reads; sizes in bytes, 0 computes.
type MTUConfig struct {
	IPIP   int // ipipMTU: of the IPIP device
	VXLAN  int // vxlanMTU: of the VXLAN device over IPv4
	VXLAN6 int // vxlanMTUV6: of the one over IPv6
	// PerRoute (mtuMode) gives pods what the uplink takes; otherwise they have what every path takes.
	PerRoute     bool
	IfacePattern string // mtuIfacePattern: a regular expression; empty: the interface of the node's address
	Profile      string // mtuProfile: a name of topology.Profiles; empty: none
}

// Snapshot is one consistent view of all that the compilers read. It is replaced, never mutated.
type Snapshot struct {
	Self      NodeName
	Nodes     map[NodeName]*Node
	Pools     []Pool                  // sorted by CIDR
	Blocks    map[netip.Prefix]*Block // by CIDR
	Endpoints map[EndpointID]Endpoint // of this node
	Underlay  Underlay
	VXLAN     VXLANConfig
	MTU       MTUConfig
	// Encryption is what is to be encrypted, and how far that has come.
	Encryption      EncryptionConfig
	EncryptionState EncryptionState
	NAT             NATConfig
	// FlowOffload lets established connections of pods bypass the rules, where nothing needs these to see each packet.
	FlowOffload bool
	Policy      PolicyView
	// IgnoreReadiness moves traffic without regard to what the peers receive. Packets are lost; it
	// is the control of the tests that show that otherwise none is.
	IgnoreReadiness bool
	// Generation numbers the snapshots of one source; 0: it does not.
	Generation uint64
	// Since tells what differs from an earlier snapshot; nil: not known.
	Since *Since
}

// Since names the nodes and blocks that may differ from those of an earlier snapshot of the same
// source; all others are the same. It spares a compiler with a memory to compare thousands.
type Since struct {
	Generation uint64 // of the earlier one
	Nodes      []NodeName
	Blocks     []netip.Prefix
}

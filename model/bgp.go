package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// BGP is what the resources of BGP say, as far as this node is concerned.
type BGP struct {
	Config BGPConfig
	// ListenPorts are the TCP ports of nodes where it is another than DefaultPort
	// (BGPConfiguration node.<name>); DefaultPort is that of all others.
	ListenPorts map[NodeName]uint16
	DefaultPort uint16
	Peers       []BGPPeer
	Filters     map[string]*BGPFilter
	Services    []BGPService
}

// Port returns the TCP port at which a node listens for BGP.
func (b *BGP) Port(n NodeName) uint16 {
	if p, ok := b.ListenPorts[n]; ok {
		return p
	}
	return b.DefaultPort
}

// BGPConfig is the BGPConfiguration of this node: its own over the one named default over what is built
// in. What both ends of a session have to agree on is of the whole cluster, the configuration default
// alone: Mesh, ASN, MeshPassword, MeshRestartSeconds, ReflectorThreshold, ShareLearned.
type BGPConfig struct {
	Mesh               bool
	ASN                uint32 // of nodes without one of their own
	MeshPassword       SecretRef
	MeshRestartSeconds uint16
	// ReflectorThreshold is the most nodes of a full mesh; with more there are reflectors. 0: never.
	ReflectorThreshold int
	// ShareLearned has nodes tell each other what routers outside announce to them.
	ShareLearned bool

	ListenPort uint16
	LogLevel   LogLevel // least of what the speaker logs (logSeverityScreen)
	// IgnoredInterfaces lead to no next hop of a learned route; with * for any part of a name.
	IgnoredInterfaces []string
	BindNodeIP        bool // listen on the node's addresses only
	// ClusterIPs, ExternalIPs and LoadBalancerIPs are the ranges of service addresses that are
	// advertised, or may be. Sorted.
	ClusterIPs, ExternalIPs, LoadBalancerIPs []netip.Prefix
	EachLoadBalancerIP                       bool // serviceLoadBalancerAggregation Disabled
	Communities                              []BGPCommunities
	// Priority is the kernel's metric of routes that BGP programs, by family.
	Priority map[Family]uint32
}

// LogLevel is the least severity of what is logged, as log/slog counts. The zero value is LogInfo.
type LogLevel int

// The levels of BGPConfiguration.logSeverityScreen.
const (
	LogTrace   LogLevel = -8
	LogDebug   LogLevel = -4
	LogInfo    LogLevel = 0
	LogWarning LogLevel = 4
	LogError   LogLevel = 8
	LogFatal   LogLevel = 12 // nothing
)

// String prints the name that logSeverityScreen has for it.
func (l LogLevel) String() string {
	switch l {
	case LogTrace:
		return "Trace"
	case LogDebug:
		return "Debug"
	case LogInfo:
		return "Info"
	case LogWarning:
		return "Warning"
	case LogError:
		return "Error"
	case LogFatal:
		return "Fatal"
	}
	return fmt.Sprintf("level %d", int(l))
}

// BGPCommunities are attached to what is advertised within CIDR (prefixAdvertisements). They are
// canonical, aa:nn or aa:nn:mm, with names resolved.
type BGPCommunities struct {
	CIDR        netip.Prefix
	Communities []string
}

// SecretRef names a key of a Secret in the namespace of the node service. The zero value is none.
type SecretRef struct{ Name, Key string }

// NodeBGP is what a Node record says of BGP.
type NodeBGP struct {
	ASN       uint32     // 0: the cluster's
	ClusterID netip.Addr // routeReflectorClusterID; invalid: the node is no route reflector
	Relies    Reliance
}

// Reliance is by whom a node has the routes of all others, as its record says (Node.status.bgp), so that mesh and
// automatic route reflectors take over from each other without loss: no session ends, and nobody stops
// reflecting, that somebody relies on. The zero value is the word of a node that has said nothing yet, and so has
// nothing to lose.
type Reliance struct {
	Mesh       bool       // by its sessions with each of them
	Reflectors []NodeName // sorted: by these, which reflect them
}

// IsZero tells that nothing was said.
func (r Reliance) IsZero() bool { return !r.Mesh && len(r.Reflectors) == 0 }

// Equal tells whether two say the same.
func (r Reliance) Equal(o Reliance) bool {
	return r.Mesh == o.Mesh && slices.Equal(r.Reflectors, o.Reflectors)
}

// And relies on what either does.
func (r Reliance) And(o Reliance) Reliance {
	all := slices.Concat(r.Reflectors, o.Reflectors)
	slices.Sort(all)
	return Reliance{Mesh: r.Mesh || o.Mesh, Reflectors: slices.Compact(all)}
}

// String prints "the mesh", "reflectors n1, n2", both, or "nobody".
func (r Reliance) String() string {
	names := make([]string, len(r.Reflectors))
	for i, n := range r.Reflectors {
		names[i] = string(n)
	}
	switch list := strings.Join(names, ", "); {
	case r.IsZero():
		return "nobody"
	case list == "":
		return "the mesh"
	case r.Mesh:
		return "the mesh and reflectors " + list
	default:
		return "reflectors " + list
	}
}

// BGPPeer says that some nodes speak BGP with somebody.
type BGPPeer struct {
	Name string
	// Node or NodeSelector say which nodes; both empty: all.
	Node         NodeName
	NodeSelector string
	// Peer is the address of the other end; its port is 0 where none is given. PeerSelector picks nodes
	// instead. Exactly one of them is set.
	Peer         netip.AddrPort
	PeerSelector string

	ASN      uint32 // of the peer; 0: the node's own, or with PeerSelector the peer's
	LocalASN uint32 // 0: the node's own
	NextHop  BGPNextHop
	Password SecretRef
	// AnySource (sourceAddress None) leaves the source address to the kernel.
	AnySource        bool
	RestartSeconds   uint16
	KeepaliveSeconds uint16
	AllowedLocalAS   uint8
	TTLSecurityHops  uint8 // 0 is off
	ReachableBy      netip.Addr
	Filters          []string // names of BGPFilters, in order
	// Manual (reversePeering) keeps the selected peers from having the other half by themselves.
	Manual            bool
	BFDIntervalMillis uint32 // 0 is off
	BFDMultiplier     uint8
	MaxPrefixes       uint32 // 0 is no limit
}

// BGPNextHop is BGPPeer.spec.nextHopMode.
type BGPNextHop int

// The modes.
const (
	BGPNextHopAuto BGPNextHop = iota
	BGPNextHopSelf
	BGPNextHopKeep
)

// BGPFilter is a BGPFilter: its rules by the family of the routes.
type BGPFilter struct {
	Name           string
	Import, Export map[Family][]BGPFilterRule
}

// BGPFilterRule is one rule of it. All conditions must hold; an absent one does.
type BGPFilterRule struct {
	Accept bool
	CIDR   netip.Prefix // invalid: any
	Match  BGPMatch
	// MinLength and MaxLength bound the prefix length; a nil one does not.
	MinLength, MaxLength *int

	RemotePeers bool
	Interface   string
	EBGP, IBGP  bool // only for such peers; neither: any
	Community   string
	ASPath      []uint32
	Priority    uint32
	Operations  []BGPOperation
}

// BGPMatch is BGPFilterRule.matchOperator.
type BGPMatch int

// The operators.
const (
	BGPMatchEqual BGPMatch = iota
	BGPMatchNotEqual
	BGPMatchIn
	BGPMatchNotIn
)

// BGPOperation changes an accepted route; exactly one field is set.
type BGPOperation struct {
	AddCommunity  string
	PrependASPath []uint32
	SetPriority   uint32
}

// BGPService is what BGP needs to know of a Service.
type BGPService struct {
	ID                                       ServiceID
	ClusterIPs, ExternalIPs, LoadBalancerIPs []netip.Addr
	Local                                    bool // externalTrafficPolicy Local
	// Ready are the nodes with an endpoint that is ready, by family, sorted; the empty name stands for
	// endpoints on no node.
	Ready map[Family][]NodeName
}

package model

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// The nouns of network policy, in the compilers' own small types. Whoever reads the wire types
// (projectcalico.org/v3, networking.k8s.io, policy.networking.k8s.io) converts them into these and
// has by then applied everything that depends on the kind of resource: defaults, the joining of
// selectors, the rewriting of namespace and service account terms, coalesced Kubernetes peers.
//
// On match fields nil and empty differ: nil asks nothing, empty is a list that nothing is in.

// Order is where a tier or policy stands among its like. The zero value is "none given": last.
// Orders compare totally; there is no NaN and nothing to overflow.
type Order struct {
	value float64
	given bool
}

// OrderOf returns the order of a resource's field. +Inf is the same as none given. A NaN is an error.
func OrderOf(v float64) (Order, error) {
	if math.IsNaN(v) {
		return Order{}, fmt.Errorf("order is not a number: want a number, or none for last")
	}
	if math.IsInf(v, 1) {
		return Order{}, nil
	}
	return Order{value: v, given: true}, nil
}

// Compare returns -1, 0 or 1: lower numbers first, none given last.
func (o Order) Compare(p Order) int {
	switch {
	case o.given && p.given:
		return cmp.Compare(o.value, p.value)
	case o.given:
		return -1
	case p.given:
		return 1
	}
	return 0
}

// String prints the number, or "last".
func (o Order) String() string {
	if !o.given {
		return "last"
	}
	return fmt.Sprint(o.value)
}

// Action is what a rule, or a tier at its end, does with a packet.
type Action uint8

// The actions. Log goes on with the next rule; Pass with the next tier, and after the last one
// with the profiles. A tier's default is Deny or Pass.
const (
	Allow Action = iota + 1
	Deny
	Log
	Pass
)

// String prints "allow", "deny", "log" or "pass".
func (a Action) String() string {
	if a < Allow || a > Pass {
		return fmt.Sprintf("action(%d)", uint8(a))
	}
	return [...]string{"allow", "deny", "log", "pass"}[a-Allow]
}

// Direction is that of traffic as seen by the endpoint which a policy selects.
type Direction uint8

// The directions: to the endpoint, and from it.
const (
	Ingress Direction = iota
	Egress
)

// String prints "ingress" or "egress".
func (d Direction) String() string {
	if d == Ingress {
		return "ingress"
	}
	return "egress"
}

// Types are the directions that a policy is about, as its resource lists them. The zero value is
// none listed: then a policy without egress rules is about ingress, one with egress rules only
// about egress, one with both about both.
type Types struct{ Ingress, Egress bool }

// Protocol is an IP protocol number. 0 means any.
type Protocol uint8

// Protocols that have a name in rules.
const (
	ICMP    Protocol = 1
	IPIP    Protocol = 4 // of tunnels; rules have it by number
	TCP     Protocol = 6
	UDP     Protocol = 17
	ICMPv6  Protocol = 58
	SCTP    Protocol = 132
	UDPLite Protocol = 136
)

// HasPorts tells whether a rule of the protocol can ask for ports.
func (p Protocol) HasPorts() bool { return p == TCP || p == UDP || p == SCTP }

// String prints the name in small letters, or the number.
func (p Protocol) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMPv6:
		return "icmpv6"
	case SCTP:
		return "sctp"
	case UDPLite:
		return "udplite"
	}
	return fmt.Sprint(uint8(p))
}

// Tier is a group of policies that are asked together.
type Tier struct {
	Name  string
	Order Order
	// DefaultAction is for traffic that no policy of the tier decides, when one that is not staged
	// selects the endpoint in that direction: Deny, also when zero, or Pass.
	DefaultAction Action
}

// BuiltinTier returns the tier that exists under this name without a resource; a resource of the
// name replaces it. Calico's numbers.
func BuiltinTier(name string) (Tier, bool) {
	switch name {
	case "kube-admin":
		return Tier{name, Order{1_000, true}, Pass}, true
	case "default":
		return Tier{name, Order{1_000_000, true}, Deny}, true
	case "kube-baseline":
		return Tier{name, Order{10_000_000, true}, Pass}, true
	}
	return Tier{}, false
}

// The kinds of policies, by the names of their resources; Kubernetes' own NetworkPolicy is told
// from Calico's.
const (
	KindNetworkPolicy                 = "NetworkPolicy"
	KindGlobalNetworkPolicy           = "GlobalNetworkPolicy"
	KindKubernetesNetworkPolicy       = "KubernetesNetworkPolicy"
	KindClusterNetworkPolicy          = "ClusterNetworkPolicy"
	KindStagedNetworkPolicy           = "StagedNetworkPolicy"
	KindStagedGlobalNetworkPolicy     = "StagedGlobalNetworkPolicy"
	KindStagedKubernetesNetworkPolicy = "StagedKubernetesNetworkPolicy"
)

// PolicyID names a policy of any kind.
type PolicyID struct {
	Kind      string
	Namespace string // empty for kinds without
	Name      string
}

// String prints "NetworkPolicy shop/allow-web" or "GlobalNetworkPolicy allow-dns".
func (id PolicyID) String() string {
	if id.Namespace == "" {
		return id.Kind + " " + id.Name
	}
	return id.Kind + " " + id.Namespace + "/" + id.Name
}

// Compare orders by name, kind, namespace: the tie-break of policies of one order.
func (id PolicyID) Compare(o PolicyID) int {
	return cmp.Or(strings.Compare(id.Name, o.Name), strings.Compare(id.Kind, o.Kind), strings.Compare(id.Namespace, o.Namespace))
}

// Policy is one network policy.
type Policy struct {
	ID PolicyID
	// Tier is the tier's name; empty is "default". A tier that nobody defined is the last, and denies.
	Tier  string
	Order Order
	// Selector says which endpoints the policy is for, in the language of model/selector; empty is
	// all(). The namespace of a namespaced policy, its namespaceSelector (whose labels have the
	// prefix pcns. here) and its serviceAccountSelector (pcsa.) are joined in by &&.
	Selector string
	Types    Types
	Ingress  []Rule
	Egress   []Rule
	Staged   bool // evaluated for display, never enforced
	// DoNotTrack and PreDNAT policies are for host endpoints only, at hooks of their own.
	DoNotTrack bool
	PreDNAT    bool
	// ApplyOnForward makes a policy of a host endpoint be asked for traffic that is forwarded, too.
	ApplyOnForward bool
}

// Profile has rules for endpoints that name it, asked after all tiers, and labels that they inherit.
// Namespaces and service accounts come as profiles (kns.NAMESPACE, ksa.NAMESPACE.NAME), with their
// labels prefixed pcns. and pcsa.
type Profile struct {
	Name    string
	Ingress []Rule
	Egress  []Rule
	Labels  map[string]string // labelsToApply
}

// Rule is one rule: all that it asks must hold. One that names prefixes is about their family only,
// whether they stand in Nets or in NotNets; one that asks for ICMP messages is about IPv4 or IPv6
// as its protocol says.
type Rule struct {
	Action      Action
	Family      Family // 0: both
	Protocol    Protocol
	NotProtocol Protocol
	// ICMP and NotICMP need Protocol ICMP or ICMPv6.
	ICMP        *ICMPMatch
	NotICMP     *ICMPMatch
	Source      EntityMatch
	Destination EntityMatch
}

// ICMPMatch asks for a type, and a code when HasCode.
type ICMPMatch struct {
	Type, Code uint8
	HasCode    bool
}

// EntityMatch is what a rule asks of one end. Addresses of things with labels are those of
// workload endpoints, host endpoints and network sets, in the whole cluster.
type EntityMatch struct {
	Nets    []netip.Prefix // the address is in one of them; empty but not nil: in none
	NotNets []netip.Prefix // the address is in none of them
	// Selector: the address belongs to something that this selects. NotSelector: it belongs to
	// nothing that this selects. Nil asks nothing; "" is all(), which foreign addresses are not in.
	// The terms of namespaceSelector and serviceAccounts are joined in as in Policy.Selector.
	Selector    *string
	NotSelector *string
	Ports       []Port // the port is one of them; empty but not nil: none
	NotPorts    []Port // the port is none of them
	// Service: as an egress rule's destination, address, protocol and port are one of the
	// service's; as an ingress rule's source, the address is.
	Service *ServiceID
	AnyPort bool // of Service the address counts only, at an egress rule's destination too
}

// Port is a range of port numbers, or the name of a port. Numbers need a protocol that has ports.
//
// A name stands for address, protocol and number of every endpoint that has a port of that name
// and is selected by the EntityMatch's Selector, if it has one. At a policy's own end (an ingress
// rule's destination, an egress rule's source) those endpoints are this node's, unless the policy
// applies to forwarded traffic.
type Port struct {
	Range PortRange
	Name  string // not empty: the name counts, not the range
}

// ServiceID names a Kubernetes Service.
type ServiceID struct{ Namespace, Name string }

// String prints "namespace/name".
func (id ServiceID) String() string { return id.Namespace + "/" + id.Name }

// NodesID names the addresses of the nodes whose labels a canonical selector selects: whoever tells the compilers of
// services tells them of these, too. No Service is without a namespace.
func NodesID(selector string) ServiceID { return ServiceID{Name: selector} }

// ServiceEndpoint is one of the addresses behind a service. One without a port counts where only
// the address does.
type ServiceEndpoint struct {
	Address  netip.Addr
	Protocol Protocol
	Port     uint16
}

// EndpointPort is a named port of an endpoint.
type EndpointPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// NetworkSetID names a network set; a GlobalNetworkSet has no namespace.
type NetworkSetID struct{ Namespace, Name string }

// NetworkSet is a list of prefixes that selectors find by labels.
type NetworkSet struct {
	ID       NetworkSetID
	Labels   map[string]string // with projectcalico.org/namespace, when it is in one
	Profiles []string          // of its namespace, whose labels it inherits
	Nets     []netip.Prefix
}

// RemoteID names a workload endpoint of another node. The node is part of it, since a pod's name
// returns elsewhere.
type RemoteID struct {
	Node NodeName
	EndpointID
}

// RemoteEndpoint is what selectors need of a workload endpoint of another node.
type RemoteEndpoint struct {
	ID        RemoteID
	Addresses []netip.Addr
	Labels    map[string]string
	Profiles  []string
	Ports     []EndpointPort
}

// HostEndpoint is a HostEndpoint of any node. Those of this node are enforced on its interfaces.
type HostEndpoint struct {
	Name        string
	Node        NodeName
	Interface   string       // empty: those that have one of ExpectedIPs; "*": all that no other one is for
	ExpectedIPs []netip.Addr // also its addresses in selectors
	Labels      map[string]string
	Profiles    []string
	Ports       []EndpointPort
}

// Failsafe is a port that host endpoints' policy never closes. Net, when valid, limits it to peers
// in that prefix.
type Failsafe struct {
	Protocol Protocol
	Port     uint16
	Net      netip.Prefix
}

// PolicyConfig is the part of FelixConfiguration that policy depends on.
type PolicyConfig struct {
	FailsafeIn  []Failsafe // failsafeInboundHostPorts, to this host
	FailsafeOut []Failsafe // failsafeOutboundHostPorts, from it
	// PodsToHost (defaultEndpointToHostAction Accept or Return) lets what a pod's egress policy
	// allows reach this host; otherwise it is dropped.
	PodsToHost bool
}

// PolicyView is all that policy is compiled from, besides a Snapshot's own endpoints and links.
type PolicyView struct {
	Config        PolicyConfig
	Tiers         map[string]*Tier
	Policies      map[PolicyID]*Policy
	Profiles      map[string]*Profile
	NetworkSets   map[NetworkSetID]*NetworkSet
	Services      map[ServiceID][]ServiceEndpoint
	Remote        map[RemoteID]*RemoteEndpoint
	HostEndpoints map[string]*HostEndpoint
	Overlay       Overlay
}

// Overlay is how other nodes' packets for pods come, and pods' packets go to them. Host endpoints let it pass.
type Overlay struct {
	Peers    []netip.Addr // underlay addresses of the other nodes; sorted, each once
	Carriers []Carrier    // of this node's tunnels; sorted, each once
	// Local are the addresses that this node's tunnels have. Between these and Peers the kernel need not track
	// Carriers, which are no connections. Sorted, each once; none: they are tracked.
	Local []netip.Addr
}

// Carrier is the packets of a tunnel: those of a protocol over one family, with ports to that Port.
type Carrier struct {
	Family   Family
	Protocol Protocol
	Port     uint16 // 0: the protocol has none
}

// Compare orders carriers.
func (c Carrier) Compare(o Carrier) int {
	return cmp.Or(cmp.Compare(c.Family, o.Family), cmp.Compare(c.Protocol, o.Protocol), cmp.Compare(c.Port, o.Port))
}

// String prints "IPv4 udp/4789" or "IPv4 protocol 4".
func (c Carrier) String() string {
	if c.Port == 0 {
		return fmt.Sprintf("%s protocol %s", c.Family, c.Protocol)
	}
	return fmt.Sprintf("%s %s/%d", c.Family, c.Protocol, c.Port)
}

// Packet is the first packet of a connection, as policy sees it on this node.
type Packet struct {
	In, Out  string // interfaces; empty: this host itself
	MAC      MAC    // of the sender on In; zero: not looked at
	Src, Dst netip.Addr
	Protocol Protocol
	// SrcPort and DstPort count when the protocol has ports, ICMPType and ICMPCode when it is ICMP
	// or ICMPv6.
	SrcPort, DstPort   uint16
	ICMPType, ICMPCode uint8
}

// String prints "eth0 -> weft01: 10.0.0.1 > 10.0.0.2 tcp 1025 > 80".
func (p *Packet) String() string {
	s := fmt.Sprintf("%s -> %s: %s > %s %s", cmp.Or(p.In, "host"), cmp.Or(p.Out, "host"), p.Src, p.Dst, p.Protocol)
	switch p.Protocol {
	case TCP, UDP, SCTP:
		return s + fmt.Sprintf(" %d > %d", p.SrcPort, p.DstPort)
	case ICMP, ICMPv6:
		return s + fmt.Sprintf(" type %d code %d", p.ICMPType, p.ICMPCode)
	}
	return s
}

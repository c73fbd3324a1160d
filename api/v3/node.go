package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The types of a NodeAddress.
const (
	AddressCalicoNodeIP = "CalicoNodeIP"
	AddressInternalIP   = "InternalIP"
	AddressExternalIP   = "ExternalIP"
)

// NodeBGPSpec holds a node's underlay addresses and its BGP settings. The addresses matter without
// BGP too: tunnels end at them.
type NodeBGPSpec struct {
	// ASNumber is the node's own AS number; the cluster's when not set.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 4294967295 || self > '0' && self != '0.0'",message="want 1 to 4294967295: AS 0 is nobody's (RFC 7607)"
	ASNumber *ASNumber `json:"asNumber,omitempty"`

	// IPv4Address is the node's IPv4 address with the prefix length of its subnet: 192.0.2.1/24.
	// Without a prefix length, /32.
	//
	// +optional
	IPv4Address nodeIPv4Text `json:"ipv4Address,omitempty"`

	// IPv6Address is the node's IPv6 address with the prefix length of its subnet. Without a prefix
	// length, /128.
	//
	// +optional
	IPv6Address nodeIPv6Text `json:"ipv6Address,omitempty"`

	// IPv4IPIPTunnelAddr is the address of the node's IP-in-IP device.
	//
	// +optional
	IPv4IPIPTunnelAddr ipv4Text `json:"ipv4IPIPTunnelAddr,omitempty"`

	// RouteReflectorClusterID makes the node a route reflector of this cluster id, in the form of
	// an IPv4 address.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()",message="want 32 bits that are not all zero, written like an IPv4 address: 224.0.0.1"
	RouteReflectorClusterID string `json:"routeReflectorClusterID,omitempty"`
}

// OrchRef names the node in an orchestrator.
type OrchRef struct {
	// NodeName is the orchestrator's name of the node.
	//
	// +optional
	NodeName string `json:"nodeName,omitempty"`

	// Orchestrator names the orchestrator: k8s.
	Orchestrator string `json:"orchestrator"`
}

// NodeWireguardSpec holds the addresses of the node's WireGuard devices.
type NodeWireguardSpec struct {
	// InterfaceIPv4Address is the address of the IPv4 device.
	//
	// +optional
	InterfaceIPv4Address ipv4Text `json:"interfaceIPv4Address,omitempty"`

	// InterfaceIPv6Address is the address of the IPv6 device.
	//
	// +optional
	InterfaceIPv6Address ipv6Text `json:"interfaceIPv6Address,omitempty"`
}

// NodeAddress is an address at which the node can be reached.
type NodeAddress struct {
	// Address is an address, or one with a prefix length.
	Address rangeText `json:"address"`

	// Type is CalicoNodeIP, InternalIP or ExternalIP.
	//
	// +optional
	// +kubebuilder:validation:Enum="";CalicoNodeIP;InternalIP;ExternalIP
	Type string `json:"type,omitempty"`
}

// NodeInterface is an interface of the node and its addresses.
type NodeInterface struct {
	// Name of the interface.
	//
	// +optional
	Name interfaceText `json:"name,omitempty"`

	// Addresses of the interface.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	Addresses []rangeText `json:"addresses,omitempty"`
}

// NodeSpec is what a node is to the network.
type NodeSpec struct {
	// BGP holds the underlay addresses and the BGP settings.
	//
	// +optional
	BGP *NodeBGPSpec `json:"bgp,omitempty"`

	// IPv4VXLANTunnelAddr is the address of the IPv4 VXLAN device.
	//
	// +optional
	IPv4VXLANTunnelAddr ipv4Text `json:"ipv4VXLANTunnelAddr,omitempty"`

	// VXLANTunnelMACAddr is the Ethernet address of the IPv4 VXLAN device.
	//
	// +optional
	VXLANTunnelMACAddr macText `json:"vxlanTunnelMACAddr,omitempty"`

	// IPv6VXLANTunnelAddr is the address of the IPv6 VXLAN device.
	//
	// +optional
	IPv6VXLANTunnelAddr ipv6Text `json:"ipv6VXLANTunnelAddr,omitempty"`

	// VXLANTunnelMACAddrV6 is the Ethernet address of the IPv6 VXLAN device.
	//
	// +optional
	VXLANTunnelMACAddrV6 macText `json:"vxlanTunnelMACAddrV6,omitempty"`

	// OrchRefs name the node in its orchestrators.
	//
	// +optional
	OrchRefs []OrchRef `json:"orchRefs,omitempty"`

	// Wireguard holds the addresses of the WireGuard devices.
	//
	// +optional
	Wireguard *NodeWireguardSpec `json:"wireguard,omitempty"`

	// Addresses at which the node can be reached.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Addresses []NodeAddress `json:"addresses,omitempty"`

	// Interfaces of the node and their addresses. The node writes them: without lo, those which by their names are of pods, containers,
	// virtual machines, service proxies or tunnels (docs/resources.md lists them), and those whose names have other characters than
	// letters, digits, '_', '.' and '-'; at most 64, and 64 addresses of all of them.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Interfaces []NodeInterface `json:"interfaces,omitempty"`
}

// NodeOnLink is one entry of a node's own view of its link.
type NodeOnLink struct {
	// CIDR is a range of underlay addresses.
	CIDR maskedText `json:"cidr"`

	// Gateway tells that the range is reached by a router although a wider entry says directly.
	//
	// +optional
	Gateway bool `json:"gateway,omitempty"`
}

// NodeTunnels is what a node says of its tunnels.
type NodeTunnels struct {
	// Receives are the tunnels that stand ready in the node's kernel.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="self.encapsulation != 'None'",message="want VXLAN, IPIP or WireGuard",fieldPath=".encapsulation"
	Receives []NodeTunnelEnd `json:"receives,omitempty"`

	// Sends are the tunnels that the node may be sending by.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	Sends []NodeTunnelEnd `json:"sends,omitempty"`

	// EncryptedOnly tells that the node refuses, from nodes that can encrypt, what is not encrypted.
	//
	// +optional
	EncryptedOnly bool `json:"encryptedOnly,omitempty"`

	// Routed are the pools, by CIDR, whose traffic the node sends without a tunnel to nodes behind gateways too, or did before they
	// changed: the underlay knows the way to their pods.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=512
	// +kubebuilder:validation:items:MaxLength=43
	Routed []string `json:"routed,omitempty"`
}

// NodeTunnelEnd is one way of tunnelling.
//
// +kubebuilder:validation:XValidation:rule="self.encapsulation == 'None' || has(self.family)",message="want IPv4 or IPv6",fieldPath=".family"
// +kubebuilder:validation:XValidation:rule="self.encapsulation != 'VXLAN' || has(self.vni) && self.vni >= 1 && self.vni <= 16777215",message="want 1 to 16777215",fieldPath=".vni"
// +kubebuilder:validation:XValidation:rule="!(self.encapsulation in ['VXLAN', 'WireGuard']) || has(self.port) && self.port >= 1 && self.port <= 65535",message="want 1 to 65535",fieldPath=".port"
type NodeTunnelEnd struct {
	// Encapsulation is VXLAN, IPIP, WireGuard, or, in sends only, None: without a tunnel.
	//
	// +kubebuilder:validation:Enum=VXLAN;IPIP;WireGuard;None
	Encapsulation string `json:"encapsulation"`

	// Family of the underlay: IPv4 or IPv6.
	//
	// +optional
	// +kubebuilder:validation:Enum=IPv4;IPv6
	Family string `json:"family,omitempty"`

	// VNI of VXLAN.
	//
	// +optional
	VNI int `json:"vni,omitempty"`

	// Port is the UDP port of VXLAN or WireGuard.
	//
	// +optional
	Port int `json:"port,omitempty"`

	// KeyEpoch counts the rotations of the keys, of WireGuard.
	//
	// +optional
	KeyEpoch int `json:"keyEpoch,omitempty"`
}

// NodeKey is a public key of a node.
type NodeKey struct {
	// Epoch counts the rotations of the keys.
	Epoch int `json:"epoch"`

	// PublicKey is 32 bytes in base64.
	//
	// +kubebuilder:validation:MinLength=1
	PublicKey keyText `json:"publicKey"`
}

// NodeBGPStatus is by whom a node has what is to be had of other nodes by BGP. Sessions between nodes stay, and
// reflectors reflect, as long as somebody relies on them.
type NodeBGPStatus struct {
	// ReliesOnMesh tells that it has it by its sessions with each of them.
	//
	// +optional
	ReliesOnMesh bool `json:"reliesOnMesh,omitempty"`

	// ReliesOnReflectors are nodes that reflect it to this one.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	ReliesOnReflectors []string `json:"reliesOnReflectors,omitempty"`
}

// NodeStatus is what a node publishes of itself.
type NodeStatus struct {
	// WireguardPublicKey is the key of the IPv4 device, in base64.
	//
	// +optional
	WireguardPublicKey keyText `json:"wireguardPublicKey,omitempty"`

	// WireguardPublicKeyV6 is the key of the IPv6 device, in base64.
	//
	// +optional
	WireguardPublicKeyV6 keyText `json:"wireguardPublicKeyV6,omitempty"`

	// WireguardKeys are the public keys of all epochs that the node has devices for; without it the
	// one above is that of epoch 0.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=epoch
	WireguardKeys []NodeKey `json:"wireguardKeys,omitempty"`

	// PodCIDRs are the ranges that Kubernetes gave to the node.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	PodCIDRs []rangeText `json:"podCIDRs,omitempty"`

	// OnLink is which underlay addresses the node reaches directly, from its own routes; the longest
	// prefix wins. Peers use it so that both ends decide CrossSubnet alike.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=16384
	OnLink []NodeOnLink `json:"onLink,omitempty"`

	// Tunnels is which tunnels the node can receive by and may be sending by. Peers use what it
	// receives; what may be sent by stays in place. Without it the cluster's settings are taken for
	// granted.
	//
	// +optional
	Tunnels *NodeTunnels `json:"tunnels,omitempty"`

	// BGP is by whom the node has the routes of others, so that mesh and route reflectors take over from each
	// other without loss. A node that speaks no BGP has none.
	//
	// +optional
	BGP *NodeBGPStatus `json:"bgp,omitempty"`
}

// Node is a host of the cluster. Its status is no resource of its own: whoever writes the record, the node itself, writes
// both at once.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=nodes,singular=node,categories=calico;weft
// +kubebuilder:printcolumn:name="IPV4",type=string,JSONPath=`.spec.bgp.ipv4Address`
// +kubebuilder:printcolumn:name="IPV6",type=string,JSONPath=`.spec.bgp.ipv6Address`
// +kubebuilder:printcolumn:name="VTEP",type=string,JSONPath=`.spec.ipv4VXLANTunnelAddr`
type Node struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NodeSpec `json:"spec,omitzero"`
	// +optional
	Status NodeStatus `json:"status,omitzero"`
}

// NodeList is a list of Node.
//
// +kubebuilder:object:root=true
type NodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Node `json:"items"`
}

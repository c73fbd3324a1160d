package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of BGPPeer.nextHopMode.
const (
	NextHopModeAuto = "Auto"
	NextHopModeSelf = "Self"
	NextHopModeKeep = "Keep"
)

// Values of BGPPeer.sourceAddress.
const (
	SourceAddressUseNodeIP = "UseNodeIP"
	SourceAddressNone      = "None"
)

// Values of BGPPeer.reversePeering.
const (
	ReversePeeringAuto   = "Auto"
	ReversePeeringManual = "Manual"
)

// What BGPPeer.bfd means where it says nothing.
const (
	DefaultBFDIntervalMillis = 300
	DefaultBFDMultiplier     = 3
)

// BGPPeerBFD notices within fractions of a second that a peer on the node's own link is gone (RFC 5880,
// RFC 5881).
type BGPPeerBFD struct {
	// Interval of the packets in both directions, in steps of a millisecond; 300ms when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10ms') && duration(self) <= duration('60s')",message="want whole milliseconds from 10ms to 1m0s"
	Interval *metav1.Duration `json:"interval,omitempty"`

	// Multiplier is how many packets in a row are missing when a peer counts as gone; 3 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=255
	Multiplier int `json:"multiplier,omitempty"`
}

// BGPPeerSpec says which nodes speak BGP with whom, and how.
//
// +kubebuilder:validation:XValidation:rule="!has(self.node) || size(self.node) == 0 || !has(self.nodeSelector) || size(self.nodeSelector) == 0",message="node and nodeSelector exclude each other",fieldPath=".nodeSelector"
// +kubebuilder:validation:XValidation:rule="(has(self.peerIP) && size(self.peerIP) > 0 ? 1 : 0) + (has(self.peerSelector) && size(self.peerSelector) > 0 ? 1 : 0) + (has(self.localWorkloadSelector) && size(self.localWorkloadSelector) > 0 ? 1 : 0) == 1",message="want one of peerIP, peerSelector, localWorkloadSelector"
// +kubebuilder:validation:XValidation:rule="!has(self.peerSelector) || size(self.peerSelector) == 0 || !has(self.asNumber) || !(self.asNumber != 0 && self.asNumber != '0' && self.asNumber != '0.0')",message="the nodes that peerSelector picks have AS numbers of their own",fieldPath=".asNumber"
// +kubebuilder:validation:XValidation:rule="!has(self.localWorkloadSelector) || size(self.localWorkloadSelector) == 0 || has(self.asNumber) && self.asNumber != 0 && self.asNumber != '0' && self.asNumber != '0.0'",message="localWorkloadSelector needs asNumber",fieldPath=".asNumber"
// +kubebuilder:validation:XValidation:rule="!has(self.reachableBy) || size(self.reachableBy) == 0 || (has(self.peerIP) && size(self.peerIP) > 0)",message="reachableBy needs peerIP",fieldPath=".reachableBy"
// +kubebuilder:validation:XValidation:rule="!has(self.keepOriginalNextHop) || !self.keepOriginalNextHop || !has(self.nextHopMode)",message="keepOriginalNextHop is the older form of nextHopMode: leave one of them out",fieldPath=".keepOriginalNextHop"
// +kubebuilder:validation:XValidation:rule="!has(self.reachableBy) || !isIP(self.reachableBy) || !has(self.peerIP) || size(self.peerIP) == 0 || (ip(self.reachableBy).family() == 6 ? !(isIP(self.peerIP) && ip(self.peerIP).family() == 4) && !self.peerIP.matches('^[0-9]+[.][0-9.]+:[0-9]+$') : !(isIP(self.peerIP) && ip(self.peerIP).family() == 6) && !self.peerIP.matches('^[[]|%'))",message="want an address of the same family as peerIP",fieldPath=".reachableBy"
type BGPPeerSpec struct {
	// Node is the one node that has this peer.
	//
	// +optional
	Node nameText `json:"node,omitempty"`

	// NodeSelector picks the nodes that have this peer; all when neither it nor node is set.
	//
	// +optional
	NodeSelector selectorText `json:"nodeSelector,omitempty"`

	// PeerIP is the address of the peer, with a port or without: 192.0.2.1, 192.0.2.1:1179,
	// 2001:db8::1, [2001:db8::1]:1179. Without one, 179, or the listenPort of the node whose address it is.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast() && ip(self).family() == 4) || self.matches('^[0-9.]+:[0-9]{1,5}$') && isIP(self.split(':')[0]) && int(self.split(':')[1]) >= 1 && int(self.split(':')[1]) <= 65535 && (ip(self.split(':')[0]).isGlobalUnicast() || ip(self.split(':')[0]).isLinkLocalUnicast() && ip(self.split(':')[0]).family() == 4) || self.matches('^[[][0-9a-fA-F:.]+[]]:[0-9]{1,5}$') && isIP(self.substring(1, self.indexOf(']'))) && ip(self.substring(1, self.indexOf(']'))).family() == 6 && int(self.substring(self.indexOf(']') + 2)) >= 1 && int(self.substring(self.indexOf(']') + 2)) <= 65535 && (ip(self.substring(1, self.indexOf(']'))).isGlobalUnicast() || ip(self.substring(1, self.indexOf(']'))).isLinkLocalUnicast() && ip(self.substring(1, self.indexOf(']'))).family() == 4) || self.matches('^([[]?)[fF][eE][89abAB][0-9a-fA-F]:[0-9a-fA-F:]*%[a-zA-Z0-9_.-]{1,15}([]]:[0-9]{1,5})?$') && isIP(self.substring(self.startsWith('[') ? 1 : 0, self.indexOf('%')))",message="want an address, or one with a port from 1 to 65535, such as 192.0.2.1:1179 or [2001:db8::1]:1179; a link-local one with its interface: fe80::1%eth0"
	PeerIP string `json:"peerIP,omitempty"`

	// PeerSelector picks nodes of the cluster as peers; their addresses and AS numbers are the nodes' own.
	//
	// +optional
	PeerSelector selectorText `json:"peerSelector,omitempty"`

	// LocalWorkloadSelector picks pods of the same node as peers.
	//
	// +optional
	LocalWorkloadSelector selectorText `json:"localWorkloadSelector,omitempty"`

	// ASNumber is the peer's; the node's own when unset. Not with peerSelector, and needed with
	// localWorkloadSelector.
	//
	// +optional
	ASNumber ASNumber `json:"asNumber,omitempty"`

	// LocalASNumber is the AS number that the node shows to this peer; its own when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 4294967295 || self > '0' && self != '0.0'",message="want 1 to 4294967295: AS 0 is nobody's (RFC 7607)"
	LocalASNumber *ASNumber `json:"localASNumber,omitempty"`

	// NextHopMode says which next hop the peer is told of routes of others: Auto, when unset, keeps it
	// towards the own AS and is the node's own towards another; Self is the node's own, Keep keeps it.
	//
	// +optional
	// +kubebuilder:validation:Enum=Auto;Self;Keep
	NextHopMode string `json:"nextHopMode,omitempty"`

	// KeepOriginalNextHop is the older form of nextHopMode Keep towards another AS.
	//
	// +optional
	KeepOriginalNextHop bool `json:"keepOriginalNextHop,omitempty"`

	// Password is that of the sessions.
	//
	// +optional
	Password *BGPPassword `json:"password,omitempty"`

	// SourceAddress is UseNodeIP, when unset, to speak from the node's own address, or None to leave it
	// to the kernel.
	//
	// +optional
	// +kubebuilder:default=UseNodeIP
	// +kubebuilder:validation:Enum=UseNodeIP;None
	SourceAddress string `json:"sourceAddress,omitempty"`

	// MaxRestartTime is how long the peer's routes are kept while it restarts (RFC 4724); 120s when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('4095s') && (timestamp(0) + duration(self)).getMilliseconds() == 0",message="want whole seconds from 0s to 4095s"
	MaxRestartTime *metav1.Duration `json:"maxRestartTime,omitempty"`

	// KeepaliveTime is the interval of keepalives; a peer counts as gone after three of them. 60s when
	// unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('21845s') && (timestamp(0) + duration(self)).getMilliseconds() == 0",message="want whole seconds from 1s to 21845s"
	KeepaliveTime *metav1.Duration `json:"keepaliveTime,omitempty"`

	// NumAllowedLocalASNumbers is how often the own AS number may be in the path of a route that is
	// accepted; 0 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	NumAllowedLocalASNumbers *int32 `json:"numAllowedLocalASNumbers,omitempty"`

	// TTLSecurity is the number of hops that the peer is away at most: packets from further away are not
	// accepted (GTSM, RFC 5082). Off when unset or 0.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=255
	TTLSecurity *uint8 `json:"ttlSecurity,omitempty"`

	// ReachableBy is a gateway on the node's link that leads to peerIP, of the same family: a route to the
	// peer by way of it is added.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=49
	// +kubebuilder:validation:XValidation:rule="size(self) == 0 || isIP(self) && (ip(self).isGlobalUnicast() || ip(self).isLinkLocalUnicast())",message="want the address of a gateway such as 192.0.2.1"
	ReachableBy string `json:"reachableBy,omitempty"`

	// Filters are the names of BGPFilters, in the order in which they are asked.
	//
	// +optional
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:MaxItems=1024
	Filters []nameText `json:"filters,omitempty"`

	// ReversePeering is Auto, when unset, so that the nodes that peerSelector picks have this node as
	// peer without a BGPPeer of their own, or Manual.
	//
	// +optional
	// +kubebuilder:default=Auto
	// +kubebuilder:validation:Enum=Auto;Manual
	ReversePeering string `json:"reversePeering,omitempty"`

	// BFD notices early that the peer is gone. Off when unset. An addition of this project.
	//
	// +optional
	BFD *BGPPeerBFD `json:"bfd,omitempty"`

	// MaxPrefixes is the most routes that the peer may announce: with more, the session ends. No limit
	// when unset or 0. An addition of this project.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=4294967295
	// +kubebuilder:validation:Format=int64
	MaxPrefixes *uint32 `json:"maxPrefixes,omitempty"`
}

// BGPPeer makes nodes speak BGP with a router, with other nodes, or with pods of their own.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=bgppeers,singular=bgppeer,shortName=bgpp;bp,categories=calico;weft
// +kubebuilder:printcolumn:name="PEERIP",type=string,JSONPath=`.spec.peerIP`
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.spec.asNumber`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
type BGPPeer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec BGPPeerSpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// BGPPeerList is a list of BGPPeer.
//
// +kubebuilder:object:root=true
type BGPPeerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPPeer `json:"items"`
}

package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of CalicoNodeStatus.classes.
const (
	StatusAgent  = "Agent"
	StatusBGP    = "BGP"
	StatusRoutes = "Routes"
)

// Values of CalicoNodePeer.type.
const (
	PeerTypeNodeMesh   = "NodeMesh"
	PeerTypeNodePeer   = "NodePeer"
	PeerTypeGlobalPeer = "GlobalPeer"
)

// Values of CalicoNodeRoute.type and of CalicoNodeRouteLearnedFrom.sourceType.
const (
	RouteTypeFIB = "FIB"
	RouteTypeRIB = "RIB"

	RouteSourceKernel   = "Kernel"
	RouteSourceStatic   = "Static"
	RouteSourceDirect   = "Direct"
	RouteSourceNodeMesh = "NodeMesh"
	RouteSourceBGPPeer  = "BGPPeer"
)

// CalicoNodeStatusSpec says what to report of which node.
type CalicoNodeStatusSpec struct {
	// Node is the one that reports.
	//
	// +kubebuilder:validation:MinLength=1
	Node nameText `json:"node"`

	// Classes are what is reported: Agent, BGP, Routes.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=Agent;BGP;Routes
	// +listType=set
	Classes []string `json:"classes"`

	// UpdatePeriodSeconds is the interval of reports; 0, when unset, reports once.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	UpdatePeriodSeconds *uint32 `json:"updatePeriodSeconds,omitempty"`
}

// CalicoNodeStatusStatus is what the node reports.
type CalicoNodeStatusStatus struct {
	// LastUpdated is when it was reported.
	//
	// +optional
	// +nullable
	LastUpdated *metav1.Time `json:"lastUpdated,omitempty"`

	// Agent is the state of the speaker.
	//
	// +optional
	Agent CalicoNodeAgentStatus `json:"agent,omitzero"`

	// BGP is the state of the sessions.
	//
	// +optional
	BGP CalicoNodeBGPStatus `json:"bgp,omitzero"`

	// Routes are those that the speaker knows.
	//
	// +optional
	Routes CalicoNodeBGPRouteStatus `json:"routes,omitzero"`
}

// CalicoNodeAgentStatus is the state of the speaker for each family.
type CalicoNodeAgentStatus struct {
	// BIRDV4 is that of IPv4. The name is that of the vocabulary; one process speaks both.
	//
	// +optional
	BIRDV4 BGPDaemonStatus `json:"birdV4,omitzero"`

	// BIRDV6 is that of IPv6.
	//
	// +optional
	BIRDV6 BGPDaemonStatus `json:"birdV6,omitzero"`
}

// BGPDaemonStatus is the state of a speaker.
type BGPDaemonStatus struct {
	// State is Ready or NotReady.
	//
	// +optional
	State string `json:"state,omitempty"`

	// Version of the speaker.
	//
	// +optional
	Version string `json:"version,omitempty"`

	// RouterID of the speaker.
	//
	// +optional
	RouterID string `json:"routerID,omitempty"`

	// LastBootTime is when the speaker was started.
	//
	// +optional
	LastBootTime string `json:"lastBootTime,omitempty"`

	// LastReconfigurationTime is when it was told something new.
	//
	// +optional
	LastReconfigurationTime string `json:"lastReconfigurationTime,omitempty"`
}

// CalicoNodeBGPStatus is the state of the sessions.
type CalicoNodeBGPStatus struct {
	// NumberEstablishedV4 counts the IPv4 sessions that are up.
	NumberEstablishedV4 int `json:"numberEstablishedV4"`

	// NumberNotEstablishedV4 counts those that are not.
	NumberNotEstablishedV4 int `json:"numberNotEstablishedV4"`

	// NumberEstablishedV6 counts the IPv6 sessions that are up.
	NumberEstablishedV6 int `json:"numberEstablishedV6"`

	// NumberNotEstablishedV6 counts those that are not.
	NumberNotEstablishedV6 int `json:"numberNotEstablishedV6"`

	// PeersV4 are the IPv4 sessions.
	//
	// +optional
	PeersV4 []CalicoNodePeer `json:"peersV4,omitempty"`

	// PeersV6 are the IPv6 sessions.
	//
	// +optional
	PeersV6 []CalicoNodePeer `json:"peersV6,omitempty"`
}

// CalicoNodePeer is the state of one session.
type CalicoNodePeer struct {
	// PeerIP is the address of the peer.
	//
	// +optional
	PeerIP string `json:"peerIP,omitempty"`

	// Type says where the session comes from: NodeMesh, NodePeer (a BGPPeer with a node or nodeSelector)
	// or GlobalPeer.
	//
	// +optional
	Type string `json:"type,omitempty"`

	// State of the session, as RFC 4271 names it: Idle, Connect, Active, OpenSent, OpenConfirm,
	// Established; or Close.
	//
	// +optional
	State string `json:"state,omitempty"`

	// Since is when the state began.
	//
	// +optional
	Since string `json:"since,omitempty"`
}

// CalicoNodeBGPRouteStatus are the routes that the speaker knows.
type CalicoNodeBGPRouteStatus struct {
	// RoutesV4 are the IPv4 routes.
	//
	// +optional
	RoutesV4 []CalicoNodeRoute `json:"routesV4,omitempty"`

	// RoutesV6 are the IPv6 routes.
	//
	// +optional
	RoutesV6 []CalicoNodeRoute `json:"routesV6,omitempty"`
}

// CalicoNodeRoute is one route.
type CalicoNodeRoute struct {
	// Type is FIB for a route that packets take, RIB for another.
	//
	// +optional
	Type string `json:"type,omitempty"`

	// Destination is a prefix.
	//
	// +optional
	Destination string `json:"destination,omitempty"`

	// Gateway is the next hop.
	//
	// +optional
	Gateway string `json:"gateway,omitempty"`

	// Interface that it leaves by.
	//
	// +optional
	Interface string `json:"interface,omitempty"`

	// LearnedFrom is where the route comes from.
	//
	// +optional
	LearnedFrom CalicoNodeRouteLearnedFrom `json:"learnedFrom,omitzero"`
}

// CalicoNodeRouteLearnedFrom is where a route comes from.
type CalicoNodeRouteLearnedFrom struct {
	// SourceType is Kernel, Static, Direct, NodeMesh or BGPPeer.
	//
	// +optional
	SourceType string `json:"sourceType,omitempty"`

	// PeerIP is the peer that announced it, for NodeMesh and BGPPeer.
	//
	// +optional
	PeerIP string `json:"peerIP,omitempty"`
}

// CalicoNodeStatus asks a node to report on its BGP.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=caliconodestatuses,singular=caliconodestatus,shortName=nodestatus;nodestatuses,categories=calico;weft
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="UPDATED",type=string,JSONPath=`.status.lastUpdated`
type CalicoNodeStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec CalicoNodeStatusSpec `json:"spec"`
	// +optional
	Status CalicoNodeStatusStatus `json:"status,omitzero"`
}

// CalicoNodeStatusList is a list of CalicoNodeStatus.
//
// +kubebuilder:object:root=true
type CalicoNodeStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CalicoNodeStatus `json:"items"`
}

package v3

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a BGPConfiguration means where it says nothing.
const (
	DefaultASNumber                = ASNumber(64512)
	DefaultBGPListenPort           = 179
	DefaultBGPRestartSeconds       = 120
	DefaultNormalRoutePriority     = 1024
	DefaultRouteReflectorThreshold = 100
)

// BGPPasswordNamespace is where the Secrets are that BGP passwords are taken from.
const BGPPasswordNamespace = "kube-system"

// Values of BGPConfiguration.serviceLoadBalancerAggregation.
const (
	AggregationEnabled  = "Enabled"
	AggregationDisabled = "Disabled"
)

// Values of BGPConfiguration.bindMode.
const (
	BindModeNone   = "None"
	BindModeNodeIP = "NodeIP"
)

// Values of BGPConfiguration.programClusterRoutes.
const (
	ProgramRoutesDisabled           = "Disabled"
	ProgramRoutesEnabled            = "Enabled"
	ProgramRoutesEnabledIPIPOnly    = "EnabledIPIPOnly"
	ProgramRoutesEnabledNoEncapOnly = "EnabledNoEncapOnly"
)

// ServiceIPBlock is a range of service addresses that may be advertised.
type ServiceIPBlock struct {
	// CIDR of the range; an address is the range of itself.
	CIDR rangeText `json:"cidr"`
}

// Community names a BGP community.
type Community struct {
	// Name that prefixAdvertisements use.
	//
	// +kubebuilder:validation:MinLength=1
	Name nameText `json:"name"`

	// Value is aa:nn with 16 bits each (RFC 1997), or aa:nn:mm with 32 bits each (RFC 8092).
	Value communityText `json:"value"`
}

// PrefixAdvertisement attaches communities to what is advertised within a range.
type PrefixAdvertisement struct {
	// CIDR of the range.
	CIDR rangeText `json:"cidr"`

	// Communities are names of the list communities, or values as there.
	//
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=50
	// +kubebuilder:validation:items:MaxLength=253
	Communities []string `json:"communities"`
}

// BGPPassword says where a password is.
//
// +kubebuilder:validation:XValidation:rule="has(self.secretKeyRef)",message="the name of a Secret and the key in it that holds the password",fieldPath=".secretKeyRef",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="!has(self.secretKeyRef) || has(self.secretKeyRef.name) && size(self.secretKeyRef.name) > 0",message="the name of a Secret",fieldPath=".secretKeyRef.name",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="!has(self.secretKeyRef) || !has(self.secretKeyRef.name) || size(self.secretKeyRef.name) == 0 || self.secretKeyRef.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",message="want a DNS subdomain",fieldPath=".secretKeyRef.name"
// +kubebuilder:validation:XValidation:rule="!has(self.secretKeyRef) || self.secretKeyRef.key.matches('^[-._a-zA-Z0-9]+$')",message="want a key of a Secret: letters, digits, '-', '_' and '.'",fieldPath=".secretKeyRef.key"
type BGPPassword struct {
	// SecretKeyRef names a Secret in the namespace of the node service (kube-system on the etcd store)
	// and the key in it that holds the password of TCP-MD5 (RFC 2385).
	//
	// +optional
	SecretKeyRef *corev1.SecretKeySelector `json:"secretKeyRef,omitempty"`
}

// BGPConfigurationSpec holds the settings of BGP. An unset field leaves the choice to the
// configuration named default, and at last to the built-in value that its comment names.
//
// +kubebuilder:validation:XValidation:rule="!has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled || !has(self.nodeMeshPassword)",message="there is no mesh, nodeToNodeMeshEnabled is false: leave one of them out",fieldPath=".nodeMeshPassword",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!has(self.nodeToNodeMeshEnabled) || self.nodeToNodeMeshEnabled || !has(self.nodeMeshMaxRestartTime)",message="there is no mesh, nodeToNodeMeshEnabled is false: leave one of them out",fieldPath=".nodeMeshMaxRestartTime",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!has(self.communities) || size(self.communities) == 0 || has(self.prefixAdvertisements) && size(self.prefixAdvertisements) > 0",message="nothing uses them: want prefixAdvertisements, or no communities",fieldPath=".communities",reason="FieldValueForbidden"
type BGPConfigurationSpec struct {
	// LogSeverityScreen is the least severity that the speaker logs; Info when unset.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$`
	LogSeverityScreen string `json:"logSeverityScreen,omitempty"`

	// NodeToNodeMeshEnabled makes every node a peer of every other, but for route reflectors; true when
	// unset.
	//
	// +optional
	NodeToNodeMeshEnabled *bool `json:"nodeToNodeMeshEnabled,omitempty"`

	// ASNumber is the AS number of nodes that have none of their own; 64512 when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 4294967295 || self > '0' && self != '0.0'",message="want 1 to 4294967295: AS 0 is nobody's (RFC 7607)"
	ASNumber *ASNumber `json:"asNumber,omitempty"`

	// ServiceClusterIPs are the ranges of cluster addresses of services that are advertised.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=10000
	ServiceClusterIPs []ServiceIPBlock `json:"serviceClusterIPs,omitempty"`

	// ServiceExternalIPs are the ranges that external addresses of services may be advertised from.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=10000
	ServiceExternalIPs []ServiceIPBlock `json:"serviceExternalIPs,omitempty"`

	// ServiceLoadBalancerIPs are the ranges that load balancer addresses of services may be advertised from.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=10000
	ServiceLoadBalancerIPs []ServiceIPBlock `json:"serviceLoadBalancerIPs,omitempty"`

	// ServiceLoadBalancerAggregation advertises load balancer ranges whole (Enabled, when unset), or each
	// address by itself (Disabled).
	//
	// +optional
	// +kubebuilder:validation:Enum=Enabled;Disabled
	ServiceLoadBalancerAggregation string `json:"serviceLoadBalancerAggregation,omitempty"`

	// Communities have names for prefixAdvertisements.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=500
	// +listType=map
	// +listMapKey=name
	Communities []Community `json:"communities,omitempty"`

	// PrefixAdvertisements attach communities to what is advertised.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=500
	PrefixAdvertisements []PrefixAdvertisement `json:"prefixAdvertisements,omitempty"`

	// ListenPort is the TCP port of BGP; 179 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ListenPort uint16 `json:"listenPort,omitempty"`

	// NodeMeshPassword is the password of the sessions of the mesh.
	//
	// +optional
	NodeMeshPassword *BGPPassword `json:"nodeMeshPassword,omitempty"`

	// NodeMeshMaxRestartTime is how long routes of a node of the mesh are kept while its speaker restarts
	// (RFC 4724); 120s when unset.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('4095s') && (timestamp(0) + duration(self)).getMilliseconds() == 0",message="want whole seconds from 0s to 4095s"
	NodeMeshMaxRestartTime *metav1.Duration `json:"nodeMeshMaxRestartTime,omitempty"`

	// BindMode is None, when unset, to listen on all addresses, or NodeIP to listen on the node's own.
	//
	// +optional
	// +kubebuilder:validation:Enum=None;NodeIP
	BindMode string `json:"bindMode,omitempty"`

	// IgnoredInterfaces are interfaces that lead to no next hop of a learned route, with * for any part of a name.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MaxLength=15
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-zA-Z0-9_.*-]*[a-zA-Z0-9_.-][a-zA-Z0-9_.*-]*$')",message="want an interface name, with * for any part of it but not for all"
	IgnoredInterfaces []string `json:"ignoredInterfaces,omitempty"`

	// LocalWorkloadPeeringIPV4 is the address that every node has towards pods that speak BGP with it.
	//
	// +optional
	LocalWorkloadPeeringIPV4 ipv4Text `json:"localWorkloadPeeringIPV4,omitempty"`

	// LocalWorkloadPeeringIPV6 is the same over IPv6.
	//
	// +optional
	LocalWorkloadPeeringIPV6 ipv6Text `json:"localWorkloadPeeringIPV6,omitempty"`

	// ProgramClusterRoutes says which routes to other nodes BGP programs: Disabled, Enabled,
	// EnabledIPIPOnly, or EnabledNoEncapOnly, when unset.
	//
	// +optional
	// +kubebuilder:validation:Enum=Disabled;Enabled;EnabledIPIPOnly;EnabledNoEncapOnly
	ProgramClusterRoutes string `json:"programClusterRoutes,omitempty"`

	// IPv4NormalRoutePriority is the metric of IPv4 routes that BGP programs; 1024 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv4NormalRoutePriority *int `json:"ipv4NormalRoutePriority,omitempty"`

	// IPv6NormalRoutePriority is the metric of IPv6 routes that BGP programs; 1024 when unset.
	//
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483646
	IPv6NormalRoutePriority *int `json:"ipv6NormalRoutePriority,omitempty"`

	// RouteReflectorThreshold is the most nodes of a full mesh: with more, some of them become route
	// reflectors for the others (RFC 4456). 100 when unset; 0 is never. An addition of this project.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100000
	RouteReflectorThreshold *int `json:"routeReflectorThreshold,omitempty"`

	// ShareLearnedRoutes has nodes tell each other, by the mesh or route reflectors, what routers outside of the cluster
	// announce to them; false when unset: each node knows only what its own routers announce. Reflectors with
	// routeReflectorClusterID tell of their routers' routes in any case. An addition of this project.
	//
	// +optional
	ShareLearnedRoutes *bool `json:"shareLearnedRoutes,omitempty"`
}

// BGPConfiguration holds the settings of BGP: of all nodes (named "default"), or of one
// ("node.<name>").
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=bgpconfigurations,singular=bgpconfiguration,shortName=bgpconfig;bgpconfigs,categories=calico;weft
// +kubebuilder:printcolumn:name="ASN",type=string,JSONPath=`.spec.asNumber`
// +kubebuilder:printcolumn:name="MESH",type=boolean,JSONPath=`.spec.nodeToNodeMeshEnabled`
// +kubebuilder:printcolumn:name="PORT",type=integer,JSONPath=`.spec.listenPort`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || self.metadata.name.startsWith('node.')",message="the name is default, or node.<name>"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.nodeToNodeMeshEnabled)",message="stands in the BGPConfiguration default only",fieldPath=".spec.nodeToNodeMeshEnabled",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.asNumber)",message="stands in the BGPConfiguration default only",fieldPath=".spec.asNumber",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.serviceClusterIPs) || size(self.spec.serviceClusterIPs) == 0",message="stands in the BGPConfiguration default only",fieldPath=".spec.serviceClusterIPs",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.serviceExternalIPs) || size(self.spec.serviceExternalIPs) == 0",message="stands in the BGPConfiguration default only",fieldPath=".spec.serviceExternalIPs",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.serviceLoadBalancerIPs) || size(self.spec.serviceLoadBalancerIPs) == 0",message="stands in the BGPConfiguration default only",fieldPath=".spec.serviceLoadBalancerIPs",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.serviceLoadBalancerAggregation)",message="stands in the BGPConfiguration default only",fieldPath=".spec.serviceLoadBalancerAggregation",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.nodeMeshPassword)",message="stands in the BGPConfiguration default only",fieldPath=".spec.nodeMeshPassword",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.nodeMeshMaxRestartTime)",message="stands in the BGPConfiguration default only",fieldPath=".spec.nodeMeshMaxRestartTime",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.routeReflectorThreshold)",message="stands in the BGPConfiguration default only",fieldPath=".spec.routeReflectorThreshold",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default' || !has(self.spec) || !has(self.spec.shareLearnedRoutes)",message="stands in the BGPConfiguration default only",fieldPath=".spec.shareLearnedRoutes",reason="FieldValueForbidden"
type BGPConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec BGPConfigurationSpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// BGPConfigurationList is a list of BGPConfiguration.
//
// +kubebuilder:object:root=true
type BGPConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []BGPConfiguration `json:"items"`
}

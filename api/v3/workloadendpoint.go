package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// IPNAT maps an outside address one to one to an address of the endpoint.
//
// +kubebuilder:validation:XValidation:rule="!isIP(self.internalIP) || !isIP(self.externalIP) || ip(self.internalIP).family() == ip(self.externalIP).family()",message="want an address of the same family as internalIP",fieldPath=".externalIP"
type IPNAT struct {
	// InternalIP is one of the endpoint's own addresses.
	InternalIP ipText `json:"internalIP"`

	// ExternalIP is the address that others use.
	ExternalIP ipText `json:"externalIP"`
}

// EndpointPort is a named port, or one that is mapped from the host.
type EndpointPort struct {
	// Name by which policy refers to the port.
	//
	// +optional
	Name portNameText `json:"name"`

	// Protocol is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or 1 to 255.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ii][Cc][Mm][Pp]([Vv]6)?|[Ss][Cc][Tt][Pp]|[Uu][Dd][Pp][Ll][Ii][Tt][Ee]|0*([1-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]))$`
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 255 || self >= '0'",message="want 1 to 255, or one of TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite"
	Protocol intstr.IntOrString `json:"protocol"`

	// Port inside the pod.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port uint16 `json:"port"`

	// HostPort is the port of the host that leads here; 0 for none.
	//
	// +optional
	HostPort uint16 `json:"hostPort"`

	// HostIP is the address of the host that HostPort is bound to; empty for all.
	//
	// +optional
	HostIP optionalIPText `json:"hostIP"`
}

// QoSControls limit an endpoint's traffic. Zero is no limit. Rates are bit/s, bursts bits, min
// bursts bytes, packet rates packets/s.
type QoSControls struct {
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 1000000000000000",message="want 1000 to 1000000000000000"
	IngressBandwidth int64 `json:"ingressBandwidth,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 34359738360",message="want 1000 to 34359738360"
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1010 && self <= 1010000000000000",message="want 1010 to 1010000000000000"
	IngressPeakrate int64 `json:"ingressPeakrate,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 100000000",message="want 1000 to 100000000"
	IngressMinburst int64 `json:"ingressMinburst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 1000000000000000",message="want 1000 to 1000000000000000"
	EgressBandwidth int64 `json:"egressBandwidth,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 34359738360",message="want 1000 to 34359738360"
	EgressBurst int64 `json:"egressBurst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1010 && self <= 1010000000000000",message="want 1010 to 1010000000000000"
	EgressPeakrate int64 `json:"egressPeakrate,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1000 && self <= 100000000",message="want 1000 to 100000000"
	EgressMinburst int64 `json:"egressMinburst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 10000",message="want 1 to 10000"
	IngressPacketRate int64 `json:"ingressPacketRate,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 10000",message="want 1 to 10000"
	IngressPacketBurst int64 `json:"ingressPacketBurst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 10000",message="want 1 to 10000"
	EgressPacketRate int64 `json:"egressPacketRate,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 10000",message="want 1 to 10000"
	EgressPacketBurst int64 `json:"egressPacketBurst,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 4294967295",message="want 1 to 4294967295"
	IngressMaxConnections int64 `json:"ingressMaxConnections,omitempty"`
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == 0 || self >= 1 && self <= 4294967295",message="want 1 to 4294967295"
	EgressMaxConnections int64 `json:"egressMaxConnections,omitempty"`

	// DSCP marks what the endpoint sends: 0 to 63, or a name such as AF11.
	//
	// +optional
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^0*([0-9]|[1-5][0-9]|6[0-3])$|^([DdEe][Ff]|[Vv][Aa]|[Cc][Ss][0-7]|[Aa][Ff][1-4][1-3])$`
	// +kubebuilder:validation:XValidation:rule="self >= 0 && self <= 63 || self >= '0'",message="want 0 to 63, or a name such as AF11, CS1, EF"
	DSCP *intstr.IntOrString `json:"dscp,omitempty"`
}

// WorkloadEndpointSpec describes a pod's attachment to the network.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ipNATs) || self.ipNATs.all(n, has(self.ipNetworks) && (n.internalIP in self.ipNetworks || n.internalIP + '/32' in self.ipNetworks || n.internalIP + '/128' in self.ipNetworks))",message="internalIP is an address of ipNetworks",fieldPath=".ipNATs"
type WorkloadEndpointSpec struct {
	// Orchestrator is k8s for pods, cni for containers of other runtimes.
	//
	// +optional
	Orchestrator string `json:"orchestrator,omitempty"`

	// Workload names the container where there is no pod.
	//
	// +optional
	Workload string `json:"workload,omitempty"`

	// Node is the node that the pod runs on.
	//
	// +optional
	Node string `json:"node,omitempty"`

	// ContainerID is the sandbox that the attachment was made for.
	//
	// +optional
	ContainerID string `json:"containerID,omitempty"`

	// Pod is the name of the pod.
	//
	// +optional
	Pod string `json:"pod,omitempty"`

	// Endpoint is the name of the interface inside the pod: eth0.
	//
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// ServiceAccountName of the pod.
	//
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// IPNetworks are the endpoint's addresses: each a /32 or a /128.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() == (cidr(self).ip().family() == 4 ? 32 : 128)",message="want one address: /32 for IPv4, /128 for IPv6"
	IPNetworks []rangeText `json:"ipNetworks,omitempty"`

	// IPNATs are the outside addresses that lead to the endpoint.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=256
	IPNATs []IPNAT `json:"ipNATs,omitempty"`

	// IPv4Gateway is the next hop inside the pod.
	//
	// +optional
	IPv4Gateway ipv4Text `json:"ipv4Gateway,omitempty"`

	// IPv6Gateway is the next hop inside the pod.
	//
	// +optional
	IPv6Gateway ipv6Text `json:"ipv6Gateway,omitempty"`

	// Profiles apply in this order after all policies.
	//
	// +optional
	// +kubebuilder:validation:items:MinLength=1
	Profiles []string `json:"profiles,omitempty"`

	// InterfaceName is the host's side of the veth pair.
	//
	// +optional
	InterfaceName interfaceText `json:"interfaceName,omitempty"`

	// MAC is the Ethernet address inside the pod.
	//
	// +optional
	MAC macText `json:"mac,omitempty"`

	// Ports are the endpoint's named and mapped ports.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Ports []EndpointPort `json:"ports,omitempty"`

	// AllowSpoofedSourcePrefixes are further ranges that the endpoint may send from.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	AllowSpoofedSourcePrefixes []rangeText `json:"allowSpoofedSourcePrefixes,omitempty"`

	// QoSControls limit the endpoint's traffic.
	//
	// +optional
	QoSControls *QoSControls `json:"qosControls,omitempty"`
}

// WorkloadEndpoint is a pod's attachment to the network. Its name is <node>-k8s-<pod>-eth0, with the
// dashes of each part doubled.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=workloadendpoints,singular=workloadendpoint,shortName=wep
// +kubebuilder:printcolumn:name="POD",type=string,JSONPath=`.spec.pod`
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="NETWORKS",type=string,JSONPath=`.spec.ipNetworks`
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=`.spec.interfaceName`
type WorkloadEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec WorkloadEndpointSpec `json:"spec,omitzero"`
}

// WorkloadEndpointList is a list of WorkloadEndpoint.
//
// +kubebuilder:object:root=true
type WorkloadEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkloadEndpoint `json:"items"`
}

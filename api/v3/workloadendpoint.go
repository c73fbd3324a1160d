package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// IPNAT maps an outside address one to one to an address of the endpoint.
type IPNAT struct {
	// InternalIP is one of the endpoint's own addresses.
	InternalIP string `json:"internalIP"`

	// ExternalIP is the address that others use.
	ExternalIP string `json:"externalIP"`
}

// EndpointPort is a named port, or one that is mapped from the host.
type EndpointPort struct {
	// Name by which policy refers to the port.
	//
	// +optional
	Name string `json:"name"`

	// Protocol is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, or 1 to 255.
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
	HostIP string `json:"hostIP"`
}

// QoSControls limit an endpoint's traffic. Zero is no limit. Rates are bit/s, bursts bits, min
// bursts bytes, packet rates packets/s.
type QoSControls struct {
	// +optional
	IngressBandwidth int64 `json:"ingressBandwidth,omitempty"`
	// +optional
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	// +optional
	IngressPeakrate int64 `json:"ingressPeakrate,omitempty"`
	// +optional
	IngressMinburst int64 `json:"ingressMinburst,omitempty"`
	// +optional
	EgressBandwidth int64 `json:"egressBandwidth,omitempty"`
	// +optional
	EgressBurst int64 `json:"egressBurst,omitempty"`
	// +optional
	EgressPeakrate int64 `json:"egressPeakrate,omitempty"`
	// +optional
	EgressMinburst int64 `json:"egressMinburst,omitempty"`
	// +optional
	IngressPacketRate int64 `json:"ingressPacketRate,omitempty"`
	// +optional
	IngressPacketBurst int64 `json:"ingressPacketBurst,omitempty"`
	// +optional
	EgressPacketRate int64 `json:"egressPacketRate,omitempty"`
	// +optional
	EgressPacketBurst int64 `json:"egressPacketBurst,omitempty"`
	// +optional
	IngressMaxConnections int64 `json:"ingressMaxConnections,omitempty"`
	// +optional
	EgressMaxConnections int64 `json:"egressMaxConnections,omitempty"`

	// DSCP marks what the endpoint sends: 0 to 63, or a name such as AF11.
	//
	// +optional
	DSCP *intstr.IntOrString `json:"dscp,omitempty"`
}

// WorkloadEndpointSpec describes a pod's attachment to the network.
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
	IPNetworks []string `json:"ipNetworks,omitempty"`

	// IPNATs are the outside addresses that lead to the endpoint.
	//
	// +optional
	IPNATs []IPNAT `json:"ipNATs,omitempty"`

	// IPv4Gateway is the next hop inside the pod.
	//
	// +optional
	IPv4Gateway string `json:"ipv4Gateway,omitempty"`

	// IPv6Gateway is the next hop inside the pod.
	//
	// +optional
	IPv6Gateway string `json:"ipv6Gateway,omitempty"`

	// Profiles apply in this order after all policies.
	//
	// +optional
	Profiles []string `json:"profiles,omitempty"`

	// InterfaceName is the host's side of the veth pair.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9_.-]{1,15}$`
	InterfaceName string `json:"interfaceName,omitempty"`

	// MAC is the Ethernet address inside the pod.
	//
	// +optional
	MAC string `json:"mac,omitempty"`

	// Ports are the endpoint's named and mapped ports.
	//
	// +optional
	Ports []EndpointPort `json:"ports,omitempty"`

	// AllowSpoofedSourcePrefixes are further ranges that the endpoint may send from.
	//
	// +optional
	AllowSpoofedSourcePrefixes []string `json:"allowSpoofedSourcePrefixes,omitempty"`

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

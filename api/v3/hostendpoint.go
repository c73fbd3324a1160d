package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// HostEndpointPort is a port of the host that rules can ask for by name.
type HostEndpointPort struct {
	// Name of the port.
	//
	// +kubebuilder:validation:MinLength=1
	Name portNameText `json:"name"`

	// Protocol is TCP, UDP or SCTP.
	//
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:Pattern=`^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp]|0*(6|17|132))$`
	// +kubebuilder:validation:XValidation:rule="self == 6 || self == 17 || self == 132 || self >= '0'",message="want TCP, UDP or SCTP"
	Protocol intstr.IntOrString `json:"protocol"`

	// Port number.
	//
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port uint16 `json:"port"`
}

// HostEndpointSpec says which interfaces the endpoint is.
//
// +kubebuilder:validation:XValidation:rule="(has(self.interfaceName) && size(self.interfaceName) > 0) || (has(self.expectedIPs) && size(self.expectedIPs) > 0)",message="want interfaceName or expectedIPs, or both",fieldPath=".interfaceName"
type HostEndpointSpec struct {
	// Node is the node whose interfaces these are.
	//
	// +kubebuilder:validation:MinLength=1
	Node nameText `json:"node"`

	// InterfaceName is one interface, or * for all that no other endpoint is for. When empty, those
	// that have one of the expected addresses.
	//
	// +optional
	// +kubebuilder:validation:Pattern=`^(\*|[a-zA-Z0-9_.-]{1,15})?$`
	InterfaceName string `json:"interfaceName,omitempty"`

	// ExpectedIPs are the addresses of the interface.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	ExpectedIPs []ipText `json:"expectedIPs,omitempty"`

	// Profiles apply in this order after all policies.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:MinLength=1
	Profiles []nameText `json:"profiles,omitempty"`

	// Ports have names for rules.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Ports []HostEndpointPort `json:"ports,omitempty"`
}

// HostEndpoint makes policy apply to interfaces of a node itself.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=hostendpoints,singular=hostendpoint,shortName=hep;heps,categories=calico;weft
// +kubebuilder:printcolumn:name="NODE",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="INTERFACE",type=string,JSONPath=`.spec.interfaceName`
// +kubebuilder:printcolumn:name="IPS",type=string,JSONPath=`.spec.expectedIPs`
type HostEndpoint struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec HostEndpointSpec `json:"spec"`
}

// HostEndpointList is a list of HostEndpoint.
//
// +kubebuilder:object:root=true
type HostEndpointList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HostEndpoint `json:"items"`
}

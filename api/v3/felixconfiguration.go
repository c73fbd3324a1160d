package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FelixConfigurationSpec placeholder.
type FelixConfigurationSpec struct {
	// NodeSelector picks the nodes this configuration is for; needed unless the name is default or
	// node.<name>.
	//
	// +optional
	NodeSelector string `json:"nodeSelector,omitempty"`

	// +optional
	VXLANMTU *int `json:"vxlanMTU,omitempty"`
	// +optional
	VXLANPort *int `json:"vxlanPort,omitempty"`
	// +optional
	VXLANVNI *int `json:"vxlanVNI,omitempty"`
}

// FelixConfiguration holds the settings of the node service: of all nodes (named "default"), of one
// ("node.<name>"), or of those that nodeSelector picks.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=felixconfigurations,singular=felixconfiguration,shortName=felixconfig;felixconfigs
type FelixConfiguration struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec FelixConfigurationSpec `json:"spec,omitzero"`
}

// FelixConfigurationList is a list of FelixConfiguration.
//
// +kubebuilder:object:root=true
type FelixConfigurationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []FelixConfiguration `json:"items"`
}

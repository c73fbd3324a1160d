package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NetworkSetSpec lists the ranges of a set.
type NetworkSetSpec struct {
	// Nets are addresses and CIDRs, of both families.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=150000
	Nets []rangeText `json:"nets,omitzero"`
}

// NetworkSet is a list of ranges of a namespace that rules find by its labels.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=networksets,singular=networkset,shortName=netset;netsets,categories=calico;weft
type NetworkSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NetworkSetSpec `json:"spec,omitzero"`
}

// NetworkSetList is a list of NetworkSet.
//
// +kubebuilder:object:root=true
type NetworkSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkSet `json:"items"`
}

// GlobalNetworkSet is a list of ranges that belongs to no namespace, which rules find by its labels.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=globalnetworksets,singular=globalnetworkset,shortName=gns;globalnetset,categories=calico;weft
type GlobalNetworkSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NetworkSetSpec `json:"spec,omitzero"`
}

// GlobalNetworkSetList is a list of GlobalNetworkSet.
//
// +kubebuilder:object:root=true
type GlobalNetworkSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkSet `json:"items"`
}

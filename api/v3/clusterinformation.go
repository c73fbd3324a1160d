package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterInformationSpec describes the cluster.
type ClusterInformationSpec struct {
	// ClusterGUID identifies the cluster.
	//
	// +optional
	ClusterGUID string `json:"clusterGUID,omitempty"`

	// ClusterType is free text: k8s,kubeadm.
	//
	// +optional
	ClusterType string `json:"clusterType,omitempty"`

	// CalicoVersion is the release that wrote this resource.
	//
	// +optional
	CalicoVersion string `json:"calicoVersion,omitempty"`

	// DatastoreReady false tells every component to leave things as they are.
	//
	// +optional
	DatastoreReady *bool `json:"datastoreReady,omitempty"`

	// Variant of the product.
	//
	// +optional
	Variant string `json:"variant,omitempty"`
}

// ClusterInformation describes the cluster; its name is "default".
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=clusterinformations,singular=clusterinformation,shortName=clusterinfo,categories=calico;weft
// +kubebuilder:printcolumn:name="GUID",type=string,JSONPath=`.spec.clusterGUID`
// +kubebuilder:printcolumn:name="READY",type=boolean,JSONPath=`.spec.datastoreReady`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'default'",message="the only ClusterInformation is named default"
type ClusterInformation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec ClusterInformationSpec `json:"spec,omitzero"`
}

// ClusterInformationList is a list of ClusterInformation.
//
// +kubebuilder:object:root=true
type ClusterInformationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterInformation `json:"items"`
}

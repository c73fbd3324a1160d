package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProfileSpec holds the rules and labels of a profile.
type ProfileSpec struct {
	// Ingress rules, in order.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Ingress []Rule `json:"ingress,omitzero"`

	// Egress rules, in order.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	Egress []Rule `json:"egress,omitzero"`

	// LabelsToApply are labels that endpoints with this profile have, unless they have their own.
	//
	// +optional
	LabelsToApply map[string]string `json:"labelsToApply,omitempty"`
}

// Profile has rules and labels for the endpoints that name it. Its rules are asked after all tiers.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=profiles,singular=profile
type Profile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec ProfileSpec `json:"spec,omitzero"`
}

// ProfileList is a list of Profile.
//
// +kubebuilder:object:root=true
type ProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Profile `json:"items"`
}

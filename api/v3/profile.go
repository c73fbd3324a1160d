package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProfileSpec holds the rules and labels of a profile.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || self.ingress.all(r, !has(r.source) || !has(r.source.services) || has(r.source.services.namespace) && size(r.source.services.namespace) > 0)",message="a service needs its namespace here: what this is in belongs to none",fieldPath=".ingress"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || self.egress.all(r, !has(r.destination) || !has(r.destination.services) || has(r.destination.services.namespace) && size(r.destination.services.namespace) > 0)",message="a service needs its namespace here: what this is in belongs to none",fieldPath=".egress"
type ProfileSpec struct {
	// Ingress rules, in order.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.destination) || !has(self.destination.services)",message="an ingress rule asks for a service as its source",fieldPath=".destination.services",reason="FieldValueForbidden"
	Ingress []Rule `json:"ingress,omitzero"`

	// Egress rules, in order.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=1024
	// +kubebuilder:validation:items:XValidation:rule="!has(self.source) || !has(self.source.services)",message="an egress rule asks for a service as its destination",fieldPath=".source.services",reason="FieldValueForbidden"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.destination) || !has(self.destination.services) || !(has(self.destination.ports) || has(self.destination.notPorts))",message="the Service says the ports",fieldPath=".destination"
	// +kubebuilder:validation:items:XValidation:rule="!has(self.http)",message="only an Allow rule for ingress asks for requests",fieldPath=".http",reason="FieldValueForbidden"
	Egress []Rule `json:"egress,omitzero"`

	// LabelsToApply are labels that endpoints with this profile have, unless they have their own.
	//
	// +optional
	LabelsToApply map[string]string `json:"labelsToApply,omitempty"`
}

// Profile has rules and labels for the endpoints that name it. Its rules are asked after all tiers.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=profiles,singular=profile,categories=calico;weft
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
type Profile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec ProfileSpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// ProfileList is a list of Profile.
//
// +kubebuilder:object:root=true
type ProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Profile `json:"items"`
}

package v3

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StagedAction is what would become of the policy of the same name.
//
// +kubebuilder:validation:Enum=Set;Delete;Learn;Ignore
type StagedAction string

// The values of StagedAction.
const (
	StagedActionSet    StagedAction = "Set"
	StagedActionDelete StagedAction = "Delete"
	StagedActionLearn  StagedAction = "Learn"
	StagedActionIgnore StagedAction = "Ignore"
)

// StagedNetworkPolicySpec is what a person wants of a StagedNetworkPolicy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.order) || has(self.ingress) || has(self.egress) || has(self.selector) && size(self.selector) > 0 || has(self.types) || has(self.serviceAccountSelector) && size(self.serviceAccountSelector) > 0 || has(self.performanceHints))",message="leave all other fields but tier out",fieldPath=".stagedAction"
type StagedNetworkPolicySpec struct {
	// StagedAction is Set when not set. With Delete nothing but the tier is given.
	//
	// +optional
	// +kubebuilder:default=Set
	StagedAction StagedAction `json:"stagedAction,omitempty"`

	PolicySpec `json:",inline"`
}

// StagedNetworkPolicy is a NetworkPolicy that is shown and not enforced.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=stagednetworkpolicies,singular=stagednetworkpolicy,shortName=snp,categories=calico;weft
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 127 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$')",message="the name is a DNS label, or two with a dot between them"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.startsWith('knp.default.') && !self.metadata.name.startsWith('ossg.default.')",message="names that begin with knp.default. or ossg.default. are those of converted Kubernetes policies: want another name"
type StagedNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedNetworkPolicySpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// StagedNetworkPolicyList is a list of StagedNetworkPolicy.
//
// +kubebuilder:object:root=true
type StagedNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedNetworkPolicy `json:"items"`
}

// StagedGlobalNetworkPolicySpec is what a person wants of a StagedGlobalNetworkPolicy.
//
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.order) || has(self.ingress) || has(self.egress) || has(self.selector) && size(self.selector) > 0 || has(self.types) || has(self.serviceAccountSelector) && size(self.serviceAccountSelector) > 0 || has(self.performanceHints) || has(self.namespaceSelector) && size(self.namespaceSelector) > 0 || has(self.doNotTrack) && self.doNotTrack || has(self.preDNAT) && self.preDNAT || has(self.applyOnForward) && self.applyOnForward)",message="leave all other fields but tier out",fieldPath=".stagedAction"
type StagedGlobalNetworkPolicySpec struct {
	// StagedAction is Set when not set. With Delete nothing but the tier is given.
	//
	// +optional
	// +kubebuilder:default=Set
	StagedAction StagedAction `json:"stagedAction,omitempty"`

	GlobalPolicySpec `json:",inline"`
}

// StagedGlobalNetworkPolicy is a GlobalNetworkPolicy that is shown and not enforced.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=stagedglobalnetworkpolicies,singular=stagedglobalnetworkpolicy,shortName=sgnp,categories=calico;weft
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 127 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$')",message="the name is a DNS label, or two with a dot between them"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.startsWith('knp.default.') && !self.metadata.name.startsWith('ossg.default.')",message="names that begin with knp.default. or ossg.default. are those of converted Kubernetes policies: want another name"
type StagedGlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedGlobalNetworkPolicySpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// StagedGlobalNetworkPolicyList is a list of StagedGlobalNetworkPolicy.
//
// +kubebuilder:object:root=true
type StagedGlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedGlobalNetworkPolicy `json:"items"`
}

// StagedKubernetesNetworkPolicySpec is what a person wants of a StagedKubernetesNetworkPolicy. Its
// fields but the first are those of the Kubernetes NetworkPolicy, where an empty list of peers or
// ports asks for nothing, as an absent one does.
//
// +kubebuilder:validation:XValidation:rule="!has(self.stagedAction) || self.stagedAction != 'Delete' || !(has(self.podSelector) && (has(self.podSelector.matchLabels) || has(self.podSelector.matchExpressions)) || has(self.ingress) || has(self.egress) || has(self.policyTypes))",message="leave all other fields but tier out",fieldPath=".stagedAction"
type StagedKubernetesNetworkPolicySpec struct {
	// StagedAction is Set when not set. With Delete nothing else is given.
	//
	// +optional
	// +kubebuilder:default=Set
	StagedAction StagedAction `json:"stagedAction,omitempty"`

	// PodSelector picks the pods of the namespace that the policy is for; all when empty.
	//
	// +optional
	PodSelector metav1.LabelSelector `json:"podSelector,omitzero"`

	// Ingress rules: what one of them matches is allowed.
	//
	// +optional
	Ingress []networkingv1.NetworkPolicyIngressRule `json:"ingress,omitempty"`

	// Egress rules: what one of them matches is allowed.
	//
	// +optional
	Egress []networkingv1.NetworkPolicyEgressRule `json:"egress,omitempty"`

	// PolicyTypes are Ingress, Egress or both. When not set: Ingress, and Egress if there are egress
	// rules.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:items:Enum=Ingress;Egress
	// +listType=set
	PolicyTypes []networkingv1.PolicyType `json:"policyTypes,omitempty"`
}

// StagedKubernetesNetworkPolicy is a Kubernetes NetworkPolicy that is shown and not enforced.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=stagedkubernetesnetworkpolicies,singular=stagedkubernetesnetworkpolicy,shortName=sknp,categories=calico;weft
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
type StagedKubernetesNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedKubernetesNetworkPolicySpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// StagedKubernetesNetworkPolicyList is a list of StagedKubernetesNetworkPolicy.
//
// +kubebuilder:object:root=true
type StagedKubernetesNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedKubernetesNetworkPolicy `json:"items"`
}

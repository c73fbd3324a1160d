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
// +kubebuilder:resource:scope=Namespaced,path=stagednetworkpolicies,singular=stagednetworkpolicy,shortName=snp
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
type StagedNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedNetworkPolicySpec `json:"spec,omitzero"`
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
// +kubebuilder:resource:scope=Cluster,path=stagedglobalnetworkpolicies,singular=stagedglobalnetworkpolicy,shortName=sgnp
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
type StagedGlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedGlobalNetworkPolicySpec `json:"spec,omitzero"`
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
	PolicyTypes []networkingv1.PolicyType `json:"policyTypes,omitempty"`
}

// StagedKubernetesNetworkPolicy is a Kubernetes NetworkPolicy that is shown and not enforced.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=stagedkubernetesnetworkpolicies,singular=stagedkubernetesnetworkpolicy,shortName=sknp
// +kubebuilder:printcolumn:name="ACTION",type=string,JSONPath=`.spec.stagedAction`
type StagedKubernetesNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StagedKubernetesNetworkPolicySpec `json:"spec,omitzero"`
}

// StagedKubernetesNetworkPolicyList is a list of StagedKubernetesNetworkPolicy.
//
// +kubebuilder:object:root=true
type StagedKubernetesNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StagedKubernetesNetworkPolicy `json:"items"`
}

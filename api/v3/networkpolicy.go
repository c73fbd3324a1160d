package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PolicyTierLabel is a label that every policy of a tier carries: the tier's name.
const PolicyTierLabel = "projectcalico.org/tier"

// PerformanceHint tells the node service what a person knows of a policy.
//
// +kubebuilder:validation:Enum=AssumeNeededOnEveryNode
type PerformanceHint string

// HintNeededOnEveryNode is the only PerformanceHint.
const HintNeededOnEveryNode PerformanceHint = "AssumeNeededOnEveryNode"

// PolicySpec is what all kinds of policies of this group have in common.
type PolicySpec struct {
	// Tier that the policy is in.
	//
	// +optional
	// +kubebuilder:default=default
	// +kubebuilder:validation:MaxLength=63
	Tier string `json:"tier,omitempty"`

	// Order of the policy in its tier: lower numbers are asked first. Last when not set.
	//
	// +optional
	Order *float64 `json:"order,omitempty"`

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

	// Selector picks the endpoints that the policy is for; all() when not set.
	//
	// +optional
	Selector string `json:"selector,omitempty"`

	// Types are the directions that the policy is about. When not set: Egress if there are egress
	// rules only, both if there are both, otherwise Ingress.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=2
	Types []PolicyType `json:"types,omitzero"`

	// ServiceAccountSelector limits the policy to pods by the labels of their service account.
	//
	// +optional
	ServiceAccountSelector string `json:"serviceAccountSelector,omitempty"`

	// PerformanceHints say what is known of the policy. They are read and have no effect.
	//
	// +optional
	PerformanceHints []PerformanceHint `json:"performanceHints,omitempty"`
}

// NetworkPolicySpec is what a person wants of a NetworkPolicy.
type NetworkPolicySpec struct {
	PolicySpec `json:",inline"`
}

// NetworkPolicy says what traffic endpoints of its namespace may have.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Namespaced,path=networkpolicies,singular=networkpolicy,shortName=cnp;caliconetworkpolicy
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="SELECTOR",type=string,JSONPath=`.spec.selector`
type NetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NetworkPolicySpec `json:"spec,omitzero"`
}

// NetworkPolicyList is a list of NetworkPolicy.
//
// +kubebuilder:object:root=true
type NetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NetworkPolicy `json:"items"`
}

// GlobalPolicySpec is what policies that belong to the whole cluster have in common.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",message="doNotTrack and preDNAT exclude each other"
// +kubebuilder:validation:XValidation:rule="!(has(self.doNotTrack) && self.doNotTrack || has(self.preDNAT) && self.preDNAT) || has(self.applyOnForward) && self.applyOnForward",message="doNotTrack and preDNAT need applyOnForward true"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT) || !has(self.egress) || size(self.egress) == 0",message="a preDNAT policy has no egress rules"
type GlobalPolicySpec struct {
	PolicySpec `json:",inline"`

	// NamespaceSelector limits the policy to endpoints of the namespaces that it picks.
	//
	// +optional
	NamespaceSelector string `json:"namespaceSelector,omitempty"`

	// DoNotTrack applies the policy before connection tracking, on host endpoints only. Needs
	// applyOnForward.
	//
	// +optional
	DoNotTrack bool `json:"doNotTrack,omitempty"`

	// PreDNAT applies the policy before destination addresses are translated, on host endpoints only.
	// Needs applyOnForward.
	//
	// +optional
	PreDNAT bool `json:"preDNAT,omitempty"`

	// ApplyOnForward makes the policy of a host endpoint apply to forwarded traffic too.
	//
	// +optional
	ApplyOnForward bool `json:"applyOnForward,omitempty"`
}

// GlobalNetworkPolicySpec is what a person wants of a GlobalNetworkPolicy.
type GlobalNetworkPolicySpec struct {
	GlobalPolicySpec `json:",inline"`
}

// GlobalNetworkPolicy says what traffic endpoints of all namespaces, and hosts, may have.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=globalnetworkpolicies,singular=globalnetworkpolicy,shortName=gnp;cgnp
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="SELECTOR",type=string,JSONPath=`.spec.selector`
type GlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec GlobalNetworkPolicySpec `json:"spec,omitzero"`
}

// GlobalNetworkPolicyList is a list of GlobalNetworkPolicy.
//
// +kubebuilder:object:root=true
type GlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkPolicy `json:"items"`
}

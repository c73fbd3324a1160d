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
	Tier labelText `json:"tier,omitempty"`

	// Order of the policy in its tier: lower numbers are asked first. Last when not set.
	//
	// +optional
	Order *float64 `json:"order,omitempty"`

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

	// Selector picks the endpoints that the policy is for; all() when not set.
	//
	// +optional
	Selector ruleSelectorText `json:"selector,omitempty"`

	// Types are the directions that the policy is about. When not set: Egress if there are egress
	// rules only, both if there are both, otherwise Ingress.
	//
	// +optional
	// +kubebuilder:validation:MaxItems=2
	// +listType=set
	Types []PolicyType `json:"types,omitzero"`

	// ServiceAccountSelector limits the policy to pods by the labels of their service account.
	//
	// +optional
	ServiceAccountSelector ruleSelectorText `json:"serviceAccountSelector,omitempty"`

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
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=networkpolicies,singular=networkpolicy,shortName=cnp;caliconetworkpolicy,categories=calico;weft
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="SELECTOR",type=string,JSONPath=`.spec.selector`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 127 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$')",message="the name is a DNS label, or two with a dot between them"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.startsWith('knp.default.') && !self.metadata.name.startsWith('ossg.default.')",message="names that begin with knp.default. or ossg.default. are those of converted Kubernetes policies: want another name"
type NetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NetworkPolicySpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
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
// +kubebuilder:validation:XValidation:rule="!(has(self.doNotTrack) && self.doNotTrack && has(self.preDNAT) && self.preDNAT)",message="excludes doNotTrack: set one of them to false",fieldPath=".preDNAT"
// +kubebuilder:validation:XValidation:rule="!(has(self.doNotTrack) && self.doNotTrack) || has(self.applyOnForward) && self.applyOnForward",message="needs applyOnForward true",fieldPath=".doNotTrack"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT) || has(self.applyOnForward) && self.applyOnForward",message="needs applyOnForward true",fieldPath=".preDNAT"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT) || !has(self.egress) || size(self.egress) == 0",message="a preDNAT policy has no egress rules",fieldPath=".egress",reason="FieldValueForbidden"
// +kubebuilder:validation:XValidation:rule="!(has(self.preDNAT) && self.preDNAT) || !has(self.types) || !self.types.exists(t, t == 'Egress')",message="a preDNAT policy is about Ingress only",fieldPath=".types"
// +kubebuilder:validation:XValidation:rule="!has(self.ingress) || self.ingress.all(r, !has(r.source) || !has(r.source.services) || has(r.source.services.namespace) && size(r.source.services.namespace) > 0)",message="a service needs its namespace here: what this is in belongs to none",fieldPath=".ingress"
// +kubebuilder:validation:XValidation:rule="!has(self.egress) || self.egress.all(r, !has(r.destination) || !has(r.destination.services) || has(r.destination.services.namespace) && size(r.destination.services.namespace) > 0)",message="a service needs its namespace here: what this is in belongs to none",fieldPath=".egress"
type GlobalPolicySpec struct {
	PolicySpec `json:",inline"`

	// NamespaceSelector limits the policy to endpoints of the namespaces that it picks.
	//
	// +optional
	NamespaceSelector ruleSelectorText `json:"namespaceSelector,omitempty"`

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
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=globalnetworkpolicies,singular=globalnetworkpolicy,shortName=gnp;cgnp,categories=calico;weft
// +kubebuilder:printcolumn:name="TIER",type=string,JSONPath=`.spec.tier`
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="SELECTOR",type=string,JSONPath=`.spec.selector`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 127 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$')",message="the name is a DNS label, or two with a dot between them"
// +kubebuilder:validation:XValidation:rule="!self.metadata.name.startsWith('knp.default.') && !self.metadata.name.startsWith('ossg.default.')",message="names that begin with knp.default. or ossg.default. are those of converted Kubernetes policies: want another name"
type GlobalNetworkPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec GlobalNetworkPolicySpec `json:"spec,omitzero"`
	// +optional
	Status AcceptedStatus `json:"status,omitzero"`
}

// GlobalNetworkPolicyList is a list of GlobalNetworkPolicy.
//
// +kubebuilder:object:root=true
type GlobalNetworkPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GlobalNetworkPolicy `json:"items"`
}

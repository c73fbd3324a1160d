package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The tiers that exist without a resource and cannot be deleted.
const (
	TierDefault      = "default"
	TierKubeAdmin    = "kube-admin"
	TierKubeBaseline = "kube-baseline"
)

// TierConditionReady is the condition that tells whether policies can be put into a tier.
const TierConditionReady = "Ready"

// TierSpec is what a person wants of a tier.
type TierSpec struct {
	// Order of the tier among the others: lower numbers are asked first. Last when not set.
	//
	// +optional
	Order *float64 `json:"order,omitempty"`

	// DefaultAction is for traffic of an endpoint that policies of the tier select and none of them
	// decides: Deny, when not set, or Pass to the next tier.
	//
	// +optional
	// +kubebuilder:validation:XValidation:rule="self in ['Deny', 'Pass']",message="want one of Deny, Pass"
	DefaultAction Action `json:"defaultAction,omitempty"`
}

// TierStatus is what the cluster reports of a tier.
type TierStatus struct {
	// Conditions holds Ready and Accepted.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Tier is a group of policies that are asked together. The tiers default (order 1000000, Deny),
// kube-admin (1000, Pass) and kube-baseline (10000000, Pass) exist without a resource.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=tiers,singular=tier,categories=calico;weft
// +kubebuilder:printcolumn:name="ORDER",type=number,JSONPath=`.spec.order`
// +kubebuilder:printcolumn:name="DEFAULT",type=string,JSONPath=`.spec.defaultAction`
// +kubebuilder:printcolumn:name="ACCEPTED",type=string,JSONPath=`.status.conditions[?(@.type=="Accepted")].status`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",message="the name is a DNS label: lower-case letters, digits and '-', at most 63"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'default' || !has(self.spec) || !has(self.spec.order) || self.spec.order == 1000000.0",message="that of the built-in tier default is 1000000",fieldPath=".spec.order"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-admin' || !has(self.spec) || !has(self.spec.order) || self.spec.order == 1000.0",message="that of the built-in tier kube-admin is 1000",fieldPath=".spec.order"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-baseline' || !has(self.spec) || !has(self.spec.order) || self.spec.order == 10000000.0",message="that of the built-in tier kube-baseline is 10000000",fieldPath=".spec.order"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'default' || !has(self.spec) || !has(self.spec.defaultAction) || self.spec.defaultAction == 'Deny'",message="that of the built-in tier default is Deny",fieldPath=".spec.defaultAction"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-admin' || !has(self.spec) || !has(self.spec.defaultAction) || self.spec.defaultAction == 'Pass'",message="that of the built-in tier kube-admin is Pass",fieldPath=".spec.defaultAction"
// +kubebuilder:validation:XValidation:rule="self.metadata.name != 'kube-baseline' || !has(self.spec) || !has(self.spec.defaultAction) || self.spec.defaultAction == 'Pass'",message="that of the built-in tier kube-baseline is Pass",fieldPath=".spec.defaultAction"
type Tier struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec TierSpec `json:"spec,omitzero"`
	// +optional
	Status TierStatus `json:"status,omitzero"`
}

// TierList is a list of Tier.
//
// +kubebuilder:object:root=true
type TierList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Tier `json:"items"`
}

// BuiltinTiers returns the tiers that exist without a resource, as resources, sorted by name.
func BuiltinTiers() []*Tier {
	var tiers []*Tier
	for _, b := range []struct {
		name   string
		order  float64
		action Action
	}{{TierDefault, 1_000_000, ActionDeny}, {TierKubeAdmin, 1_000, ActionPass}, {TierKubeBaseline, 10_000_000, ActionPass}} {
		t := &Tier{Spec: TierSpec{Order: &b.order, DefaultAction: b.action}}
		t.Name = b.name
		t.SetGroupVersionKind(groupVersion().WithKind(KindTier))
		tiers = append(tiers, t)
	}
	return tiers
}

// BuiltinTier returns the tier of the name if it is one that exists without a resource.
func BuiltinTier(name string) (*Tier, bool) {
	for _, t := range BuiltinTiers() {
		if t.Name == name {
			return t, true
		}
	}
	return nil, false
}

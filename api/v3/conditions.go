package v3

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConditionAccepted tells whether a resource is honoured, all of it. Where it is not, the reason is one of these or one of
// the kind's own, and the message says what is done instead and what to do.
const (
	ConditionAccepted = "Accepted"

	ReasonAccepted = "Accepted"
	// ReasonInvalid: a rule that no schema can express refuses it.
	ReasonInvalid = "Invalid"
	// ReasonUnsupported: some of its fields are kept and have no effect.
	ReasonUnsupported = "UnsupportedFields"
	// ReasonNotFound: something that it names does not exist.
	ReasonNotFound = "ReferenceNotFound"
)

// AcceptedStatus is what the cluster reports of a resource whose status says only whether it is honoured.
type AcceptedStatus struct {
	// Conditions holds Accepted: whether all of this is honoured, and if not, why not and what to do.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionsOf returns where the conditions of o are; nil: its kind has none.
func ConditionsOf(o Object) *[]metav1.Condition {
	switch o := o.(type) {
	case *NetworkPolicy:
		return &o.Status.Conditions
	case *GlobalNetworkPolicy:
		return &o.Status.Conditions
	case *StagedNetworkPolicy:
		return &o.Status.Conditions
	case *StagedGlobalNetworkPolicy:
		return &o.Status.Conditions
	case *StagedKubernetesNetworkPolicy:
		return &o.Status.Conditions
	case *Tier:
		return &o.Status.Conditions
	case *Profile:
		return &o.Status.Conditions
	case *BGPPeer:
		return &o.Status.Conditions
	case *BGPConfiguration:
		return &o.Status.Conditions
	case *FelixConfiguration:
		return &o.Status.Conditions
	case *KubeControllersConfiguration:
		return &o.Status.Conditions
	case *IPPool:
		return &o.Status.Conditions
	}
	return nil
}

// acceptedColumn shows the condition Accepted.
func acceptedColumn() Column {
	return Column{Name: "ACCEPTED", Value: func(o Object) string {
		if all := ConditionsOf(o); all != nil {
			for _, c := range *all {
				if c.Type == ConditionAccepted {
					return string(c.Status)
				}
			}
		}
		return ""
	}}
}

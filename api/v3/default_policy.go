package v3

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// defaultPolicyKind fills in what the kinds of network policy leave out.
func defaultPolicyKind(o Object) {
	switch o := o.(type) {
	case *Tier:
		defaultTier(o)
	case *NetworkPolicy:
		defaultPolicy(o, &o.Spec.PolicySpec)
	case *GlobalNetworkPolicy:
		defaultPolicy(o, &o.Spec.PolicySpec)
	case *StagedNetworkPolicy:
		setDefault(&o.Spec.StagedAction, StagedActionSet)
		defaultStaged(o, o.Spec.StagedAction, &o.Spec.PolicySpec)
	case *StagedGlobalNetworkPolicy:
		setDefault(&o.Spec.StagedAction, StagedActionSet)
		defaultStaged(o, o.Spec.StagedAction, &o.Spec.PolicySpec)
	case *StagedKubernetesNetworkPolicy:
		setDefault(&o.Spec.StagedAction, StagedActionSet)
		if o.Spec.StagedAction != StagedActionDelete {
			k := o.Spec.kubernetes()
			defaultKubernetesPolicy(k)
			o.Spec.setKubernetes(k)
		}
	case *networkingv1.NetworkPolicy:
		defaultKubernetesPolicy(&o.Spec)
	case *corev1.Secret:
		defaultSecret(o)
	case *corev1.Service:
		defaultService(&o.Spec)
	case *discoveryv1.EndpointSlice:
		defaultSlice(o)
	}
}

func defaultTier(t *Tier) {
	if fixed, ok := BuiltinTier(t.Name); ok {
		setDefault(&t.Spec.Order, fixed.Spec.Order)
		setDefault(&t.Spec.DefaultAction, fixed.Spec.DefaultAction)
	}
	setDefault(&t.Spec.DefaultAction, ActionDeny)
}

// defaultStaged leaves a policy that is to be deleted as it is: it has nothing but its tier.
func defaultStaged(o Object, action StagedAction, p *PolicySpec) {
	if action == StagedActionDelete {
		defaultPolicyTier(o, p)
		return
	}
	defaultPolicy(o, p)
}

func defaultPolicy(o Object, p *PolicySpec) {
	defaultPolicyTier(o, p)
	setDefault(&p.Selector, "all()")
	if len(p.Types) > 0 {
		return
	}
	p.Types = nil
	if len(p.Ingress) > 0 || len(p.Egress) == 0 {
		p.Types = append(p.Types, PolicyTypeIngress)
	}
	if len(p.Egress) > 0 {
		p.Types = append(p.Types, PolicyTypeEgress)
	}
}

// defaultPolicyTier makes policies of a tier known by a label. What is not a label is left for
// Validate to refuse.
func defaultPolicyTier(o Object, p *PolicySpec) {
	setDefault(&p.Tier, TierDefault)
	labels := o.GetLabels()
	if len(validation.IsValidLabelValue(labels[PolicyTierLabel])) > 0 || len(validation.IsDNS1123Label(p.Tier)) > 0 {
		return
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[PolicyTierLabel] = p.Tier
	o.SetLabels(labels)
}

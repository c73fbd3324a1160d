package policies

import (
	"errors"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "weft/api/v3"
	"weft/model"
)

// policyID returns the model's name of a policy by the kind of its resource.
func policyID(kind, namespace, name string) model.PolicyID {
	return model.PolicyID{Kind: kind, Namespace: namespace, Name: name}
}

// PolicyOf converts a policy of any kind. A staged one that asks for nothing to be shown is nil.
// Beside a policy, the error tells what of it could not be understood and what is done instead.
func PolicyOf(o v3.Object) (*model.Policy, error) {
	switch o := o.(type) {
	case *v3.NetworkPolicy:
		return tiered(model.KindNetworkPolicy, o, &o.Spec.PolicySpec)
	case *v3.GlobalNetworkPolicy:
		return global(model.KindGlobalNetworkPolicy, o, &o.Spec.GlobalPolicySpec)
	case *v3.StagedNetworkPolicy:
		if !shown(o.Spec.StagedAction) {
			return nil, nil
		}
		return staged(tiered(model.KindStagedNetworkPolicy, o, &o.Spec.PolicySpec))
	case *v3.StagedGlobalNetworkPolicy:
		if !shown(o.Spec.StagedAction) {
			return nil, nil
		}
		return staged(global(model.KindStagedGlobalNetworkPolicy, o, &o.Spec.GlobalPolicySpec))
	case *v3.StagedKubernetesNetworkPolicy:
		if !shown(o.Spec.StagedAction) {
			return nil, nil
		}
		return staged(kubernetes(policyID(model.KindStagedKubernetesNetworkPolicy, o.Namespace, o.Name), &networkingv1.NetworkPolicySpec{
			PodSelector: o.Spec.PodSelector, Ingress: o.Spec.Ingress, Egress: o.Spec.Egress, PolicyTypes: o.Spec.PolicyTypes}))
	case *networkingv1.NetworkPolicy:
		return kubernetes(policyID(model.KindKubernetesNetworkPolicy, o.Namespace, o.Name), &o.Spec)
	case *policyv1alpha2.ClusterNetworkPolicy:
		return cluster(o)
	}
	return nil, fmt.Errorf("a %T is no policy", o)
}

// shown tells whether there is a policy to evaluate for display: not when it is there to say that one
// is to go, or that it is to be ignored.
func shown(a v3.StagedAction) bool {
	return a != v3.StagedActionDelete && a != v3.StagedActionIgnore
}

func staged(p *model.Policy, err error) (*model.Policy, error) {
	if p != nil {
		p.Staged = true
	}
	return p, err
}

// tiered converts what the policies of this API group have in common.
func tiered(kind string, o v3.Object, s *v3.PolicySpec) (*model.Policy, error) {
	p := &model.Policy{ID: policyID(kind, o.GetNamespace(), o.GetName()), Tier: s.Tier}
	var errs []error
	note := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	var err error
	if s.Order != nil {
		p.Order, err = model.OrderOf(*s.Order)
		note("spec.order", err)
	}
	accounts, err := ofAccounts(s.ServiceAccountSelector)
	note("spec.serviceAccountSelector", err)
	where := ""
	if p.ID.Namespace != "" {
		where = inNamespace(p.ID.Namespace)
	}
	p.Selector, err = joined(where, accounts, s.Selector)
	note("spec.selector", err)
	p.Types = model.Types{Ingress: slices.Contains(s.Types, v3.PolicyTypeIngress), Egress: slices.Contains(s.Types, v3.PolicyTypeEgress)}
	var wrongIn, wrongOut error
	p.Ingress, wrongIn = rules("ingress", s.Ingress, p.ID.Namespace)
	p.Egress, wrongOut = rules("egress", s.Egress, p.ID.Namespace)
	if err := errors.Join(append(errs, wrongIn, wrongOut)...); err != nil {
		return nil, err
	}
	return p, connectionsOnly(s)
}

// connectionsOnly names the rules that ask for HTTP, which nobody looks into.
func connectionsOnly(s *v3.PolicySpec) error {
	var errs []error
	for i := range s.Ingress {
		if s.Ingress[i].HTTP != nil {
			errs = append(errs, fmt.Errorf("spec.ingress[%d].http: nobody looks into HTTP here: the rule is about every request", i))
		}
	}
	for i := range s.Egress {
		if s.Egress[i].HTTP != nil {
			errs = append(errs, fmt.Errorf("spec.egress[%d].http: nobody looks into HTTP here: the rule is about every request", i))
		}
	}
	return errors.Join(errs...)
}

func global(kind string, o v3.Object, s *v3.GlobalPolicySpec) (*model.Policy, error) {
	p, partly := tiered(kind, o, &s.PolicySpec)
	if p == nil {
		return nil, partly
	}
	where, err := ofNamespaces(s.NamespaceSelector)
	if err != nil {
		return nil, fmt.Errorf("spec.namespaceSelector: %w", err)
	}
	if p.Selector, err = joined(where, p.Selector); err != nil {
		return nil, fmt.Errorf("spec.selector: %w", err)
	}
	p.DoNotTrack, p.PreDNAT, p.ApplyOnForward = s.DoNotTrack, s.PreDNAT, s.ApplyOnForward
	return p, partly
}

// TierOf converts a tier.
func TierOf(t *v3.Tier) (*model.Tier, error) {
	if t.Name == tierRejected {
		return nil, fmt.Errorf("metadata.name: %s is the tier of what stands for policies that are rejected", t.Name)
	}
	out := &model.Tier{Name: t.Name, DefaultAction: model.Deny}
	if t.Spec.DefaultAction == v3.ActionPass {
		out.DefaultAction = model.Pass
	}
	if t.Spec.Order == nil {
		return out, nil
	}
	var err error
	if out.Order, err = model.OrderOf(*t.Spec.Order); err != nil {
		return nil, fmt.Errorf("spec.order: %w", err)
	}
	return out, nil
}

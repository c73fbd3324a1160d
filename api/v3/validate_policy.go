package v3

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// validatePolicyKind checks the spec of the kinds of network policy.
func validatePolicyKind(spec *field.Path, o Object) field.ErrorList {
	switch o := o.(type) {
	case *Tier:
		return validateTier(spec, o)
	case *NetworkPolicy:
		return validatePolicy(spec, &o.Spec.PolicySpec, true)
	case *GlobalNetworkPolicy:
		return validateGlobalPolicy(spec, &o.Spec.GlobalPolicySpec)
	case *StagedNetworkPolicy:
		errs := validateStaged(spec, o.Spec.StagedAction, func() bool {
			return reflect.DeepEqual(o.Spec.PolicySpec, PolicySpec{Tier: o.Spec.Tier})
		})
		return append(errs, validatePolicy(spec, &o.Spec.PolicySpec, true)...)
	case *StagedGlobalNetworkPolicy:
		errs := validateStaged(spec, o.Spec.StagedAction, func() bool {
			return reflect.DeepEqual(o.Spec.GlobalPolicySpec, GlobalPolicySpec{PolicySpec: PolicySpec{Tier: o.Spec.Tier}})
		})
		return append(errs, validateGlobalPolicy(spec, &o.Spec.GlobalPolicySpec)...)
	case *StagedKubernetesNetworkPolicy:
		errs := validateStaged(spec, o.Spec.StagedAction, func() bool {
			return reflect.DeepEqual(o.Spec, StagedKubernetesNetworkPolicySpec{StagedAction: StagedActionDelete})
		})
		return append(errs, validateKubernetesPolicy(spec, o.Spec.kubernetes())...)
	case *NetworkSet:
		return checkCIDRs(spec.Child("nets"), o.Spec.Nets, 0)
	case *GlobalNetworkSet:
		return checkCIDRs(spec.Child("nets"), o.Spec.Nets, 0)
	case *Profile:
		return validateProfile(spec, &o.Spec)
	case *HostEndpoint:
		return validateHostEndpoint(spec, o)
	case *networkingv1.NetworkPolicy:
		return validateKubernetesPolicy(spec, &o.Spec)
	case *policyv1alpha2.ClusterNetworkPolicy:
		return validateClusterPolicy(spec, &o.Spec)
	case *corev1.Secret:
		return validateSecret(o)
	case *corev1.Service:
		return validateServiceSpec(spec, &o.Spec)
	case *discoveryv1.EndpointSlice:
		return validateSlice(o)
	}
	return nil
}

// validateTier checks a tier; those that exist without a resource are what they are.
func validateTier(spec *field.Path, t *Tier) field.ErrorList {
	var errs field.ErrorList
	if a := t.Spec.DefaultAction; a != "" {
		errs = checkEnum(spec.Child("defaultAction"), a, ActionDeny, ActionPass)
	}
	fixed, ok := BuiltinTier(t.Name)
	if !ok || errs != nil {
		return errs
	}
	if o := t.Spec.Order; o != nil && *o != *fixed.Spec.Order {
		errs = append(errs, invalid(spec.Child("order"), *o, "the order of the built-in tier %s is %s", t.Name, orderText(fixed.Spec.Order))...)
	}
	if a := t.Spec.DefaultAction; a != "" && a != fixed.Spec.DefaultAction {
		errs = append(errs, invalid(spec.Child("defaultAction"), string(a), "that of the built-in tier %s is %s", t.Name, fixed.Spec.DefaultAction)...)
	}
	return errs
}

func validatePolicy(spec *field.Path, p *PolicySpec, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	if p.Tier != "" {
		errs = append(errs, checkLabelName(spec.Child("tier"), p.Tier)...)
	}
	errs = append(errs, checkRuleSelector(spec.Child("selector"), p.Selector, false)...)
	errs = append(errs, checkRuleSelector(spec.Child("serviceAccountSelector"), p.ServiceAccountSelector, false)...)
	for i, t := range p.Types {
		at := spec.Child("types").Index(i)
		errs = append(errs, checkEnum(at, t, PolicyTypeIngress, PolicyTypeEgress)...)
		if slices.Contains(p.Types[:i], t) {
			errs = append(errs, field.Duplicate(at, t))
		}
	}
	for i, h := range p.PerformanceHints {
		errs = append(errs, checkEnum(spec.Child("performanceHints").Index(i), h, HintNeededOnEveryNode)...)
	}
	errs = append(errs, validateRules(spec.Child("ingress"), p.Ingress, ruleContext{ingress: true, namespaced: namespaced})...)
	return append(errs, validateRules(spec.Child("egress"), p.Egress, ruleContext{namespaced: namespaced})...)
}

func validateGlobalPolicy(spec *field.Path, p *GlobalPolicySpec) field.ErrorList {
	errs := validatePolicy(spec, &p.PolicySpec, false)
	errs = append(errs, checkRuleSelector(spec.Child("namespaceSelector"), p.NamespaceSelector, false)...)
	if p.DoNotTrack && p.PreDNAT {
		errs = append(errs, invalid(spec.Child("preDNAT"), true, "excludes doNotTrack: set one of them to false")...)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"doNotTrack", p.DoNotTrack}, {"preDNAT", p.PreDNAT}} {
		if f.set && !p.ApplyOnForward {
			errs = append(errs, invalid(spec.Child(f.name), true, "needs applyOnForward true")...)
		}
	}
	if p.PreDNAT && len(p.Egress) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("egress"), "a preDNAT policy has no egress rules"))
	}
	if i := slices.Index(p.Types, PolicyTypeEgress); p.PreDNAT && i >= 0 {
		errs = append(errs, invalid(spec.Child("types").Index(i), string(PolicyTypeEgress), "a preDNAT policy is about Ingress only")...)
	}
	return errs
}

// validateStaged checks the action; empty tells whether there is nothing else but the tier.
func validateStaged(spec *field.Path, action StagedAction, empty func() bool) field.ErrorList {
	if action == "" {
		return nil
	}
	at := spec.Child("stagedAction")
	errs := checkEnum(at, action, StagedActionSet, StagedActionDelete, StagedActionLearn, StagedActionIgnore)
	if action == StagedActionDelete && !empty() {
		errs = append(errs, invalid(at, string(action), "leave all other fields but tier out")...)
	}
	return errs
}

func validateProfile(spec *field.Path, p *ProfileSpec) field.ErrorList {
	errs := validateRules(spec.Child("ingress"), p.Ingress, ruleContext{ingress: true})
	errs = append(errs, validateRules(spec.Child("egress"), p.Egress, ruleContext{})...)
	return append(errs, validateLabels(spec.Child("labelsToApply"), p.LabelsToApply)...)
}

func validateLabels(path *field.Path, labels map[string]string) field.ErrorList {
	var errs field.ErrorList
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		at := path.Key(key)
		for _, detail := range validation.IsQualifiedName(key) {
			errs = append(errs, field.Invalid(at, key, detail))
		}
		for _, detail := range validation.IsValidLabelValue(labels[key]) {
			errs = append(errs, field.Invalid(at, excerpt(labels[key]), detail))
		}
	}
	return errs
}

// dscpAnnotation marks what an endpoint sends.
const dscpAnnotation = "qos.projectcalico.org/dscp"

func validateHostEndpoint(spec *field.Path, h *HostEndpoint) field.ErrorList {
	var errs field.ErrorList
	s := &h.Spec
	if s.Node == "" {
		errs = append(errs, field.Required(spec.Child("node"), "the node whose interfaces these are"))
	} else {
		errs = append(errs, checkSubdomain(spec.Child("node"), s.Node)...)
	}
	switch {
	case s.InterfaceName == "" && len(s.ExpectedIPs) == 0:
		errs = append(errs, field.Required(spec.Child("interfaceName"), "want an interface, * for all, or expectedIPs"))
	case s.InterfaceName != "" && s.InterfaceName != "*":
		errs = append(errs, checkInterface(spec.Child("interfaceName"), s.InterfaceName)...)
	}
	for i, a := range s.ExpectedIPs {
		errs = append(errs, checkAddr(spec.Child("expectedIPs").Index(i), a, 0)...)
	}
	for i, name := range s.Profiles {
		errs = append(errs, checkSubdomain(spec.Child("profiles").Index(i), name)...)
	}
	for i, p := range s.Ports {
		at := spec.Child("ports").Index(i)
		errs = append(errs, checkPortName(at.Child("name"), p.Name)...)
		switch r := (Rule{Protocol: &p.Protocol}); {
		case !r.hasPorts():
			errs = append(errs, invalid(at.Child("protocol"), excerpt(p.Protocol.String()), "want TCP, UDP or SCTP")...)
		}
		errs = append(errs, checkRange(at.Child("port"), p.Port, 1, 65535)...)
	}
	if v, ok := h.Annotations[dscpAnnotation]; ok {
		errs = append(errs, checkDSCP(field.NewPath("metadata", "annotations").Key(dscpAnnotation), intstr.FromString(v))...)
	}
	return errs
}

// checkPolicyName wants the names that policies have: one label, or two with a dot, of which the first
// was the tier's in older manifests. Names that converted policies go by are not for people.
func checkPolicyName(path *field.Path, name string) field.ErrorList {
	for _, reserved := range []string{"knp.default.", "ossg.default."} {
		if strings.HasPrefix(name, reserved) {
			return invalid(path, excerpt(name), "names that begin with %s are those of converted Kubernetes policies: want another name", reserved)
		}
	}
	parts := strings.Split(name, ".")
	for _, p := range parts {
		if len(parts) > 2 || len(validation.IsDNS1123Label(p)) > 0 {
			return invalid(path, excerpt(name), "want a DNS label, or two with a dot between them: %s", dnsLabel)
		}
	}
	return nil
}

func checkLabelName(path *field.Path, name string) field.ErrorList {
	if len(validation.IsDNS1123Label(name)) == 0 {
		return nil
	}
	return invalid(path, excerpt(name), "want a DNS label: %s", dnsLabel)
}

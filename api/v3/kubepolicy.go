package v3

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules and defaults of the Kubernetes NetworkPolicy, as the Kubernetes API server has them.

func (s *StagedKubernetesNetworkPolicySpec) kubernetes() *networkingv1.NetworkPolicySpec {
	return &networkingv1.NetworkPolicySpec{PodSelector: s.PodSelector, Ingress: s.Ingress, Egress: s.Egress, PolicyTypes: s.PolicyTypes}
}

func (s *StagedKubernetesNetworkPolicySpec) setKubernetes(k *networkingv1.NetworkPolicySpec) {
	s.PodSelector, s.Ingress, s.Egress, s.PolicyTypes = k.PodSelector, k.Ingress, k.Egress, k.PolicyTypes
}

// defaultKubernetesPolicy also turns empty lists into absent ones: here both mean the same, "from
// everybody", and the wire form of these types has no empty list.
func defaultKubernetesPolicy(s *networkingv1.NetworkPolicySpec) {
	for i := range s.Ingress {
		r := &s.Ingress[i]
		r.From, r.Ports = absentWhenEmpty(r.From), absentWhenEmpty(r.Ports)
		defaultKubernetesPorts(r.Ports)
		defaultKubernetesPeers(r.From)
	}
	for i := range s.Egress {
		r := &s.Egress[i]
		r.To, r.Ports = absentWhenEmpty(r.To), absentWhenEmpty(r.Ports)
		defaultKubernetesPorts(r.Ports)
		defaultKubernetesPeers(r.To)
	}
	s.Ingress, s.Egress = absentWhenEmpty(s.Ingress), absentWhenEmpty(s.Egress)
	defaultLabelSelector(&s.PodSelector)
	if len(s.PolicyTypes) > 0 {
		return
	}
	s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(s.Egress) > 0 {
		s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func absentWhenEmpty[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

func defaultKubernetesPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		setDefault(&ports[i].Protocol, new(corev1.ProtocolTCP))
	}
}

func defaultKubernetesPeers(peers []networkingv1.NetworkPolicyPeer) {
	for i := range peers {
		defaultLabelSelector(peers[i].PodSelector)
		defaultLabelSelector(peers[i].NamespaceSelector)
		if b := peers[i].IPBlock; b != nil {
			b.Except = absentWhenEmpty(b.Except)
		}
	}
}

// defaultLabelSelector keeps an empty selector, which selects everything, from becoming an absent
// one: only what is inside it may go.
func defaultLabelSelector(s *metav1.LabelSelector) {
	if s == nil {
		return
	}
	s.MatchExpressions = absentWhenEmpty(s.MatchExpressions)
	if len(s.MatchLabels) == 0 {
		s.MatchLabels = nil
	}
	for i := range s.MatchExpressions {
		s.MatchExpressions[i].Values = absentWhenEmpty(s.MatchExpressions[i].Values)
	}
}

func validateKubernetesPolicy(spec *field.Path, s *networkingv1.NetworkPolicySpec) field.ErrorList {
	errs := checkLabelSelector(spec.Child("podSelector"), &s.PodSelector)
	for i, r := range s.Ingress {
		at := spec.Child("ingress").Index(i)
		errs = append(errs, validateKubernetesPorts(at.Child("ports"), r.Ports)...)
		errs = append(errs, validateKubernetesPeers(at.Child("from"), r.From)...)
	}
	for i, r := range s.Egress {
		at := spec.Child("egress").Index(i)
		errs = append(errs, validateKubernetesPorts(at.Child("ports"), r.Ports)...)
		errs = append(errs, validateKubernetesPeers(at.Child("to"), r.To)...)
	}
	at := spec.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.TooMany(at, len(s.PolicyTypes), 2))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, checkEnum(at.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
		if slices.Contains(s.PolicyTypes[:i], t) {
			errs = append(errs, field.Duplicate(at.Index(i), t))
		}
	}
	return errs
}

func validateKubernetesPorts(path *field.Path, ports []networkingv1.NetworkPolicyPort) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		if p.Protocol != nil {
			errs = append(errs, checkEnum(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		switch {
		case p.Port == nil:
			if p.EndPort != nil {
				errs = append(errs, field.Required(at.Child("port"), "endPort ends the range that port begins"))
			}
		case p.Port.Type == intstr.String:
			for _, detail := range validation.IsValidPortName(p.Port.StrVal) {
				errs = append(errs, field.Invalid(at.Child("port"), excerpt(p.Port.StrVal), detail))
			}
			if p.EndPort != nil {
				errs = append(errs, invalid(at.Child("endPort"), int64(*p.EndPort), "needs a port that is a number, not the name %s", excerpt(p.Port.StrVal))...)
			}
		default:
			errs = append(errs, checkRange(at.Child("port"), int(p.Port.IntVal), 1, 65535)...)
			if p.EndPort != nil {
				errs = append(errs, checkRange(at.Child("endPort"), int(*p.EndPort), max(int(p.Port.IntVal), 1), 65535)...)
			}
		}
	}
	return errs
}

func validateKubernetesPeers(path *field.Path, peers []networkingv1.NetworkPolicyPeer) field.ErrorList {
	var errs field.ErrorList
	for i, p := range peers {
		at := path.Index(i)
		if p.PodSelector == nil && p.NamespaceSelector == nil && p.IPBlock == nil {
			errs = append(errs, field.Required(at, "want podSelector, namespaceSelector or ipBlock"))
		}
		errs = append(errs, checkLabelSelector(at.Child("podSelector"), p.PodSelector)...)
		errs = append(errs, checkLabelSelector(at.Child("namespaceSelector"), p.NamespaceSelector)...)
		if p.IPBlock == nil {
			continue
		}
		if p.PodSelector != nil || p.NamespaceSelector != nil {
			errs = append(errs, field.Forbidden(at.Child("ipBlock"), "excludes podSelector and namespaceSelector: want a peer of its own"))
		}
		errs = append(errs, validateIPBlock(at.Child("ipBlock"), p.IPBlock)...)
	}
	return errs
}

func validateIPBlock(path *field.Path, b *networkingv1.IPBlock) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "a CIDR such as 192.0.2.0/24")}
	}
	cidr, errs := parseCIDR(path.Child("cidr"), b.CIDR, 0)
	for i, s := range b.Except {
		at := path.Child("except").Index(i)
		except, wrong := parseCIDR(at, s, 0)
		switch {
		case wrong != nil:
			errs = append(errs, wrong...)
		case cidr.IsValid() && (except.Bits() <= cidr.Bits() || !cidr.Contains(except.Addr())):
			errs = append(errs, invalid(at, s, "want a smaller range within %s", b.CIDR)...)
		}
	}
	return errs
}

// checkLabelSelector checks a selector of Kubernetes' own form; nil is none.
func checkLabelSelector(path *field.Path, s *metav1.LabelSelector) field.ErrorList {
	var errs field.ErrorList
	for _, e := range metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path) {
		if text, ok := e.BadValue.(string); ok {
			e.BadValue = excerpt(text)
		} else if e.BadValue != nil {
			e.BadValue = excerpt(fmt.Sprint(e.BadValue))
		}
		errs = append(errs, e)
	}
	return errs
}

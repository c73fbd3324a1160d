package v3

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// policyKinds are the kinds of network policy.
func policyKinds() []KindInfo {
	v3 := groupVersion()
	return []KindInfo{
		{Kind: KindGlobalNetworkPolicy, Plural: "globalnetworkpolicies", Singular: "globalnetworkpolicy", Short: []string{"gnp", "cgnp"},
			GroupVersion: v3, New: newObject[GlobalNetworkPolicy](v3),
			Columns: slices.Concat(policyColumns(), []Column{wide(column("NAMESPACES", func(p *GlobalNetworkPolicy) string { return p.Spec.NamespaceSelector }))})},
		{Kind: KindGlobalNetworkSet, Plural: "globalnetworksets", Singular: "globalnetworkset", Short: []string{"gns", "globalnetset"},
			GroupVersion: v3, New: newObject[GlobalNetworkSet](v3),
			Columns: []Column{column("NETS", func(s *GlobalNetworkSet) string { return few(s.Spec.Nets) })}},
		{Kind: KindHostEndpoint, Plural: "hostendpoints", Singular: "hostendpoint", Short: []string{"hep", "heps"},
			GroupVersion: v3, New: newObject[HostEndpoint](v3), Columns: hostEndpointColumns()},
		{Kind: KindNetworkPolicy, Plural: "networkpolicies", Singular: "networkpolicy", Short: []string{"cnp", "caliconetworkpolicy"},
			Namespaced: true, GroupVersion: v3, New: newObject[NetworkPolicy](v3), Columns: policyColumns()},
		{Kind: KindNetworkSet, Plural: "networksets", Singular: "networkset", Short: []string{"netset", "netsets"},
			Namespaced: true, GroupVersion: v3, New: newObject[NetworkSet](v3),
			Columns: []Column{column("NETS", func(s *NetworkSet) string { return few(s.Spec.Nets) })}},
		{Kind: KindProfile, Plural: "profiles", Singular: "profile", GroupVersion: v3, New: newObject[Profile](v3), Columns: profileColumns()},
		{Kind: KindStagedGlobalNetworkPolicy, Plural: "stagedglobalnetworkpolicies", Singular: "stagedglobalnetworkpolicy", Short: []string{"sgnp"},
			GroupVersion: v3, New: newObject[StagedGlobalNetworkPolicy](v3),
			Columns: slices.Concat([]Column{column("ACTION", func(p *StagedGlobalNetworkPolicy) string { return string(p.Spec.StagedAction) })}, policyColumns())},
		{Kind: KindStagedKubernetesNetworkPolicy, Plural: "stagedkubernetesnetworkpolicies", Singular: "stagedkubernetesnetworkpolicy",
			Short: []string{"sknp"}, Namespaced: true, GroupVersion: v3, New: newObject[StagedKubernetesNetworkPolicy](v3),
			Columns: []Column{column("ACTION", func(p *StagedKubernetesNetworkPolicy) string { return string(p.Spec.StagedAction) })}},
		{Kind: KindStagedNetworkPolicy, Plural: "stagednetworkpolicies", Singular: "stagednetworkpolicy", Short: []string{"snp"},
			Namespaced: true, GroupVersion: v3, New: newObject[StagedNetworkPolicy](v3),
			Columns: slices.Concat([]Column{column("ACTION", func(p *StagedNetworkPolicy) string { return string(p.Spec.StagedAction) })}, policyColumns())},
		{Kind: KindTier, Plural: "tiers", Singular: "tier", GroupVersion: v3, New: newObject[Tier](v3), Columns: []Column{
			column("ORDER", func(t *Tier) string { return orderText(t.Spec.Order) }),
			column("DEFAULT", func(t *Tier) string { return string(t.Spec.DefaultAction) }),
		}},
	}
}

// kubernetesKinds are Kubernetes' own kinds but Namespace.
func kubernetesKinds() []KindInfo {
	return []KindInfo{
		{Kind: KindClusterNetworkPolicy, Plural: "clusternetworkpolicies", Singular: "clusternetworkpolicy", Short: []string{"clusternetpol"},
			GroupVersion: clusterPolicyVersion(), New: newObject[policyv1alpha2.ClusterNetworkPolicy](clusterPolicyVersion()),
			Columns: []Column{
				column("TIER", func(p *policyv1alpha2.ClusterNetworkPolicy) string { return string(p.Spec.Tier) }),
				column("PRIORITY", func(p *policyv1alpha2.ClusterNetworkPolicy) string { return strconv.Itoa(int(p.Spec.Priority)) }),
				column("RULES", func(p *policyv1alpha2.ClusterNetworkPolicy) string {
					return ruleCount(len(p.Spec.Ingress), len(p.Spec.Egress))
				}),
			}},
		{Kind: KindEndpointSlice, Plural: "endpointslices", Singular: "endpointslice", Namespaced: true,
			GroupVersion: discoveryv1.SchemeGroupVersion, New: newObject[discoveryv1.EndpointSlice](discoveryv1.SchemeGroupVersion),
			Columns: []Column{
				column("SERVICE", func(s *discoveryv1.EndpointSlice) string { return s.Labels[discoveryv1.LabelServiceName] }),
				column("ADDRESSTYPE", func(s *discoveryv1.EndpointSlice) string { return string(s.AddressType) }),
				column("ENDPOINTS", func(s *discoveryv1.EndpointSlice) string { return strconv.Itoa(len(s.Endpoints)) }),
			}},
		// The store's keys, too, are below the plural name: it is not that of the other NetworkPolicy.
		{Kind: KindKubernetesNetworkPolicy, Plural: "networkpolicies.networking.k8s.io", Singular: "networkpolicy.networking.k8s.io",
			Short: []string{"netpol", "netpols"}, Namespaced: true, GroupVersion: networkingv1.SchemeGroupVersion,
			New: newObject[networkingv1.NetworkPolicy](networkingv1.SchemeGroupVersion),
			Columns: []Column{
				column("POD-SELECTOR", func(p *networkingv1.NetworkPolicy) string { return metav1.FormatLabelSelector(&p.Spec.PodSelector) }),
				wide(column("RULES", func(p *networkingv1.NetworkPolicy) string {
					return ruleCount(len(p.Spec.Ingress), len(p.Spec.Egress))
				})),
			}},
		{Kind: KindSecret, Plural: "secrets", Singular: "secret", Namespaced: true,
			GroupVersion: corev1.SchemeGroupVersion, New: newObject[corev1.Secret](corev1.SchemeGroupVersion),
			Columns: []Column{
				column("TYPE", func(s *corev1.Secret) string { return string(s.Type) }),
				column("DATA", func(s *corev1.Secret) string { return strconv.Itoa(len(s.Data)) }),
			}},
		{Kind: KindService, Plural: "services", Singular: "service", Short: []string{"svc"}, Namespaced: true,
			GroupVersion: corev1.SchemeGroupVersion, New: newObject[corev1.Service](corev1.SchemeGroupVersion),
			Columns: []Column{
				column("TYPE", func(s *corev1.Service) string { return string(s.Spec.Type) }),
				column("CLUSTER-IP", func(s *corev1.Service) string { return s.Spec.ClusterIP }),
				column("PORTS", func(s *corev1.Service) string {
					var ports []string
					for _, p := range s.Spec.Ports {
						ports = append(ports, fmt.Sprintf("%d/%s", p.Port, protocolOr(p.Protocol)))
					}
					return few(ports)
				}),
			}},
		{Kind: KindServiceAccount, Plural: "serviceaccounts", Singular: "serviceaccount", Short: []string{"sa"}, Namespaced: true,
			GroupVersion: corev1.SchemeGroupVersion, New: newObject[corev1.ServiceAccount](corev1.SchemeGroupVersion)},
	}
}

// PolicyOf returns what the kinds of policies that have a tier share of o, or nil.
func PolicyOf(o Object) *PolicySpec {
	if isNil(o) {
		return nil
	}
	switch o := o.(type) {
	case *NetworkPolicy:
		return &o.Spec.PolicySpec
	case *GlobalNetworkPolicy:
		return &o.Spec.PolicySpec
	case *StagedNetworkPolicy:
		return &o.Spec.PolicySpec
	case *StagedGlobalNetworkPolicy:
		return &o.Spec.PolicySpec
	}
	return nil
}

// TieredKinds are the kinds of policies that have a tier.
func TieredKinds() []string {
	return []string{KindGlobalNetworkPolicy, KindNetworkPolicy, KindStagedGlobalNetworkPolicy, KindStagedNetworkPolicy}
}

func policyColumns() []Column {
	col := func(name string, value func(*PolicySpec) string) Column {
		return Column{Name: name, Value: func(o Object) string {
			if p := PolicyOf(o); p != nil {
				return value(p)
			}
			return ""
		}}
	}
	return []Column{
		col("TIER", func(p *PolicySpec) string { return p.Tier }),
		col("ORDER", func(p *PolicySpec) string { return orderText(p.Order) }),
		col("SELECTOR", func(p *PolicySpec) string { return p.Selector }),
		wide(col("TYPES", func(p *PolicySpec) string {
			var types []string
			for _, t := range p.Types {
				types = append(types, string(t))
			}
			return strings.Join(types, ",")
		})),
		wide(col("RULES", func(p *PolicySpec) string { return ruleCount(len(p.Ingress), len(p.Egress)) })),
	}
}

func profileColumns() []Column {
	return []Column{
		column("RULES", func(p *Profile) string { return ruleCount(len(p.Spec.Ingress), len(p.Spec.Egress)) }),
		column("LABELS", func(p *Profile) string { return strconv.Itoa(len(p.Spec.LabelsToApply)) }),
	}
}

func hostEndpointColumns() []Column {
	return []Column{
		column("NODE", func(h *HostEndpoint) string { return h.Spec.Node }),
		column("INTERFACE", func(h *HostEndpoint) string { return h.Spec.InterfaceName }),
		column("IPS", func(h *HostEndpoint) string { return few(h.Spec.ExpectedIPs) }),
		wide(column("PROFILES", func(h *HostEndpoint) string { return strings.Join(h.Spec.Profiles, ",") })),
	}
}

func ruleCount(ingress, egress int) string { return fmt.Sprintf("%d in, %d out", ingress, egress) }

// orderText prints an order as a person writes it.
func orderText(order *float64) string {
	if order == nil {
		return "last"
	}
	return strconv.FormatFloat(*order, 'f', -1, 64)
}

// few shows the beginning of a list.
func few(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s + %d more", strings.Join(list[:most], ","), len(list)-most)
	}
	return strings.Join(list, ",")
}

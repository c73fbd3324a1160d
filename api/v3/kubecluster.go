package v3

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// The rules and defaults of ClusterNetworkPolicy, Service and EndpointSlice, as far as policy and
// routing read them, as the Kubernetes API server has them.

const (
	maxClusterRules    = 25 // also of peers, protocols, networks and domain names in a rule
	maxClusterRuleName = 100
	maxClusterPriority = 1000
	maxSliceEndpoints  = 1000
	maxSliceAddresses  = 100
	maxSlicePorts      = 20000
)

func validateClusterPolicy(spec *field.Path, s *policyv1alpha2.ClusterNetworkPolicySpec) field.ErrorList {
	errs := checkEnum(spec.Child("tier"), s.Tier, policyv1alpha2.AdminTier, policyv1alpha2.BaselineTier)
	errs = append(errs, checkRange(spec.Child("priority"), int(s.Priority), 0, maxClusterPriority)...)
	at := spec.Child("subject")
	errs = append(errs, exactlyOne(at, map[string]bool{"namespaces": s.Subject.Namespaces != nil, "pods": s.Subject.Pods != nil})...)
	errs = append(errs, checkLabelSelector(at.Child("namespaces"), s.Subject.Namespaces)...)
	errs = append(errs, checkPods(at.Child("pods"), s.Subject.Pods)...)
	errs = append(errs, between(spec.Child("ingress"), len(s.Ingress), 0)...)
	errs = append(errs, between(spec.Child("egress"), len(s.Egress), 0)...)
	for i := range s.Ingress {
		r, at := &s.Ingress[i], spec.Child("ingress").Index(i)
		errs = append(errs, validateClusterRule(at, r.Name, r.Action, r.Protocols)...)
		errs = append(errs, between(at.Child("from"), len(r.From), 1)...)
		for j, p := range r.From {
			at := at.Child("from").Index(j)
			errs = append(errs, exactlyOne(at, map[string]bool{"namespaces": p.Namespaces != nil, "pods": p.Pods != nil})...)
			errs = append(errs, checkLabelSelector(at.Child("namespaces"), p.Namespaces)...)
			errs = append(errs, checkPods(at.Child("pods"), p.Pods)...)
		}
	}
	for i := range s.Egress {
		r, at := &s.Egress[i], spec.Child("egress").Index(i)
		errs = append(errs, validateClusterRule(at, r.Name, r.Action, r.Protocols)...)
		errs = append(errs, between(at.Child("to"), len(r.To), 1)...)
		for j := range r.To {
			errs = append(errs, validateClusterPeer(at.Child("to").Index(j), &r.To[j], r)...)
		}
	}
	return errs
}

func validateClusterRule(path *field.Path, name string, action policyv1alpha2.ClusterNetworkPolicyRuleAction, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) field.ErrorList {
	errs := checkEnum(path.Child("action"), action, policyv1alpha2.ClusterNetworkPolicyRuleActionAccept,
		policyv1alpha2.ClusterNetworkPolicyRuleActionDeny, policyv1alpha2.ClusterNetworkPolicyRuleActionPass)
	if len(name) > maxClusterRuleName {
		errs = append(errs, field.TooLong(path.Child("name"), len(name), maxClusterRuleName))
	}
	if protocols == nil {
		return errs
	}
	errs = append(errs, between(path.Child("protocols"), len(protocols), 1)...)
	for i, p := range protocols {
		at := path.Child("protocols").Index(i)
		errs = append(errs, exactlyOne(at, map[string]bool{"tcp": p.TCP != nil, "udp": p.UDP != nil, "sctp": p.SCTP != nil, "destinationNamedPort": p.DestinationNamedPort != ""})...)
		if p.TCP != nil {
			errs = append(errs, validateClusterPort(at.Child("tcp", "destinationPort"), p.TCP.DestinationPort)...)
		}
		if p.UDP != nil {
			errs = append(errs, validateClusterPort(at.Child("udp", "destinationPort"), p.UDP.DestinationPort)...)
		}
		if p.SCTP != nil {
			errs = append(errs, validateClusterPort(at.Child("sctp", "destinationPort"), p.SCTP.DestinationPort)...)
		}
	}
	return errs
}

func validateClusterPort(path *field.Path, p *policyv1alpha2.Port) field.ErrorList {
	switch {
	case p == nil:
		return field.ErrorList{field.Required(path, "a number or range of ports")}
	case (p.Number != 0) == (p.Range != nil):
		return field.ErrorList{field.Required(path, "want either number or range")}
	case p.Range == nil:
		return checkRange(path.Child("number"), int(p.Number), 1, 65535)
	}
	at := path.Child("range")
	errs := slices.Concat(checkRange(at.Child("start"), int(p.Range.Start), 1, 65535), checkRange(at.Child("end"), int(p.Range.End), 1, 65535))
	if errs == nil && p.Range.Start >= p.Range.End {
		errs = invalid(at.Child("end"), int64(p.Range.End), "want more than start, %d", p.Range.Start)
	}
	return errs
}

var domainName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

func validateClusterPeer(path *field.Path, p *policyv1alpha2.ClusterNetworkPolicyEgressPeer, r *policyv1alpha2.ClusterNetworkPolicyEgressRule) field.ErrorList {
	errs := exactlyOne(path, map[string]bool{"namespaces": p.Namespaces != nil, "pods": p.Pods != nil, "nodes": p.Nodes != nil,
		"networks": p.Networks != nil, "domainNames": p.DomainNames != nil})
	errs = append(errs, checkLabelSelector(path.Child("namespaces"), p.Namespaces)...)
	errs = append(errs, checkPods(path.Child("pods"), p.Pods)...)
	errs = append(errs, checkLabelSelector(path.Child("nodes"), p.Nodes)...)
	if p.Networks != nil {
		errs = append(errs, between(path.Child("networks"), len(p.Networks), 1)...)
	}
	for i, c := range p.Networks {
		at := path.Child("networks").Index(i)
		if _, wrong := parseCIDR(at, string(c), 0); wrong != nil {
			errs = append(errs, wrong...)
		} else if slices.Contains(p.Networks[:i], c) {
			errs = append(errs, field.Duplicate(at, string(c)))
		}
	}
	if p.DomainNames != nil {
		errs = append(errs, between(path.Child("domainNames"), len(p.DomainNames), 1)...)
		if r.Action != policyv1alpha2.ClusterNetworkPolicyRuleActionAccept {
			errs = append(errs, field.Forbidden(path.Child("domainNames"), "only an Accept rule has domain names"))
		}
	}
	for i, d := range p.DomainNames {
		at := path.Child("domainNames").Index(i)
		if !domainName.MatchString(string(d)) {
			errs = append(errs, invalid(at, excerpt(string(d)), "want a domain name such as example.org or *.example.org")...)
		} else if slices.Contains(p.DomainNames[:i], d) {
			errs = append(errs, field.Duplicate(at, string(d)))
		}
	}
	named := func(p policyv1alpha2.ClusterNetworkPolicyProtocol) bool { return p.DestinationNamedPort != "" }
	if (p.Networks != nil || p.Nodes != nil || p.DomainNames != nil) && slices.ContainsFunc(r.Protocols, named) {
		errs = append(errs, field.Forbidden(path, "networks, nodes and domain names have no named ports: leave destinationNamedPort out of the rule"))
	}
	return errs
}

func checkPods(path *field.Path, p *policyv1alpha2.NamespacedPod) field.ErrorList {
	if p == nil {
		return nil
	}
	return slices.Concat(checkLabelSelector(path.Child("namespaceSelector"), &p.NamespaceSelector), checkLabelSelector(path.Child("podSelector"), &p.PodSelector))
}

// exactlyOne wants one of the fields to be set.
func exactlyOne(path *field.Path, set map[string]bool) field.ErrorList {
	var names, have []string
	for name, is := range set {
		if names = append(names, name); is {
			have = append(have, name)
		}
	}
	if len(have) == 1 {
		return nil
	}
	slices.Sort(names)
	slices.Sort(have)
	if len(have) == 0 {
		return field.ErrorList{field.Required(path, "want one of "+strings.Join(names, ", "))}
	}
	return field.ErrorList{field.Forbidden(path, "has "+strings.Join(have, ", ")+": want one of them")}
}

// between wants a list of least to 25.
func between(path *field.Path, n, least int) field.ErrorList {
	switch {
	case n > maxClusterRules:
		return field.ErrorList{field.TooMany(path, n, maxClusterRules)}
	case n < least:
		return field.ErrorList{field.Required(path, "want at least one: an empty list matches nothing")}
	}
	return nil
}

func defaultService(s *corev1.ServiceSpec) {
	setDefault(&s.Type, corev1.ServiceTypeClusterIP)
	setDefault(&s.SessionAffinity, corev1.ServiceAffinityNone)
	for i := range s.Ports {
		setDefault(&s.Ports[i].Protocol, corev1.ProtocolTCP)
		if t := &s.Ports[i].TargetPort; *t == intstr.FromInt32(0) || *t == intstr.FromString("") {
			*t = intstr.FromInt32(s.Ports[i].Port)
		}
	}
}

func validateServiceSpec(spec *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	if s.Type != "" {
		errs = checkEnum(spec.Child("type"), s.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	}
	if s.SessionAffinity != "" {
		errs = append(errs, checkEnum(spec.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP)...)
	}
	if s.Type == corev1.ServiceTypeExternalName {
		if len(validation.IsDNS1123Subdomain(s.ExternalName)) > 0 {
			errs = append(errs, invalid(spec.Child("externalName"), excerpt(s.ExternalName), "want a domain name such as db.example.org")...)
		}
	} else if len(s.Ports) == 0 && s.ClusterIP != corev1.ClusterIPNone {
		errs = append(errs, field.Required(spec.Child("ports"), "a Service has ports, unless its clusterIP is None"))
	}
	errs = append(errs, validateLabels(spec.Child("selector"), s.Selector)...)
	for i, p := range s.Ports {
		errs = append(errs, validateServicePort(spec.Child("ports"), s.Ports, i, p)...)
	}
	if a := s.ClusterIP; a != "" && a != corev1.ClusterIPNone {
		errs = append(errs, checkAddr(spec.Child("clusterIP"), a, 0)...)
	}
	for i, a := range s.ClusterIPs {
		if a != corev1.ClusterIPNone {
			errs = append(errs, checkAddr(spec.Child("clusterIPs").Index(i), a, 0)...)
		}
	}
	if len(s.ClusterIPs) > 0 && s.ClusterIPs[0] != s.ClusterIP {
		errs = append(errs, invalid(spec.Child("clusterIPs").Index(0), excerpt(s.ClusterIPs[0]), "want clusterIP, %q", s.ClusterIP)...)
	}
	for i, a := range s.ExternalIPs {
		errs = append(errs, checkAddr(spec.Child("externalIPs").Index(i), a, 0)...)
	}
	return errs
}

func validateServicePort(path *field.Path, ports []corev1.ServicePort, i int, p corev1.ServicePort) field.ErrorList {
	at := path.Index(i)
	var errs field.ErrorList
	switch {
	case p.Name == "" && len(ports) > 1:
		errs = append(errs, field.Required(at.Child("name"), "each of several ports has a name"))
	case p.Name != "":
		errs = append(errs, checkLabelName(at.Child("name"), p.Name)...)
	}
	errs = append(errs, checkRange(at.Child("port"), int(p.Port), 1, 65535)...)
	errs = append(errs, checkRange(at.Child("nodePort"), int(p.NodePort), 0, 65535)...)
	if p.Protocol != "" {
		errs = append(errs, checkEnum(at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	switch t := p.TargetPort; {
	case t.Type == intstr.Int:
		errs = append(errs, checkRange(at.Child("targetPort"), int(t.IntVal), 0, 65535)...)
	case t.StrVal != "" && len(validation.IsValidPortName(t.StrVal)) > 0:
		errs = append(errs, invalid(at.Child("targetPort"), excerpt(t.StrVal), "want a number from 1 to 65535, or a port's name: at most 15 small letters, digits and -")...)
	}
	for _, other := range ports[:i] {
		if p.Name != "" && p.Name == other.Name {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		if p.Port == other.Port && protocolOr(p.Protocol) == protocolOr(other.Protocol) {
			errs = append(errs, field.Duplicate(at.Child("port"), strconv.Itoa(int(p.Port))+"/"+string(protocolOr(p.Protocol))))
		}
	}
	return errs
}

func protocolOr(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		setDefault(&s.Ports[i].Name, new(""))
		setDefault(&s.Ports[i].Protocol, new(corev1.ProtocolTCP))
	}
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := checkEnum(field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	endpoints, ports := field.NewPath("endpoints"), field.NewPath("ports")
	if len(s.Endpoints) > maxSliceEndpoints {
		return append(errs, field.TooMany(endpoints, len(s.Endpoints), maxSliceEndpoints))
	}
	if len(s.Ports) > maxSlicePorts {
		return append(errs, field.TooMany(ports, len(s.Ports), maxSlicePorts))
	}
	for i, e := range s.Endpoints {
		at := endpoints.Index(i).Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(at, "an endpoint has an address"))
		case n > maxSliceAddresses:
			errs = append(errs, field.TooMany(at, n, maxSliceAddresses))
			continue
		}
		for j, a := range e.Addresses {
			errs = append(errs, checkSliceAddress(at.Index(j), s.AddressType, a)...)
		}
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		at := ports.Index(i)
		name := deref(p.Name)
		if names[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		if names[name] = true; name != "" {
			errs = append(errs, checkLabelName(at.Child("name"), name)...)
		}
		if p.Protocol != nil {
			errs = append(errs, checkEnum(at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		}
		if p.Port != nil {
			errs = append(errs, checkRange(at.Child("port"), int(*p.Port), 1, 65535)...)
		}
	}
	return errs
}

func checkSliceAddress(path *field.Path, t discoveryv1.AddressType, a string) field.ErrorList {
	switch t {
	case discoveryv1.AddressTypeFQDN:
		return checkSubdomain(path, a)
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		f := family(4)
		if t == discoveryv1.AddressTypeIPv6 {
			f = 6
		}
		if errs := checkAddr(path, a, f); errs != nil {
			return errs
		}
		if ip := netip.MustParseAddr(a); ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() {
			return invalid(path, a, "no pod has such an address: loopback, unspecified and link-local ones are refused")
		}
	}
	return nil
}

package policies

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"weft/model"
)

// kubernetesOrder is where Kubernetes' own policies stand in their tier.
const kubernetesOrder = 1000

// kubernetes converts a NetworkPolicy of Kubernetes: each peer, for each protocol, is a rule that
// allows.
func kubernetes(id model.PolicyID, s *networkingv1.NetworkPolicySpec) (*model.Policy, error) {
	p := &model.Policy{ID: id, Types: model.Types{Ingress: len(s.PolicyTypes) == 0 || slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeIngress),
		Egress: slices.Contains(s.PolicyTypes, networkingv1.PolicyTypeEgress) || len(s.PolicyTypes) == 0 && len(s.Egress) > 0}}
	var err error
	if p.Order, err = model.OrderOf(kubernetesOrder); err != nil {
		return nil, err
	}
	subject, err := ofLabelSelector(&s.PodSelector)
	if err == nil {
		p.Selector, err = joined(inNamespace(id.Namespace), pods, subject)
	}
	if err != nil {
		return nil, fmt.Errorf("spec.podSelector: %w", err)
	}
	for i, r := range s.Ingress {
		list, err := kubernetesRules(r.Ports, r.From, id.Namespace, model.Ingress)
		if err != nil {
			return nil, fmt.Errorf("spec.ingress[%d]: %w", i, err)
		}
		p.Ingress = append(p.Ingress, list...)
	}
	for i, r := range s.Egress {
		list, err := kubernetesRules(r.Ports, r.To, id.Namespace, model.Egress)
		if err != nil {
			return nil, fmt.Errorf("spec.egress[%d]: %w", i, err)
		}
		p.Egress = append(p.Egress, list...)
	}
	return p, nil
}

func kubernetesRules(list []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, namespace string, d model.Direction) ([]model.Rule, error) {
	services, err := kubernetesPorts(list)
	if err != nil {
		return nil, err
	}
	ends := []model.EntityMatch{{}}
	if len(peers) > 0 {
		ends = ends[:0]
	}
	for i := range peers {
		e, err := kubernetesPeer(&peers[i], namespace)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", map[model.Direction]string{model.Ingress: "from", model.Egress: "to"}[d], i, err)
		}
		ends = append(ends, e)
	}
	return cross(model.Allow, ends, services, d), nil
}

// service is a protocol and ports of it: nil for any port.
type service struct {
	protocol model.Protocol // 0: any
	ports    []model.Port
}

// cross makes a rule of each end for each service; the end is the peer, as the direction has it.
func cross(a model.Action, ends []model.EntityMatch, services []service, d model.Direction) []model.Rule {
	out := make([]model.Rule, 0, len(ends)*len(services))
	for _, e := range ends {
		for _, s := range services {
			r := model.Rule{Action: a, Protocol: s.protocol}
			if d == model.Ingress {
				r.Source = e
			} else {
				r.Destination = e
			}
			r.Destination.Ports = slices.Clone(s.ports)
			out = append(out, r)
		}
	}
	return out
}

// kubernetesPorts joins the ports of each protocol. None at all is every protocol and port.
func kubernetesPorts(list []networkingv1.NetworkPolicyPort) ([]service, error) {
	if len(list) == 0 {
		return []service{{}}, nil
	}
	var g services
	for i, p := range list {
		number, err := kubernetesProtocol(p.Protocol)
		if err != nil {
			return nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		switch {
		case p.Port == nil:
			g.any(number)
		case p.Port.Type == intstr.String:
			g.add(number, model.Port{Name: p.Port.StrVal})
		default:
			r := model.PortRange{First: uint16(p.Port.IntVal), Last: uint16(p.Port.IntVal)}
			if p.EndPort != nil {
				r.Last = uint16(*p.EndPort)
			}
			g.add(number, model.Port{Range: r})
		}
	}
	return g, nil
}

// kubernetesProtocol returns the number of a protocol, which is TCP where none is named.
func kubernetesProtocol(p *corev1.Protocol) (model.Protocol, error) {
	name := intstr.FromString(string(corev1.ProtocolTCP))
	if p != nil {
		name = intstr.FromString(string(*p))
	}
	return protocol("protocol", &name)
}

// services has one entry for each protocol, in the order in which they came.
type services []service

func (g *services) of(p model.Protocol) (s *service, isNew bool) {
	for i := range *g {
		if (*g)[i].protocol == p {
			return &(*g)[i], false
		}
	}
	*g = append(*g, service{protocol: p})
	return &(*g)[len(*g)-1], true
}

// any adds every port of a protocol.
func (g *services) any(p model.Protocol) {
	s, _ := g.of(p)
	s.ports = nil
}

func (g *services) add(p model.Protocol, port model.Port) {
	s, isNew := g.of(p)
	if isNew || s.ports != nil { // else every port is in already
		s.ports = append(s.ports, port)
	}
}

func kubernetesPeer(p *networkingv1.NetworkPolicyPeer, namespace string) (model.EntityMatch, error) {
	var out model.EntityMatch
	if b := p.IPBlock; b != nil {
		cidr, err := netip.ParsePrefix(b.CIDR)
		if err != nil {
			return out, fmt.Errorf("ipBlock.cidr: %w", err)
		}
		out.Nets = []netip.Prefix{cidr.Masked()}
		if len(b.Except) > 0 {
			out.NotNets, err = prefixes("ipBlock.except", b.Except)
		}
		return out, err
	}
	if p.PodSelector == nil && p.NamespaceSelector == nil {
		return out, fmt.Errorf("want podSelector, namespaceSelector or ipBlock")
	}
	where, which := inNamespace(namespace), ""
	var err error
	if p.NamespaceSelector != nil {
		if where, err = ofLabelSelector(p.NamespaceSelector); err == nil {
			where, err = ofNamespaces(where)
		}
		if err != nil {
			return out, fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	if p.PodSelector != nil {
		if which, err = ofLabelSelector(p.PodSelector); err != nil {
			return out, fmt.Errorf("podSelector: %w", err)
		}
	}
	text, err := joined(where, pods, which)
	out.Selector = &text
	return out, err
}

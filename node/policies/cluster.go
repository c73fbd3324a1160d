package policies

import (
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "weft/api/v3"
	"weft/model"
)

// cluster converts a ClusterNetworkPolicy. What it cannot say here (domain names as peers)
// accepts nothing and, in a rule that does not accept, denies everything: beside the policy comes an
// error that names it.
func cluster(o *policyv1alpha2.ClusterNetworkPolicy) (*model.Policy, error) {
	s := &o.Spec
	p := &model.Policy{ID: policyID(model.KindClusterNetworkPolicy, "", o.Name),
		Types: model.Types{Ingress: len(s.Ingress) > 0, Egress: len(s.Egress) > 0}}
	switch s.Tier {
	case policyv1alpha2.AdminTier:
		p.Tier = v3.TierKubeAdmin
	case policyv1alpha2.BaselineTier:
		p.Tier = v3.TierKubeBaseline
	default:
		return nil, fmt.Errorf("spec.tier %q: want Admin or Baseline", s.Tier)
	}
	var err error
	if p.Order, err = model.OrderOf(float64(s.Priority)); err != nil {
		return nil, fmt.Errorf("spec.priority: %w", err)
	}
	if p.Selector, err = clusterPods(s.Subject.Namespaces, s.Subject.Pods); err != nil {
		return nil, fmt.Errorf("spec.subject: %w", err)
	}
	var wrong []error
	for i := range s.Ingress {
		r := &s.Ingress[i]
		ends, err := each(r.From, func(e *policyv1alpha2.ClusterNetworkPolicyIngressPeer) (model.EntityMatch, error) {
			text, err := clusterPods(e.Namespaces, e.Pods)
			return model.EntityMatch{Selector: &text}, err
		})
		list, err := clusterRules(r.Action, ends, r.Protocols, model.Ingress, err)
		p.Ingress = append(p.Ingress, list...)
		wrong = append(wrong, at("spec.ingress[%d]", i, err))
	}
	for i := range s.Egress {
		r := &s.Egress[i]
		ends, err := each(r.To, egressPeer)
		list, err := clusterRules(r.Action, ends, r.Protocols, model.Egress, err)
		p.Egress = append(p.Egress, list...)
		wrong = append(wrong, at("spec.egress[%d]", i, err))
	}
	return p, errors.Join(wrong...)
}

func at(format string, i int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", i, err)
}

// each converts all peers that it can; the error names the others.
func each[P any](peers []P, convert func(*P) (model.EntityMatch, error)) ([]model.EntityMatch, error) {
	var out []model.EntityMatch
	var errs []error
	for i := range peers {
		e, err := convert(&peers[i])
		if err != nil {
			errs = append(errs, at("peer %d", i, err))
			continue
		}
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

// clusterRules returns the rules of one rule of the resource. wrong is what could not be converted
// of its peers; the error says what is done about that.
func clusterRules(a policyv1alpha2.ClusterNetworkPolicyRuleAction, ends []model.EntityMatch, list []policyv1alpha2.ClusterNetworkPolicyProtocol, d model.Direction, wrong error) ([]model.Rule, error) {
	does := map[policyv1alpha2.ClusterNetworkPolicyRuleAction]model.Action{
		policyv1alpha2.ClusterNetworkPolicyRuleActionAccept: model.Allow,
		policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:   model.Deny,
		policyv1alpha2.ClusterNetworkPolicyRuleActionPass:   model.Pass,
	}[a]
	services, err := clusterServices(list)
	if err = errors.Join(wrong, err); does == model.Allow || err == nil && does != 0 {
		if err != nil {
			err = fmt.Errorf("%w; it accepts less than it says", err)
		}
		return cross(does, ends, services, d), err
	}
	if does == 0 {
		err = errors.Join(err, fmt.Errorf("action %q: want Accept, Deny or Pass", a))
	}
	return []model.Rule{{Action: model.Deny}}, fmt.Errorf("%w; since it is not to accept, it denies everything", err)
}

// clusterPods returns the selector of the pods that a subject or peer names.
func clusterPods(namespaces *metav1.LabelSelector, named *policyv1alpha2.NamespacedPod) (string, error) {
	var which *metav1.LabelSelector
	if named != nil {
		namespaces, which = &named.NamespaceSelector, &named.PodSelector
	}
	if namespaces == nil {
		return "", fmt.Errorf("want namespaces or pods")
	}
	where, err := ofLabelSelector(namespaces)
	if err == nil {
		where, err = ofNamespaces(where)
	}
	if err != nil || which == nil {
		if err == nil {
			where, err = joined(where, pods)
		}
		return where, err
	}
	text, err := ofLabelSelector(which)
	if err != nil {
		return "", err
	}
	return joined(where, pods, text)
}

func egressPeer(p *policyv1alpha2.ClusterNetworkPolicyEgressPeer) (model.EntityMatch, error) {
	var out model.EntityMatch
	switch {
	case p.Nodes != nil:
		text, err := ofLabelSelector(p.Nodes)
		if err == nil {
			text, err = joined(text)
		}
		id := model.NodesID(text)
		out.Service, out.AnyPort = &id, true
		return out, err
	case p.DomainNames != nil:
		return out, fmt.Errorf("domain names cannot be peers here")
	case p.Networks != nil:
		nets := make([]string, len(p.Networks))
		for i, n := range p.Networks {
			nets[i] = string(n)
		}
		var err error
		out.Nets, err = prefixes("networks", nets)
		return out, err
	}
	text, err := clusterPods(p.Namespaces, p.Pods)
	out.Selector = &text
	return out, err
}

// clusterServices joins the ports of each protocol; no list is every protocol and port.
func clusterServices(list []policyv1alpha2.ClusterNetworkPolicyProtocol) ([]service, error) {
	if len(list) == 0 {
		return []service{{}}, nil
	}
	var g services
	for i, p := range list {
		var number model.Protocol
		var port *policyv1alpha2.Port
		switch {
		case p.DestinationNamedPort != "":
			g.add(0, model.Port{Name: p.DestinationNamedPort}) // of whatever protocol the pod says
			continue
		case p.TCP != nil:
			number, port = model.TCP, p.TCP.DestinationPort
		case p.UDP != nil:
			number, port = model.UDP, p.UDP.DestinationPort
		case p.SCTP != nil:
			number, port = model.SCTP, p.SCTP.DestinationPort
		default:
			return nil, fmt.Errorf("protocols[%d]: want tcp, udp, sctp or destinationNamedPort", i)
		}
		switch {
		case port == nil:
			g.any(number)
		case port.Range != nil:
			g.add(number, model.Port{Range: model.PortRange{First: uint16(port.Range.Start), Last: uint16(port.Range.End)}})
		default:
			g.add(number, model.Port{Range: model.PortRange{First: uint16(port.Number), Last: uint16(port.Number)}})
		}
	}
	return g, nil
}

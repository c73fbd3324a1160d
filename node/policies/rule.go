package policies

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	v3 "weft/api/v3"
	"weft/model"
)

// rules converts a list of rules. namespace is that of the policy they are in; empty for none.
func rules(field string, list []v3.Rule, namespace string) ([]model.Rule, error) {
	out := make([]model.Rule, 0, len(list))
	var errs []error
	for i := range list {
		r, err := rule(&list[i], namespace)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.%s[%d]: %w", field, i, err))
			continue
		}
		out = append(out, r)
	}
	return out, errors.Join(errs...)
}

func rule(r *v3.Rule, namespace string) (model.Rule, error) {
	var out model.Rule
	var err error
	if out.Action, err = action(r.Action); err != nil {
		return out, err
	}
	if r.IPVersion != nil {
		out.Family = model.Family(*r.IPVersion)
	}
	if out.Protocol, err = protocol("protocol", r.Protocol); err != nil {
		return out, err
	}
	if out.NotProtocol, err = protocol("notProtocol", r.NotProtocol); err != nil {
		return out, err
	}
	out.ICMP, out.NotICMP = icmp(r.ICMP), icmp(r.NotICMP)
	if out.Source, err = entity(&r.Source, namespace); err != nil {
		return out, fmt.Errorf("source: %w", err)
	}
	if out.Destination, err = entity(&r.Destination, namespace); err != nil {
		return out, fmt.Errorf("destination: %w", err)
	}
	return out, nil
}

func action(a v3.Action) (model.Action, error) {
	switch a {
	case v3.ActionAllow:
		return model.Allow, nil
	case v3.ActionDeny:
		return model.Deny, nil
	case v3.ActionLog:
		return model.Log, nil
	case v3.ActionPass:
		return model.Pass, nil
	}
	return 0, fmt.Errorf("action %q: want Allow, Deny, Log or Pass", a)
}

// protocol returns the number of a protocol; 0 when none is asked for.
func protocol(field string, p *intstr.IntOrString) (model.Protocol, error) {
	if p == nil {
		return 0, nil
	}
	n := v3.ProtocolNumber(*p)
	if n == 0 {
		return 0, fmt.Errorf("%s %q: want 1 to 255, or the name of a protocol", field, p.String())
	}
	return model.Protocol(n), nil
}

// icmp returns what is asked of messages; without a type nothing is.
func icmp(f *v3.ICMPFields) *model.ICMPMatch {
	if f == nil || f.Type == nil {
		return nil
	}
	m := &model.ICMPMatch{Type: uint8(*f.Type)}
	if f.Code != nil {
		m.Code, m.HasCode = uint8(*f.Code), true
	}
	return m
}

func entity(e *v3.EntityRule, namespace string) (model.EntityMatch, error) {
	var out model.EntityMatch
	var err error
	if out.Nets, err = prefixes("nets", e.Nets); err != nil {
		return out, err
	}
	if out.NotNets, err = prefixes("notNets", e.NotNets); err != nil {
		return out, err
	}
	if out.Ports, err = ports("ports", e.Ports); err != nil {
		return out, err
	}
	if out.NotPorts, err = ports("notPorts", e.NotPorts); err != nil {
		return out, err
	}
	if s := e.Services; s != nil {
		out.Service = &model.ServiceID{Namespace: cmp.Or(s.Namespace, namespace), Name: s.Name}
		return out, nil
	}
	if e.NotSelector != "" {
		not, err := joined(e.NotSelector)
		if err != nil {
			return out, fmt.Errorf("notSelector: %w", err)
		}
		out.NotSelector = &not
	}
	out.Selector, err = peers(e, namespace)
	return out, err
}

// peers returns the selector of what an end of a rule may be; nil when it may be any address. In a
// policy of a namespace that names no namespaces, anything that is told by labels is of that one.
func peers(e *v3.EntityRule, namespace string) (*string, error) {
	accounts, err := serviceAccounts(e.ServiceAccounts)
	if err != nil {
		return nil, err
	}
	var where string
	switch {
	case e.NamespaceSelector != "":
		if where, err = ofNamespaces(e.NamespaceSelector); err != nil {
			return nil, fmt.Errorf("namespaceSelector: %w", err)
		}
	case e.Selector == "" && e.NotSelector == "" && accounts == "":
		return nil, nil
	case namespace != "":
		where = inNamespace(namespace)
	case e.Selector == "" && accounts == "":
		return nil, nil // notSelector alone, in the whole cluster
	}
	text, err := joined(where, accounts, e.Selector)
	if err != nil {
		return nil, fmt.Errorf("selector: %w", err)
	}
	return &text, nil
}

// serviceAccounts returns the selector of the pods that run as certain service accounts, or nothing.
func serviceAccounts(m *v3.ServiceAccountMatch) (string, error) {
	if m == nil || m.Names == nil && m.Selector == "" {
		return "", nil
	}
	var terms []string
	if m.Names != nil {
		terms = append(terms, labelServiceAccount+" in {"+quoteAll(m.Names)+"}")
	}
	s, err := ofAccounts(m.Selector)
	if err == nil {
		s, err = joined(append(terms, s)...)
	}
	if err != nil {
		return "", fmt.Errorf("serviceAccounts: %w", err)
	}
	return s, nil
}

// prefixes reads addresses and CIDRs. Absent and empty stay what they are.
func prefixes(field string, list []string) ([]netip.Prefix, error) {
	if list == nil {
		return nil, nil
	}
	out := make([]netip.Prefix, 0, len(list))
	for i, s := range list {
		p, err := prefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// prefix reads an address, which stands for itself, or a CIDR.
func prefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return model.HostPrefix(a), nil
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// ports reads numbers, ranges and names. Absent and empty stay what they are.
func ports(field string, list []intstr.IntOrString) ([]model.Port, error) {
	if list == nil {
		return nil, nil
	}
	out := make([]model.Port, 0, len(list))
	for i, p := range list {
		if v3.IsNamedPort(p) {
			out = append(out, model.Port{Name: p.StrVal})
			continue
		}
		first, last, err := v3.ParsePortRange(p)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		out = append(out, model.Port{Range: model.PortRange{First: first, Last: last}})
	}
	return out, nil
}

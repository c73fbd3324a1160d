package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft/model"
	"weft/model/selector"
)

// scope is where a list of rules stands; it decides what names in it mean.
type scope struct {
	direction model.Direction
	local     bool // the rules' own end is always this node's
	staged    bool
}

// rules resolves a list of rules. The error says which rule is wrong, and what of it.
func (s scope) rules(list []model.Rule) ([]Rule, error) {
	if len(list) == 0 {
		return nil, nil
	}
	resolved := make([]Rule, 0, len(list)+len(list)/2)
	for i := range list {
		r := &list[i]
		if err := s.check(r); err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", s.direction, i, err)
		}
		for _, f := range families(r) {
			one, possible, err := s.resolve(r, f)
			if err != nil {
				return nil, fmt.Errorf("%s[%d]: %w", s.direction, i, err)
			}
			if possible {
				one.Index = i
				resolved = append(resolved, one)
			}
		}
	}
	return resolved, nil
}

// check finds what no resource that was accepted can hold.
func (s scope) check(r *model.Rule) error {
	if r.Action < model.Allow || r.Action > model.Pass {
		return fmt.Errorf("action: %s is none of allow, deny, log and pass", r.Action)
	}
	if r.Family != 0 && r.Family != model.IPv4 && r.Family != model.IPv6 {
		return fmt.Errorf("ipVersion: %d is neither 4 nor 6", int(r.Family))
	}
	if (r.ICMP != nil || r.NotICMP != nil) && r.Protocol != model.ICMP && r.Protocol != model.ICMPv6 {
		return fmt.Errorf("icmp: protocol is %s, want icmp or icmpv6", r.Protocol)
	}
	ingress := s.direction == model.Ingress
	return errors.Join(
		checkEntity("source", &r.Source, r.Protocol, ingress),
		checkEntity("destination", &r.Destination, r.Protocol, !ingress),
		checkServicePorts(&r.Destination),
	)
}

func checkServicePorts(dst *model.EntityMatch) error {
	if dst.Service != nil && !dst.AnyPort && (dst.Ports != nil || dst.NotPorts != nil) {
		return fmt.Errorf("destination: ports beside a service: its own ports count, name no others")
	}
	return nil
}

func checkEntity(field string, e *model.EntityMatch, p model.Protocol, mayBeService bool) error {
	for _, nets := range [][]netip.Prefix{e.Nets, e.NotNets} {
		for _, n := range nets {
			if !n.IsValid() || n.Addr().Is4In6() {
				return fmt.Errorf("%s: nets: %s, want an IPv4 or IPv6 prefix", field, n)
			}
		}
	}
	for _, ports := range [][]model.Port{e.Ports, e.NotPorts} {
		for _, port := range ports {
			if port.Name == "" && port.Range.First > port.Range.Last {
				return fmt.Errorf("%s: ports: %s ends before it begins", field, port.Range)
			}
			if port.Name == "" && !p.HasPorts() {
				return fmt.Errorf("%s: ports: protocol is %s, want tcp, udp or sctp for port numbers", field, p)
			}
		}
	}
	if e.Service != nil && !mayBeService {
		return fmt.Errorf("%s: services: only an ingress rule's source and an egress rule's destination can be one", field)
	}
	return nil
}

// families returns which families a rule must be resolved for: 0 when it is the same for both.
func families(r *model.Rule) []model.Family {
	if r.Family != 0 {
		return []model.Family{r.Family}
	}
	if r.ICMP != nil || r.NotICMP != nil || hasAddresses(&r.Source) || hasAddresses(&r.Destination) {
		return []model.Family{model.IPv4, model.IPv6}
	}
	return []model.Family{0}
}

func hasAddresses(e *model.EntityMatch) bool {
	named := func(p model.Port) bool { return p.Name != "" }
	return len(e.Nets)+len(e.NotNets) > 0 || e.Selector != nil || e.NotSelector != nil || e.Service != nil ||
		slices.ContainsFunc(e.Ports, named) || slices.ContainsFunc(e.NotPorts, named)
}

// resolve returns a rule as it is for one family. It is not possible when no packet of the family
// can fulfil it.
func (s scope) resolve(r *model.Rule, f model.Family) (out Rule, possible bool, err error) {
	out = Rule{Action: r.Action, Family: f, Protocol: r.Protocol, NotProtocol: r.NotProtocol, ICMP: r.ICMP, NotICMP: r.NotICMP}
	if (r.ICMP != nil || r.NotICMP != nil) && (r.Protocol == model.ICMP) != (f == model.IPv4) {
		return out, false, nil
	}
	var src, dst bool
	if out.Src, src, err = s.match(&r.Source, f, s.direction == model.Egress); err != nil {
		return out, false, fmt.Errorf("source: %w", err)
	}
	if out.Dst, dst, err = s.match(&r.Destination, f, s.direction == model.Ingress); err != nil {
		return out, false, fmt.Errorf("destination: %w", err)
	}
	return out, src && dst, nil
}

// match resolves one end of a rule. own tells that it is the end of the endpoint itself.
func (s scope) match(e *model.EntityMatch, f model.Family, own bool) (m Match, possible bool, err error) {
	all := ""
	if e.Selector != nil {
		if all, err = canonical(*e.Selector); err != nil {
			return m, false, err
		}
		m.In = append(m.In, SetID{Kind: Selected, Family: f, Selector: all, Staged: s.staged})
	}
	if e.NotSelector != nil {
		not, err := canonical(*e.NotSelector)
		if err != nil {
			return m, false, err
		}
		m.NotIn = []SetID{{Kind: Selected, Family: f, Selector: not, Staged: s.staged}}
	}
	m.Nets, m.NotNets = ofFamily(e.Nets, f), ofFamily(e.NotNets, f)
	if e.Nets != nil && len(m.Nets) == 0 || len(e.NotNets) > 0 && len(m.NotNets) == 0 || e.Ports != nil && len(e.Ports) == 0 {
		return m, false, nil
	}
	if all == "" {
		all = "all()"
	}
	named := SetID{Kind: NamedPort, Family: f, Selector: all, Local: own && s.local, Staged: s.staged}
	m.Ports, m.NotPorts = ports(e.Ports, named), ports(e.NotPorts, named)
	if e.Service != nil {
		id := SetID{Kind: ServiceAddrs, Family: f, Name: e.Service.String(), Staged: s.staged}
		if s.direction == model.Egress && !e.AnyPort {
			id.Kind = ServicePorts
			m.Ports = &Ports{Sets: []SetID{id}}
		} else {
			m.In = append(m.In, id)
		}
	}
	return m, true, nil
}

// canonical returns a selector's canonical form, which parses too.
func canonical(s string) (string, error) {
	sel, err := selector.Parse(s)
	if err != nil {
		return "", err
	}
	text := sel.String()
	if len(text) > selector.MaxLength {
		return "", fmt.Errorf("selector of %d bytes when written canonically, want at most %d", len(text), selector.MaxLength)
	}
	return text, nil
}

// ports resolves port numbers and names; named is the set of a port name but for the name.
func ports(list []model.Port, named SetID) *Ports {
	if len(list) == 0 {
		return nil
	}
	p := &Ports{}
	for _, port := range list {
		if port.Name == "" {
			p.Ranges = append(p.Ranges, port.Range)
			continue
		}
		named.Name = port.Name
		p.Sets = append(p.Sets, named)
	}
	p.Ranges = joined(p.Ranges)
	slices.SortFunc(p.Sets, SetID.Compare)
	p.Sets = slices.Compact(p.Sets)
	return p
}

// joined sorts ranges and joins those that overlap or touch.
func joined(ranges []model.PortRange) []model.PortRange {
	slices.SortFunc(ranges, func(a, b model.PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	out := ranges[:0]
	for _, r := range ranges {
		if n := len(out); n > 0 && int(r.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// ofFamily returns the prefixes of family f, sorted, without those that are within another.
func ofFamily(nets []netip.Prefix, f model.Family) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nets {
		if model.FamilyOf(n.Addr()) == f {
			all = append(all, n.Masked())
		}
	}
	slices.SortFunc(all, comparePrefix)
	out := all[:0]
	for _, n := range all {
		if len(out) == 0 || !out[len(out)-1].Overlaps(n) {
			out = append(out, n)
		}
	}
	return out
}

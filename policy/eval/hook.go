package eval

import (
	"net/netip"
	"slices"

	"weft/model"
	"weft/policy"
)

// decision is how a hook, tier or chain ends.
type decision int

const (
	undecided decision = iota
	allow
	deny
	next // Pass: the tier is left
)

// pod asks a pod's hook, where what stays undecided is denied.
func (r *run) pod(h *policy.Hook, at func() string) bool {
	switch r.hook(h, at) {
	case allow:
		return true
	case deny:
		return false
	}
	return r.because(false, at, "no policy and no profile decided")
}

// hook asks the tiers, then the profiles.
func (r *run) hook(h *policy.Hook, at func() string) decision {
	for i := range h.Tiers {
		if d := r.tier(&h.Tiers[i], at); d == allow || d == deny {
			return d
		}
	}
	for _, id := range h.Profiles {
		if d := r.chain(id, "", at); d == allow || d == deny {
			return d
		}
	}
	return undecided
}

func (r *run) tier(t *policy.Tier, at func() string) decision {
	staged := t.Staged
	for i := 0; i <= len(t.Policies); i++ {
		for ; len(staged) > 0 && staged[0].Before == i; staged = staged[1:] {
			if !r.staged {
				continue
			}
			if d := r.chain(staged[0].Chain, t.Name, at); d != undecided {
				return d
			}
		}
		if i == len(t.Policies) {
			break
		}
		if d := r.chain(t.Policies[i], t.Name, at); d != undecided {
			return d
		}
	}
	if t.Default != model.Deny && (!r.staged || t.StagedDefault != model.Deny) {
		return undecided
	}
	if r.verdict != nil {
		r.verdict.Reasons = append(r.verdict.Reasons, Reason{At: at(), Tier: t.Name, Rule: -1, Action: model.Deny, Text: "the tier's default action"})
	}
	return deny
}

func (r *run) chain(id policy.ChainID, tier string, at func() string) decision {
	c := r.program.Chains[id]
	if c == nil {
		return undecided
	}
	for i := range c.Rules {
		rule := &c.Rules[i]
		if !r.matches(rule) {
			continue
		}
		if r.verdict != nil {
			r.verdict.Reasons = append(r.verdict.Reasons, Reason{At: at(), Tier: tier, Chain: id, Rule: rule.Index,
				Action: rule.Action, Sets: r.found(rule), Staged: c.Staged})
		}
		switch rule.Action {
		case model.Allow:
			return allow
		case model.Deny:
			return deny
		case model.Pass:
			return next
		}
	}
	return undecided
}

func (r *run) matches(rule *policy.Rule) bool {
	p := r.packet
	switch {
	case rule.Family != 0 && rule.Family != model.FamilyOf(p.Src),
		rule.Protocol != 0 && rule.Protocol != p.Protocol,
		rule.NotProtocol != 0 && rule.NotProtocol == p.Protocol,
		rule.ICMP != nil && !icmp(rule.ICMP, p),
		rule.NotICMP != nil && icmp(rule.NotICMP, p):
		return false
	}
	return r.end(&rule.Src, p.Src, p.SrcPort) && r.end(&rule.Dst, p.Dst, p.DstPort)
}

func icmp(m *model.ICMPMatch, p *model.Packet) bool {
	return m.Type == p.ICMPType && (!m.HasCode || m.Code == p.ICMPCode)
}

func (r *run) end(m *policy.Match, a netip.Addr, port uint16) bool {
	holds := func(n netip.Prefix) bool { return n.Contains(a) }
	if len(m.Nets) > 0 && !slices.ContainsFunc(m.Nets, holds) || slices.ContainsFunc(m.NotNets, holds) {
		return false
	}
	for _, id := range m.In {
		if !r.program.Sets[id].Contains(a) {
			return false
		}
	}
	for _, id := range m.NotIn {
		if r.program.Sets[id].Contains(a) {
			return false
		}
	}
	return (m.Ports == nil || r.port(m.Ports, a, port)) && (m.NotPorts == nil || !r.port(m.NotPorts, a, port))
}

// port tells whether an end is one of some ports. A packet of a protocol without ports is none.
func (r *run) port(ports *policy.Ports, a netip.Addr, port uint16) bool {
	if !r.packet.Protocol.HasPorts() {
		return false
	}
	for _, rg := range ports.Ranges {
		if rg.First <= port && port <= rg.Last {
			return true
		}
	}
	for _, id := range ports.Sets {
		if r.program.Sets[id].ContainsPort(a, r.packet.Protocol, port) {
			return true
		}
	}
	return false
}

// found lists the sets of a rule that matched which the packet was found in.
func (r *run) found(rule *policy.Rule) []policy.SetID {
	var ids []policy.SetID
	add := func(m *policy.Match, a netip.Addr, port uint16) {
		ids = append(ids, m.In...)
		if m.Ports == nil {
			return
		}
		for _, id := range m.Ports.Sets {
			if r.program.Sets[id].ContainsPort(a, r.packet.Protocol, port) {
				ids = append(ids, id)
			}
		}
	}
	add(&rule.Src, r.packet.Src, r.packet.SrcPort)
	add(&rule.Dst, r.packet.Dst, r.packet.DstPort)
	return ids
}

package policy

import (
	"maps"
	"slices"

	"weft/model"
)

// Clone returns a copy that no Compiler changes. Chains, endpoints and hosts are never changed in
// place, so that only the sets are copied.
func (p *Program) Clone() *Program {
	c := &Program{Sets: make(map[SetID]*Set, len(p.Sets)), Chains: maps.Clone(p.Chains),
		Endpoints: maps.Clone(p.Endpoints), Hosts: maps.Clone(p.Hosts), Config: p.Config, Carriers: p.Carriers, Local: p.Local}
	for id, s := range p.Sets {
		c.Sets[id] = &Set{ID: id, members: maps.Clone(s.members), lengths: slices.Clone(s.lengths)}
	}
	return c
}

func equalRules(a, b []Rule) bool {
	return slices.EqualFunc(a, b, func(x, y Rule) bool { return x.equal(&y) })
}

func (r *Rule) equal(o *Rule) bool {
	return r.Index == o.Index && r.Action == o.Action && r.Family == o.Family && r.Protocol == o.Protocol &&
		r.NotProtocol == o.NotProtocol && equalICMP(r.ICMP, o.ICMP) && equalICMP(r.NotICMP, o.NotICMP) &&
		r.Src.equal(&o.Src) && r.Dst.equal(&o.Dst)
}

func equalICMP(a, b *model.ICMPMatch) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func (m *Match) equal(o *Match) bool {
	return slices.Equal(m.Nets, o.Nets) && slices.Equal(m.NotNets, o.NotNets) && slices.Equal(m.In, o.In) &&
		slices.Equal(m.NotIn, o.NotIn) && m.Ports.equal(o.Ports) && m.NotPorts.equal(o.NotPorts)
}

func (p *Ports) equal(o *Ports) bool {
	if p == nil || o == nil {
		return p == o
	}
	return slices.Equal(p.Ranges, o.Ranges) && slices.Equal(p.Sets, o.Sets)
}

func (e *Endpoint) equal(o *Endpoint) bool {
	return e.Device == o.Device && e.ID == o.ID && e.MAC == o.MAC && slices.Equal(e.Sources, o.Sources) &&
		e.Ingress.equal(&o.Ingress) && e.Egress.equal(&o.Egress)
}

func (h *Host) equal(o *Host) bool {
	if h.Interface != o.Interface || h.Name != o.Name || !h.PreDNAT.equal(&o.PreDNAT) {
		return false
	}
	for _, d := range directions {
		if !h.Untracked[d].equal(&o.Untracked[d]) || !h.Forward[d].equal(&o.Forward[d]) || !h.Normal[d].equal(&o.Normal[d]) {
			return false
		}
	}
	return true
}

package eval

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

// mutant is an evaluator that is wrong in one way: the right one, given a world or a Program that
// was changed as if the evaluator misread it.
type mutant struct {
	name    string
	misread func(*model.Snapshot) // of a copy
	mistake func(*policy.Program) // of a copy
}

func rules(f func(*model.Rule)) func(*model.Snapshot) {
	return lists(func(list []model.Rule) []model.Rule {
		for i := range list {
			f(&list[i])
		}
		return list
	})
}

func lists(f func([]model.Rule) []model.Rule) func(*model.Snapshot) {
	return func(s *model.Snapshot) {
		for _, p := range s.Policy.Policies {
			p.Ingress, p.Egress = f(p.Ingress), f(p.Egress)
		}
		for _, p := range s.Policy.Profiles {
			p.Ingress, p.Egress = f(p.Ingress), f(p.Egress)
		}
	}
}

func policies(f func(*model.Policy)) func(*model.Snapshot) {
	return func(s *model.Snapshot) {
		for _, p := range s.Policy.Policies {
			keep := p.Types // what the types default to is none of the mutation's business
			if keep == (model.Types{}) {
				p.Types = model.Types{Ingress: len(p.Ingress) > 0 || len(p.Egress) == 0, Egress: len(p.Egress) > 0}
			}
			f(p)
		}
	}
}

func entities(f func(*model.EntityMatch)) func(*model.Snapshot) {
	return rules(func(r *model.Rule) { f(&r.Source); f(&r.Destination) })
}

func ports(f func([]model.EndpointPort) []model.EndpointPort) func(*model.Snapshot) {
	return func(s *model.Snapshot) {
		for id, e := range s.Endpoints {
			e.Ports = f(e.Ports)
			s.Endpoints[id] = e
		}
		for _, e := range s.Policy.Remote {
			e.Ports = f(e.Ports)
		}
	}
}

func programRules(f func(*policy.Program, *policy.Rule)) func(*policy.Program) {
	return func(p *policy.Program) {
		for _, c := range p.Chains {
			for i := range c.Rules {
				f(p, &c.Rules[i])
			}
		}
	}
}

func hooks(f func(*policy.Hook)) func(*policy.Program) {
	return func(p *policy.Program) {
		for _, e := range p.Endpoints {
			f(&e.Ingress)
			f(&e.Egress)
		}
		for _, h := range p.Hosts {
			f(&h.PreDNAT)
			for d := range 2 {
				f(&h.Untracked[d])
				f(&h.Forward[d])
				f(&h.Normal[d])
			}
		}
	}
}

func tiers(f func(*policy.Tier)) func(*policy.Program) {
	return hooks(func(h *policy.Hook) {
		for i := range h.Tiers {
			f(&h.Tiers[i])
		}
	})
}

func replaceAction(from, to model.Action) func(*model.Snapshot) {
	return rules(func(r *model.Rule) {
		if r.Action == from {
			r.Action = to
		}
	})
}

func reverse[T any](l []T) []T { slices.Reverse(l); return l }

var mutants = []mutant{
	{name: "right", misread: func(*model.Snapshot) {}, mistake: func(*policy.Program) {}}, // the control
	{name: "first rule only", misread: lists(func(l []model.Rule) []model.Rule { return l[:min(1, len(l))] })},
	{name: "last rule first", misread: lists(reverse[model.Rule])},
	{name: "notNets ignored", misread: entities(func(e *model.EntityMatch) { e.NotNets = nil })},
	{name: "notSelector ignored", misread: entities(func(e *model.EntityMatch) { e.NotSelector = nil })},
	{name: "notPorts ignored", misread: entities(func(e *model.EntityMatch) { e.NotPorts = nil })},
	{name: "notProtocol ignored", misread: rules(func(r *model.Rule) { r.NotProtocol = 0 })},
	{name: "notICMP ignored", misread: rules(func(r *model.Rule) { r.NotICMP = nil })},
	{name: "nets ignored", misread: entities(func(e *model.EntityMatch) { e.Nets = nil })},
	{name: "selector ignored", misread: entities(func(e *model.EntityMatch) { e.Selector = nil })},
	{name: "a service's ports count where only addresses do", misread: entities(func(e *model.EntityMatch) {
		if e.AnyPort && e.Ports == nil && e.NotPorts == nil {
			e.AnyPort = false
		}
	})},
	{name: "service ignored", misread: entities(func(e *model.EntityMatch) { e.Service = nil })},
	{name: "ports ignored", misread: entities(func(e *model.EntityMatch) { e.Ports = nil })},
	{name: "port ranges without their last port", misread: entities(func(e *model.EntityMatch) {
		for i := range e.Ports {
			e.Ports[i].Range.Last = max(e.Ports[i].Range.First, e.Ports[i].Range.Last-1)
		}
	})},
	{name: "source and destination swapped", mistake: programRules(func(_ *policy.Program, r *policy.Rule) { r.Src, r.Dst = r.Dst, r.Src })},
	{name: "protocol ignored", mistake: programRules(func(_ *policy.Program, r *policy.Rule) { r.Protocol = 0 })},
	{name: "family ignored", mistake: programRules(func(_ *policy.Program, r *policy.Rule) { r.Family = 0 })},
	{name: "ICMP type ignored", misread: rules(func(r *model.Rule) { r.ICMP = nil })},
	{name: "ICMP code ignored", misread: rules(func(r *model.Rule) {
		if r.ICMP != nil {
			m := *r.ICMP
			m.HasCode, r.ICMP = false, &m
		}
	})},
	{name: "empty list as absent", misread: entities(func(e *model.EntityMatch) {
		if len(e.Nets) == 0 {
			e.Nets = nil
		}
		if len(e.Ports) == 0 {
			e.Ports = nil
		}
	})},
	{name: "empty set as absent", mistake: programRules(func(p *policy.Program, r *policy.Rule) {
		for _, m := range []*policy.Match{&r.Src, &r.Dst} {
			m.In = slices.DeleteFunc(m.In, func(id policy.SetID) bool { return p.Sets[id].Len() == 0 })
		}
	})},
	{name: "prefixes as single addresses", misread: entities(func(e *model.EntityMatch) {
		for i, n := range e.Nets {
			e.Nets[i] = netip.PrefixFrom(n.Addr(), n.Addr().BitLen())
		}
	})},
	{name: "network sets forgotten", misread: func(s *model.Snapshot) { s.Policy.NetworkSets = nil }},
	{name: "other nodes' endpoints forgotten", misread: func(s *model.Snapshot) { s.Policy.Remote = nil }},
	{name: "named ports of another endpoint", misread: func(s *model.Snapshot) {
		ids := slices.SortedFunc(maps.Keys(s.Endpoints), func(a, b model.EndpointID) int { return len(a.Pod) - len(b.Pod) })
		if len(ids) < 2 {
			return
		}
		for i := range ids[1:] {
			a, b := s.Endpoints[ids[i]], s.Endpoints[ids[i+1]]
			a.Ports, b.Ports = b.Ports, a.Ports
			s.Endpoints[ids[i]], s.Endpoints[ids[i+1]] = a, b
		}
	}},
	{name: "named ports of any protocol", misread: ports(func(l []model.EndpointPort) []model.EndpointPort {
		var all []model.EndpointPort
		for _, p := range l {
			for _, proto := range []model.Protocol{model.TCP, model.UDP, model.SCTP} {
				all = append(all, model.EndpointPort{Name: p.Name, Protocol: proto, Port: p.Port})
			}
		}
		return all
	})},
	{name: "named ports of any name", misread: ports(func(l []model.EndpointPort) []model.EndpointPort {
		var all []model.EndpointPort
		for _, p := range l {
			for _, n := range []string{"http", "dns"} {
				all = append(all, model.EndpointPort{Name: n, Protocol: p.Protocol, Port: p.Port})
			}
		}
		return all
	})},
	{name: "inherited labels ignored", misread: func(s *model.Snapshot) {
		for _, p := range s.Policy.Profiles {
			p.Labels = nil
		}
	}},
	{name: "Pass as Allow", misread: replaceAction(model.Pass, model.Allow)},
	{name: "Pass as Deny", misread: replaceAction(model.Pass, model.Deny)},
	{name: "Pass as Log", misread: replaceAction(model.Pass, model.Log)},
	{name: "Log allows", misread: replaceAction(model.Log, model.Allow)},
	{name: "Log ends the tier", misread: replaceAction(model.Log, model.Pass)},
	{name: "Deny as Log", misread: replaceAction(model.Deny, model.Log)},
	{name: "tier order reversed", mistake: hooks(func(h *policy.Hook) { slices.Reverse(h.Tiers) })},
	{name: "policy order reversed", mistake: tiers(func(t *policy.Tier) { slices.Reverse(t.Policies) })},
	{name: "order of policies ignored", misread: policies(func(p *model.Policy) { p.Order = model.Order{} })},
	{name: "default action ignored", mistake: tiers(func(t *policy.Tier) { t.Default = model.Pass })},
	{name: "default action always Deny", mistake: tiers(func(t *policy.Tier) { t.Default = model.Deny })},
	{name: "profiles before tiers", mistake: hooks(func(h *policy.Hook) {
		h.Tiers = append([]policy.Tier{{Policies: h.Profiles, Default: model.Pass}}, h.Tiers...)
		h.Profiles = nil
	})},
	{name: "profiles ignored", mistake: hooks(func(h *policy.Hook) { h.Profiles = nil })},
	{name: "staged enforced", misread: policies(func(p *model.Policy) { p.Staged = false })},
	{name: "types of all policies are both", misread: policies(func(p *model.Policy) { p.Types = model.Types{Ingress: true, Egress: true} })},
	{name: "types not defaulted", misread: func(s *model.Snapshot) {
		for _, p := range s.Policy.Policies {
			if p.Types == (model.Types{}) {
				p.Types.Ingress = true
			}
		}
	}},
	{name: "directions swapped", mistake: func(p *policy.Program) {
		for _, e := range p.Endpoints {
			e.Ingress, e.Egress = e.Egress, e.Ingress
		}
	}},
	{name: "unknown tier forgotten", mistake: hooks(func(h *policy.Hook) {
		h.Tiers = slices.DeleteFunc(h.Tiers, func(t policy.Tier) bool { return t.Name == "unknown" })
	})},
	{name: "spoofed sources", mistake: func(p *policy.Program) {
		for _, e := range p.Endpoints {
			e.Sources = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		}
	}},
	{name: "applyOnForward always", misread: policies(func(p *model.Policy) { p.ApplyOnForward = true })},
	{name: "applyOnForward never", misread: policies(func(p *model.Policy) { p.ApplyOnForward = false })},
	{name: "preDNAT as normal", misread: policies(func(p *model.Policy) { p.PreDNAT = false })},
	{name: "untracked as normal", misread: policies(func(p *model.Policy) { p.DoNotTrack = false })},
	{name: "failsafe ports forgotten", mistake: func(p *policy.Program) { p.Config.FailsafeIn, p.Config.FailsafeOut = nil, nil }},
	{name: "tunnels' packets forgotten", mistake: func(p *policy.Program) { p.Carriers = nil }},
	{name: "tunnels' packets to any port", mistake: func(p *policy.Program) {
		p.Carriers = slices.Clone(p.Carriers) // they are the world's
		for i := range p.Carriers {
			p.Carriers[i].Port = 0
		}
	}},
	{name: "tunnels' packets of anybody", misread: func(s *model.Snapshot) {
		s.Policy.Overlay.Peers = nil
		for i := range 12 {
			s.Policy.Overlay.Peers = append(s.Policy.Overlay.Peers, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)}))
		}
	}},
	{name: "pods reach the host", mistake: func(p *policy.Program) { p.Config.PodsToHost = true }},
	{name: "the * host endpoint forgotten", mistake: func(p *policy.Program) { delete(p.Hosts, "*") }},
}

// copyOf copies what mutants change.
func copyOf(s *model.Snapshot) *model.Snapshot {
	c := *s
	copyRules := func(list []model.Rule) []model.Rule {
		list = slices.Clone(list)
		for i := range list {
			for _, e := range []*model.EntityMatch{&list[i].Source, &list[i].Destination} {
				e.Nets, e.Ports = slices.Clone(e.Nets), slices.Clone(e.Ports)
			}
		}
		return list
	}
	c.Endpoints = maps.Clone(s.Endpoints)
	c.Policy.Policies, c.Policy.Profiles, c.Policy.Remote = map[model.PolicyID]*model.Policy{}, map[string]*model.Profile{}, map[model.RemoteID]*model.RemoteEndpoint{}
	for id, p := range s.Policy.Policies {
		d := *p
		d.Ingress, d.Egress = copyRules(p.Ingress), copyRules(p.Egress)
		c.Policy.Policies[id] = &d
	}
	for id, p := range s.Policy.Profiles {
		d := *p
		d.Ingress, d.Egress = copyRules(p.Ingress), copyRules(p.Egress)
		c.Policy.Profiles[id] = &d
	}
	for id, e := range s.Policy.Remote {
		d := *e
		c.Policy.Remote[id] = &d
	}
	return &c
}

// TestMutants shows that the random worlds find wrong evaluators: each mutant must differ from the
// reference, and the right one must not.
func TestMutants(t *testing.T) {
	const worlds, packets = 600, 400
	scenes := make([]*scene, worlds)
	type trial struct {
		packet *model.Packet
		want   bool
	}
	trials := make([][]trial, worlds)
	for i := range scenes {
		scenes[i] = newScene(t, uint64(5000+i))
		for range packets {
			pkt := scenes[i].world.Packet()
			trials[i] = append(trials[i], trial{pkt, scenes[i].reference.Allowed(pkt)})
		}
	}
	caught := 0
	for _, m := range mutants {
		asked, differ := 0, 0
		for i := 0; i < worlds && differ == 0; i++ {
			p := m.program(t, scenes[i].world)
			for _, tr := range trials[i] {
				asked++
				if Allowed(p, tr.packet) != tr.want {
					differ++
				}
			}
		}
		if (differ > 0) != (m.name != "right") {
			t.Errorf("%s: %d differences in %d verdicts", m.name, differ, asked)
			continue
		}
		if differ > 0 {
			caught++
			t.Logf("%s: caught within %d verdicts", m.name, asked)
		}
	}
	t.Logf("%d of %d wrong evaluators caught; the right one has 0 differences in %d verdicts", caught, len(mutants)-1, worlds*packets)
}

func (m *mutant) program(t *testing.T, w *policytest.World) *policy.Program {
	t.Helper()
	s := w.Snapshot
	if m.misread != nil {
		s = copyOf(s)
		m.misread(s)
	}
	p, err := policy.Compile(s)
	if err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	if m.mistake != nil {
		m.mistake(p) // of this Program only: Compile made it anew
	}
	return p
}

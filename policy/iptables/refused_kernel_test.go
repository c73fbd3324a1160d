package iptables

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
	"weft/policy/policytest/wire"
)

// TestRefused: of a policy with a rule that iptables refuses all the rest is in force, as is every other
// policy; what the rule would have denied is dropped, and the error names policy and rule.
func TestRefused(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		c, denied := closed(t)
		p := c.Flush().Program.Clone()
		for id, chain := range p.Chains {
			if strings.HasPrefix(string(id), "GlobalNetworkPolicy") {
				bad := policy.Rule{Index: 7, Action: model.Allow, Protocol: 47, Dst: policy.Match{Ports: &policy.Ports{Ranges: []model.PortRange{{First: 1, Last: 1}}}}}
				p.Chains[id] = &policy.Chain{ID: id, Rules: append([]policy.Rule{bad}, chain.Rules...)}
			}
		}
		allowed := *denied
		allowed.DstPort = 443
		packets := []*model.Packet{denied, &allowed}
		_, err := d.Apply(t.Context(), fromScratch(p))
		if err == nil || !strings.Contains(err.Error(), "GlobalNetworkPolicy p ingress") {
			t.Fatalf("the error of a refused rule is %v", err)
		}
		if tally, wrong := rig.Check(t, p, packets); len(wrong) > 0 || tally.Allowed != 1 {
			t.Errorf("with a refused rule that allows: %s %v", tally, wrong)
		}
		if _, again := d.Apply(t.Context(), fromScratch(p)); again == nil {
			t.Error("the error does not stand")
		}
		for _, chain := range p.Chains {
			if chain.Rules[0].Index == 7 {
				chain.Rules[0].Action = model.Deny
			}
		}
		d.known = false
		if _, err = d.Apply(t.Context(), fromScratch(p)); err == nil {
			t.Fatal("no error of a refused rule")
		}
		if tally, wrong := rig.Check(t, &policy.Program{}, packets); len(wrong) > 0 {
			t.Errorf("with a refused rule that denies: %s %v, want all dropped", tally, wrong)
		}
		if res, err := d.Apply(t.Context(), c.Flush()); err != nil || res.Zero() {
			t.Errorf("without the rule: %v, %v", res, err)
		}
		if tally, wrong := rig.Check(t, c.Flush().Program, packets); len(wrong) > 0 {
			t.Errorf("without the rule: %s %v", tally, wrong)
		}
	})
}

// TestRefusedSet: a set that ipset refuses closes the rules that ask about it; all others are in force, the error
// names the set, and with other members it is tried again. A set of ours that is of another type is made anew.
func TestRefusedSet(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		selector := "app == 'friend'"
		from := model.EntityMatch{Selector: &selector}
		four := policy.SetID{Kind: policy.Selected, Family: model.IPv4, Selector: selector}
		six := four
		six.Family = model.IPv6
		chain := policy.ChainID("GlobalNetworkPolicy p ingress")
		for _, action := range []model.Action{model.Allow, model.Deny} {
			d := newDriver(t, rig.Node, b)
			s := town()
			for id, e := range s.Endpoints {
				e.Device = policytest.Device(int(e.MAC[5]))
				s.Endpoints[id] = e
			}
			friend := model.RemoteID{Node: "n2", EndpointID: model.EndpointID{Pod: "friend"}}
			s.Policy.Remote[friend] = &model.RemoteEndpoint{ID: friend, Labels: map[string]string{"app": "friend"},
				Addresses: []netip.Addr{netip.MustParseAddr("10.244.9.1"), netip.MustParseAddr("fd00::91")}}
			web(s, model.Policy{Types: model.Types{Ingress: true}, Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(3)}},
				{Action: action, Protocol: model.TCP, Source: from, Destination: model.EntityMatch{Ports: ports(1)}},
				{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(2)}}}})
			c := policy.NewCompiler("n1")
			if err := c.Replace(s); err != nil {
				t.Fatal(err)
			}
			u := c.Flush()
			var packets []*model.Packet
			for port := range uint16(4) {
				for src, dst := range map[string]string{"10.244.9.1": "10.244.0.1", "fd00::91": "fd00::1"} {
					packets = append(packets, &model.Packet{In: "eth0", Out: policytest.Device(1), Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: model.TCP, SrcPort: 1000, DstPort: port})
				}
			}
			check := func(what string, p *policy.Program, wrongSet bool, allowed int, err error) {
				t.Helper()
				if (err != nil) != wrongSet || err != nil && !strings.Contains(err.Error(), four.String()+": the set is refused") {
					t.Fatalf("%s, %s: error %v, want one about the set: %v", action, what, err, wrongSet)
				}
				if tally, wrong := rig.Check(t, p, packets); len(wrong) > 0 || tally.Allowed != allowed {
					t.Errorf("%s, %s: %d allowed, want %d: %v", action, what, tally.Allowed, allowed, wrong)
				}
			}
			closed := u.Program.Clone()
			rules := slices.Clone(closed.Chains[chain].Rules)
			rules[1].Src.In = nil // of the family
			if rules[1].Family != model.IPv4 || len(rules) != 4 {
				t.Fatalf("rules are %v", rules)
			}
			closedCount, openCount := 5, 6
			if action == model.Allow {
				rules = slices.Delete(rules, 1, 2)
			} else {
				rules[1].Protocol, rules[1].Dst.Ports = 0, nil
				closedCount, openCount = 3, 4
			}
			closed.Chains[chain] = &policy.Chain{ID: chain, Rules: rules}
			right := u.Program.Sets[four]
			testkit.Run(t, rig.Node, d.tool(t), "create", setName(six), "hash:ip", "family", "inet6")
			u.Program.Sets[four] = u.Program.Sets[six]
			for range 2 { // the error stays as long as its cause
				_, err := d.Apply(t.Context(), u)
				check("refused", closed, true, closedCount, err)
			}
			if d.differs() {
				t.Error("what is left of the set is taken for somebody else's change")
			}
			u.Program.Sets[four] = right
			other := *s.Policy.Remote[friend]
			other.Addresses = append(slices.Clone(other.Addresses), netip.MustParseAddr("10.244.9.2"))
			if err := c.SetRemote(&other); err != nil {
				t.Fatal(err)
			}
			u = c.Flush()
			_, err := d.Apply(t.Context(), u)
			check("with other members", u.Program, false, openCount, err)
			u.Program.Sets[four] = u.Program.Sets[six]
			other.Addresses = other.Addresses[:2]
			if err := c.SetRemote(&other); err != nil {
				t.Fatal(err)
			}
			u = c.Flush()
			u.Delta.Members[0].Added = append(u.Delta.Members[0].Added, policy.Member{Prefix: netip.MustParsePrefix("fd00::91/128")})
			_, err = d.Apply(t.Context(), u)
			check("refused elements of a change", closed, true, closedCount, err)
			if _, err := d.Apply(t.Context(), policy.Update{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

package iptables

import (
	"fmt"

	"weft/model"
	"weft/policy"
)

// policyChain renders the rules of a policy or profile for one family. Chains are jumped to: goto
// in them ends the policy, and goes on behind the jump. counts says for each line what it counts; nil:
// what another one counts.
func policyChain(c *policy.Chain, d model.Direction, m *matcher) (lines []string, counts []*policy.Tag) {
	lines = []string{}
	note := comment(string(c.ID)) // in the first rule, for who reads
	for i := range c.Rules {
		r := &c.Rules[i]
		tag := &policy.Tag{Action: r.Action, Direction: d, Cause: policy.ByRule, Name: policy.TagName(string(c.ID)), Rule: r.Index}
		for _, match := range m.matches(r) {
			list, counting := targets(*tag)
			for n, target := range list {
				lines = append(lines, words(match, note, target))
				note = ""
				if n == counting {
					counts = append(counts, tag)
				} else {
					counts = append(counts, nil)
				}
			}
		}
	}
	return lines, counts
}

// targets are what becomes of the packets that a rule matches, by a line each; counting is the one that
// all of them meet.
func targets(tag policy.Tag) (list []string, counting int) {
	switch tag.Action {
	case model.Allow:
		return []string{"-g " + chainAllow}, 0
	case model.Pass:
		return []string{"-g " + chainPass}, 0
	case model.Log:
		return []string{"", logging(tag)}, 0
	}
	tag.Action = model.Deny // and so is what nobody knows
	return []string{logging(tag), "-j DROP"}, 1
}

// end says what a hook does: when a policy allows, and when nothing decides.
type end struct {
	direction model.Direction
	allowed   string // target
	drop      bool   // what nothing decides; else it returns
}

// hook renders tiers and profiles.
func hook(h *policy.Hook, e end) []string {
	lines := []string{setMark(0, markAllow|markPass)}
	ask := func(when string, id policy.ChainID) {
		lines = append(lines, words(when, comment(string(id)), "-j "+chainName(id)), words(mark(markAllow), e.allowed))
	}
	for i := range h.Tiers {
		t := &h.Tiers[i]
		if i > 0 && (len(t.Policies) > 0 || t.Default == model.Deny) {
			lines = append(lines, setMark(0, markPass))
		}
		for n, id := range t.Policies {
			when := ""
			if n > 0 {
				when = unmarked(markPass)
			}
			ask(when, id)
		}
		if t.Default == model.Deny {
			tag := policy.Tag{Action: model.Deny, Direction: e.direction, Cause: policy.ByTier, Name: policy.TagName(t.Name)}
			lines = append(lines, words(unmarked(markPass), comment("end of tier "+t.Name), logging(tag)), words(unmarked(markPass), "-j DROP"))
		}
	}
	if len(h.Profiles) > 0 && len(h.Tiers) > 0 {
		lines = append(lines, setMark(0, markPass))
	}
	for _, id := range h.Profiles {
		ask("", id) // Pass in a profile goes on with the next one
	}
	if e.drop {
		lines = append(lines, dropped(policy.ByProfiles, e.direction)...)
	}
	return lines
}

// empty tells whether a hook asks nothing.
func empty(h *policy.Hook) bool {
	for i := range h.Tiers {
		if len(h.Tiers[i].Policies) > 0 || h.Tiers[i].Default == model.Deny {
			return false
		}
	}
	return len(h.Profiles) == 0
}

// dropped logs with a reason that no rule of a policy is, and drops.
func dropped(why policy.Cause, d model.Direction) []string {
	return []string{logging(policy.Tag{Action: model.Deny, Direction: d, Cause: why}), "-j DROP"}
}

// sources lets a pod's own addresses through, and those it may also send from.
func sources(e *policy.Endpoint, f model.Family) []string {
	lines := []string{}
	if !e.MAC.IsZero() {
		lines = append(lines, fmt.Sprintf("-m mac ! --mac-source %s %s -g %s", e.MAC, comment("pod "+e.ID.String()), chainSpoof))
	}
	for _, s := range e.Sources {
		if model.FamilyOf(s.Addr()) == f {
			lines = append(lines, "-s "+s.String()+" -j RETURN")
		}
	}
	return append(lines, "-g "+chainSpoof)
}

// failsafe renders the failsafe ports of a direction, and the answers from those of the other
// one, for one family.
func failsafe(list []model.Failsafe, f model.Family, peer, port, target string) []string {
	var lines []string
	for _, s := range list {
		if !s.Protocol.HasPorts() || s.Net.IsValid() && model.FamilyOf(s.Net.Addr()) != f {
			continue
		}
		net := ""
		if s.Net.IsValid() {
			net = peer + " " + s.Net.String()
		}
		lines = append(lines, words(net, "-p "+s.Protocol.String(), "-m multiport "+port+" "+fmt.Sprint(s.Port), comment("failsafe port"), target))
	}
	return lines
}

// carriers renders what tunnels send between nodes, for one family.
func carriers(list []model.Carrier, f model.Family, peer, target string) []string {
	var lines []string
	for _, t := range list {
		if t.Family != f {
			continue
		}
		port := ""
		if t.Port != 0 {
			port = "-m multiport --dports " + fmt.Sprint(t.Port)
		}
		lines = append(lines, words("-p "+t.Protocol.String(), port, "-m set --match-set "+setName(policy.PeersOf(f))+" "+peer, comment("tunnels between nodes"), target))
	}
	return lines
}

package nftables

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// Bits of a packet's mark, all within kernel.PolicyMark.
const (
	passBit    = 0x01000000 // a rule said Pass: on with the next tier
	decidedBit = 0x02000000 // an untracked or pre-DNAT policy decided for the host endpoint
)

// Of what a place denies or logs so many packets a second, and so many at once, are written to NFLOG, with
// so many bytes. Counters count all.
const (
	logRate, logBurst = 10, 50
	logBytes          = 128
)

// logs writes a packet beside its tag; others over the limit go on unlogged.
func logs(t policy.Tag) []expr.Any {
	return nft.Rule(nft.AtMost(logRate, logBurst), nft.LogTo(kernel.LogGroup, logBytes, t.String()))
}

// chainRules collects the rules of a chain.
type chainRules struct {
	rules    [][]expr.Any
	comments []string
	tags     map[int]policy.Tag // of rules that drop
}

func (c *chainRules) add(comment string, parts ...[]expr.Any) {
	c.rules = append(c.rules, nft.Rule(parts...))
	c.comments = append(c.comments, comment)
}

func (c *chainRules) chain(name string) *nft.Chain {
	return &nft.Chain{Name: name, Rules: c.rules, Comments: c.comments}
}

// denies ends a chain: what gets there is logged and dropped.
func (c *chainRules) denies(comment string, t policy.Tag) {
	c.add(comment, logs(t))
	c.add("", nft.Counted(), nft.Drop())
	c.drops(t)
}

// hookEnd is what becomes of a packet that a hook does not decide.
type hookEnd string

const (
	dropEnd   hookEnd = "drop"
	acceptEnd hookEnd = "accept" // goes on to the next hook
)

// hookOf says where a hook stands.
type hookOf struct {
	direction model.Direction
	end       hookEnd
	skip      []*object // chains that are asked first, such as those of failsafe ports
}

// step is one tier or profile as a hook asks it.
type step struct {
	tier   *policy.Tier // nil: profiles
	chains []policy.ChainID
	passes bool
}

// steps lists what a hook asks, up to the tier that lets nothing pass.
func (s *state) steps(h *policy.Hook) []step {
	var list []step
	for i := range h.Tiers {
		t := &h.Tiers[i]
		one := step{tier: t}
		for _, id := range t.Policies {
			if c := s.chains[id]; c != nil {
				one.chains = append(one.chains, id)
				one.passes = one.passes || c.passes
			}
		}
		list = append(list, one)
		if t.Default == model.Deny && !one.passes {
			return list
		}
	}
	last := step{}
	for _, id := range h.Profiles {
		if s.chains[id] != nil {
			last.chains = append(last.chains, id)
		}
	}
	return append(list, last)
}

// hook is the chain that asks the tiers and profiles. Endpoints that are asked the same share it.
func (s *state) hook(h *policy.Hook, of hookOf) *object {
	steps := s.steps(h)
	key := []string{of.direction.String(), string(of.end)}
	for _, o := range of.skip {
		key = append(key, "skip "+o.name)
	}
	for i := range steps {
		key = append(key, steps[i].key(s))
	}
	return s.object(digest("hook", key...), func(o *object) {
		var c chainRules
		o.uses = append(o.uses, of.skip...)
		for _, skip := range of.skip {
			c.add("", nft.Jump(skip.name))
		}
		for i := range steps {
			st := &steps[i]
			switch {
			case st.passes:
				t := s.tier(st, of.direction)
				o.uses = append(o.uses, t)
				c.add("tier "+st.tier.Name, nft.Jump(t.name))
				c.add("", nft.SetMark(passBit, 0))
			case st.tier != nil:
				s.ask(&c, st, of.direction)
			default:
				for _, id := range st.chains {
					c.add(string(id), nft.Jump(s.chains[id].Name))
				}
				switch of.end {
				case dropEnd:
					c.denies("no policy and no profile decided", policy.Tag{Action: model.Deny, Direction: of.direction, Cause: policy.ByProfiles})
				case acceptEnd:
					c.add("", nft.Accept())
				}
			}
		}
		o.chain, o.tags = c.chain(o.name), c.tags
	})
}

func (st *step) key(s *state) string {
	var b strings.Builder
	if st.tier != nil {
		fmt.Fprintf(&b, "tier %s %d\n", st.tier.Name, st.tier.Default)
	}
	for _, id := range st.chains {
		fmt.Fprintf(&b, "%s %t\n", id, s.chains[id].passes)
	}
	return b.String()
}

// ask puts a tier's policies, and its default action, into a chain.
func (s *state) ask(c *chainRules, st *step, d model.Direction) {
	for _, id := range st.chains {
		c.add(string(id), nft.Jump(s.chains[id].Name))
		if s.chains[id].passes {
			c.add("pass", nft.Marked(passBit), nft.Return())
		}
	}
	if st.tier.Default == model.Deny {
		c.denies("tier "+st.tier.Name+": default action", policy.Tag{Action: model.Deny, Direction: d, Cause: policy.ByTier, Name: policy.TagName(st.tier.Name)})
	}
}

// tier is the chain of a tier that a rule may leave early.
func (s *state) tier(st *step, d model.Direction) *object {
	return s.object(digest("tier", d.String(), st.key(s)), func(o *object) {
		var c chainRules
		s.ask(&c, st, d)
		o.chain, o.tags = c.chain(o.name), c.tags
	})
}

// place is where packets meet a policy's chain, when that is not for tracked connections.
type place uint8

const (
	atUntracked place = iota + 1
	atPreDNAT
)

// places finds the chains of untracked and pre-DNAT policies.
func places(p *policy.Program) map[policy.ChainID]place {
	found := map[policy.ChainID]place{}
	add := func(h *policy.Hook, at place) {
		for i := range h.Tiers {
			for _, id := range h.Tiers[i].Policies {
				found[id] = at
			}
		}
	}
	for _, h := range p.Hosts {
		add(&h.PreDNAT, atPreDNAT)
		add(&h.Untracked[model.Ingress], atUntracked)
		add(&h.Untracked[model.Egress], atUntracked)
	}
	return found
}

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft/model"
)

// bound is a policy with all that its place among others depends on.
type bound struct {
	policy *model.Policy
	tier   model.Tier
	types  model.Types
	chains [2]ChainID // by direction
}

// bind looks up a policy's tier with find, which returns nil for one without a resource.
func bind(p *model.Policy, find func(string) *model.Tier) bound {
	b := bound{policy: p, tier: tierOf(p, find), types: typesOf(p)}
	for d := range b.chains {
		b.chains[d] = PolicyChain(p.ID, model.Direction(d))
	}
	return b
}

func tierName(p *model.Policy) string { return cmp.Or(p.Tier, "default") }

// tierOf returns a policy's tier. One that nobody defined is the last and denies: better too late
// than too much.
func tierOf(p *model.Policy, find func(string) *model.Tier) model.Tier {
	name := tierName(p)
	t, builtin := model.BuiltinTier(name)
	if resource := find(name); resource != nil {
		t = *resource
	} else if !builtin {
		t = model.Tier{Name: name}
	}
	if t.DefaultAction != model.Pass {
		t.DefaultAction = model.Deny
	}
	return t
}

func typesOf(p *model.Policy) model.Types {
	if p.Types != (model.Types{}) {
		return p.Types
	}
	return model.Types{Ingress: len(p.Ingress) > 0 || len(p.Egress) == 0, Egress: len(p.Egress) > 0}
}

// compare is the total order in which policies are asked.
func (b *bound) compare(o *bound) int {
	return cmp.Or(b.tier.Order.Compare(o.tier.Order), strings.Compare(b.tier.Name, o.tier.Name),
		b.policy.Order.Compare(o.policy.Order), b.policy.ID.Compare(o.policy.ID))
}

// about tells whether the policy is about a direction.
func (b *bound) about(d model.Direction) bool {
	if d == model.Ingress {
		return b.types.Ingress
	}
	return b.types.Egress
}

// rules resolves the rules of one direction.
func (b *bound) rules(d model.Direction) ([]Rule, error) {
	list := b.policy.Ingress
	if d == model.Egress {
		list = b.policy.Egress
	}
	own := !b.policy.ApplyOnForward && !b.policy.PreDNAT && !b.policy.DoNotTrack
	return scope{direction: d, local: own, staged: b.policy.Staged}.rules(list)
}

// check tells whether all of the policy can be understood.
func (b *bound) check() error {
	if _, err := canonical(b.policy.Selector); err != nil {
		return fmt.Errorf("%s: %w", b.policy.ID, err)
	}
	for _, d := range directions {
		if _, err := b.rules(d); err != nil {
			return fmt.Errorf("%s: %w", b.policy.ID, err)
		}
	}
	return nil
}

var directions = [...]model.Direction{model.Ingress, model.Egress}

// profileRules resolves the rules of a profile's direction.
func profileRules(p *model.Profile, d model.Direction) ([]Rule, error) {
	list := p.Ingress
	if d == model.Egress {
		list = p.Egress
	}
	r, err := scope{direction: d, local: true}.rules(list)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", p.Name, err)
	}
	return r, nil
}

// The places where policies are asked.

func tracked(p *model.Policy) bool   { return !p.DoNotTrack && !p.PreDNAT }
func untracked(p *model.Policy) bool { return p.DoNotTrack }
func preDNAT(p *model.Policy) bool   { return p.PreDNAT && !p.DoNotTrack }
func forwarded(p *model.Policy) bool { return tracked(p) && p.ApplyOnForward }

// tiersOf arranges the policies that select an endpoint, which come in order, for a place and
// direction. Without ends no tier has a default action.
func tiersOf[B interface{ binding() *bound }](matched []B, d model.Direction, place func(*model.Policy) bool, ends bool) []Tier {
	var tiers []Tier
	var t *Tier
	for _, m := range matched {
		b := m.binding()
		if !b.about(d) || !place(b.policy) {
			continue
		}
		if t == nil || t.Name != b.tier.Name {
			tiers = append(tiers, Tier{Name: b.tier.Name, Default: model.Pass, StagedDefault: model.Pass})
			t = &tiers[len(tiers)-1]
		}
		if ends {
			t.StagedDefault = b.tier.DefaultAction
		}
		if b.policy.Staged {
			t.Staged = append(t.Staged, Staged{b.chains[d], len(t.Policies)})
			continue
		}
		t.Policies = append(t.Policies, b.chains[d])
		if ends {
			t.Default = b.tier.DefaultAction
		}
	}
	return tiers
}

func (b *bound) binding() *bound { return b }

// profilesOf returns the chains of profiles that have rules in a direction.
func profilesOf(names []string, d model.Direction, hasRules func(string, model.Direction) bool) []ChainID {
	var chains []ChainID
	for _, name := range names {
		if id := ProfileChain(name, d); hasRules(name, d) && !slices.Contains(chains, id) {
			chains = append(chains, id)
		}
	}
	return chains
}

package nftables

import (
	"errors"
	"fmt"

	"weft/internal/nft"
	"weft/policy"
)

// refusedRule names a rule that the kernel refused, by its text: a changed one is tried again.
type refusedRule struct {
	chain policy.ChainID
	rule  string
}

// refusals are what the kernel refused, with the reason. A set is tried again with other members.
type refusals struct {
	rules map[refusedRule]error
	sets  map[policy.SetID]error
}

func newRefusals() *refusals {
	return &refusals{rules: map[refusedRule]error{}, sets: map[policy.SetID]error{}}
}

func (r *refusals) set(id policy.SetID) bool { return r.sets[id] != nil }

// refuse notes the rules and sets that the kernel refused, and tells whether there are any new ones. A rule
// that fails for want of a refused set is not at fault itself.
func (d *Driver) refuse(err error) (found bool) {
	if d.state == nil {
		return false
	}
	all := nft.Refusals(err)
	for _, r := range all {
		if id, ok := d.state.setCalled(r.Set); ok && !d.refused.set(id) {
			found = true
			d.refused.sets[id] = r.Err
			d.log.Error("the kernel refuses a policy's set", "set", id.String(), "err", r.Err)
		}
	}
	for _, r := range all {
		for _, e := range d.state.entriesOf(r) {
			for _, id := range e.sets {
				if d.refused.set(id) {
					e.source = nil
				}
			}
			for _, key := range e.source {
				if d.refused.rules[key] == nil {
					found = true
					d.refused.rules[key] = r.Err
					d.log.Error("the kernel refuses a policy's rule", "chain", key.chain, "rule", key.rule, "err", r.Err)
				}
			}
		}
	}
	return found
}

// setCalled finds the Program's set that one of the kernel's is part of.
func (s *state) setCalled(name string) (policy.SetID, bool) {
	for id, t := range s.sets {
		for _, n := range t.tables() {
			if n.name == name {
				return id, true
			}
		}
	}
	return policy.SetID{}, false
}

// entriesOf finds what a refusal is about: a rule of a policy, or those that look something up in a list.
func (s *state) entriesOf(r *nft.Refusal) (list []entry) {
	for _, c := range s.chains {
		if c.Name == r.Chain && r.Rule >= 0 && r.Rule < len(c.of) {
			return []entry{c.of[r.Rule]}
		}
		for _, e := range c.of {
			for _, o := range e.lists {
				if r.Set != "" && o.name == r.Set {
					list = append(list, e)
				}
			}
		}
	}
	return list
}

// explained says of refused things that are no rule's what they are.
func (d *Driver) explained(err error) error {
	if d.state == nil {
		return err
	}
	var what []error
	for _, r := range nft.Refusals(err) {
		p := d.state.whole()
		for _, c := range p.Chains {
			if c.Name == r.Chain && r.Rule >= 0 && r.Rule < len(c.Comments) && c.Comments[r.Rule] != "" {
				what = append(what, fmt.Errorf("rule %d of %s is %q", r.Rule, r.Chain, c.Comments[r.Rule]))
			}
		}
		for _, t := range p.Sets {
			if t.Spec.Name == r.Set && t.Spec.Comment != "" {
				what = append(what, fmt.Errorf("%s is %q", r.Set, t.Spec.Comment))
			}
		}
	}
	return errors.Join(append([]error{err}, what...)...)
}

// standing is the error about what the kernel refused and is still wanted.
func (d *Driver) standing() error {
	var errs []error
	for id, err := range d.refused.sets {
		if d.state.program.Sets[id] != nil {
			errs = append(errs, fmt.Errorf("%s: the kernel refuses the set, so that what rules with it allow is not allowed and what they deny or pass over is dropped: %w", id, err))
		}
	}
	for key, err := range d.refused.rules {
		c := d.state.chains[key.chain]
		if c != nil && c.has(key) {
			errs = append(errs, fmt.Errorf("%s, rule %q: the kernel refuses it, so that what it allows is not allowed and what it denies or passes over is dropped: %w", key.chain, key.rule, err))
		}
	}
	return errors.Join(errs...)
}

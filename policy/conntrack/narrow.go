package conntrack

import (
	"reflect"
	"slices"

	"weft/model"
	"weft/policy"
)

// narrowing tells of a rule's action whether a packet can become denied when the rule matches more
// packets, or fewer. Passing on can go either way; logging goes on.
func narrowing(a model.Action) (more, less bool) {
	switch a {
	case model.Allow:
		return false, true
	case model.Deny:
		return true, false
	case model.Log:
		return false, false
	}
	return true, true
}

// eachSet calls f for every set that a rule refers to; positive: whatever is in it may match.
func eachSet(r *policy.Rule, f func(id policy.SetID, positive bool)) {
	for _, m := range []*policy.Match{&r.Src, &r.Dst} {
		for _, id := range m.In {
			f(id, true)
		}
		for _, id := range m.NotIn {
			f(id, false)
		}
		if m.Ports != nil {
			for _, id := range m.Ports.Sets {
				f(id, true)
			}
		}
		if m.NotPorts != nil {
			for _, id := range m.NotPorts.Sets {
				f(id, false)
			}
		}
	}
}

// narrows compares two lists that are asked in order. The answer is false only if the second can be made
// from the first by putting in what cannot deny (harmless) and leaving out what cannot allow (useless),
// all else the same; then nothing becomes denied.
func narrows[T any](old, now []T, same func(a, b *T) bool, harmless, useless func(*T) bool) bool {
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(old) > 0 && len(now) > 0 && same(&old[0], &now[0]):
			old, now = old[1:], now[1:]
		case len(now) > 0 && harmless(&now[0]):
			now = now[1:]
		case len(old) > 0 && useless(&old[0]):
			old = old[1:]
		default:
			return true
		}
	}
	return false
}

func rulesNarrow(old, now []policy.Rule) bool {
	return narrows(old, now, sameRule, ruleHarmless, ruleUseless)
}

// sameRule leaves out the rule's place in its list.
func sameRule(a, b *policy.Rule) bool {
	x, y := *a, *b
	x.Index, y.Index = 0, 0
	return reflect.DeepEqual(&x, &y)
}

func ruleHarmless(r *policy.Rule) bool { return r.Action == model.Allow || r.Action == model.Log }
func ruleUseless(r *policy.Rule) bool  { return r.Action == model.Deny || r.Action == model.Log }

// lookup finds chains: as they are, or as they were when they are no more.
type lookup struct {
	now, before map[policy.ChainID]*policy.Chain
}

func (l lookup) every(id policy.ChainID, f func(*policy.Rule) bool) bool {
	c := l.now[id]
	if c == nil {
		c = l.before[id]
	}
	if c == nil {
		return true
	}
	for i := range c.Rules {
		if !f(&c.Rules[i]) {
			return false
		}
	}
	return true
}

func (l lookup) harmless(id *policy.ChainID) bool { return l.every(*id, ruleHarmless) }
func (l lookup) useless(id *policy.ChainID) bool  { return l.every(*id, ruleUseless) }

func (l lookup) hookNarrows(old, now *policy.Hook) bool {
	return narrows(old.Tiers, now.Tiers, l.sameTier,
		func(t *policy.Tier) bool {
			return t.Default != model.Deny && !slices.ContainsFunc(t.Policies, func(id policy.ChainID) bool { return !l.harmless(&id) })
		},
		func(t *policy.Tier) bool {
			return !slices.ContainsFunc(t.Policies, func(id policy.ChainID) bool { return !l.useless(&id) })
		}) || narrows(old.Profiles, now.Profiles, sameID, l.harmless, l.useless)
}

// sameTier tells whether b in the place of a denies nothing more.
func (l lookup) sameTier(a, b *policy.Tier) bool {
	return a.Name == b.Name && (a.Default == b.Default || b.Default != model.Deny) &&
		!narrows(a.Policies, b.Policies, sameID, l.harmless, l.useless)
}

func sameID(a, b *policy.ChainID) bool { return *a == *b }

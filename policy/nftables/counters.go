package nftables

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
)

// Counter is how often something decided about the first packets of connections, or about packets that
// belong to none, since it was last written: a change of a policy's rules begins anew.
type Counter struct {
	Chain policy.ChainID // of a rule; empty when Tag says what else it was
	Rules []int          // that were counted together, by their Index
	// Tag has the action and direction, and for what is no rule the cause; the same as in the log. Cause 'i'
	// is for packets that connection tracking cannot place, which are counted and not logged.
	Tag            policy.Tag
	Packets, Bytes uint64
}

// Counters reads what rules, ends of tiers and all else that drops counted, in a fixed order. What was
// never met counts zero.
func (d *Driver) Counters(ctx context.Context) ([]Counter, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == nil {
		return nil, ctx.Err()
	}
	counts, err := d.owner.RuleCounts(ctx)
	if err != nil {
		return nil, err
	}
	type place struct {
		chain policy.ChainID
		tag   policy.Tag
	}
	found := map[place]*Counter{}
	add := func(c Counter, packets, bytes uint64) {
		at := place{c.Chain, c.Tag}
		if found[at] == nil {
			found[at] = &c
		}
		found[at].Packets += packets
		found[at].Bytes += bytes
	}
	chains := map[string]*chainState{}
	for _, c := range d.state.chains {
		chains[c.Name] = c
	}
	tags := d.state.tags()
	for _, n := range counts {
		if c := chains[n.Chain]; c != nil && n.Rule < len(c.of) {
			e := c.of[n.Rule]
			add(Counter{Chain: c.id, Rules: e.rules, Tag: policy.Tag{Action: e.action, Direction: directionOf(c.id), Cause: policy.ByRule,
				Name: policy.TagName(string(c.id)), Rule: e.rules[0]}}, n.Packets, n.Bytes)
		} else if t, is := tags[n.Chain][n.Rule]; is {
			add(Counter{Tag: t}, n.Packets, n.Bytes)
		}
	}
	list := make([]Counter, 0, len(found))
	for _, c := range found {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b Counter) int {
		return cmp.Or(strings.Compare(string(a.Chain), string(b.Chain)), cmp.Compare(a.Tag.Cause, b.Tag.Cause), cmp.Compare(a.Tag.Name, b.Tag.Name),
			cmp.Compare(a.Tag.Direction, b.Tag.Direction), cmp.Compare(a.Tag.Rule, b.Tag.Rule), cmp.Compare(a.Tag.Action, b.Tag.Action))
	})
	return list, nil
}

// tags finds, by chain and rule, what drops without being a policy's rule.
func (s *state) tags() map[string]map[int]policy.Tag {
	all := map[string]map[int]policy.Tag{}
	for _, o := range s.objects {
		if len(o.tags) > 0 {
			all[o.name] = o.tags
		}
	}
	for name, tags := range s.skeletonTags {
		all[name] = tags
	}
	return all
}

// drops is a rule, the last, that drops and counts for what the tag says.
func (c *chainRules) drops(t policy.Tag) {
	if c.tags == nil {
		c.tags = map[int]policy.Tag{}
	}
	c.tags[len(c.rules)-1] = t
}

var denyInvalid = policy.Tag{Action: model.Deny, Cause: byInvalid}

const byInvalid policy.Cause = 'i'

package policy

import (
	"reflect"
	"slices"
	"strings"

	"weft/model"
)

// changes is what Flush has to look at.
type changes struct {
	policies map[*policyState]struct{}
	profiles map[*profileState]struct{}
	targets  map[*target]struct{}
	devices  map[string]struct{}
	hosts    bool // which host endpoint is for which interface
	config   *model.PolicyConfig
	overlay  *model.Overlay
	sets     []*setState // with pending members
	added    []*setState
	orphans  []*setState
}

func newChanges() changes {
	return changes{policies: map[*policyState]struct{}{}, profiles: map[*profileState]struct{}{},
		targets: map[*target]struct{}{}, devices: map[string]struct{}{}}
}

func (d *changes) target(t *target) { d.targets[t] = struct{}{} }

// reset forgets all, and keeps the memory.
func (d *changes) reset() {
	clear(d.policies)
	clear(d.profiles)
	clear(d.targets)
	clear(d.devices)
	clear(d.sets)
	clear(d.added)
	clear(d.orphans)
	d.sets, d.added, d.orphans = d.sets[:0], d.added[:0], d.orphans[:0]
	d.hosts, d.config, d.overlay = false, nil, nil
}

// Flush brings the Program up to date with all changes since the last Flush, and returns it with
// the net difference. Without one, the generation stays.
func (c *Compiler) Flush() Update {
	d := Delta{Base: c.generation}
	for p := range c.dirty.policies {
		c.flushPolicy(p, &d)
	}
	for p := range c.dirty.profiles {
		c.flushProfile(p, &d)
	}
	for t := range c.dirty.targets {
		c.flushTarget(t)
	}
	for device := range c.dirty.devices {
		c.flushDevice(device, &d)
	}
	if c.dirty.hosts {
		c.flushHosts(&d)
	}
	if c.dirty.config != nil && !reflect.DeepEqual(*c.dirty.config, c.program.Config) {
		c.program.Config = *c.dirty.config
		d.ConfigChanged = true
	}
	c.flushOverlay(&d)
	c.flushSets(&d)
	c.dirty.reset()
	d.sort()
	if !d.Empty() {
		c.generation++
	}
	return Update{Program: c.program, Delta: d, Generation: c.generation}
}

func (d *Delta) sort() {
	slices.SortFunc(d.SetsAdded, SetID.Compare)
	slices.SortFunc(d.SetsRemoved, SetID.Compare)
	slices.SortFunc(d.Members, func(a, b MemberDelta) int { return a.Set.Compare(b.Set) })
	for _, ids := range [][]ChainID{d.ChainsChanged, d.ChainsRemoved} {
		slices.Sort(ids)
	}
	for _, names := range [][]string{d.PodsChanged, d.PodsRemoved, d.HostsChanged, d.HostsRemoved} {
		slices.SortFunc(names, strings.Compare)
	}
}

// flushPolicy makes the chains of a policy what they have to be: there while it selects something.
func (c *Compiler) flushPolicy(p *policyState, d *Delta) {
	resolved := p.rules
	p.rules = nil
	for _, dir := range directions {
		if p.gone && c.policies[p.policy.ID] != nil {
			return // deleted and made anew: the new one's flush compares with the old chains
		}
		if p.gone || p.selected == 0 || !p.about(dir) {
			c.setChain(p.chains[dir], nil, d)
			continue
		}
		var rules []Rule
		if resolved != nil {
			rules = resolved[dir]
		} else if c.program.Chains[p.chains[dir]] == nil {
			rules, _ = p.bound.rules(dir) // was checked when it was set
		} else {
			continue
		}
		c.setChain(p.chains[dir], &Chain{ID: p.chains[dir], Staged: p.policy.Staged, Rules: rules}, d)
	}
}

func (c *Compiler) flushProfile(p *profileState, d *Delta) {
	for _, dir := range directions {
		id := ProfileChain(p.name, dir)
		if len(p.users) == 0 || !profileHasRules(p.profile, dir) {
			c.setChain(id, nil, d)
			continue
		}
		rules, _ := profileRules(p.profile, dir) // was checked when it was set
		c.setChain(id, &Chain{ID: id, Rules: rules}, d)
	}
	if p.profile == nil && len(p.users) == 0 {
		delete(c.profiles, p.name)
	}
}

// setChain replaces a chain, or removes it with nil. Sets of the new one are acquired before those
// of the old one are released, so that those of both stay.
func (c *Compiler) setChain(id ChainID, now *Chain, d *Delta) {
	before := c.program.Chains[id]
	switch {
	case before == nil && now == nil, before != nil && now != nil && before.Staged == now.Staged && equalRules(before.Rules, now.Rules):
		return
	case now == nil:
		delete(c.program.Chains, id)
		d.ChainsRemoved = append(d.ChainsRemoved, id)
	default:
		c.program.Chains[id] = now
		d.ChainsChanged = append(d.ChainsChanged, id)
		for i := range now.Rules {
			now.Rules[i].EachSet(func(id SetID, _ bool) { c.acquire(id) })
		}
	}
	if before != nil {
		for i := range before.Rules {
			before.Rules[i].EachSet(func(id SetID, _ bool) { c.release(id) })
		}
	}
}

// flushTarget has whatever an endpoint stands for compiled.
func (c *Compiler) flushTarget(t *target) {
	if t.unsorted {
		slices.SortFunc(t.matched, func(a, b *policyState) int { return a.compare(&b.bound) })
		t.unsorted = false
	}
	if t.host != nil {
		c.dirty.hosts = true
	} else if t.pod.Device != "" {
		c.dirty.devices[t.pod.Device] = struct{}{}
	}
}

func (c *Compiler) flushDevice(device string, d *Delta) {
	before := c.program.Endpoints[device]
	claims := c.devices[device]
	if len(claims) == 0 {
		if before != nil {
			delete(c.program.Endpoints, device)
			d.PodsRemoved = append(d.PodsRemoved, device)
		}
		return
	}
	now := podOf(claims[0].pod, claims[0].matched, c.hasRules)
	if before == nil || !before.equal(now) {
		c.program.Endpoints[device] = now
		d.PodsChanged = append(d.PodsChanged, device)
	}
}

// flushHosts compiles all interfaces with host endpoints: there are few, and which is whose hangs
// together.
func (c *Compiler) flushHosts(d *Delta) {
	var own []*model.HostEndpoint
	for _, h := range c.heps {
		if h.target != nil {
			own = append(own, h.target.host)
		}
	}
	at := hostInterfaces(own, c.links)
	for iface := range c.program.Hosts {
		if at[iface] == nil {
			delete(c.program.Hosts, iface)
			d.HostsRemoved = append(d.HostsRemoved, iface)
		}
	}
	for iface, h := range at {
		now := hostOf(iface, h, c.heps[h.Name].target.matched, c.hasRules)
		if before := c.program.Hosts[iface]; before == nil || !before.equal(now) {
			c.program.Hosts[iface] = now
			d.HostsChanged = append(d.HostsChanged, iface)
		}
	}
}

// flushSets drops sets without use, and does what is to be done to the members of the others.
func (c *Compiler) flushSets(d *Delta) {
	for _, s := range c.dirty.orphans {
		id := s.set.ID
		if s.refs > 0 || c.sets[id] != s {
			continue
		}
		delete(c.sets, id)
		delete(c.program.Sets, id)
		c.unfeed(s)
		s.pending = nil
		if !s.isNew {
			d.SetsRemoved = append(d.SetsRemoved, id)
		}
	}
	for _, s := range c.dirty.added {
		if c.sets[s.set.ID] == s {
			d.SetsAdded = append(d.SetsAdded, s.set.ID)
		}
		s.isNew = false
	}
	for _, s := range c.dirty.sets {
		if m := s.settle(); len(m.Added)+len(m.Removed) > 0 {
			d.Members = append(d.Members, m)
		}
		s.queued = false
	}
}

// settle does the pending changes of members and returns their net effect.
func (s *setState) settle() MemberDelta {
	delta := MemberDelta{Set: s.set.ID}
	if len(s.pending) == 1 {
		ch := s.pending[0]
		s.pending = s.pending[:0]
		if ch.add && s.set.add(ch.member) {
			delta.Added = []Member{ch.member}
		} else if !ch.add && s.set.remove(ch.member) {
			delta.Removed = []Member{ch.member}
		}
		return delta
	}
	was := make(map[Member]bool, len(s.pending)) // of those that came or went
	for _, ch := range s.pending {
		var changed bool
		if ch.add {
			changed = s.set.add(ch.member)
		} else {
			changed = s.set.remove(ch.member)
		}
		if _, seen := was[ch.member]; changed && !seen {
			was[ch.member] = !ch.add
		}
	}
	if cap(s.pending) > 64 {
		s.pending = nil
	}
	s.pending = s.pending[:0]
	for m, before := range was {
		switch now := s.set.Has(m); {
		case now && !before:
			delta.Added = append(delta.Added, m)
		case before && !now:
			delta.Removed = append(delta.Removed, m)
		}
	}
	return delta
}

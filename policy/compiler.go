package policy

import (
	"errors"
	"slices"

	"weft/model"
	"weft/model/selector"
)

// Compiler is Compile with a memory. It is told of changes one by one, and Flush gives the Program
// that they lead to, equal to what Compile makes of the end state, and the difference to the last.
//
// The objects it is given are its own from then on: they are replaced, never changed in place. A
// Set method refuses an object that cannot be understood; what was known of it before stays in
// force. Not for concurrent use; see Program about reading what Flush returned.
type Compiler struct {
	self       model.NodeName
	program    *Program
	generation uint64

	tiers    map[string]*model.Tier
	inTier   map[string]map[*policyState]struct{}
	policies map[model.PolicyID]*policyState
	profiles map[string]*profileState

	pods    map[model.EndpointID]*target
	devices map[string][]*target // those that claim a device, in the order of their IDs
	heps    map[string]*hostState
	links   []model.Link
	overlay model.Overlay
	remote  map[model.RemoteID]*subjectState
	nets    map[model.NetworkSetID]*subjectState

	active    *selector.Index[*target, *policyState]       // which policies select this node's endpoints
	named     *selector.Index[*subjectState, *selectState] // what the selectors of active rules find
	selectors map[string]*selectState
	services  map[model.ServiceID]*serviceState
	sets      map[SetID]*setState

	dirty changes
}

// policyState is a policy, and on how many of this node's endpoints it is asked.
type policyState struct {
	bound
	selector string
	rules    *[2][]Rule // resolved when the policy was set; nil once it has been compiled
	selected int
	gone     bool
}

// profileState is a profile by name, known or only referred to.
type profileState struct {
	name    string
	profile *model.Profile
	users   map[*target]struct{}
}

// target is an endpoint of this node: a pod or a host endpoint.
type target struct {
	pod      *model.Endpoint
	host     *model.HostEndpoint
	profiles []string
	matched  []*policyState
	unsorted bool // matched is to be sorted
	subject  *subjectState
}

// hostState is a host endpoint of any node; it has a target when of this one.
type hostState struct {
	subject *subjectState
	target  *target
}

// NewCompiler returns a Compiler for a node, that knows nothing yet.
func NewCompiler(self model.NodeName) *Compiler {
	c := &Compiler{
		self: self, program: newProgram(),
		tiers: map[string]*model.Tier{}, inTier: map[string]map[*policyState]struct{}{},
		policies: map[model.PolicyID]*policyState{}, profiles: map[string]*profileState{},
		pods: map[model.EndpointID]*target{}, devices: map[string][]*target{}, heps: map[string]*hostState{},
		remote: map[model.RemoteID]*subjectState{}, nets: map[model.NetworkSetID]*subjectState{},
		selectors: map[string]*selectState{}, services: map[model.ServiceID]*serviceState{}, sets: map[SetID]*setState{},
		dirty: newChanges(),
	}
	c.active = selector.NewIndex(c.selectsTarget, c.deselectsTarget)
	c.named = selector.NewIndex(c.selectsSubject, c.deselectsSubject)
	return c
}

// SetConfig replaces the configuration.
func (c *Compiler) SetConfig(cfg model.PolicyConfig) { c.dirty.config = &cfg }

// SetLinks replaces what is known of this host's interfaces.
func (c *Compiler) SetLinks(links []model.Link) {
	c.links = links
	c.dirty.hosts = true
}

// SetOverlay replaces what is known of the other nodes and of the tunnels to them.
func (c *Compiler) SetOverlay(o model.Overlay) { c.dirty.overlay = &o }

// SetTier adds or replaces a tier.
func (c *Compiler) SetTier(t *model.Tier) {
	c.tiers[t.Name] = t
	c.rebind(t.Name)
}

// DeleteTier removes a tier. A built-in one returns to what it is without a resource.
func (c *Compiler) DeleteTier(name string) {
	delete(c.tiers, name)
	c.rebind(name)
}

// rebind gives the policies of a tier their place anew.
func (c *Compiler) rebind(tier string) {
	for p := range c.inTier[tier] {
		old := p.tier
		p.tier = tierOf(p.policy, c.tier)
		if p.tier == old {
			continue
		}
		for t := range c.active.Items(p) {
			t.unsorted = true
			c.dirty.target(t)
		}
	}
}

func (c *Compiler) tier(name string) *model.Tier { return c.tiers[name] }

// SetPolicy adds or replaces a policy.
func (c *Compiler) SetPolicy(policy *model.Policy) error {
	b := bind(policy, c.tier)
	text, err := canonical(policy.Selector)
	var rules [2][]Rule
	for _, d := range directions {
		var wrong error
		rules[d], wrong = b.rules(d)
		err = errors.Join(err, wrong)
	}
	if err != nil {
		return refused(policy.ID.String(), err)
	}
	sel, err := selector.Parse(text)
	if err != nil {
		return refused(policy.ID.String(), err)
	}
	p := c.policies[policy.ID]
	if p == nil {
		p = &policyState{bound: b}
		c.policies[policy.ID] = p
	} else {
		c.leaveTier(p)
		c.move(p, b)
	}
	enter(c.inTier, tierName(policy), p)
	p.rules = &rules
	if p.selector != text {
		p.selector = text
		c.active.SetSelector(p, sel)
	}
	c.dirty.policies[p] = struct{}{}
	return nil
}

// move replaces what is known of a policy, and where it stands among those of its endpoints.
func (c *Compiler) move(p *policyState, b bound) {
	moved := p.compare(&b) != 0
	listed := moved || p.tier != b.tier || p.types != b.types || p.policy.Staged != b.policy.Staged ||
		p.policy.DoNotTrack != b.policy.DoNotTrack || p.policy.PreDNAT != b.policy.PreDNAT || p.policy.ApplyOnForward != b.policy.ApplyOnForward
	if !listed {
		p.bound = b
		return
	}
	var on []*target
	for t := range c.active.Items(p) {
		on = append(on, t)
		c.dirty.target(t)
		if moved {
			t.remove(p)
		}
	}
	p.bound = b
	if moved {
		for _, t := range on {
			t.insert(p)
		}
	}
}

// DeletePolicy removes a policy.
func (c *Compiler) DeletePolicy(id model.PolicyID) {
	p := c.policies[id]
	if p == nil {
		return
	}
	c.active.DeleteSelector(p)
	c.leaveTier(p)
	delete(c.policies, id)
	p.gone = true
	c.dirty.policies[p] = struct{}{}
}

func (c *Compiler) leaveTier(p *policyState) { leave(c.inTier, tierName(p.policy), p) }

// selectsTarget is told when a policy begins to select an endpoint of this node.
func (c *Compiler) selectsTarget(p *policyState, t *target) {
	p.selected++
	t.insert(p)
	c.dirty.target(t)
	c.dirty.policies[p] = struct{}{}
}

func (c *Compiler) deselectsTarget(p *policyState, t *target) {
	p.selected--
	t.remove(p)
	c.dirty.target(t)
	c.dirty.policies[p] = struct{}{}
}

func (t *target) insert(p *policyState) {
	if t.unsorted {
		t.matched = append(t.matched, p)
		return
	}
	i, _ := slices.BinarySearchFunc(t.matched, p, func(a, b *policyState) int { return a.compare(&b.bound) })
	t.matched = slices.Insert(t.matched, i, p)
}

func (t *target) remove(p *policyState) {
	if i := slices.Index(t.matched, p); i >= 0 {
		t.matched = slices.Delete(t.matched, i, i+1)
	}
}

// SetProfile adds or replaces a profile.
func (c *Compiler) SetProfile(profile *model.Profile) error {
	for _, d := range directions {
		if _, err := profileRules(profile, d); err != nil {
			return refused("profile "+profile.Name, err)
		}
	}
	c.setProfile(c.profile(profile.Name), profile)
	return nil
}

// DeleteProfile removes a profile. Its labels and rules are gone for those that still name it.
func (c *Compiler) DeleteProfile(name string) {
	if p := c.profiles[name]; p != nil && p.profile != nil {
		c.setProfile(p, nil)
	}
}

func (c *Compiler) setProfile(p *profileState, profile *model.Profile) {
	for _, d := range directions {
		if profileHasRules(p.profile, d) != profileHasRules(profile, d) {
			for t := range p.users {
				c.dirty.target(t)
			}
		}
	}
	p.profile = profile
	var labels map[string]string
	if profile != nil {
		labels = profile.Labels
	}
	c.active.SetParent(p.name, labels)
	c.named.SetParent(p.name, labels)
	c.dirty.profiles[p] = struct{}{}
}

// profile returns the state of a profile; Flush drops one that is neither known nor used.
func (c *Compiler) profile(name string) *profileState {
	p := c.profiles[name]
	if p == nil {
		p = &profileState{name: name, users: map[*target]struct{}{}}
		c.profiles[name] = p
	}
	return p
}

func (c *Compiler) hasRules(profile string, d model.Direction) bool {
	p := c.profiles[profile]
	return p != nil && profileHasRules(p.profile, d)
}

// enter and leave keep sets by name that exist as long as they have members.
func enter[K, V comparable](m map[K]map[V]struct{}, k K, v V) {
	if m[k] == nil {
		m[k] = map[V]struct{}{}
	}
	m[k][v] = struct{}{}
}

func leave[K, V comparable](m map[K]map[V]struct{}, k K, v V) {
	delete(m[k], v)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

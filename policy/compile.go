package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"weft/model"
	"weft/model/selector"
)

// Compile makes the Program of a whole snapshot, by trying every selector on everything. It has no
// memory and takes no short cuts: it is what a Compiler must be equal to.
//
// An object that cannot be understood is left out; the error joins one entry for each, and the
// Program is good for all the rest.
func Compile(s *model.Snapshot) (*Program, error) {
	c := compilation{view: &s.Policy, program: newProgram(), selectors: map[string]*selector.Selector{}, labels: map[*subject]map[string]string{}}
	c.program.Config = s.Policy.Config
	c.readSubjects(s)
	c.readPolicies()
	c.readProfiles()
	for _, id := range slices.SortedFunc(maps.Keys(c.pods), compareIDs) {
		c.pod(s.Endpoints[id])
	}
	c.hosts(s)
	c.carriers()
	c.fill()
	return c.program, errors.Join(c.errs...)
}

type compilation struct {
	view      *model.PolicyView
	program   *Program
	policies  []*bound // in order
	profiles  map[string]*model.Profile
	services  map[string][]model.ServiceEndpoint
	pods      map[model.EndpointID]*subject
	heps      map[string]*subject
	subjects  []*subject
	selectors map[string]*selector.Selector
	labels    map[*subject]map[string]string // with those inherited
	errs      []error
}

func (c *compilation) ok(err error) bool {
	if err != nil {
		c.errs = append(c.errs, err)
	}
	return err == nil
}

func (c *compilation) readSubjects(s *model.Snapshot) {
	c.pods, c.heps, c.services = map[model.EndpointID]*subject{}, map[string]*subject{}, map[string][]model.ServiceEndpoint{}
	for id, e := range s.Endpoints {
		if sub, err := podSubject(&e); c.ok(err) {
			c.pods[id] = sub
			c.subjects = append(c.subjects, sub)
		}
	}
	for _, e := range c.view.Remote {
		if sub, err := remoteSubject(e); c.ok(err) {
			c.subjects = append(c.subjects, sub)
		}
	}
	for name, h := range c.view.HostEndpoints {
		if sub, err := hostSubject(h, s.Self); c.ok(err) {
			c.heps[name] = sub
			c.subjects = append(c.subjects, sub)
		}
	}
	for _, n := range c.view.NetworkSets {
		if sub, err := netsSubject(n); c.ok(err) {
			c.subjects = append(c.subjects, sub)
		}
	}
	for id, endpoints := range c.view.Services {
		if c.ok(checkService(id, endpoints)) {
			c.services[id.String()] = endpoints
		}
	}
}

func (c *compilation) readPolicies() {
	for _, p := range c.view.Policies {
		b := bind(p, func(name string) *model.Tier { return c.view.Tiers[name] })
		if c.ok(b.check()) {
			c.policies = append(c.policies, &b)
		}
	}
	slices.SortFunc(c.policies, (*bound).compare)
}

func (c *compilation) readProfiles() {
	c.profiles = map[string]*model.Profile{}
	for name, p := range c.view.Profiles {
		_, in := profileRules(p, model.Ingress)
		_, out := profileRules(p, model.Egress)
		if c.ok(errors.Join(in, out)) {
			c.profiles[name] = p
		}
	}
}

// selects parses a selector once, and tells whether it selects a subject.
func (c *compilation) selects(text string, s *subject) bool {
	sel := c.selectors[text]
	if sel == nil {
		var err error
		if sel, err = selector.Parse(text); err != nil {
			c.ok(fmt.Errorf("selector: %w", err)) // cannot be: it was parsed before
			return false
		}
		c.selectors[text] = sel
	}
	return sel.Matches(c.labelsOf(s))
}

// labelsOf returns a subject's own labels and those that it inherits.
func (c *compilation) labelsOf(s *subject) map[string]string {
	if l := c.labels[s]; l != nil {
		return l
	}
	l := map[string]string{}
	for _, name := range slices.Backward(s.profiles) {
		if p := c.profiles[name]; p != nil {
			maps.Copy(l, p.Labels)
		}
	}
	maps.Copy(l, s.labels)
	c.labels[s] = l
	return l
}

// matched returns the policies that select a subject of this node, in order, and makes them active.
func (c *compilation) matched(s *subject) []*bound {
	var found []*bound
	for _, b := range c.policies {
		if !c.selects(b.policy.Selector, s) {
			continue
		}
		found = append(found, b)
		for _, d := range directions {
			if b.about(d) {
				rules, err := b.rules(d)
				c.ok(err)
				c.chain(b.chains[d], b.policy.Staged, rules)
			}
		}
	}
	for _, name := range s.profiles {
		for _, d := range directions {
			if c.hasRules(name, d) {
				rules, err := profileRules(c.profiles[name], d)
				c.ok(err)
				c.chain(ProfileChain(name, d), false, rules)
			}
		}
	}
	return found
}

func (c *compilation) hasRules(profile string, d model.Direction) bool {
	return profileHasRules(c.profiles[profile], d)
}

func profileHasRules(p *model.Profile, d model.Direction) bool {
	if p == nil {
		return false
	}
	return d == model.Ingress && len(p.Ingress) > 0 || d == model.Egress && len(p.Egress) > 0
}

func (c *compilation) chain(id ChainID, staged bool, rules []Rule) {
	if c.program.Chains[id] != nil {
		return
	}
	c.program.Chains[id] = &Chain{ID: id, Staged: staged, Rules: rules}
	for i := range rules {
		rules[i].EachSet(func(id SetID, _ bool) {
			if c.program.Sets[id] == nil {
				c.program.Sets[id] = newSet(id)
			}
		})
	}
}

func (c *compilation) pod(e model.Endpoint) {
	matched := c.matched(c.pods[e.ID])
	if e.Device != "" && c.program.Endpoints[e.Device] == nil {
		c.program.Endpoints[e.Device] = podOf(&e, matched, c.hasRules)
	}
}

func (c *compilation) hosts(s *model.Snapshot) {
	var own []*model.HostEndpoint
	matched := map[string][]*bound{}
	for name, sub := range c.heps {
		if sub.local {
			own = append(own, c.view.HostEndpoints[name])
			matched[name] = c.matched(sub)
		}
	}
	for iface, h := range hostInterfaces(own, s.Underlay.Links) {
		c.program.Hosts[iface] = hostOf(iface, h, matched[h.Name], c.hasRules)
	}
}

func (c *compilation) carriers() {
	c.program.Local = c.view.Overlay.Local
	if len(c.program.Hosts)+len(c.program.Local) == 0 {
		return
	}
	c.program.Carriers = c.view.Overlay.Carriers
	for _, t := range c.program.Carriers {
		id := PeersOf(t.Family)
		c.program.Sets[id] = newSet(id)
	}
}

func (c *compilation) fill() {
	for id, set := range c.program.Sets {
		add := func(m Member) { set.add(m) }
		if id.Kind == ServicePorts || id.Kind == ServiceAddrs {
			serviceMembers(c.services[id.Name], id, add)
			continue
		}
		if id.Kind == Peers {
			peerMembers(c.view.Overlay.Peers, id, add)
			continue
		}
		for _, s := range c.subjects {
			if c.selects(id.Selector, s) {
				s.members(id, add)
			}
		}
	}
}

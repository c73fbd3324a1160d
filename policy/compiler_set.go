package policy

import (
	"slices"

	"weft/model"
	"weft/model/selector"
)

// How the Compiler keeps sets: a set exists while a chain refers to it, a selector is indexed while
// a set needs it, and a member is counted for everything that gives it.

// subjectState is a subject as the index knows it; its content is replaced.
type subjectState struct {
	subject *subject
}

// selectState is an indexed selector, and the sets that live from it.
type selectState struct {
	text string
	sets []*setState
}

// serviceState is what is known of a service by name, and the sets that live from it.
type serviceState struct {
	endpoints []model.ServiceEndpoint
	sets      []*setState
}

// setState is a set, who refers to it, and what is to be done to it at the next Flush.
type setState struct {
	set     *Set
	refs    int // rules of chains
	isNew   bool
	pending []memberChange
	queued  bool // in changes.sets
}

type memberChange struct {
	member Member
	add    bool
}

func (c *Compiler) change(s *setState, m Member, add bool) {
	if s.isNew {
		if add {
			s.set.add(m)
		} else {
			s.set.remove(m)
		}
		return
	}
	s.pending = append(s.pending, memberChange{m, add})
	if !s.queued {
		s.queued = true
		c.dirty.sets = append(c.dirty.sets, s)
	}
}

// setSubject replaces what a subject is. Sets that select it before and after change only where
// its addresses or ports do.
func (c *Compiler) setSubject(s *subjectState, now *subject) {
	before := s.subject
	s.subject = now
	if before != nil {
		if gone, came := differ(before, now); gone != nil {
			for sel := range c.named.Selectors(s) {
				for _, set := range sel.sets {
					came.members(set.set.ID, func(m Member) { c.change(set, m, true) })
					gone.members(set.set.ID, func(m Member) { c.change(set, m, false) })
				}
			}
		}
	}
	c.named.SetItem(s, now.labels, now.profiles)
	now.labels, now.profiles = nil, nil // the index has them
}

// differ returns what two states of a subject do not have in common; nil when nothing.
func differ(before, now *subject) (gone, came *subject) {
	if before.local != now.local || !slices.Equal(before.ports, now.ports) {
		return before, now
	}
	a, b := trim(before.nets, now.nets)
	if len(a)+len(b) == 0 {
		return nil, nil
	}
	return &subject{nets: a, ports: before.ports, local: before.local}, &subject{nets: b, ports: now.ports, local: now.local}
}

// trim cuts off what two lists have in common at their ends: of long lists mostly little is left.
func trim[T comparable](a, b []T) ([]T, []T) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return a, b
}

func (c *Compiler) deleteSubject(s *subjectState) {
	if s != nil {
		c.named.DeleteItem(s)
	}
}

// selectsSubject is told when a selector of some rule begins to select a subject.
func (c *Compiler) selectsSubject(sel *selectState, s *subjectState) {
	for _, set := range sel.sets {
		s.subject.members(set.set.ID, func(m Member) { c.change(set, m, true) })
	}
}

func (c *Compiler) deselectsSubject(sel *selectState, s *subjectState) {
	for _, set := range sel.sets {
		s.subject.members(set.set.ID, func(m Member) { c.change(set, m, false) })
	}
}

// SetService replaces the endpoints of a service.
func (c *Compiler) SetService(id model.ServiceID, endpoints []model.ServiceEndpoint) error {
	if err := checkService(id, endpoints); err != nil {
		return refused("policy", err)
	}
	c.setService(id, endpoints)
	return nil
}

// DeleteService removes a service.
func (c *Compiler) DeleteService(id model.ServiceID) { c.setService(id, nil) }

func (c *Compiler) setService(id model.ServiceID, endpoints []model.ServiceEndpoint) {
	s := c.service(id)
	gone, came := trim(s.endpoints, endpoints)
	s.endpoints = endpoints
	for _, set := range s.sets {
		serviceMembers(came, set.set.ID, func(m Member) { c.change(set, m, true) })
		serviceMembers(gone, set.set.ID, func(m Member) { c.change(set, m, false) })
	}
	c.dropService(id, s)
}

func (c *Compiler) service(id model.ServiceID) *serviceState {
	s := c.services[id]
	if s == nil {
		s = &serviceState{}
		c.services[id] = s
	}
	return s
}

func (c *Compiler) dropService(id model.ServiceID, s *serviceState) {
	if len(s.endpoints)+len(s.sets) == 0 {
		delete(c.services, id)
	}
}

// acquire counts a rule that refers to a set, and makes and fills the set for the first.
func (c *Compiler) acquire(id SetID) {
	s := c.sets[id]
	if s == nil {
		s = &setState{set: newSet(id), isNew: true}
		c.sets[id] = s
		c.program.Sets[id] = s.set
		c.dirty.added = append(c.dirty.added, s)
		c.feed(s)
	}
	s.refs++
}

// release counts one less. Flush drops sets that nobody refers to.
func (c *Compiler) release(id SetID) {
	s := c.sets[id]
	if s.refs--; s.refs == 0 {
		c.dirty.orphans = append(c.dirty.orphans, s)
	}
}

// feed fills a new set from what it lives from, and has it kept up to date.
func (c *Compiler) feed(s *setState) {
	id := s.set.ID
	if id.Kind == Peers {
		peerMembers(c.overlay.Peers, id, func(m Member) { c.change(s, m, true) })
		return
	}
	if sid, ok := serviceOf(id); ok {
		service := c.service(sid)
		service.sets = append(service.sets, s)
		serviceMembers(service.endpoints, id, func(m Member) { c.change(s, m, true) })
		return
	}
	sel := c.selectors[id.Selector]
	if sel != nil {
		sel.sets = append(sel.sets, s)
		for sub := range c.named.Items(sel) {
			sub.subject.members(id, func(m Member) { c.change(s, m, true) })
		}
		return
	}
	parsed, err := selector.Parse(id.Selector)
	if err != nil {
		return // cannot be: canonical text parses
	}
	sel = &selectState{text: id.Selector, sets: []*setState{s}}
	c.selectors[id.Selector] = sel
	c.named.SetSelector(sel, parsed)
}

// unfeed undoes feed.
func (c *Compiler) unfeed(s *setState) {
	id := s.set.ID
	if id.Kind == Peers {
		return
	}
	if sid, ok := serviceOf(id); ok {
		service := c.service(sid)
		service.sets = slices.DeleteFunc(service.sets, func(o *setState) bool { return o == s })
		c.dropService(sid, service)
		return
	}
	sel := c.selectors[id.Selector]
	sel.sets = slices.DeleteFunc(sel.sets, func(o *setState) bool { return o == s })
	if len(sel.sets) == 0 {
		delete(c.selectors, sel.text)
		c.named.DeleteSelector(sel)
	}
}

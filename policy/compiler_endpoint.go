package policy

import (
	"fmt"
	"slices"

	"weft/model"
)

// refused is the error of a Set method.
func refused(what string, err error) error {
	return fmt.Errorf("compile %s: %w; what was known of it before stays in force", what, err)
}

// SetEndpoint adds or replaces a pod of this node.
func (c *Compiler) SetEndpoint(e *model.Endpoint) error {
	s, err := podSubject(e)
	if err != nil {
		return refused("policy", err)
	}
	t := c.pods[e.ID]
	if t == nil {
		t = &target{pod: e, subject: &subjectState{}}
		c.pods[e.ID] = t
		c.claim(t)
	} else if t.pod.Device != e.Device {
		c.unclaim(t)
		t.pod = e
		c.claim(t)
	}
	t.pod = e
	c.setTarget(t, s)
	return nil
}

// DeleteEndpoint removes a pod of this node.
func (c *Compiler) DeleteEndpoint(id model.EndpointID) {
	t := c.pods[id]
	if t == nil {
		return
	}
	c.deleteTarget(t)
	c.unclaim(t)
	delete(c.pods, id)
}

// claim enters a pod for its device. Whoever has it changes at the next Flush, if it does.
func (c *Compiler) claim(t *target) {
	device := t.pod.Device
	if device == "" {
		return
	}
	list := c.devices[device]
	i, _ := slices.BinarySearchFunc(list, t, func(a, b *target) int { return compareIDs(a.pod.ID, b.pod.ID) })
	c.devices[device] = slices.Insert(list, i, t)
	c.dirty.devices[device] = struct{}{}
}

func (c *Compiler) unclaim(t *target) {
	device := t.pod.Device
	if device == "" {
		return
	}
	list := c.devices[device]
	if i := slices.Index(list, t); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	c.devices[device] = list
	if len(list) == 0 {
		delete(c.devices, device)
	}
	c.dirty.devices[device] = struct{}{}
}

// setTarget tells the indexes what an endpoint of this node is now.
func (c *Compiler) setTarget(t *target, s *subject) {
	if !slices.Equal(t.profiles, s.profiles) {
		c.useProfiles(t, s.profiles)
	}
	c.active.SetItem(t, s.labels, s.profiles)
	c.setSubject(t.subject, s)
	c.dirty.target(t)
}

func (c *Compiler) deleteTarget(t *target) {
	c.active.DeleteItem(t)
	c.deleteSubject(t.subject)
	c.useProfiles(t, nil)
	delete(c.dirty.targets, t)
}

// useProfiles keeps account of who uses which profile.
func (c *Compiler) useProfiles(t *target, names []string) {
	for _, name := range t.profiles {
		p := c.profile(name)
		delete(p.users, t)
		c.dirty.profiles[p] = struct{}{}
	}
	for _, name := range names {
		p := c.profile(name)
		p.users[t] = struct{}{}
		c.dirty.profiles[p] = struct{}{}
	}
	t.profiles = names
}

// SetHostEndpoint adds or replaces a host endpoint of any node.
func (c *Compiler) SetHostEndpoint(h *model.HostEndpoint) error {
	s, err := hostSubject(h, c.self)
	if err != nil {
		return refused("policy", err)
	}
	state := c.heps[h.Name]
	if state == nil {
		state = &hostState{subject: &subjectState{}}
		c.heps[h.Name] = state
	}
	if state.target != nil && !s.local {
		c.deleteTarget(state.target)
		state.target = nil
		c.dirty.hosts = true
	}
	if !s.local {
		c.setSubject(state.subject, s)
		return nil
	}
	if state.target == nil {
		state.target = &target{subject: state.subject}
	}
	state.target.host = h
	c.dirty.hosts = true
	c.setTarget(state.target, s)
	return nil
}

// DeleteHostEndpoint removes a host endpoint.
func (c *Compiler) DeleteHostEndpoint(name string) {
	state := c.heps[name]
	if state == nil {
		return
	}
	if state.target != nil {
		c.deleteTarget(state.target)
		c.dirty.hosts = true
	} else {
		c.deleteSubject(state.subject)
	}
	delete(c.heps, name)
}

// SetRemote adds or replaces a pod of another node.
func (c *Compiler) SetRemote(e *model.RemoteEndpoint) error {
	s, err := remoteSubject(e)
	if err != nil {
		return refused("policy", err)
	}
	c.setSubject(stateOf(c.remote, e.ID), s)
	return nil
}

// DeleteRemote removes a pod of another node.
func (c *Compiler) DeleteRemote(id model.RemoteID) {
	c.deleteSubject(c.remote[id])
	delete(c.remote, id)
}

// SetNetworkSet adds or replaces a network set.
func (c *Compiler) SetNetworkSet(n *model.NetworkSet) error {
	s, err := netsSubject(n)
	if err != nil {
		return refused("policy", err)
	}
	c.setSubject(stateOf(c.nets, n.ID), s)
	return nil
}

// DeleteNetworkSet removes a network set.
func (c *Compiler) DeleteNetworkSet(id model.NetworkSetID) {
	c.deleteSubject(c.nets[id])
	delete(c.nets, id)
}

func stateOf[K comparable](m map[K]*subjectState, k K) *subjectState {
	s := m[k]
	if s == nil {
		s = &subjectState{}
		m[k] = s
	}
	return s
}

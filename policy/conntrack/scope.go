package conntrack

import (
	"maps"
	"net/netip"
	"slices"

	"weft/policy"
)

// scope is which connections have to be judged again. Its zero value is none.
type scope struct {
	all   bool
	addrs map[netip.Addr]struct{} // those from or to these addresses
	nets  []netip.Prefix          // and these
	gone  map[netip.Addr]struct{} // those of pods that are no more, which end without a question
}

func (s *scope) empty() bool { return !s.all && len(s.addrs)+len(s.nets)+len(s.gone) == 0 }

func (s *scope) add(p netip.Prefix) {
	switch {
	case s.all:
	case !p.IsSingleIP():
		s.nets = append(s.nets, p)
	default:
		if s.addrs == nil {
			s.addrs = map[netip.Addr]struct{}{}
		}
		s.addrs[p.Addr()] = struct{}{}
	}
}

func (s *scope) addAll(nets []netip.Prefix) {
	for _, n := range nets {
		s.add(n)
	}
}

// merge adds another scope, which may be changed by it.
func (s *scope) merge(o *scope) {
	s.all = s.all || o.all
	s.nets = append(s.nets, o.nets...)
	join := func(to *map[netip.Addr]struct{}, from map[netip.Addr]struct{}) {
		if *to == nil {
			*to = from
			return
		}
		maps.Copy(*to, from)
	}
	join(&s.addrs, o.addrs)
	join(&s.gone, o.gone)
}

func (s *scope) has(a netip.Addr) bool {
	if _, ok := s.addrs[a]; ok {
		return true
	}
	for _, n := range s.nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (s *scope) isGone(a netip.Addr) bool {
	_, ok := s.gone[a]
	return ok
}

// memory is what the Cutter knew policy to be, so that it can tell what a change may deny. A Program's
// chains, endpoints and hosts never change in place.
type memory struct {
	generation uint64
	chains     map[policy.ChainID]*policy.Chain
	pods       map[string]*policy.Endpoint
	hosts      map[string]*policy.Host
	podsToHost bool
	uses       map[policy.SetID]*use
}

// use counts the rules by which a packet can become denied when a set gains or loses a member.
type use struct{ gaining, losing int }

// change updates the memory and adds to s what the update can deny. Told nothing of what came before,
// it is everything.
//
// It looks at one kind of change after the other, as if they came in that order: what can deny nothing
// in any of these steps denies nothing in all.
func (m *memory) change(u *policy.Update, s *scope) {
	if m.chains == nil || u.Delta.Base != m.generation {
		if u.Generation != m.generation || m.chains == nil {
			m.learn(u, s)
		}
		return
	}
	m.generation = u.Generation
	p, d := u.Program, &u.Delta
	for i := range d.Members {
		m.members(&d.Members[i], s)
	}
	changed := map[policy.ChainID]struct{}{}
	before := map[policy.ChainID]*policy.Chain{}
	for _, id := range d.ChainsChanged {
		old, now := m.chains[id], p.Chains[id]
		// One that is staged from now on, or not any more, was or is not asked: that may deny what it allowed, or what no
		// policy was asked about.
		if was, is := old != nil, now != nil && !now.Staged; was != is || was && rulesNarrow(old.Rules, now.Rules) {
			changed[id] = struct{}{}
		}
		m.setChain(id, now)
	}
	for _, id := range d.ChainsRemoved {
		before[id] = m.chains[id]
		m.setChain(id, nil)
	}
	if len(changed) > 0 {
		m.chainsChanged(changed, s)
	}
	l := lookup{p.Chains, before}
	m.podsChanged(p, d, l, s)
	m.hostsChanged(p, d, l, s)
	// Failsafe ports that come or go change which hooks a packet meets, in both ways.
	if d.ConfigChanged && (len(p.Hosts) > 0 || m.podsToHost && !p.Config.PodsToHost) {
		*s = scope{all: true, gone: s.gone}
	}
	m.podsToHost = p.Config.PodsToHost
}

// learn takes the whole Program.
func (m *memory) learn(u *policy.Update, s *scope) {
	*s = scope{all: true, gone: s.gone}
	var lost []netip.Prefix
	for _, e := range m.pods {
		lost = append(lost, e.Sources...)
	}
	*m = memory{generation: u.Generation, chains: map[policy.ChainID]*policy.Chain{}, pods: map[string]*policy.Endpoint{},
		hosts: map[string]*policy.Host{}, podsToHost: u.Program.Config.PodsToHost, uses: map[policy.SetID]*use{}}
	for id, c := range u.Program.Chains {
		m.setChain(id, c)
	}
	for device, e := range u.Program.Endpoints {
		m.pods[device] = e
	}
	for iface, h := range u.Program.Hosts {
		m.hosts[iface] = h
	}
	m.end(lost, s)
}

func (m *memory) setChain(id policy.ChainID, c *policy.Chain) {
	if old := m.chains[id]; old != nil {
		m.count(old, -1)
		delete(m.chains, id)
	}
	if c != nil && !c.Staged {
		m.count(c, 1)
		m.chains[id] = c
	}
}

func (m *memory) count(c *policy.Chain, n int) {
	for i := range c.Rules {
		r := &c.Rules[i]
		eachSet(r, func(id policy.SetID, positive bool) {
			u := m.uses[id]
			if u == nil {
				u = &use{}
				m.uses[id] = u
			}
			more, less := narrowing(r.Action)
			if !positive {
				more, less = less, more
			}
			if more {
				u.gaining += n
			}
			if less {
				u.losing += n
			}
			if *u == (use{}) {
				delete(m.uses, id)
			}
		})
	}
}

// members looks at the members that a set gained and lost.
func (m *memory) members(d *policy.MemberDelta, s *scope) {
	u := m.uses[d.Set]
	if u == nil {
		return
	}
	if u.gaining > 0 {
		for _, e := range d.Added {
			s.add(e.Prefix)
		}
	}
	if u.losing > 0 {
		for _, e := range d.Removed {
			s.add(e.Prefix)
		}
	}
}

// chainsChanged adds the pods and hosts at which the chains are asked.
func (m *memory) chainsChanged(changed map[policy.ChainID]struct{}, s *scope) {
	for _, e := range m.pods {
		if asks(&e.Ingress, changed) || asks(&e.Egress, changed) {
			s.addAll(e.Sources)
		}
	}
	for _, h := range m.hosts {
		for _, hook := range trackedHooks(h) {
			if asks(hook, changed) {
				*s = scope{all: true, gone: s.gone}
				return
			}
		}
	}
}

func asks(h *policy.Hook, chains map[policy.ChainID]struct{}) bool {
	for i := range h.Tiers {
		for _, id := range h.Tiers[i].Policies {
			if _, ok := chains[id]; ok {
				return true
			}
		}
	}
	for _, id := range h.Profiles {
		if _, ok := chains[id]; ok {
			return true
		}
	}
	return false
}

// podsChanged looks at pods that came, went or are asked other things. The connections of an address
// that no pod has any more end: the next pod that gets it shall not inherit them.
func (m *memory) podsChanged(p *policy.Program, d *policy.Delta, l lookup, s *scope) {
	var lost []netip.Prefix
	for _, device := range d.PodsRemoved {
		if old := m.pods[device]; old != nil {
			lost = append(lost, old.Sources...)
			delete(m.pods, device)
		}
	}
	for _, device := range d.PodsChanged {
		old, now := m.pods[device], p.Endpoints[device]
		if old == nil || !slices.Equal(old.Sources, now.Sources) || l.hookNarrows(&old.Ingress, &now.Ingress) || l.hookNarrows(&old.Egress, &now.Egress) {
			s.addAll(now.Sources)
			if old != nil {
				lost = append(lost, old.Sources...)
			}
		}
		m.pods[device] = now
	}
	m.end(lost, s)
}

// end adds connections of sources that pods do not have any more.
func (m *memory) end(lost []netip.Prefix, s *scope) {
	if len(lost) == 0 {
		return
	}
	have := map[netip.Prefix]bool{}
	for _, e := range m.pods {
		for _, n := range e.Sources {
			have[n] = true
		}
	}
	for _, n := range lost {
		if have[n] || !n.IsSingleIP() {
			s.add(n)
			continue
		}
		if s.gone == nil {
			s.gone = map[netip.Addr]struct{}{}
		}
		s.gone[n.Addr()] = struct{}{}
	}
}

func (m *memory) hostsChanged(p *policy.Program, d *policy.Delta, l lookup, s *scope) {
	all := false
	for _, iface := range d.HostsRemoved {
		delete(m.hosts, iface)
		all = all || p.Hosts["*"] != nil
	}
	for _, iface := range d.HostsChanged {
		old, now := m.hosts[iface], p.Hosts[iface]
		m.hosts[iface] = now
		if old == nil {
			all = true
			continue
		}
		hooks := trackedHooks(now)
		for i, before := range trackedHooks(old) {
			all = all || l.hookNarrows(before, hooks[i])
		}
	}
	if all {
		*s = scope{all: true, gone: s.gone}
	}
}

// trackedHooks are the hooks of a host endpoint that decide about connections. What the untracked ones
// decide is not tracked.
func trackedHooks(h *policy.Host) []*policy.Hook {
	return []*policy.Hook{&h.PreDNAT, &h.Forward[0], &h.Forward[1], &h.Normal[0], &h.Normal[1]}
}

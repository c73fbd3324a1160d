package iptables

import (
	"net/netip"
	"slices"

	"weft/policy"
)

// rules is a Program rendered, part by part, so that a change renders anew what it touches.
type rules struct {
	chains map[key][]string
	parts  map[string]part
	lists  map[string]*list // by set name

	// Since the last take: chains that are not as they were, and those that were not there or are
	// gone among them.
	touched map[key]bool
}

// list is a set of the prefixes that rules list.
type list struct {
	nets  []netip.Prefix
	users int
}

func newRules() *rules {
	return &rules{chains: map[key][]string{}, parts: map[string]part{}, lists: map[string]*list{}, touched: map[key]bool{}}
}

// Names of parts.
const (
	partStatic = "static"
	partTree   = "tree"
)

func partOfChain(id policy.ChainID) string { return "chain " + string(id) }
func partOfPod(device string) string       { return "pod " + device }

// put replaces a part. The part without chains is gone.
func (r *rules) put(name string, p part) {
	old := r.parts[name]
	for k, lines := range p.chains {
		if have, ok := r.chains[k]; !ok || !slices.Equal(have, lines) {
			r.chains[k] = lines
			r.touched[k] = true
		}
	}
	for k := range old.chains {
		if _, stays := p.chains[k]; !stays {
			delete(r.chains, k)
			r.touched[k] = true
		}
	}
	for n, nets := range p.lists {
		if r.lists[n] == nil {
			r.lists[n] = &list{nets: nets}
		}
		r.lists[n].users++
	}
	for n := range old.lists {
		if r.lists[n].users--; r.lists[n].users == 0 {
			delete(r.lists, n)
		}
	}
	if len(p.chains) == 0 {
		delete(r.parts, name)
	} else {
		r.parts[name] = p
	}
}

// render returns the whole Program's rules.
func render(p *policy.Program) *rules {
	r := newRules()
	l := layoutOf(p)
	r.put(partStatic, staticPart(l))
	r.put(partTree, treePart(p))
	at := l.places()
	for id, c := range p.Chains {
		if !c.Staged {
			r.put(partOfChain(id), chainPart(c, place(at, id)))
		}
	}
	for d, e := range p.Endpoints {
		if enforceable(d) {
			r.put(partOfPod(d), podPart(e))
		}
	}
	return r
}

func place(at map[policy.ChainID]string, id policy.ChainID) string {
	if t := at[id]; t != "" {
		return t
	}
	return filter
}

// follow makes r what render makes of the Program, where r is that of the Program before. It
// tells whether it could: what changes hosts or settings changes too much.
func (r *rules) follow(u *policy.Update) bool {
	d := &u.Delta
	if d.ConfigChanged || len(d.HostsChanged)+len(d.HostsRemoved) > 0 {
		return false
	}
	p := u.Program
	var at map[policy.ChainID]string
	if len(p.Hosts) > 0 && len(d.ChainsChanged) > 0 {
		at = layoutOf(p).places()
	}
	for _, id := range d.ChainsChanged {
		if c := p.Chains[id]; c.Staged {
			r.put(partOfChain(id), newPart())
		} else {
			r.put(partOfChain(id), chainPart(c, place(at, id)))
		}
	}
	for _, id := range d.ChainsRemoved {
		r.put(partOfChain(id), newPart())
	}
	for _, device := range d.PodsChanged {
		if enforceable(device) {
			r.put(partOfPod(device), podPart(p.Endpoints[device]))
		}
	}
	for _, device := range d.PodsRemoved {
		r.put(partOfPod(device), newPart())
	}
	if len(d.PodsChanged)+len(d.PodsRemoved) > 0 {
		r.put(partTree, treePart(p))
	}
	return true
}

// become makes r what o is, noting what differs.
func (r *rules) become(o *rules) {
	for k, lines := range o.chains {
		if have, ok := r.chains[k]; !ok || !slices.Equal(have, lines) {
			r.touched[k] = true
		}
	}
	for k := range r.chains {
		if _, stays := o.chains[k]; !stays {
			r.touched[k] = true
		}
	}
	r.chains, r.parts, r.lists = o.chains, o.parts, o.lists
}

// take returns the touched chains, and forgets them.
func (r *rules) take() map[key]bool {
	t := r.touched
	r.touched = map[key]bool{}
	return t
}

// problems lists what of a Program cannot be enforced, with what to do.
func problems(p *policy.Program) []string {
	var list []string
	for d, e := range p.Endpoints {
		if !enforceable(d) {
			list = append(list, "device "+quoted(d)+" of pod "+e.ID.String()+" is not called weft...: attach the pod by weft-cni")
		}
	}
	for name, h := range p.Hosts {
		if name == "*" || !possibleDevice(name) {
			continue // no device can have the name, so there is nothing to enforce
		}
		if podDevice(name) {
			list = append(list, "host endpoint "+h.Name+" is for "+quoted(name)+", which is a pod's device: name another interface")
		} else if !expressible(name) {
			list = append(list, "host endpoint "+h.Name+" is for "+quoted(name)+", which an iptables rule cannot name: use * or another policy driver")
		}
	}
	slices.Sort(list)
	return list
}

package flows

import (
	"cmp"
	"fmt"
	"net/netip"

	"weft/model"
	"weft/policy"
)

// byHold is the cause of packets whose connection a change of policy cut (policy/conntrack).
const byHold policy.Cause = 'c'

// names finds what hashes and addresses stand for. It is kept up to date by Deltas, at the cost of what
// changed.
type names struct {
	generation uint64
	known      bool
	tags       map[uint64]string
	useless    int // names that may be of nothing any more
	devices    map[string]*policy.Endpoint
	addrs      map[netip.Addr]model.EndpointID
}

// mostUseless is how many names are kept that may have gone: packets logged before may still come.
const mostUseless = 10_000

func (n *names) update(u *policy.Update) {
	d := &u.Delta
	if !n.known || d.Base != n.generation && u.Generation != n.generation || n.useless > mostUseless {
		n.learn(u.Program)
	} else if d.Base == n.generation {
		n.change(u.Program, d)
	}
	n.generation, n.known = u.Generation, true
}

func (n *names) learn(p *policy.Program) {
	*n = names{tags: policy.TagNames(p), devices: map[string]*policy.Endpoint{}, addrs: map[netip.Addr]model.EndpointID{}}
	for device, e := range p.Endpoints {
		n.setPod(device, e)
	}
}

func (n *names) change(p *policy.Program, d *policy.Delta) {
	new := &policy.Program{Chains: map[policy.ChainID]*policy.Chain{}, Endpoints: map[string]*policy.Endpoint{}, Hosts: map[string]*policy.Host{}}
	for _, id := range d.ChainsChanged {
		new.Chains[id] = p.Chains[id]
	}
	n.useless += len(d.ChainsRemoved)
	for _, device := range d.PodsRemoved {
		n.setPod(device, nil)
	}
	for _, device := range d.PodsChanged {
		if e := p.Endpoints[device]; e != nil {
			new.Endpoints[device] = e
			n.setPod(device, e)
		}
	}
	for _, iface := range d.HostsChanged {
		if h := p.Hosts[iface]; h != nil {
			new.Hosts[iface] = h
		}
	}
	for tag, name := range policy.TagNames(new) {
		n.tags[tag] = name
	}
}

func (n *names) setPod(device string, e *policy.Endpoint) {
	if old := n.devices[device]; old != nil {
		for _, p := range old.Sources {
			if p.IsSingleIP() && n.addrs[p.Addr()] == old.ID {
				delete(n.addrs, p.Addr())
			}
		}
		delete(n.devices, device)
	}
	if e == nil {
		return
	}
	n.devices[device] = e
	for _, p := range e.Sources {
		if p.IsSingleIP() {
			n.addrs[p.Addr()] = e.ID
		}
	}
}

// end names one end of a packet. What came in by a pod's device is of that pod, whatever it says.
func (n *names) end(a netip.Addr, device string) (e End, id model.EndpointID) {
	e.Address = a
	id = n.addrs[a]
	if pod := n.devices[device]; pod != nil {
		id = pod.ID
	}
	e.Namespace, e.Pod = id.Namespace, id.Pod
	return e, id
}

// explain fills in what the tag means.
func (n *names) explain(f *Flow, t policy.Tag, from, to model.EndpointID) {
	f.Action, f.Direction = t.Action.String(), t.Direction.String()
	who := "this host"
	if id := from; t.Direction == model.Ingress && to.Pod != "" {
		who = to.Namespace + "/" + to.Pod
	} else if t.Direction == model.Egress && id.Pod != "" {
		who = id.Namespace + "/" + id.Pod
	}
	at := fmt.Sprintf("%s of %s: ", t.Direction, who)
	switch t.Cause {
	case policy.ByRule:
		rule := t.Rule
		f.Chain, f.Rule = cmp.Or(n.tags[t.Name], fmt.Sprintf("a policy that is gone (%016x)", t.Name)), &rule
		f.Reason = fmt.Sprintf("%s%s, rule %d: %s", at, f.Chain, t.Rule, t.Action)
	case policy.ByTier:
		f.Tier = cmp.Or(n.tags[t.Name], fmt.Sprintf("a tier that is gone (%016x)", t.Name))
		f.Reason = fmt.Sprintf("%stier %s, its default action: %s", at, f.Tier, t.Action)
	case policy.ByProfiles:
		f.Reason = at + "no policy and no profile decided: " + t.Action.String()
	case policy.BySource:
		f.Reason = at + "not an address or MAC that the pod may send from"
	case policy.ByNoProgram:
		f.Reason = "the pod has no policy programmed yet"
	case policy.ByHost:
		f.Reason = at + "defaultEndpointToHostAction is Drop"
	case byHold:
		f.Reason = "a change of policy denies the connection that it belongs to: ask weft why about its first packet"
	default:
		f.Reason = fmt.Sprintf("%sa cause that this release does not know (%c)", at, rune(t.Cause))
	}
}

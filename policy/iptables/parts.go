package iptables

import (
	"net/netip"

	"weft/model"
	"weft/policy"
)

var families = []model.Family{model.IPv4, model.IPv6}

// key names a chain.
type key struct {
	family model.Family
	table  string
	chain  string
}

// part is what one thing of a Program (a policy, a pod, ...) renders to.
type part struct {
	chains map[key][]string
	lists  map[string][]netip.Prefix // sets of prefixes that its rules list
	id     policy.ChainID            // of a policy's or profile's
	counts map[key][]*policy.Tag     // and what each line of its chains counts
}

func newPart() part { return part{chains: map[key][]string{}, lists: map[string][]netip.Prefix{}} }

func (p *part) add(f model.Family, table string, c chains) {
	for name, lines := range c {
		p.chains[key{f, table, name}] = lines
	}
}

// staticPart is everything but policies, pods and the trees.
func staticPart(l *layout) part {
	p := newPart()
	for _, f := range families {
		for table, c := range l.static(f) {
			p.add(f, table, c)
		}
		for name, h := range l.hosts {
			for table, c := range l.host(name, h, f) {
				p.add(f, table, c)
			}
		}
	}
	return p
}

// host renders the chains of an interface with a host endpoint, for one family.
func (l *layout) host(name string, h *policy.Host, f model.Family) map[string]chains {
	t := map[string]chains{filter: {}, raw: {}, mangle: {}}
	accept := "-g " + chainAccept
	decided := []string{}
	if l.early() {
		decided = append(decided, mark(markDecided)+" "+accept)
	}
	note := comment("host endpoint " + h.Name)
	in, out := l.config.FailsafeIn, l.config.FailsafeOut
	for d, kind := range []string{"hi", "ho"} {
		lines := append([]string{established + " " + note + " " + accept, invalid + " -j DROP"}, decided...)
		if model.Direction(d) == model.Ingress {
			lines = append(lines, failsafe(in, f, "-s", "--dports", accept)...)
			lines = append(lines, carriers(l.carriers, f, "src", accept)...)
		} else {
			lines = append(lines, failsafe(out, f, "-d", "--dports", accept)...)
			lines = append(lines, carriers(l.carriers, f, "dst", accept)...)
		}
		t[filter][hostChain(kind, name)] = append(lines, hook(&h.Normal[d], end{model.Direction(d), accept, true})...)
	}
	if l.forwards {
		var skip []string
		if l.early() {
			skip = []string{mark(markDecided) + " -j RETURN"}
		}
		t[filter][hostChain("fi", name)] = append(skip, hook(&h.Forward[model.Ingress], end{model.Ingress, "-j RETURN", false})...)
		t[filter][hostChain("fo", name)] = hook(&h.Forward[model.Egress], end{model.Egress, "-j RETURN", false})
	}
	if l.untracked {
		notrack := "-g " + chainNotrack
		lines := append(failsafe(in, f, "-s", "--dports", "-j RETURN"), failsafe(out, f, "-s", "--sports", "-j RETURN")...)
		t[raw][hostChain("ui", name)] = append(lines, hook(&h.Untracked[model.Ingress], end{model.Ingress, notrack, false})...)
		lines = append(failsafe(out, f, "-d", "--dports", "-j RETURN"), failsafe(in, f, "-d", "--sports", "-j RETURN")...)
		t[raw][hostChain("uo", name)] = append(lines, hook(&h.Untracked[model.Egress], end{model.Egress, notrack, false})...)
	}
	if l.preDNAT {
		lines := failsafe(in, f, "-s", "--dports", "-j RETURN")
		t[mangle][hostChain("di", name)] = append(lines, hook(&h.PreDNAT, end{model.Ingress, "-g " + chainDecided, false})...)
	}
	return t
}

// treePart is the dispatch by device.
func treePart(p *policy.Program) part {
	out := newPart()
	devices := make([]string, 0, len(p.Endpoints))
	for d := range p.Endpoints {
		if enforceable(d) {
			devices = append(devices, d)
		}
	}
	named := func(kind string) func(string) string { return func(d string) string { return podChain(kind, d) } }
	for _, f := range families {
		out.add(f, filter, tree(devices, "-i", chainFrom, "-g "+chainNoPodIn, named("pe")))
		out.add(f, filter, tree(devices, "-o", chainTo, "-g "+chainNoPodOut, named("pi")))
		out.add(f, filter, tree(devices, "-o", chainKnown, "-g "+chainNoPodOut, func(string) string { return chainOwn }))
		out.add(f, raw, tree(devices, "-i", chainSource, "-g "+chainNoPodIn, named("ps")))
	}
	return out
}

// enforceable tells whether the chains reach a pod's device: its name is as all pods' devices' are.
// Every other one is no pod's to them.
func enforceable(device string) bool {
	return possibleDevice(device) && expressible(device) && podDevice(device) && len(device) > len("weft")
}

// podPart is the chains of one pod.
func podPart(e *policy.Endpoint) part {
	p := newPart()
	for _, f := range families {
		own := sources(e, f)
		p.chains[key{f, raw, podChain("ps", e.Device)}] = own
		egress := []string{}
		if f == model.IPv6 {
			// The raw table lets discovery through, which is for this host only: see chainSpoof.
			p.chains[key{f, filter, podChain("ps", e.Device)}] = own
			egress = append(egress, "-p ipv6-icmp -j "+podChain("ps", e.Device))
		}
		p.chains[key{f, filter, podChain("pe", e.Device)}] = append(egress, hook(&e.Egress, end{model.Egress, "-j RETURN", true})...)
		p.chains[key{f, filter, podChain("pi", e.Device)}] = hook(&e.Ingress, end{model.Ingress, "-j RETURN", true})
	}
	return p
}

// chainPart is the chain of a policy or profile, in the table where it is asked.
func chainPart(c *policy.Chain, table string) part {
	p := newPart()
	p.id, p.counts = c.ID, map[key][]*policy.Tag{}
	d := model.Ingress
	if egress(c.ID) {
		d = model.Egress
	}
	for _, f := range families {
		m := &matcher{family: f, lists: p.lists}
		k := key{f, table, chainName(c.ID)}
		p.chains[k], p.counts[k] = policyChain(c, d, m)
	}
	return p
}

// egress tells the direction of a chain, which its name ends with (policy.PolicyChain).
func egress(id policy.ChainID) bool {
	const end = " egress"
	return len(id) > len(end) && string(id[len(id)-len(end):]) == end
}

// places says which chains are asked outside the filter table.
func (l *layout) places() map[policy.ChainID]string {
	at := map[policy.ChainID]string{}
	note := func(h *policy.Hook, table string) {
		for i := range h.Tiers {
			for _, id := range h.Tiers[i].Policies {
				at[id] = table
			}
		}
	}
	for _, h := range l.hosts {
		note(&h.PreDNAT, mangle)
		for d := range h.Untracked {
			note(&h.Untracked[d], raw)
		}
	}
	return at
}

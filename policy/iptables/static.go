package iptables

import (
	"fmt"
	"maps"
	"slices"

	"weft/model"
	"weft/policy"
)

// Chains that are always there, or whenever something needs them.
const (
	chainAllow    = "weft-allow"    // a policy allows: notes it, and so leaves the policy
	chainPass     = "weft-pass"     // the same for Pass
	chainAccept   = "weft-accept"   // the end of all our chains
	chainSpoof    = "weft-spoof"    // an address or MAC that is not the pod's
	chainNoPodIn  = "weft-nopod-in" // a device without an entry
	chainNoPodOut = "weft-nopod-out"
	chainFrom     = "weft-from"  // what pods send, by device
	chainTo       = "weft-to"    // what is sent to pods, by device
	chainKnown    = "weft-known" // what this host sends to pods, by device: not policed where there is an entry
	chainOwn      = "weft-own"
	chainSource   = "weft-src" // the sources that pods may use, by device
	chainNotrack  = "weft-notrack"
	chainDecided  = "weft-decided"
	chainToHost   = "weft-pod-to-host"
)

// Tables.
const (
	filter = "filter"
	raw    = "raw"
	mangle = "mangle"
)

// hooks are the places of built-in chains where we are, and the chain that is there. A hook whose
// chain is not rendered is not there.
var hooks = []struct{ table, builtin, chain string }{
	{raw, "PREROUTING", "weft-pre"},
	{raw, "OUTPUT", "weft-out"},
	{mangle, "PREROUTING", "weft-pre"},
	{filter, "INPUT", "weft-input"},
	{filter, "FORWARD", "weft-forward"},
	{filter, "OUTPUT", "weft-output"},
}

const (
	established = "-m conntrack --ctstate RELATED,ESTABLISHED"
	invalid     = "-m conntrack --ctstate INVALID"
)

// layout is what of a Program decides about the chains that are not of one policy or pod.
type layout struct {
	config    model.PolicyConfig
	carriers  []model.Carrier
	hosts     map[string]*policy.Host // that a rule can name
	forwards  bool                    // a host has policies for forwarded traffic
	untracked bool
	preDNAT   bool
}

func (l *layout) early() bool { return l.untracked || l.preDNAT }

func layoutOf(p *policy.Program) *layout {
	l := &layout{config: p.Config, carriers: p.Carriers, hosts: map[string]*policy.Host{}}
	for name, h := range p.Hosts {
		if name != "*" && (!possibleDevice(name) || !expressible(name) || podDevice(name)) {
			continue
		}
		l.hosts[name] = h
		for d := range h.Forward {
			l.forwards = l.forwards || !empty(&h.Forward[d])
			l.untracked = l.untracked || !empty(&h.Untracked[d])
		}
		l.preDNAT = l.preDNAT || !empty(&h.PreDNAT)
	}
	return l
}

// chains are a table's chains of one family.
type chains map[string][]string

// static renders all chains that are not of one policy, pod or host interface.
func (l *layout) static(f model.Family) map[string]chains {
	t := map[string]chains{filter: l.filter(f), raw: l.raw(f)}
	if l.preDNAT {
		t[mangle] = l.mangle()
	}
	return t
}

func (l *layout) filter(f model.Family) chains {
	c := verdicts()
	c[chainAccept] = []string{setMark(0, markAll), "-j ACCEPT"}
	c[chainNoPodIn] = dropped(policy.ByNoProgram, model.Egress)
	c[chainNoPodOut] = dropped(policy.ByNoProgram, model.Ingress)
	if f == model.IPv6 {
		c[chainSpoof] = dropped(policy.BySource, model.Egress)
	}
	l.forward(c)

	// From pods to this host.
	toHost := []string{established + " -g " + chainAccept, invalid + " -j DROP"}
	if f == model.IPv6 {
		toHost = append(toHost, discovery("-g "+chainAccept)...)
	}
	toHost = append(toHost, "-j "+chainFrom)
	if l.config.PodsToHost {
		toHost = append(toHost, "-g "+chainAccept)
	} else {
		toHost = append(toHost, dropped(policy.ByHost, model.Egress)...)
	}
	c[chainToHost] = toHost

	hostIn, hostOut := "", ""
	if len(l.hosts) > 0 {
		hostIn, hostOut = l.dispatch(c, "hi", "-i"), l.dispatch(c, "ho", "-o")
	}
	c["weft-input"] = byDevice("-i", hostIn, "-g "+chainToHost)
	c["weft-output"] = byDevice("-o", hostOut, "-g "+chainKnown)
	c[chainOwn] = []string{"-j RETURN"}
	return c
}

// forward is for what goes on to elsewhere. Only what is from or to a pod, or by an interface whose
// host endpoint has policies for it, is our business; others' rules decide about the rest.
func (l *layout) forward(c chains) {
	c["weft-fwd"] = []string{established + " -g " + chainAccept, invalid + " -j DROP", "-j weft-fwd-in", "-j weft-fwd-out", "-g " + chainAccept}
	other := "-j RETURN"
	in, out := "", ""
	if l.forwards {
		in, out = l.dispatch(c, "fi", "-i"), l.dispatch(c, "fo", "-o")
	}
	if l.forwards || l.early() {
		other = "-g weft-fwd-host"
		c["weft-fwd-host"] = l.forwardHosts(c)
	}
	c["weft-forward"] = []string{"-i weft+ -g weft-fwd-i", "-o weft+ -g weft-fwd-o", other}
	c["weft-fwd-i"] = []string{"! -i weft-+ -g weft-fwd", "-o weft+ -g weft-fwd-o", other}
	c["weft-fwd-o"] = []string{"! -o weft-+ -g weft-fwd", other}
	c["weft-fwd-in"] = byDevice("-i", in, "-g "+chainFrom)
	c["weft-fwd-out"] = byDevice("-o", out, "-g "+chainTo)
}

func (l *layout) forwardHosts(c chains) []string {
	clear := setMark(0, markAll)
	if !l.forwards {
		return []string{clear}
	}
	c["weft-fwd-hosts"] = []string{established + " -g " + chainAccept, "-j weft-fwd-in", "-j weft-fwd-out", mark(markAllow) + " -g " + chainAccept, clear}
	if l.hosts["*"] != nil {
		return []string{"-g weft-fwd-hosts"}
	}
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(l.hosts)) {
		lines = append(lines, "-i "+name+" -g weft-fwd-hosts", "-o "+name+" -g weft-fwd-hosts")
	}
	return append(lines, clear)
}

func (l *layout) raw(f model.Family) chains {
	c := chains{}
	c[chainNoPodIn] = dropped(policy.ByNoProgram, model.Egress)
	spoof := dropped(policy.BySource, model.Egress)
	if f == model.IPv6 {
		spoof = append(discovery("-j RETURN"), spoof...)
	}
	c[chainSpoof] = spoof
	if !l.early() {
		c["weft-pre"] = byDevice("-i", "", "-g "+chainSource)
		return c
	}
	maps.Copy(c, verdicts())
	c[chainNotrack] = []string{"-j CT --notrack", setMark(markDecided, markAll)}
	around := func(root string) []string {
		if !l.untracked {
			return []string{setMark(0, markAll)}
		}
		return []string{setMark(0, markAll), "-j " + root, setMark(0, markAllow|markPass)}
	}
	in, out := "", ""
	if l.untracked {
		in, out = l.dispatch(c, "ui", "-i"), l.dispatch(c, "uo", "-o")
	}
	c["weft-untracked-in"], c["weft-untracked-out"] = around(in), around(out)
	c["weft-pre"] = byDevice("-i", "weft-untracked-in", "-g "+chainSource)
	c["weft-out"] = byDevice("-o", "weft-untracked-out", "-j RETURN")
	return c
}

func (l *layout) mangle() chains {
	c := verdicts()
	c[chainDecided] = []string{setMark(markDecided, markAll)}
	c["weft-predecided"] = []string{established + " -j RETURN", mark(markDecided) + " -j RETURN", "-j " + l.dispatch(c, "di", "-i"), setMark(0, markAllow|markPass)}
	c["weft-pre"] = byDevice("-i", "weft-predecided", "-j RETURN")
	return c
}

func verdicts() chains {
	return chains{chainAllow: {setMark(markAllow, markAllow)}, chainPass: {setMark(markPass, markPass)}}
}

// byDevice tells pods' devices from interfaces, tunnel devices among these.
func byDevice(flag, hosts, pods string) []string {
	if hosts == "" {
		return []string{flag + " weft-+ -j RETURN", flag + " weft+ " + pods}
	}
	return []string{flag + " weft-+ -g " + hosts, flag + " weft+ " + pods, "-g " + hosts}
}

// dispatch adds a chain that leads to the chains of host interfaces, and returns its name. "*" is
// for all others but the loopback, which nothing leaves or enters this host by.
func (l *layout) dispatch(c chains, kind, flag string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(l.hosts)) {
		if name != "*" {
			lines = append(lines, flag+" "+name+" -g "+hostChain(kind, name))
		}
	}
	if l.hosts["*"] != nil {
		if l.hosts["lo"] == nil {
			lines = append(lines, flag+" lo -j RETURN")
		}
		lines = append(lines, "-g "+hostChain(kind, "*"))
	}
	c[prefix+kind] = lines
	return prefix + kind
}

// discovery matches the ICMPv6 messages that a pod's link cannot do without (RFC 4861, RFC 2710).
func discovery(target string) []string {
	var lines []string
	for _, t := range []int{130, 131, 132, 133, 135, 136} {
		lines = append(lines, fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d %s", t, target))
	}
	return lines
}

package nftables

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// The base chains, in the order in which packets meet them, and chains that all of them share.
const (
	chainRaw       = prefix + "prerouting" // sources of pods; untracked policies
	chainPreDNAT   = prefix + "pre-dnat"   // pre-DNAT policies
	chainFrom      = prefix + "forward"    // by where a packet comes from: a pod's egress
	chainTo        = prefix + "forward-to" // by where it goes: a pod's ingress
	chainInput     = prefix + "input"      // to this host
	chainInputPods = prefix + "input-pods" // defaultEndpointToHostAction
	chainRawOutput = prefix + "output-raw" // untracked policies
	chainOutput    = prefix + "output"     // from this host
	chainFromPod   = prefix + "from-pod"   // what pods send, before anything else is asked
	chainSource    = prefix + "source"     // drops what a pod may not send from, returns the rest
	chainInvalid   = prefix + "invalid"    // drops what belongs to no connection and is of a pod or host endpoint
	chainUntracked = prefix + "untracked"  // Allow of an untracked policy
	chainAllowed   = prefix + "allowed"    // Allow of a pre-DNAT policy
	chainNoProgram = prefix + "no-program" // pods' devices without an entry
	chainDecided   = prefix + "decided"    // allowed by one of the two above
	setDiscovery   = prefix + "discovery"  // ICMPv6 types that a link cannot do without

	priorityFrom   = -1 // before chainTo, which is at 0
	priorityInPods = 1  // behind chainInput
)

var discoveryTypes = []byte{130, 131, 132, 133, 135, 136}

// podIn and podOut match pods' devices, with or without an entry; tunnels' names begin with weft- . A name is
// long to load for the kernel: it is loaded once.
func podIn() []expr.Any  { return podLink(nft.InputInterface()) }
func podOut() []expr.Any { return podLink(nft.OutputInterface()) }

func podLink(f nft.Field) []expr.Any {
	return f.IsAndIsNot([]byte(kernel.PodLinkPrefix), []byte(kernel.PodLinkPrefix+"-"))
}

func established() []expr.Any {
	return nft.InState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
}

func isDiscovery() []expr.Any {
	return nft.Rule(nft.Family(model.IPv6), nft.L4Proto().Is(unix.IPPROTO_ICMPV6), nft.In(setDiscovery, nft.ICMPType()))
}

func base(hook *lib.ChainHook, priority lib.ChainPriority, drop bool) *nft.Base {
	return &nft.Base{Type: lib.ChainTypeFilter, Hook: hook, Priority: priority, Drop: drop}
}

// stage is a hook of host endpoints, and how its packets are told.
type stage struct {
	iface nft.Field
	hook  func(*policy.Host) *policy.Hook
	of    hookOf
	name  string
}

// skeleton renders the base chains, and what depends on host endpoints and the configuration.
func skeleton(s *state) *skeletonOf {
	k := &skeletonOf{state: s, tags: map[string]map[int]policy.Tag{}}
	k.failsafes()
	for _, c := range []struct {
		name  string
		base  *nft.Base
		rules func(*chainRules)
	}{
		{chainFromPod, nil, k.fromPod},
		{chainSource, nil, k.source},
		{chainNoProgram, nil, k.noProgram},
		{chainInvalid, nil, k.invalid},
		{chainRaw, base(lib.ChainHookPrerouting, *lib.ChainPriorityRaw, false), k.raw},
		{chainPreDNAT, base(lib.ChainHookPrerouting, *lib.ChainPriorityMangle, false), k.preDNAT},
		{chainFrom, base(lib.ChainHookForward, priorityFrom, true), k.from},
		{chainTo, base(lib.ChainHookForward, *lib.ChainPriorityFilter, true), k.to},
		{chainInput, base(lib.ChainHookInput, *lib.ChainPriorityFilter, false), k.input},
		{chainInputPods, base(lib.ChainHookInput, priorityInPods, false), k.inputPods},
		{chainRawOutput, base(lib.ChainHookOutput, *lib.ChainPriorityRaw, false), k.rawOutput},
		{chainOutput, base(lib.ChainHookOutput, *lib.ChainPriorityFilter, false), k.output},
		{chainDecided, nil, k.decided},
		{chainUntracked, nil, k.untracked},
		{chainAllowed, nil, k.allowed},
	} {
		var r chainRules
		c.rules(&r)
		if c.base != nil && !c.base.Drop && len(r.rules) == 0 {
			continue // each packet would walk it for nothing
		}
		chain := r.chain(c.name)
		chain.Base = c.base
		k.chains = append(k.chains, *chain)
		k.tags[c.name] = r.tags
	}
	return k
}

type skeletonOf struct {
	state  *state
	chains []nft.Chain
	tags   map[string]map[int]policy.Tag // of rules that drop
	uses   []*object
	// Chains that accept failsafe ports, and what they answer, by direction.
	failsafe, failsafeReply [2]*object
}

// sourceKey is what the sets of sources hold.
func sourceKey(f model.Family) []nft.Field {
	return []nft.Field{nft.InputInterface(), nft.SourceMAC(), nft.SourceAddr(f)}
}

// fromPod comes first to what nearly all of a pod's packets are.
func (k *skeletonOf) fromPod(c *chainRules) {
	for _, f := range families {
		c.add("", nft.Family(f), nft.In(sources+familySuffix(f), sourceKey(f)...), nft.Accept())
	}
	c.add("needed for the pod's link", isDiscovery(), nft.In(setPods, nft.InputInterface()), nft.Accept())
	c.add("", nft.Jump(chainSource))
	c.add("", nft.Accept())
}

// source is about packets of pods only.
func (k *skeletonOf) source(c *chainRules) {
	for i, f := range families {
		key := sourceKey(f)
		c.add("", nft.Family(f), nft.In(sources+familySuffix(f), key...), nft.Return())
		if k.state.ranges[i] > 0 {
			c.add("", nft.Family(f), nft.In(ranges+familySuffix(f), key...), nft.Return())
		}
	}
	c.add("", nft.NotIn(setPods, nft.InputInterface()), nft.GoTo(chainNoProgram))
	c.denies("not the pod's address or MAC", policy.Tag{Action: model.Deny, Direction: model.Egress, Cause: policy.BySource})
}

func (k *skeletonOf) noProgram(c *chainRules) {
	c.denies("a pod's device without an entry", policy.Tag{Action: model.Deny, Direction: model.Egress, Cause: policy.ByNoProgram})
}

// raw is the first that sees a packet from outside.
func (k *skeletonOf) raw(c *chainRules) {
	c.add("", nft.SetMark(kernel.PolicyMark, 0))
	c.add("", podIn(), nft.GoTo(chainFromPod))
	k.notTracked(c, nft.DestAddr, nft.SourceAddr)
	k.stage(c, stage{nft.InputInterface(), func(h *policy.Host) *policy.Hook { return &h.Untracked[model.Ingress] },
		hookOf{direction: model.Ingress, end: acceptEnd, skip: k.skip(k.failsafe[model.Ingress], k.failsafeReply[model.Ingress])}, "untracked ingress"})
}

func (k *skeletonOf) preDNAT(c *chainRules) {
	var r chainRules
	if k.stage(&r, stage{nft.InputInterface(), func(h *policy.Host) *policy.Hook { return &h.PreDNAT },
		hookOf{direction: model.Ingress, end: acceptEnd, skip: k.skip(k.failsafe[model.Ingress])}, "pre-DNAT"}) {
		c.add("", podIn(), nft.Accept())
		c.add("", established(), nft.Accept())
		k.aboutCarriers(c)
		c.add("", nft.Marked(decidedBit), nft.Accept())
		c.rules, c.comments = append(c.rules, r.rules...), append(c.comments, r.comments...)
	}
}

func (k *skeletonOf) from(c *chainRules) {
	c.add("", established(), nft.Accept())
	c.add("", nft.InState(expr.CtStateBitINVALID), nft.Jump(chainInvalid))
	c.add("forwarded, it needs a source of the pod's", podIn(), isDiscovery(), nft.Jump(chainSource))
	c.add("", nft.VerdictOf(mapEgress, nft.InputInterface()))
	c.add("", podIn(), nft.GoTo(chainNoProgram))
	if k.hosts() {
		c.add("", nft.Marked(decidedBit), nft.GoTo(chainDecided))
		k.stage(c, stage{nft.InputInterface(), func(h *policy.Host) *policy.Hook { return &h.Forward[model.Ingress] },
			hookOf{direction: model.Ingress, end: acceptEnd}, "forward ingress"})
	}
	c.add("", nft.Accept())
}

func (k *skeletonOf) to(c *chainRules) {
	c.add("", established(), nft.Accept())
	c.add("", nft.VerdictOf(mapIngress, nft.OutputInterface()))
	c.add("", podOut(), nft.GoTo(chainNoProgram))
	k.stage(c, stage{nft.OutputInterface(), func(h *policy.Host) *policy.Hook { return &h.Forward[model.Egress] },
		hookOf{direction: model.Egress, end: acceptEnd}, "forward egress"})
	c.add("", nft.Accept())
}

func (k *skeletonOf) input(c *chainRules) {
	if !k.hosts() { // then it is about pods' links and tunnels alone
		c.add("", nft.InputInterface().IsNot([]byte(kernel.PodLinkPrefix)...), nft.Accept())
	} else {
		k.aboutCarriers(c)
	}
	c.add("", established(), nft.Accept())
	c.add("", nft.InState(expr.CtStateBitINVALID), nft.Jump(chainInvalid))
	c.add("needed for the pod's link", podIn(), isDiscovery(), nft.Accept())
	c.add("", nft.VerdictOf(mapEgress, nft.InputInterface()))
	c.add("", podIn(), nft.GoTo(chainNoProgram))
	if k.hosts() {
		c.add("", nft.Marked(decidedBit), nft.GoTo(chainDecided))
		k.carriers(c, nft.SourceAddr)
		k.stage(c, stage{nft.InputInterface(), func(h *policy.Host) *policy.Hook { return &h.Normal[model.Ingress] },
			hookOf{direction: model.Ingress, end: dropEnd, skip: k.skip(k.failsafe[model.Ingress])}, "ingress"})
	}
}

// inputPods has the last word on what a pod's egress allowed.
func (k *skeletonOf) inputPods(c *chainRules) {
	if k.state.program.Config.PodsToHost {
		return
	}
	c.add("", nft.InputInterface().IsNot([]byte(kernel.PodLinkPrefix)...), nft.Accept())
	c.add("", established(), nft.Accept())
	c.add("needed for the pod's link", isDiscovery(), nft.Accept())
	tag := policy.Tag{Action: model.Deny, Direction: model.Egress, Cause: policy.ByHost}
	c.add("defaultEndpointToHostAction", podIn(), logs(tag))
	c.add("", podIn(), nft.Counted(), nft.Drop())
	c.drops(tag)
}

func (k *skeletonOf) rawOutput(c *chainRules) {
	k.notTracked(c, nft.SourceAddr, nft.DestAddr)
	if !k.hosts() {
		return
	}
	c.add("", nft.SetMark(kernel.PolicyMark, 0))
	c.add("", podOut(), nft.Accept())
	k.stage(c, stage{nft.OutputInterface(), func(h *policy.Host) *policy.Hook { return &h.Untracked[model.Egress] },
		hookOf{direction: model.Egress, end: acceptEnd, skip: k.skip(k.failsafe[model.Egress], k.failsafeReply[model.Egress])}, "untracked egress"})
}

func (k *skeletonOf) output(c *chainRules) {
	c.add("", podOut(), nft.NotIn(setPods, nft.OutputInterface()), nft.GoTo(chainNoProgram))
	if !k.hosts() {
		return
	}
	c.add("this host reaches its own pods", podOut(), nft.Accept())
	c.add("", established(), nft.Accept())
	c.add("", nft.InState(expr.CtStateBitINVALID), nft.Jump(chainInvalid))
	c.add("", nft.Marked(decidedBit), nft.GoTo(chainDecided))
	k.carriers(c, nft.DestAddr)
	k.stage(c, stage{nft.OutputInterface(), func(h *policy.Host) *policy.Hook { return &h.Normal[model.Egress] },
		hookOf{direction: model.Egress, end: dropEnd, skip: k.skip(k.failsafe[model.Egress])}, "egress"})
}

// carriers lets tunnels' packets pass between nodes. The sets have single addresses only, so that they keep
// one layout and name.
func (k *skeletonOf) carriers(c *chainRules, peer func(model.Family) nft.Field) {
	for _, t := range k.state.program.Carriers {
		if k.state.sets[policy.PeersOf(t.Family)] == nil {
			continue // the kernel refused the set
		}
		match := nft.Rule(nft.Family(t.Family), nft.L4Proto().Is(byte(t.Protocol)))
		if t.Port != 0 {
			match = nft.Rule(match, nft.DestPort().Is(nft.Port(int(t.Port))...))
		}
		c.add("tunnels between nodes", match, nft.In(hashName(policy.PeersOf(t.Family)), peer(t.Family)), nft.Accept())
	}
}

// matchCarrier matches a tunnel's packets, what most packets fail first. ok is false when
// the kernel refused the set of peers.
func (k *skeletonOf) matchCarrier(t model.Carrier) (m []expr.Any, ok bool) {
	m = nft.Rule(nft.L4Proto().Is(byte(t.Protocol)))
	if t.Port != 0 {
		m = nft.Rule(m, nft.DestPort().Is(nft.Port(int(t.Port))...))
	}
	return nft.Rule(m, nft.Family(t.Family)), k.state.sets[policy.PeersOf(t.Family)] != nil
}

// notTracked keeps what tunnels send between this node and others out of connection tracking, where each would
// be one connection more for each of those that it carries. What comes next sees it all the same.
func (k *skeletonOf) notTracked(c *chainRules, own, peer func(model.Family) nft.Field) {
	for _, t := range k.state.program.Carriers {
		m, ok := k.matchCarrier(t)
		for _, a := range k.state.program.Local {
			if ok && model.FamilyOf(a) == t.Family {
				c.add("tunnels between nodes", m, own(t.Family).Is(a.AsSlice()...), nft.In(hashName(policy.PeersOf(t.Family)), peer(t.Family)), nft.NoTrack())
			}
		}
	}
}

// aboutCarriers lets in what the underlay's routers answer to tunnels' packets: that they are too big, or their
// destination is gone. As these are not tracked, tracking does not know what the answers are related to.
func (k *skeletonOf) aboutCarriers(c *chainRules) {
	for _, t := range k.state.program.Carriers {
		for _, a := range k.state.program.Local {
			if model.FamilyOf(a) == t.Family && k.state.sets[policy.PeersOf(t.Family)] != nil {
				c.add("about tunnels between nodes", about(t, a, hashName(policy.PeersOf(t.Family))), nft.Accept())
			}
		}
	}
}

// about matches ICMP that says of a tunnel's packet from own to one of peers: unreachable or too big.
func about(t model.Carrier, own netip.Addr, peers string) []expr.Any {
	// The packet that it is about stands behind 8 bytes of ICMP; ours have no IP options.
	const quoted = 8
	errors, protocol, header := nft.Rule(nft.L4Proto().Is(unix.IPPROTO_ICMP), nft.Family(t.Family), nft.ICMPType().Is(3)), uint32(9), uint32(20) // RFC 792
	if t.Family == model.IPv6 {
		errors = nft.Rule(nft.L4Proto().Is(unix.IPPROTO_ICMPV6), nft.Family(t.Family), nft.ICMPType().InRange([]byte{1}, []byte{2})) // RFC 4443
		protocol, header = 6, 40
	}
	at := func(offset, length uint32) nft.Field {
		return nft.Payload(expr.PayloadBaseTransportHeader, quoted+offset, length)
	}
	source, length := nft.SourceAt(t.Family)
	m := nft.Rule(errors, at(protocol, 1).Is(byte(t.Protocol)), at(source, length).Is(own.AsSlice()...))
	if t.Port != 0 {
		m = nft.Rule(m, at(header+2, 2).Is(nft.Port(int(t.Port))...))
	}
	return nft.Rule(m, nft.In(peers, at(source+length, length)))
}

func (k *skeletonOf) decided(c *chainRules) {
	c.add("", nft.SetMark(decidedBit, 0), nft.Accept())
}

func (k *skeletonOf) untracked(c *chainRules) {
	c.add("", nft.NoTrack(), nft.SetMark(decidedBit, decidedBit), nft.Accept())
}

func (k *skeletonOf) allowed(c *chainRules) {
	c.add("", nft.SetMark(decidedBit, decidedBit), nft.Accept())
}

func (k *skeletonOf) hosts() bool { return len(k.state.program.Hosts) > 0 }

// invalid is where packets go that connection tracking cannot place.
func (k *skeletonOf) invalid(c *chainRules) {
	drop := func(match ...[]expr.Any) {
		c.add("", nft.Rule(match...), nft.Counted(), nft.Drop())
		c.drops(denyInvalid)
	}
	drop(podIn())
	drop(podOut())
	switch {
	case k.state.program.Hosts["*"] != nil:
		drop(nft.InputInterface().IsNot([]byte("lo\x00")...), nft.OutputInterface().IsNot([]byte("lo\x00")...))
	case k.hosts():
		var e []lib.SetElement
		for _, name := range slices.Sorted(maps.Keys(k.state.program.Hosts)) {
			e = append(e, lib.SetElement{Key: deviceKey(name)})
		}
		o := k.state.list(strings.Join(slices.Sorted(maps.Keys(k.state.program.Hosts)), "\n"), lib.Set{KeyType: lib.TypeIFName}, e)
		k.uses = append(k.uses, o)
		drop(nft.In(o.name, nft.InputInterface()))
		drop(nft.In(o.name, nft.OutputInterface()))
	}
}

func (k *skeletonOf) skip(chains ...*object) []*object {
	return slices.DeleteFunc(chains, func(o *object) bool { return o == nil })
}

// stage asks the host endpoints' hooks of one kind, by interface, and tells whether there are any.
func (k *skeletonOf) stage(c *chainRules, st stage) bool {
	hosts := k.state.program.Hosts
	hookOfHost := func(h *policy.Host) *object {
		hook := st.hook(h)
		if st.of.end == acceptEnd && len(hook.Tiers)+len(hook.Profiles) == 0 {
			return nil
		}
		return k.state.hook(hook, st.of)
	}
	found := false
	var e []lib.SetElement
	text := st.name
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		o := hookOfHost(hosts[name])
		found = found || o != nil
		v := &expr.Verdict{Kind: expr.VerdictAccept}
		if o != nil {
			v = &expr.Verdict{Kind: expr.VerdictJump, Chain: o.name}
		}
		if o != nil && name == "*" {
			k.uses = append(k.uses, o)
		}
		if name == "*" {
			continue
		}
		e = append(e, lib.SetElement{Key: deviceKey(name), VerdictData: v})
		text += "\n" + name + " " + v.Chain
	}
	if !found {
		return false
	}
	if len(e) > 0 {
		spec := specDispatch("", "host endpoints: "+st.name)
		m := k.state.object(digest("hosts", text), func(o *object) {
			spec.Name = o.name
			o.set = &nft.Set{Spec: spec, Elements: func() []lib.SetElement { return e }}
			for _, name := range slices.Sorted(maps.Keys(hosts)) {
				if hook := hookOfHost(hosts[name]); hook != nil && name != "*" {
					o.uses = append(o.uses, hook)
				}
			}
		})
		k.uses = append(k.uses, m)
		c.add("", nft.VerdictOf(m.name, st.iface))
	}
	if h := hosts["*"]; h != nil {
		if o := hookOfHost(h); o != nil {
			c.add("*", st.iface.IsNot([]byte("lo\x00")...), nft.Jump(o.name))
		}
	}
	return true
}

// failsafes makes the chains that accept failsafe ports, and those that accept what they answer.
func (k *skeletonOf) failsafes() {
	cfg := &k.state.program.Config
	if !k.hosts() {
		return
	}
	in, out := cfg.FailsafeIn, cfg.FailsafeOut
	k.failsafe[model.Ingress] = k.failsafeChain("in", in, nft.DestPort(), nft.SourceAddr)
	k.failsafe[model.Egress] = k.failsafeChain("out", out, nft.DestPort(), nft.DestAddr)
	k.failsafeReply[model.Ingress] = k.failsafeChain("in-reply", out, nft.SourcePort(), nft.SourceAddr)
	k.failsafeReply[model.Egress] = k.failsafeChain("out-reply", in, nft.SourcePort(), nft.DestAddr)
}

func (k *skeletonOf) failsafeChain(kind string, list []model.Failsafe, port nft.Field, peer func(model.Family) nft.Field) *object {
	if len(list) == 0 {
		return nil
	}
	text := make([]string, len(list))
	for i, f := range list {
		text[i] = f.Protocol.String() + " " + f.Net.String() + " " + string(nft.Port(int(f.Port)))
	}
	return k.state.object(digest("failsafe", append(text, kind)...), func(o *object) {
		var c chainRules
		for _, f := range list {
			match := nft.Rule(nft.L4Proto().Is(byte(f.Protocol)), port.Is(nft.Port(int(f.Port))...))
			if f.Net.IsValid() {
				match = nft.Rule(inPrefix(f.Net, peer, expr.CmpOpEq), match)
			}
			c.add("failsafe "+kind, match, nft.Accept())
		}
		o.chain = c.chain(o.name)
	})
}

func discoverySet() nft.Set {
	return nft.Set{Spec: lib.Set{Name: setDiscovery, KeyType: lib.TypeICMP6Type, KeyByteOrder: binaryutil.BigEndian, Comment: "neighbour and multicast listener discovery"},
		Elements: func() []lib.SetElement {
			var e []lib.SetElement
			for _, t := range discoveryTypes {
				e = append(e, lib.SetElement{Key: []byte{t}})
			}
			return e
		}}
}

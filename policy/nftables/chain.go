package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	lib "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// entry is what an nftables rule of a chain stands for.
type entry struct {
	rules  []int // by Index in the resource; several are folded into one
	action model.Action
	source []refusedRule // what to leave out when the kernel refuses it
	lists  []*object     // that it looks something up in, which are refused with it
	sets   []policy.SetID
}

func chainName(id policy.ChainID) string { return digest("rules", string(id)) }

func isProfile(id policy.ChainID) bool { return strings.HasPrefix(string(id), "Profile ") }

func directionOf(id policy.ChainID) model.Direction {
	if strings.HasSuffix(string(id), " "+model.Egress.String()) {
		return model.Egress
	}
	return model.Ingress
}

// setChain renders a chain that is new or changed, and tells whether hooks must call it differently.
func (s *state) setChain(id policy.ChainID) (turned bool) {
	c := s.program.Chains[id]
	if c == nil || c.Staged {
		s.removeChain(id)
		return false
	}
	old, now := s.chains[id], s.render(c)
	s.acquire(now.uses)
	s.chains[id] = now
	if old == nil {
		s.todo.chains = append(s.todo.chains, now.Chain)
	} else {
		s.release(old.uses)
	}
	s.todo.rules = append(s.todo.rules, now.Chain)
	return old == nil || old.passes != now.passes
}

func (s *state) removeChain(id policy.ChainID) {
	if old := s.chains[id]; old != nil {
		s.release(old.uses)
		s.todo.chainsGone = append(s.todo.chainsGone, old.Name)
		delete(s.chains, id)
	}
}

// rendering is a chain in the making.
type rendering struct {
	*state
	chainRules
	id   policy.ChainID
	of   []entry
	uses []*object
}

func (s *state) render(c *policy.Chain) *chainState {
	r := &rendering{state: s, id: c.ID}
	now := &chainState{id: c.ID, rules: c.Rules}
	for _, u := range fold(c.Rules) {
		if u.rule.Action == model.Pass && !isProfile(c.ID) {
			now.passes = true
		}
		r.unit(&u)
	}
	now.Chain = *r.chain(chainName(c.ID))
	now.of, now.uses = r.of, r.uses
	return now
}

// unit renders a rule, or several that were folded into one.
func (r *rendering) unit(u *unit) {
	e := entry{action: u.rule.Action}
	for i, index := range u.indices {
		key := refusedRule{r.id, u.text(i)}
		e.source = append(e.source, key)
		e.rules = append(e.rules, index)
		if r.refused.rules[key] == nil && !u.rules[i].RefersTo(r.refused.set) {
			continue
		}
		// The kernel would not have it. What it allowed is not allowed; where it denied or passed
		// over others that allow, nothing of its family gets any further.
		if u.rule.Action == model.Deny || u.rule.Action == model.Pass {
			r.of = append(r.of, entry{rules: e.rules, action: model.Deny})
			var of []expr.Any
			if u.rule.Family != 0 {
				of = nft.Family(u.rule.Family)
			}
			r.add(r.comment(u)+" (refused by the kernel)", of, nft.Counted(), nft.GoTo(r.deny(u.rule.Index).name))
		}
		return
	}
	u.rule.EachSet(func(id policy.SetID, _ bool) { e.sets = append(e.sets, id) }) // rules that differ in sets are not folded
	before := len(r.uses)
	matches := r.alternatives(u)
	e.lists = r.uses[before:len(r.uses):len(r.uses)]
	for _, match := range matches {
		r.of = append(r.of, e)
		r.add(r.comment(u), match, nft.Counted(), r.action(u))
	}
}

func (r *rendering) comment(u *unit) string {
	if len(u.indices) == 1 {
		return fmt.Sprintf("%s, rule %d", r.id, u.indices[0])
	}
	return fmt.Sprintf("%s, rules %d to %d", r.id, u.indices[0], u.indices[len(u.indices)-1])
}

func (r *rendering) action(u *unit) []expr.Any {
	switch u.rule.Action {
	case model.Allow:
		switch r.places[r.id] {
		case atUntracked:
			return nft.GoTo(chainUntracked)
		case atPreDNAT:
			return nft.GoTo(chainAllowed)
		}
		return nft.Accept()
	case model.Deny:
		return nft.GoTo(r.deny(u.rule.Index).name)
	case model.Log:
		return logs(r.tag(model.Log, u.rule.Index))
	}
	if isProfile(r.id) {
		return nft.Return()
	}
	return nft.Rule(nft.SetMark(passBit, passBit), nft.Return())
}

func (r *rendering) tag(a model.Action, index int) policy.Tag {
	return policy.Tag{Action: a, Direction: directionOf(r.id), Cause: policy.ByRule, Name: policy.TagName(string(r.id)), Rule: index}
}

// deny is the chain that logs and drops what a rule denies.
func (r *rendering) deny(index int) *object {
	o := r.object(digest("deny", string(r.id), fmt.Sprint(index)), func(o *object) {
		var c chainRules
		c.add(fmt.Sprintf("%s, rule %d", r.id, index), logs(r.tag(model.Deny, index)))
		c.add("", nft.Drop())
		o.chain = c.chain(o.name)
	})
	r.uses = append(r.uses, o)
	return o
}

// lookup notes that a rule uses a set of fixed content.
func (r *rendering) lookup(o *object) string {
	r.uses = append(r.uses, o)
	return o.name
}

// alternatives returns what a packet must fulfil: all of one of them. None is a rule that nothing fulfils.
func (r *rendering) alternatives(u *unit) [][]expr.Any {
	rule := &u.rule
	withPorts := rule.Protocol.HasPorts() || u.keys != nil && u.withPorts
	wants := rule.Src.Ports != nil || rule.Dst.Ports != nil
	if wants && rule.Protocol != 0 && !withPorts {
		return nil // a packet of this protocol has no ports to be one of them
	}
	head := r.head(u)
	ends := both(r.end(&rule.Src, nft.SourceAddr, rule.Family), r.end(&rule.Dst, nft.DestAddr, rule.Family))
	tails := both(ends, [][]expr.Any{r.icmp(rule)})
	not := nft.Rule(r.notPorts(rule.Src.NotPorts, rule.Family, nft.SourceAddr, nft.SourcePort()),
		r.notPorts(rule.Dst.NotPorts, rule.Family, nft.DestAddr, nft.DestPort()))
	switch {
	case len(not) == 0:
	case withPorts || wants:
		tails = both(tails, [][]expr.Any{not})
	case rule.Protocol != 0: // a protocol without ports: its packets are none of these
	default:
		// Packets without ports are none of these either, and have none to look at.
		ported := r.lookup(r.protocolsWithPorts())
		return both([][]expr.Any{nft.Rule(head, nft.NotIn(ported, nft.L4Proto())), nft.Rule(head, nft.In(ported, nft.L4Proto()), not)}, tails)
	}
	ports := both(r.ports(rule.Dst.Ports, rule.Family, nft.DestAddr, nft.DestPort()), r.ports(rule.Src.Ports, rule.Family, nft.SourceAddr, nft.SourcePort()))
	return both(both([][]expr.Any{head}, ports), tails)
}

// both returns the ways in which one of a and one of b is fulfilled.
func both(a, b [][]expr.Any) [][]expr.Any {
	var all [][]expr.Any
	for _, x := range a {
		for _, y := range b {
			all = append(all, nft.Rule(x, y))
		}
	}
	return all
}

// head is what most packets fail first.
func (r *rendering) head(u *unit) []expr.Any {
	rule := &u.rule
	var e []expr.Any
	if rule.Family != 0 {
		e = nft.Rule(e, nft.Family(rule.Family))
	}
	if rule.Protocol != 0 {
		e = nft.Rule(e, nft.L4Proto().Is(byte(rule.Protocol)))
	}
	if rule.NotProtocol != 0 {
		e = nft.Rule(e, nft.L4Proto().IsNot(byte(rule.NotProtocol)))
	}
	if u.keys != nil {
		e = nft.Rule(e, nft.In(r.lookup(r.list(u.keysText, u.keysSpec, u.keys)), u.fields...))
	}
	return e
}

func (r *rendering) icmp(rule *policy.Rule) []expr.Any {
	var e []expr.Any
	if m := rule.ICMP; m != nil {
		if m.HasCode {
			e = nft.Rule(e, nft.ICMPTypeAndCode().Is(m.Type, m.Code))
		} else {
			e = nft.Rule(e, nft.ICMPType().Is(m.Type))
		}
	}
	if m := rule.NotICMP; m != nil {
		if m.HasCode {
			e = nft.Rule(e, nft.ICMPTypeAndCode().IsNot(m.Type, m.Code))
		} else {
			e = nft.Rule(e, nft.ICMPType().IsNot(m.Type))
		}
	}
	return e
}

// end returns the ways in which an address can be what is asked.
func (r *rendering) end(m *policy.Match, addr func(model.Family) nft.Field, f model.Family) [][]expr.Any {
	var e []expr.Any
	switch len(m.Nets) {
	case 0:
	case 1:
		e = nft.Rule(e, inPrefix(m.Nets[0], addr, expr.CmpOpEq))
	default:
		e = nft.Rule(e, nft.In(r.lookup(r.addresses(f, m.Nets)), addr(f)))
	}
	switch len(m.NotNets) {
	case 0:
	case 1:
		e = nft.Rule(e, inPrefix(m.NotNets[0], addr, expr.CmpOpNeq))
	default:
		e = nft.Rule(e, nft.NotIn(r.lookup(r.addresses(f, m.NotNets)), addr(f)))
	}
	for _, id := range m.NotIn {
		for _, n := range r.tablesOf(id) {
			e = nft.Rule(e, nft.NotIn(n.name, n.field(addr(f), f)))
		}
	}
	ways := [][]expr.Any{e}
	for _, id := range m.In {
		var in [][]expr.Any
		for _, n := range r.tablesOf(id) {
			in = append(in, nft.In(n.name, n.field(addr(f), f)))
		}
		ways = both(in, ways)
	}
	return ways
}

// field is what is looked up of an address.
func (n table) field(addr nft.Field, f model.Family) nft.Field {
	if n.bits < 0 {
		return addr
	}
	return addr.Masked(nft.PrefixMask(f, n.bits))
}

// inPrefix matches an address in a prefix, and its family; CmpOpNeq one that is not in it, family aside.
func inPrefix(n netip.Prefix, addr func(model.Family) nft.Field, op expr.CmpOp) []expr.Any {
	n = n.Masked()
	f := model.FamilyOf(n.Addr())
	if n.Bits() == 0 && op == expr.CmpOpEq {
		return nft.Family(f)
	}
	field := addr(f).Masked(nft.PrefixMask(f, n.Bits()))
	if op == expr.CmpOpNeq {
		return field.IsNot(n.Addr().AsSlice()...)
	}
	return nft.Rule(nft.Family(f), field.Is(n.Addr().AsSlice()...))
}

func (r *rendering) tablesOf(id policy.SetID) []table {
	if t := r.sets[id]; t != nil {
		return t.tables()
	}
	return []table{{hashName(id), -1}} // there is none; the kernel will say so
}

// ports returns the ways in which an end can be one of some ports; one that asks nothing when any will do.
func (r *rendering) ports(p *policy.Ports, f model.Family, addr func(model.Family) nft.Field, port nft.Field) [][]expr.Any {
	if p == nil {
		return [][]expr.Any{nil}
	}
	var ways [][]expr.Any
	switch len(p.Ranges) {
	case 0:
	case 1:
		ways = append(ways, inPortRange(p.Ranges[0], port, false))
	default:
		ways = append(ways, nft.In(r.lookup(r.portRanges(p.Ranges)), port))
	}
	for _, id := range p.Sets {
		ways = append(ways, nft.In(hashName(id), addr(f), nft.L4Proto(), port))
	}
	return ways
}

// notPorts matches packets with ports whose end is none of these.
func (r *rendering) notPorts(p *policy.Ports, f model.Family, addr func(model.Family) nft.Field, port nft.Field) []expr.Any {
	if p == nil {
		return nil
	}
	var e []expr.Any
	switch len(p.Ranges) {
	case 0:
	case 1:
		e = inPortRange(p.Ranges[0], port, true)
	default:
		e = nft.NotIn(r.lookup(r.portRanges(p.Ranges)), port)
	}
	for _, id := range p.Sets {
		e = nft.Rule(e, nft.NotIn(hashName(id), addr(f), nft.L4Proto(), port))
	}
	return e
}

func inPortRange(p model.PortRange, port nft.Field, not bool) []expr.Any {
	first, last := nft.Port(int(p.First)), nft.Port(int(p.Last))
	switch {
	case p.First == p.Last && not:
		return port.IsNot(first...)
	case p.First == p.Last:
		return port.Is(first...)
	case not:
		return port.NotInRange(first, last)
	}
	return port.InRange(first, last)
}

// portRanges is a set of port numbers.
func (s *state) portRanges(list []model.PortRange) *object {
	spec := lib.Set{KeyType: lib.TypeInetService}
	var text []string
	for _, p := range list {
		text = append(text, p.String())
		spec.Interval = spec.Interval || p.First != p.Last
	}
	var e []lib.SetElement
	for _, p := range list {
		one := lib.SetElement{Key: nft.Port(int(p.First))}
		if spec.Interval {
			one.KeyEnd = nft.Port(int(p.Last))
		}
		e = append(e, one)
	}
	return s.list(strings.Join(text, ","), spec, e)
}

func (s *state) protocolsWithPorts() *object {
	return s.list("with ports", lib.Set{KeyType: lib.TypeInetProto}, []lib.SetElement{
		{Key: []byte{unix.IPPROTO_TCP}}, {Key: []byte{unix.IPPROTO_UDP}}, {Key: []byte{unix.IPPROTO_SCTP}}})
}

// has tells whether the chain has the rule.
func (c *chainState) has(key refusedRule) bool {
	return slices.ContainsFunc(c.rules, func(r policy.Rule) bool { return r.String() == key.rule })
}

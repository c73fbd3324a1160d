package nftables

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	lib "github.com/google/nftables"

	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// unit is a rule of the Program, or several in a row that one lookup answers for.
type unit struct {
	rule    policy.Rule // what all have in common
	indices []int
	rules   []policy.Rule

	// keys are what they differ in, one of which the fields of a packet must be; nil: in nothing.
	keys      []lib.SetElement
	keysText  string
	keysSpec  lib.Set
	fields    []nft.Field
	withPorts bool // the keys are of protocols with ports
}

func (u *unit) text(i int) string { return u.rules[i].String() }

// mostKeys is how many keys one rule may become.
const mostKeys = 64

// shape is a way in which rules may differ and still be one.
type shape struct {
	fits  func(*policy.Rule) bool
	strip func(*policy.Rule) // what they may differ in
	fold  func(*unit)
}

var shapes = []shape{
	{hasPorts, stripPorts, foldPorts},
	{func(r *policy.Rule) bool { return len(r.Src.Nets) > 0 }, func(r *policy.Rule) { r.Src.Nets = nil }, func(u *unit) { u.rule.Src.Nets = u.nets(srcOf) }},
	{func(r *policy.Rule) bool { return len(r.Dst.Nets) > 0 }, func(r *policy.Rule) { r.Dst.Nets = nil }, func(u *unit) { u.rule.Dst.Nets = u.nets(dstOf) }},
	{func(r *policy.Rule) bool { return hasPairs(r, srcOf) }, func(r *policy.Rule) { stripPorts(r); r.Src.Nets = nil }, func(u *unit) { u.pairs(srcOf, nft.SourceAddr) }},
	{func(r *policy.Rule) bool { return hasPairs(r, dstOf) }, func(r *policy.Rule) { stripPorts(r); r.Dst.Nets = nil }, func(u *unit) { u.pairs(dstOf, nft.DestAddr) }},
}

func srcOf(r *policy.Rule) *policy.Match { return &r.Src }
func dstOf(r *policy.Rule) *policy.Match { return &r.Dst }

// fold makes one of rules in a row that allow, and differ in their ports or addresses only: whichever of
// them matches, the packet is allowed. Rules that deny are left apart, so that the log can name them.
func fold(rules []policy.Rule) []unit {
	rules = byFamily(rules)
	var units []unit
	for len(rules) > 0 {
		n, best := 1, -1
		for i := range shapes {
			if m := shapes[i].run(rules); m > n {
				n, best = m, i
			}
		}
		u := unit{rule: rules[0], rules: rules[:n]}
		for i := range n {
			u.indices = append(u.indices, rules[i].Index)
		}
		if best >= 0 {
			shapes[best].fold(&u)
		}
		units = append(units, u)
		rules = rules[n:]
	}
	return units
}

// byFamily puts rules that allow, and have only such between them, in the order of their families, by which
// none comes before one that matches the same packets: what was split by family stands between others.
func byFamily(rules []policy.Rule) []policy.Rule {
	sorted := slices.Clone(rules)
	for i := 0; i < len(sorted); i++ {
		n := i
		for n < len(sorted) && sorted[n].Action == model.Allow && sorted[n].Family != 0 {
			n++
		}
		if n > i {
			slices.SortStableFunc(sorted[i:n], func(a, b policy.Rule) int { return cmp.Compare(a.Family, b.Family) })
			i = n
		}
	}
	return sorted
}

// run returns how many of the first rules are alike but for what the shape strips.
func (s *shape) run(rules []policy.Rule) int {
	first := ""
	for i := range rules {
		if rules[i].Action != model.Allow || !s.fits(&rules[i]) {
			return i
		}
		r := rules[i]
		r.Index = 0
		s.strip(&r)
		if text := r.String(); i == 0 {
			first = text
		} else if text != first {
			return i
		}
	}
	return len(rules)
}

// hasPorts tells whether a rule asks for destination ports by number, not too many.
func hasPorts(r *policy.Rule) bool {
	if !r.Protocol.HasPorts() || r.Dst.Ports == nil || len(r.Dst.Ports.Sets) > 0 {
		return false
	}
	n := 0
	for _, p := range r.Dst.Ports.Ranges {
		n += int(p.Last) - int(p.First) + 1
	}
	return n <= mostKeys
}

func stripPorts(r *policy.Rule) { r.Protocol, r.Dst.Ports = 0, nil }

func hasPairs(r *policy.Rule, end func(*policy.Rule) *policy.Match) bool {
	nets := end(r).Nets
	return hasPorts(r) && len(nets) > 0 && len(nets) <= mostKeys && !slices.ContainsFunc(nets, func(n netip.Prefix) bool { return !n.IsSingleIP() })
}

// protocolPort is a key as it stands in a packet's registers.
func protocolPort(p model.Protocol, port int) []byte {
	return []byte{byte(p), 0, 0, 0, byte(port >> 8), byte(port), 0, 0}
}

// eachPort calls f with each protocol and port of a rule.
func eachPort(r *policy.Rule, f func(p model.Protocol, port int)) {
	for _, p := range r.Dst.Ports.Ranges {
		for port := int(p.First); port <= int(p.Last); port++ {
			f(r.Protocol, port)
		}
	}
}

func foldPorts(u *unit) {
	u.keysSpec = lib.Set{KeyType: lib.MustConcatSetType(lib.TypeInetProto, lib.TypeInetService), Concatenation: true}
	u.fields = []nft.Field{nft.L4Proto(), nft.DestPort()}
	stripPorts(&u.rule)
	for i := range u.rules {
		eachPort(&u.rules[i], func(p model.Protocol, port int) {
			u.key(protocolPort(p, port), fmt.Sprintf("%s/%d", p, port))
		})
	}
	u.done()
}

// pairs makes the keys address, protocol and port, of one end.
func (u *unit) pairs(end func(*policy.Rule) *policy.Match, addr func(model.Family) nft.Field) {
	f := u.rule.Family
	u.keysSpec = lib.Set{KeyType: lib.MustConcatSetType(nft.AddrType(f), lib.TypeInetProto, lib.TypeInetService), Concatenation: true}
	u.fields = []nft.Field{addr(f), nft.L4Proto(), nft.DestPort()}
	stripPorts(&u.rule)
	end(&u.rule).Nets = nil
	for i := range u.rules {
		for _, n := range end(&u.rules[i]).Nets {
			eachPort(&u.rules[i], func(p model.Protocol, port int) {
				u.key(append(n.Addr().AsSlice(), protocolPort(p, port)...), fmt.Sprintf("%s %s/%d", n.Addr(), p, port))
			})
		}
	}
	u.done()
}

func (u *unit) key(key []byte, text string) {
	u.withPorts = true
	u.keys = append(u.keys, lib.SetElement{Key: key})
	u.keysText += text + "\n"
}

// done sorts the keys, each once, so that the order of rules makes no difference to the set's name.
func (u *unit) done() {
	slices.SortFunc(u.keys, func(a, b lib.SetElement) int { return slices.Compare(a.Key, b.Key) })
	u.keys = slices.CompactFunc(u.keys, func(a, b lib.SetElement) bool { return slices.Equal(a.Key, b.Key) })
	lines := strings.Split(u.keysText, "\n")
	slices.Sort(lines)
	u.keysText = strings.Join(slices.Compact(lines), "\n")
}

// nets joins the prefixes of one end, without those that are within another.
func (u *unit) nets(end func(*policy.Rule) *policy.Match) []netip.Prefix {
	var all []netip.Prefix
	for i := range u.rules {
		all = append(all, end(&u.rules[i]).Nets...)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	joined := all[:0]
	for _, n := range all {
		if len(joined) == 0 || !joined[len(joined)-1].Overlaps(n) {
			joined = append(joined, n)
		}
	}
	return joined
}

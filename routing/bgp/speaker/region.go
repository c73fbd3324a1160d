package speaker

import (
	"fmt"
	"net/netip"
	"slices"

	"weft/routing"
)

// span is every prefix inside of one, of a length within bounds (in bits).
type span struct {
	in       netip.Prefix
	min, max int
}

// spansOf returns the prefixes that CIDR, Match and the lengths of a rule mean, in one family; all is true
// where that is every one.
func spansOf(r routing.FilterRule, four bool) (spans []span, all bool) {
	bits := 128
	if four {
		bits = 32
	}
	high := bits
	if r.MaxLength > 0 {
		high = min(bits, r.MaxLength)
	}
	low := r.MinLength
	add := func(p netip.Prefix, from, to int) {
		if from, to = max(from, low, p.Bits()), min(to, high); from <= to {
			spans = append(spans, span{p, from, to})
		}
	}
	other := r.CIDR.IsValid() && r.CIDR.Addr().Is4() != four
	if other && (r.Match == routing.MatchEqual || r.Match == routing.MatchIn) {
		return nil, false
	}
	if !r.CIDR.IsValid() || other {
		root := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if four {
			root = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		add(root, 0, bits)
		return spans, low <= 0 && high == bits
	}
	c := r.CIDR.Masked()
	switch r.Match {
	case routing.MatchEqual:
		add(c, c.Bits(), c.Bits())
	case routing.MatchIn:
		add(c, c.Bits(), bits)
	case routing.MatchNotEqual, routing.MatchNotIn:
		if r.Match == routing.MatchNotEqual {
			add(c, c.Bits()+1, bits)
		}
		for n := range c.Bits() {
			wider := netip.PrefixFrom(c.Addr(), n).Masked()
			add(wider, n, n)
			add(sibling(netip.PrefixFrom(c.Addr(), n+1).Masked()), n+1, bits)
		}
	}
	return spans, false
}

// sibling returns the other half of the prefix that is one bit shorter.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	i := p.Bits() - 1
	b[i/8] ^= 0x80 >> (i % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// spansOfSet returns the prefixes of a set, of one family.
func spansOfSet(s routing.PrefixSet, four bool) []span {
	bits := 128
	if four {
		bits = 32
	}
	seen := map[span]bool{}
	var spans []span
	add := func(x span) {
		if !seen[x] {
			seen[x] = true
			spans = append(spans, x)
		}
	}
	for _, p := range s.Exact {
		if p = p.Masked(); p.Addr().Is4() == four {
			add(span{p, p.Bits(), p.Bits()})
		}
	}
	for _, p := range s.Within {
		if p = p.Masked(); p.Addr().Is4() == four {
			add(span{p, p.Bits(), bits})
		}
	}
	for _, p := range s.Covers {
		if p = p.Masked(); p.Addr().Is4() == four {
			for n := range p.Bits() + 1 {
				add(span{netip.PrefixFrom(p.Addr(), n).Masked(), n, n})
			}
		}
	}
	return spans
}

// both returns the prefixes that are in a as well as in b.
func both(a, b []span) []span {
	var out []span
	for _, x := range a {
		for _, y := range b {
			in := x.in
			switch {
			case !x.in.Overlaps(y.in):
				continue
			case y.in.Bits() > in.Bits():
				in = y.in
			}
			z := span{in, max(x.min, y.min, in.Bits()), min(x.max, y.max)}
			if z.min <= z.max && !slices.Contains(out, z) {
				out = append(out, z)
			}
		}
	}
	return out
}

func (s span) String() string { return fmt.Sprintf("%v %d-%d", s.in, s.min, s.max) }

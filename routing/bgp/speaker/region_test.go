package speaker

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"weft/routing"
)

// matches is what a rule's prefix conditions mean, said as plainly as can be.
func matches(r routing.FilterRule, p netip.Prefix) bool {
	if p.Bits() < r.MinLength || r.MaxLength > 0 && p.Bits() > r.MaxLength {
		return false
	}
	if !r.CIDR.IsValid() {
		return true
	}
	in := r.CIDR.Bits() <= p.Bits() && r.CIDR.Contains(p.Addr())
	switch r.Match {
	case routing.MatchEqual:
		return p == r.CIDR.Masked()
	case routing.MatchNotEqual:
		return p != r.CIDR.Masked()
	case routing.MatchIn:
		return in
	}
	return !in
}

func inSet(s routing.PrefixSet, p netip.Prefix) bool {
	for _, x := range s.Exact {
		if x == p {
			return true
		}
	}
	for _, x := range s.Within {
		if x.Bits() <= p.Bits() && x.Contains(p.Addr()) {
			return true
		}
	}
	for _, x := range s.Covers {
		if p.Bits() <= x.Bits() && p.Contains(x.Addr()) {
			return true
		}
	}
	return false
}

func inSpans(spans []span, p netip.Prefix) bool {
	for _, s := range spans {
		if s.in.Contains(p.Addr()) && p.Bits() >= s.in.Bits() && s.min <= p.Bits() && p.Bits() <= s.max {
			return true
		}
	}
	return false
}

// Prefixes are drawn from few addresses, so that they often contain each other.
func drawPrefix(t *rapid.T, four bool, label string) netip.Prefix {
	b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 128}), 16, 16).Draw(t, label)
	a, bits := netip.AddrFrom16([16]byte(b)), 128
	if four {
		a, bits = netip.AddrFrom4([4]byte(b[:4])), 32
	}
	return netip.PrefixFrom(a, rapid.IntRange(0, bits).Draw(t, label+" bits")).Masked()
}

// TestSpans: the spans of a rule, and of a set, and what is in both, hold exactly the prefixes that are meant.
func TestSpans(t *testing.T) {
	asked, held := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		four := rapid.Bool().Draw(t, "four")
		r := routing.FilterRule{Match: routing.MatchOperator(rapid.IntRange(0, 3).Draw(t, "match"))}
		if rapid.Bool().Draw(t, "cidr") {
			r.CIDR = drawPrefix(t, four, "cidr")
		}
		if rapid.Bool().Draw(t, "lengths") {
			r.MinLength, r.MaxLength = rapid.IntRange(0, 33).Draw(t, "min"), rapid.IntRange(0, 33).Draw(t, "max")
		}
		var set routing.PrefixSet
		for range rapid.IntRange(0, 3).Draw(t, "set") {
			set.Exact = append(set.Exact, drawPrefix(t, four, "exact"))
			set.Within = append(set.Within, drawPrefix(t, four, "within"))
			set.Covers = append(set.Covers, drawPrefix(t, four, "covers"))
		}
		spans, all := spansOf(r, four)
		of := spansOfSet(set, four)
		joint := both(spans, of)
		for range 20 {
			p := drawPrefix(t, four, "prefix")
			asked++
			want := matches(r, p)
			if want {
				held++
			}
			if got := all || inSpans(spans, p); got != want {
				t.Fatalf("%v: %v in %+v, want %v: %v", p, got, r, want, spans)
			}
			if got, want := inSpans(of, p), inSet(set, p); got != want {
				t.Fatalf("%v: %v in set %+v, want %v: %v", p, got, set, want, of)
			}
			if got, want := inSpans(joint, p), inSpans(spans, p) && inSpans(of, p); got != want {
				t.Fatalf("%v: %v in both, want %v: %v", p, got, want, joint)
			}
		}
	})
	t.Logf("%d prefixes asked about, %d held", asked, held)
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{{"eth0", "eth0", true}, {"eth0", "eth01", false}, {"eth*", "eth01", true}, {"*", "", true}, {"*.5", "bond0.5", true}, {"*.5", "bond0.55", false}, {"a*b*c", "axxbyyc", true}, {"a*b*c", "axxc", false}, {"eth*", "", false}} {
		if got := glob(c.pattern, c.name); got != c.want {
			t.Errorf("%q, %q: %v", c.pattern, c.name, got)
		}
	}
}

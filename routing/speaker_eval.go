package routing

import (
	"cmp"
	"net/netip"
	"path"
	"slices"
)

// Announced is a route as filters see it.
type Announced struct {
	Prefix      netip.Prefix
	Learned     bool   // by BGP, and no advertisement of this host
	Internal    bool   // with Learned: by a session within the AS
	Interface   string // of the kernel's route
	Communities []string
	ASPath      []uint32
	Priority    uint32
}

// Contains tells whether p is in the set.
func (s *PrefixSet) Contains(p netip.Prefix) bool {
	if _, exact := slices.BinarySearchFunc(s.Exact, p, comparePrefix); exact {
		return true
	}
	return slices.ContainsFunc(s.Within, func(q netip.Prefix) bool { return contains(q, p) }) ||
		slices.ContainsFunc(s.Covers, func(q netip.Prefix) bool { return contains(p, q) })
}

// Decide says what filters make of a route on a session of s: whether it passes, and by which rule; nil
// where none applies, and it passes. It is the meaning of FilterRule, for tests and for who writes a driver.
func (s *Speaker) Decide(on *Session, rules []FilterRule, r Announced) (accept bool, by *FilterRule) {
	for i := range rules {
		if s.applies(on, &rules[i], &r) {
			return rules[i].Accept, &rules[i]
		}
	}
	return true, nil
}

func (s *Speaker) applies(on *Session, f *FilterRule, r *Announced) bool {
	ebgp, bits := on.ASN != on.LocalASN, r.Prefix.Bits()
	switch {
	case f.CIDR.IsValid() && !f.Match.holds(f.CIDR, r.Prefix),
		bits < f.MinLength || f.MaxLength != 0 && bits > f.MaxLength,
		f.RemotePeers && !r.Learned || f.Internal && !r.Internal,
		f.EBGP && !ebgp || f.IBGP && ebgp,
		f.Community != "" && !slices.Contains(r.Communities, f.Community),
		len(r.ASPath) < len(f.ASPath) || !slices.Equal(r.ASPath[:len(f.ASPath)], f.ASPath),
		f.Priority != 0 && f.Priority != r.Priority:
		return false
	}
	if f.Interface != "" {
		if ok, err := path.Match(f.Interface, r.Interface); err != nil || !ok {
			return false
		}
	}
	if f.Set == "" {
		return true
	}
	i, there := slices.BinarySearchFunc(s.Sets, f.Set, func(p PrefixSet, name string) int { return cmp.Compare(p.Name, name) })
	return there && s.Sets[i].Contains(r.Prefix) != f.NotInSet
}

func (m MatchOperator) holds(cidr, p netip.Prefix) bool {
	switch m {
	case MatchEqual:
		return p == cidr
	case MatchNotEqual:
		return p != cidr
	case MatchIn:
		return contains(cidr, p)
	default:
		return !contains(cidr, p)
	}
}

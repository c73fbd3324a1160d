package policy

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// Set is a set's members. Nil is empty.
type Set struct {
	ID      SetID
	members map[Member]int32 // how many endpoints, network sets, ... give it
	lengths []prefixLength   // of the members, so that Contains need not try all
}

type prefixLength struct{ bits, members int }

func newSet(id SetID) *Set { return &Set{ID: id, members: map[Member]int32{}} }

// Len returns the number of members.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.members)
}

// All yields the members in no order.
func (s *Set) All() iter.Seq[Member] {
	if s == nil {
		return func(func(Member) bool) {}
	}
	return maps.Keys(s.members)
}

// Sorted returns the members in order.
func (s *Set) Sorted() []Member { return slices.SortedFunc(s.All(), Member.Compare) }

// Has tells whether m itself is a member.
func (s *Set) Has(m Member) bool { return s != nil && s.members[m] > 0 }

// Contains tells whether a member is a prefix that a is in.
func (s *Set) Contains(a netip.Addr) bool {
	if s == nil || model.FamilyOf(a) != s.ID.Family {
		return false
	}
	for _, l := range s.lengths {
		if p, err := a.Prefix(l.bits); err == nil && s.members[Member{Prefix: p}] > 0 {
			return true
		}
	}
	return false
}

// ContainsPort tells whether address, protocol and port are a member.
func (s *Set) ContainsPort(a netip.Addr, p model.Protocol, port uint16) bool {
	return s.Has(Member{model.HostPrefix(a), p, port})
}

// add counts one more giver of m, and tells whether it is the first.
func (s *Set) add(m Member) bool {
	s.members[m]++
	if s.members[m] > 1 {
		return false
	}
	i, found := s.length(m.Prefix.Bits())
	if !found {
		s.lengths = slices.Insert(s.lengths, i, prefixLength{bits: m.Prefix.Bits()})
	}
	s.lengths[i].members++
	return true
}

// remove counts one giver of m less, and tells whether it was the last.
func (s *Set) remove(m Member) bool {
	if n := s.members[m]; n != 1 {
		if n > 1 {
			s.members[m] = n - 1
		}
		return false
	}
	delete(s.members, m)
	i, _ := s.length(m.Prefix.Bits())
	if s.lengths[i].members--; s.lengths[i].members == 0 {
		s.lengths = slices.Delete(s.lengths, i, i+1)
	}
	return true
}

// length finds the entry of a prefix length, or its place; the longest is first.
func (s *Set) length(bits int) (int, bool) {
	return slices.BinarySearchFunc(s.lengths, bits, func(l prefixLength, b int) int { return cmp.Compare(b, l.bits) })
}

// Compare orders sets by kind, family and meaning.
func (id SetID) Compare(o SetID) int {
	return cmp.Or(cmp.Compare(id.Kind, o.Kind), strings.Compare(id.Selector, o.Selector), strings.Compare(id.Name, o.Name),
		cmp.Compare(id.Family, o.Family), compareBool(id.Local, o.Local), compareBool(id.Staged, o.Staged))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Compare orders members by prefix, protocol and port.
func (m Member) Compare(o Member) int {
	return cmp.Or(comparePrefix(m.Prefix, o.Prefix), cmp.Compare(m.Protocol, o.Protocol), cmp.Compare(m.Port, o.Port))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

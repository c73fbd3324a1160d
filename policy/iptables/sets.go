package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
)

// maxMembers bounds a set; the kernel's default is 65,536.
const maxMembers = 1 << 21

// setType is the kernel's name for what a set is made of.
func setType(withPorts bool) string {
	if withPorts {
		return "hash:ip,port"
	}
	return "hash:net"
}

// kind is how ipset prints what a set is made of.
func (s *set) kind() string {
	family := "inet"
	if s.family == model.IPv6 {
		family = "inet6"
	}
	return setType(s.withPorts) + " family " + family
}

// createSet is the command that makes a set, with room for n members.
func createSet(name string, f model.Family, withPorts bool, n int) string {
	family := "inet"
	if f == model.IPv6 {
		family = "inet6"
	}
	size := 64
	for size < n && size < 1<<17 {
		size *= 2
	}
	return fmt.Sprintf("create %s %s family %s hashsize %d maxelem %d", name, setType(withPorts), family, size, maxMembers)
}

// elements returns how a member is written: prefixes of length 0 as their halves, which are all that
// hash:net can hold. A member without a protocol that ipset knows ports of is none: no packet has it.
func elements(withPorts bool, m policy.Member) []string {
	if withPorts {
		if !m.Protocol.HasPorts() {
			return nil
		}
		return []string{fmt.Sprintf("%s,%s:%d", m.Prefix.Addr(), m.Protocol, m.Port)}
	}
	if m.Prefix.Bits() == 0 {
		low, high := halves(m.Prefix)
		return []string{low.String(), high.String()}
	}
	if m.Prefix.IsSingleIP() {
		return []string{m.Prefix.Addr().String()}
	}
	return []string{m.Prefix.String()}
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	b := p.Addr().AsSlice()
	b[0] = 0x80
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(a, 1)
}

// members returns the elements of a whole set, each once.
func members(s *policy.Set, withPorts bool) []string {
	out := make([]string, 0, s.Len())
	for m := range s.All() {
		if !withPorts && m.Prefix.Bits() == 1 && s.Has(policy.Member{Prefix: whole(m.Prefix)}) {
			continue // that is two halves
		}
		out = append(out, elements(withPorts, m)...)
	}
	slices.Sort(out)
	return out
}

func whole(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), 0).Masked() }

// memberChanges returns which elements come and go by a change of a set that is already made in s.
func memberChanges(s *policy.Set, d *policy.MemberDelta) (added, removed []string) {
	withPorts := d.Set.HasPorts()
	for _, m := range d.Added {
		added = append(added, elements(withPorts, m)...)
	}
	for _, m := range d.Removed {
		for _, e := range elements(withPorts, m) {
			if withPorts || m.Prefix.Bits() > 1 || !holdsHalf(s, e) {
				removed = append(removed, e)
			}
		}
	}
	return added, removed
}

// holdsHalf tells whether a set still has a prefix of length 1, itself or as half of all.
func holdsHalf(s *policy.Set, element string) bool {
	p, err := netip.ParsePrefix(element)
	return err == nil && (s.Has(policy.Member{Prefix: p}) || s.Has(policy.Member{Prefix: whole(p)}))
}

// count is how many elements members returns.
func count(s *policy.Set, withPorts bool) int {
	n := s.Len()
	if withPorts {
		n = 0
		for m := range s.All() {
			n += len(elements(true, m))
		}
		return n
	}
	for _, all := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if !s.Has(policy.Member{Prefix: all}) {
			continue
		}
		n++ // two halves for one
		low, high := halves(all)
		for _, h := range []netip.Prefix{low, high} {
			if s.Has(policy.Member{Prefix: h}) {
				n--
			}
		}
	}
	return n
}

// set is an ipset of ours.
type set struct {
	family    model.Family
	withPorts bool
	members   func() []string
	count     int // of members, as ipset counts them
}

// fill makes a set and gives it all members.
func fill(b *strings.Builder, name string, s set) {
	all := s.members()
	b.WriteString(createSet(name, s.family, s.withPorts, len(all)) + "\n")
	for _, m := range all {
		b.WriteString("add " + name + " " + m + "\n")
	}
}

// temporary is where a set's new members are gathered before they take the place of the old ones.
const temporary = prefix + "new"

// exchange gives a set that is there other members, at one moment.
func exchange(b *strings.Builder, name string, s set) {
	fill(b, temporary, s)
	b.WriteString("swap " + temporary + " " + name + "\ndestroy " + temporary + "\n")
}

// listMembers are the elements of a list of prefixes.
func listMembers(nets []netip.Prefix) []string {
	var out []string
	for _, n := range nets {
		out = append(out, elements(false, policy.Member{Prefix: n})...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

package nat

import (
	"net/netip"
	"slices"
)

// Range is the addresses from First to Last, both included, of one family.
type Range struct{ First, Last netip.Addr }

// String prints the range as a prefix where it is one, else as "First-Last".
func (r Range) String() string {
	for bits := 0; bits <= r.First.BitLen(); bits++ {
		if p := netip.PrefixFrom(r.First, bits); p.Masked() == p && last(p) == r.Last {
			return p.String()
		}
	}
	return r.First.String() + "-" + r.Last.String()
}

// Contains tells whether a is in the range.
func (r Range) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Merge returns the addresses of all the prefixes as ranges that neither overlap nor touch, sorted,
// IPv4 first: what an interval set of nftables takes, where a range that overlaps another is an
// error and one that touches another is stored like one. Invalid prefixes hold no address.
func Merge(prefixes []netip.Prefix) []Range {
	var out []Range
	for _, p := range slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int { return a.Masked().Addr().Compare(b.Masked().Addr()) }) {
		if !p.IsValid() {
			continue
		}
		p = p.Masked()
		n := Range{p.Addr(), last(p)}
		if len(out) == 0 {
			out = append(out, n)
			continue
		}
		// The last of a family has no next, and an IPv4 address is no next of an IPv6 one.
		end := &out[len(out)-1]
		if end.Contains(n.First) || end.Last.Next() == n.First {
			if end.Last.Less(n.Last) {
				end.Last = n.Last
			}
			continue
		}
		out = append(out, n)
	}
	return out
}

// last returns the last address of a masked prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

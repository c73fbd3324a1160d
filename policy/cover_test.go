package policy

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestCover lets prefixes come and go, and compares what the Cover's changes add up to with the
// prefixes that no other one contains.
func TestCover(t *testing.T) {
	steps, swallowed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var c Cover
		all, shown := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 15).Draw(t, "host"))})
			p := netip.PrefixFrom(a, rapid.IntRange(27, 32).Draw(t, "bits"))
			if rapid.Bool().Draw(t, "v6") {
				b := netip.MustParseAddr("fd00::").As16()
				b[15] = a.As4()[3]
				p = netip.PrefixFrom(netip.AddrFrom16(b), p.Bits()+96)
			}
			var added, removed []netip.Prefix
			if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
				added, removed = c.Delete(p)
				delete(all, p.Masked())
			} else {
				added, removed = c.Insert(p)
				all[p.Masked()] = true
			}
			for _, p := range removed {
				if !shown[p] {
					t.Fatalf("removed %s, which was not there", p)
				}
				delete(shown, p)
			}
			for _, p := range added {
				if shown[p] {
					t.Fatalf("added %s twice", p)
				}
				shown[p] = true
			}
			want := map[netip.Prefix]bool{}
			for p := range all {
				if !contained(all, p) {
					want[p] = true
				}
			}
			if diff := cmp.Diff(keys(want), keys(shown)); diff != "" {
				t.Fatalf("after %s (-want +got):\n%s", p, diff)
			}
			steps++
			swallowed += len(all) - len(want)
		}
	})
	t.Logf("0 differences in %d steps; %d prefixes were within others", steps, swallowed)
	if swallowed < steps/2 {
		t.Error("too few prefixes overlapped")
	}
}

func contained(all map[netip.Prefix]bool, p netip.Prefix) bool {
	for q := range all {
		if q != p && q.Bits() < p.Bits() && q.Overlaps(p) {
			return true
		}
	}
	return false
}

func keys(m map[netip.Prefix]bool) []string {
	var s []string
	for p := range m {
		s = append(s, p.String())
	}
	slices.Sort(s)
	return s
}

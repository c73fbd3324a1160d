package selector

import "testing"

func TestPrefixed(t *testing.T) {
	for _, c := range []struct{ selector, want string }{
		{"team == 'red'", "pcns.team == 'red'"},
		{"has(a) && !(b in {'x', 'y'} || c contains 'z')", "has(pcns.a) && !(pcns.b in {'x', 'y'} || pcns.c contains 'z')"},
		{"all()", "has(member)"},
		{"!all()", "!has(member)"},
		{"", "has(member)"},
		{"global()", "!has(member)"},
		{"team != 'red'", "pcns.team != 'red'"},
	} {
		s, err := Parse(c.selector)
		if err != nil {
			t.Fatal(err)
		}
		before := s.String()
		got := s.Prefixed("pcns.", "member").String()
		if got != c.want {
			t.Errorf("%q prefixed is %q, want %q", c.selector, got, c.want)
		}
		if again, err := Parse(got); err != nil || again.String() != got {
			t.Errorf("%q does not parse back: %v", got, err)
		}
		if s.String() != before {
			t.Errorf("%q was changed to %q", before, s)
		}
	}
}

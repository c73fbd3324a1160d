package selector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMatches(t *testing.T) {
	labels := map[string]string{"role": "db", "env": "prod-eu", "empty": "", "in": "x", "a.b/c-d_e": "1"}
	for _, tc := range []struct {
		src  string
		want bool
	}{
		{"", true},
		{" \t\n", true},
		{"all()", true},
		{"!all()", false},
		{"global()", true},
		{"role == 'db'", true},
		{`role == "db"`, true},
		{"role=='db'", true},
		{"role == 'web'", false},
		{"absent == ''", false},
		{"empty == ''", true},
		{"role != 'web'", true},
		{"role != 'db'", false},
		{"absent != 'web'", true},
		{"!(absent == 'web')", true},
		{"!absent == 'web'", true},
		{"role in {'db','web'}", true},
		{"role in {'web'}", false},
		{"role in {}", false},
		{"absent in {'db'}", false},
		{"role not in {'web'}", true},
		{"role not   in {'db'}", false},
		{"absent not in {'db'}", true},
		{"role not in {}", true},
		{"env contains 'd-e'", true},
		{"env contains 'us'", false},
		{"absent contains ''", false},
		{"empty contains ''", true},
		{"env starts with 'prod'", true},
		{"env starts with 'eu'", false},
		{"absent starts with ''", false},
		{"env ends with '-eu'", true},
		{"env ends with 'prod'", false},
		{"has(role)", true},
		{"has( role )", true},
		{"has(absent)", false},
		{"!has(absent)", true},
		{"!!has(role)", true},
		{"! ! !has(role)", false},
		{"has(empty)", true},
		{"a.b/c-d_e == '1'", true},
		// Words of the grammar are label names where a label stands.
		{"in in {'x'}", true},
		{"in == 'x' && has(in) && !has(all) && has != 'x' && not not in {'y'}", true},
		// && binds tighter than ||, ! tighter than both.
		{"has(role) || has(absent) && has(nothing)", true},
		{"(has(role) || has(absent)) && has(nothing)", false},
		{"!has(absent) && has(role)", true},
		{"!(has(absent) || has(role))", false},
		{"has(absent) && has(nothing) || role == 'db'", true},
	} {
		s, err := Parse(tc.src)
		if err != nil {
			t.Errorf("Parse(%q): %v", tc.src, err)
			continue
		}
		if got := s.Matches(labels); got != tc.want {
			t.Errorf("%q (%s) on %v: got %v, want %v", tc.src, s, labels, got, tc.want)
		}
	}
}

func TestGlobal(t *testing.T) {
	for src, want := range map[string]bool{"global()": true, " ( global( ) ) ": true, "": false, "all()": false, "has(a)": false} {
		s, err := Parse(src)
		if err != nil {
			t.Fatalf("Parse(%q): %v", src, err)
		}
		if got := s.Global(); got != want {
			t.Errorf("%q: Global() = %v, want %v", src, got, want)
		}
	}
	s, _ := Parse("global()")
	if s.Matches(map[string]string{NamespaceLabel: "default"}) {
		t.Errorf("global() matches an object in a namespace")
	}
	var zero Selector
	if !zero.All() || !zero.Matches(nil) || zero.String() != "all()" {
		t.Errorf("the zero selector is %q, want all()", zero.String())
	}
}

func TestString(t *testing.T) {
	for src, want := range map[string]string{
		"":                                   "all()",
		`a=="b"`:                             "a == 'b'",
		`a=="b'c"`:                           `a == "b'c"`,
		`a == 'b"c'`:                         `a == 'b"c'`,
		"a in {'z','b','z'}":                 "a in {'b', 'z'}",
		"a notin{}":                          "a not in {}",
		"a startswith 'x'||b ends  with 'y'": "a starts with 'x' || b ends with 'y'",
		"((has(a)))":                         "has(a)",
		"(has(a)&&has(b))&&has(c)":           "has(a) && has(b) && has(c)",
		"(has(a)||has(b))&&(has(c)&&has(d))": "(has(a) || has(b)) && has(c) && has(d)",
		"has(a)||(has(b)&&has(c))":           "has(a) || has(b) && has(c)",
		"!(has(a)&&has(b))":                  "!(has(a) && has(b))",
		"!a=='b'":                            "!(a == 'b')",
		"!!(!has(a))":                        "!has(a)",
		"! ( ! ( a contains 'x' ) )":         "a contains 'x'",
		"!(!(has(a)||has(b)))&&has(c)":       "(has(a) || has(b)) && has(c)",
		"has(z) && !!(has(a) && !!(has(b)))": "has(z) && has(a) && has(b)",
	} {
		s, err := Parse(src)
		if err != nil {
			t.Errorf("Parse(%q): %v", src, err)
			continue
		}
		if diff := cmp.Diff(want, s.String()); diff != "" {
			t.Errorf("canonical of %q (-want +got):\n%s", src, diff)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tc := range []struct {
		src, found string
		column     int
	}{
		{"a = 'b'", `"="`, 3},
		{"a", "the end", 2},
		{"a == ", "the end", 6},
		{"a == b", `"b"`, 6},
		{"a == 'b", "a string without its end", 6},
		{"a == 'b' c == 'd'", `"c"`, 10},
		{"a == 'b' & c == 'd'", `"&"`, 10},
		{"a == 'b' &&", "the end", 12},
		{"|| a == 'b'", `"||"`, 1},
		{"(has(a)", "the end", 8},
		{"has(a))", `")"`, 7},
		{"has()", `")"`, 5},
		{"has('a')", `"'"`, 5},
		{"any()", `"any("`, 1},
		{"all(x)", `"x"`, 5},
		{"a in 'b'", `"'"`, 6},
		{"a in {'b',}", `"}"`, 11},
		{"a in {'b' 'c'}", `"'"`, 11},
		{"a in {b}", `"b"`, 7},
		{"a not 'b'", `"'"`, 7},
		{"a starts 'b'", `"'"`, 10},
		{"global() && has(a)", "global() within an expression", 1},
		{"!global()", "global() within an expression", 2},
		{"\x1b[31m", `"\x1b["`, 1},
		{strings.Repeat("(", MaxDepth+1) + "all()", "(", MaxDepth + 1},
		{strings.Repeat("x", MaxLabelLength+1) + " == 'b'", "a label name of 513 bytes", 1},
		{"has(" + strings.Repeat("x", MaxLabelLength+1) + ")", "a label name of 513 bytes", 5},
		{strings.Repeat(" ", MaxLength+1), "65537 bytes", MaxLength + 1},
	} {
		s, err := Parse(tc.src)
		if err == nil {
			t.Errorf("Parse(%.60q) = %s, want an error", tc.src, s)
			continue
		}
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("Parse(%.60q): got %T, want *Error", tc.src, err)
			continue
		}
		if e.Found != tc.found || e.Column != tc.column {
			t.Errorf("Parse(%.60q): found %s at column %d, want %s at column %d (%v)", tc.src, e.Found, e.Column, tc.found, tc.column, err)
		}
		if e.Allowed == "" || strings.ContainsAny(err.Error(), "\x1b\n") || len(err.Error()) > 400 {
			t.Errorf("Parse(%.60q): poor error text %q", tc.src, err)
		}
	}
}

// expr is the slow reference: it writes a random selector and evaluates it by its meaning, with
// nothing shared with the parser.
type expr struct {
	src  string
	eval func(map[string]string) bool
}

func randomExpr(r *rand.Rand, depth int) expr {
	if depth > 0 && r.IntN(3) > 0 {
		a, b := randomExpr(r, depth-1), randomExpr(r, depth-1)
		switch r.IntN(3) {
		case 0:
			return expr{"(" + a.src + ")&&(" + b.src + ")", func(l map[string]string) bool { return a.eval(l) && b.eval(l) }}
		case 1:
			return expr{"( " + a.src + " ) || (" + b.src + " )", func(l map[string]string) bool { return a.eval(l) || b.eval(l) }}
		default:
			return expr{"!( " + a.src + ")", func(l map[string]string) bool { return !a.eval(l) }}
		}
	}
	return randomTerm(r)
}

var (
	someLabels = []string{"a", "in", "x/y.z"}
	someValues = []string{"", "v", "vw", "it's", `say "hi"`}
)

func randomTerm(r *rand.Rand) expr {
	k, v, w := someLabels[r.IntN(3)], someValues[r.IntN(5)], someValues[r.IntN(5)]
	q := func(s string) string {
		if strings.Contains(s, "'") || !strings.Contains(s, `"`) && r.IntN(2) == 0 {
			return `"` + s + `"`
		}
		return "'" + s + "'"
	}
	present := func(f func(got string) bool) func(map[string]string) bool {
		return func(l map[string]string) bool { got, ok := l[k]; return ok && f(got) }
	}
	not := func(f func(map[string]string) bool) func(map[string]string) bool {
		return func(l map[string]string) bool { return !f(l) }
	}
	equal := present(func(got string) bool { return got == v })
	in := present(func(got string) bool { return got == v || got == w })
	switch r.IntN(9) {
	case 0:
		return expr{"all( )", func(map[string]string) bool { return true }}
	case 1:
		return expr{"has( " + k + ")", present(func(string) bool { return true })}
	case 2:
		return expr{k + "==" + q(v), equal}
	case 3:
		return expr{k + " != " + q(v), not(equal)}
	case 4:
		return expr{k + " in {" + q(v) + ", " + q(w) + "}", in}
	case 5:
		return expr{k + " not in{" + q(v) + "," + q(w) + "}", not(in)}
	case 6:
		return expr{k + " contains " + q(v), present(func(got string) bool { return strings.Contains(got, v) })}
	case 7:
		return expr{k + " starts with" + q(v), present(func(got string) bool { return strings.Index(got, v) == 0 })}
	default:
		return expr{k + " ends  with" + q(v), present(func(got string) bool {
			return len(got) >= len(v) && got[len(got)-len(v):] == v
		})}
	}
}

func randomLabels(r *rand.Rand) map[string]string {
	l := map[string]string{}
	for _, k := range someLabels {
		if r.IntN(3) > 0 {
			l[k] = someValues[r.IntN(len(someValues))]
		}
	}
	return l
}

// TestAgainstReference compares parser and evaluator with the meaning that the source was
// generated from.
func TestAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	compared, matched := 0, 0
	for range 5000 {
		e := randomExpr(r, 4)
		s, err := Parse(e.src)
		if err != nil {
			t.Fatalf("Parse(%q): %v", e.src, err)
		}
		canonical, err := Parse(s.String())
		if err != nil {
			t.Fatalf("canonical of %q: %v", e.src, err)
		}
		for range 8 {
			l := randomLabels(r)
			want := e.eval(l)
			if got := s.Matches(l); got != want {
				t.Fatalf("%q on %v: got %v, want %v", e.src, l, got, want)
			}
			if got := canonical.Matches(l); got != want {
				t.Fatalf("canonical %q of %q on %v: got %v, want %v", s, e.src, l, got, want)
			}
			compared++
			if want {
				matched++
			}
		}
	}
	t.Logf("0 differences in %d evaluations of 5000 selectors (%d matched)", compared, matched)
	if matched < compared/10 || matched > compared*9/10 {
		t.Errorf("%d of %d matched: the labels do not exercise the selectors", matched, compared)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "all()", "global()", "has(a)", "!has(a)", "a == 'b'", `a != "b"`, "a in {'b','c'}", "a not in {'b'}",
		"a contains 'x' && b starts with 'y' || !(c ends with 'z')", "((((a == ''))))", "!!!has(in)", "a in {}",
		"projectcalico.org/namespace == 'default' && (role == 'db' || role == \"it's\")", "a == 'b", "a = b", "(", "{}",
		strings.Repeat("(", 70), strings.Repeat("(has(a) || has(b) && ", 64) + "!a == 'b'" + strings.Repeat(")", 64), strings.Repeat("!", 1000) + "has(x)", "\x00\xff", "in in {'in'} && not not in {'not'}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		s, err := Parse(src)
		if err != nil {
			_ = err.Error()
			return
		}
		text := s.String()
		again, err := Parse(text)
		if err != nil {
			// Spaces and parentheses that the canonical form adds may carry a huge selector over the limit.
			if len(text) > MaxLength {
				return
			}
			t.Fatalf("canonical %q of %q does not parse: %v", text, src, err)
		}
		if again.String() != text {
			t.Fatalf("canonical of %q is no fixpoint: %q, then %q", src, text, again)
		}
		r := rand.New(rand.NewPCG(uint64(len(src)), 7))
		for range 16 {
			l := labelsFor(r, &s.root)
			if s.Matches(l) != again.Matches(l) {
				t.Fatalf("%q and its canonical %q differ on %v", src, text, l)
			}
		}
	})
}

// labelsFor draws labels from the names and values that n itself names.
func labelsFor(r *rand.Rand, n *node) map[string]string {
	l := map[string]string{}
	var walk func(*node)
	walk = func(n *node) {
		for i := range n.kids {
			walk(&n.kids[i])
		}
		switch r.IntN(4) {
		case 0:
			l[n.label] = n.value
		case 1:
			if len(n.values) > 0 {
				l[n.label] = n.values[r.IntN(len(n.values))]
			}
		case 2:
			l[n.label] = fmt.Sprintf("%sx", n.value)
		}
	}
	walk(n)
	return l
}

func BenchmarkMatches(b *testing.B) {
	s, err := Parse("projectcalico.org/namespace == 'default' && role in {'db', 'web', 'cache'} && !has(quarantine)")
	if err != nil {
		b.Fatal(err)
	}
	labels := map[string]string{"projectcalico.org/namespace": "default", "role": "web", "app": "shop"}
	b.ReportAllocs()
	for b.Loop() {
		if !s.Matches(labels) {
			b.Fatal("no match")
		}
	}
}

package selector

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// world is the slow twin of an Index: it keeps everything and tries everything.
type world struct {
	items     map[string]thing
	parents   map[string]map[string]string
	selectors map[string]*Selector
}

type thing struct {
	labels  map[string]string
	parents []string
}

func (w *world) effective(t thing) map[string]string {
	l := map[string]string{}
	for i := len(t.parents) - 1; i >= 0; i-- {
		for k, v := range w.parents[t.parents[i]] {
			l[k] = v
		}
	}
	for k, v := range t.labels {
		l[k] = v
	}
	return l
}

func (w *world) matches() map[[2]string]bool {
	m := map[[2]string]bool{}
	for s, sel := range w.selectors {
		for i, it := range w.items {
			if sel.Matches(w.effective(it)) {
				m[[2]string{s, i}] = true
			}
		}
	}
	return m
}

// TestIndexAgainstBruteForce lets items, parents and selectors come, change and go, and compares
// what the Index reported with trying every selector on every item.
func TestIndexAgainstBruteForce(t *testing.T) {
	steps, matches := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := world{map[string]thing{}, map[string]map[string]string{}, map[string]*Selector{}}
		reported := map[[2]string]bool{}
		x := NewIndex(func(s, i string) {
			if reported[[2]string{s, i}] {
				t.Fatalf("%s started to match %s twice", s, i)
			}
			reported[[2]string{s, i}] = true
		}, func(s, i string) {
			if !reported[[2]string{s, i}] {
				t.Fatalf("%s stopped to match %s, which it did not", s, i)
			}
			delete(reported, [2]string{s, i})
		})
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			w.step(r, x)
			steps++
			want := w.matches()
			matches += len(want)
			if diff := cmp.Diff(want, reported); diff != "" {
				t.Fatalf("matches (-tried +reported):\n%s", diff)
			}
		}
		for s := range w.selectors {
			n := 0
			for range x.Items(s) {
				n++
			}
			for range x.Selectors("i0") {
				n += 1000
			}
			want := 0
			for m := range reported {
				if m[0] == s {
					want++
				}
				if m[1] == "i0" {
					want += 1000
				}
			}
			if n != want {
				t.Fatalf("Items and Selectors of %s yield %d, want %d", s, n, want)
			}
		}
		for s := range w.selectors {
			x.DeleteSelector(s)
		}
		for i := range w.items {
			x.DeleteItem(i)
		}
		for p := range w.parents {
			x.SetParent(p, nil)
		}
		if n := len(x.labels) + len(x.items) + len(x.parents) + len(x.selectors) + len(x.unfiled) + len(reported); n != 0 {
			t.Fatalf("%d things left in an Index from which everything was deleted: %d labels, %d items, %d parents, %d selectors, %d unfiled, %d matches",
				n, len(x.labels), len(x.items), len(x.parents), len(x.selectors), len(x.unfiled), len(reported))
		}
	})
	t.Logf("0 differences after each of %d changes, %d matches compared", steps, matches)
	if matches < steps {
		t.Errorf("%d matches in %d steps: the labels do not exercise the selectors", matches, steps)
	}
}

func (w *world) step(r *rand.Rand, x *Index[string, string]) {
	i, p, s := fmt.Sprint("i", r.IntN(6)), fmt.Sprint("p", r.IntN(3)), fmt.Sprint("s", r.IntN(6))
	switch r.IntN(8) {
	case 0:
		x.DeleteItem(i)
		delete(w.items, i)
	case 1:
		x.DeleteSelector(s)
		delete(w.selectors, s)
	case 2, 3:
		labels := randomLabels(r)
		if r.IntN(4) == 0 {
			labels = nil
		}
		x.SetParent(p, labels)
		w.parents[p] = labels
	case 4, 5:
		it := thing{labels: randomLabels(r)}
		if old, there := w.items[i]; there && r.IntN(3) == 0 {
			it.labels = old.labels
		}
		for range r.IntN(3) {
			it.parents = append(it.parents, fmt.Sprint("p", r.IntN(3)))
		}
		x.SetItem(i, it.labels, it.parents)
		w.items[i] = it
	default:
		sel, err := Parse(randomExpr(r, r.IntN(4)).src)
		if err != nil {
			panic(err)
		}
		x.SetSelector(s, sel)
		w.selectors[s] = sel
	}
}

// TestCover says which labels and values selectors are filed under.
func TestCover(t *testing.T) {
	flat := func(atom) int { return 1 }
	for _, tc := range []struct {
		src  string
		want string // false: none
	}{
		{"all()", "[] false"},
		{"!all()", "[] true"},
		{"a == '1'", "[{a 1 false}] true"},
		{"a != '1'", "[{a 1 false}] false"},
		{"!(a != '1')", "[{a 1 false}] true"},
		{"a in {'1','2'} && has(b)", "[{b  true}] true"},
		{"a == '1' || has(b)", "[{a 1 false} {b  true}] true"},
		{"a == '1' || !has(b)", "[] false"},
		{"!(a != '1' || has(b))", "[{a 1 false}] true"},
		{"!(a != '1' && b != '2')", "[{a 1 false} {b 2 false}] true"},
		{"a in {}", "[] true"},
		{"a starts with 'x' && b != 'y'", "[{a  true}] true"},
		{"global()", "[{projectcalico.org/namespace  true}] false"},
	} {
		sel, err := Parse(tc.src)
		if err != nil {
			t.Fatal(err)
		}
		atoms, ok := sel.root.cover(false, flat)
		if got := fmt.Sprint(atoms, ok); got != tc.want {
			t.Errorf("cover of %s: got %s, want %s", tc.src, got, tc.want)
		}
	}
}

// bigWorld is 100,000 pods of 1,000 namespaces with eight labels each, and 2,000 selectors, two a
// namespace, as namespaced policies have them.
func bigWorld(tb testing.TB) (x *Index[int, int], labels func(pod, version int) map[string]string, callbacks *int) {
	callbacks = new(int)
	count := func(int, int) { *callbacks++ }
	x = NewIndex(count, count)
	labels = func(pod, version int) map[string]string {
		ns := pod % 1000
		return map[string]string{
			NamespaceLabel: fmt.Sprint("ns", ns), "projectcalico.org/orchestrator": "k8s",
			"app": fmt.Sprint("app", pod/1000%10), "role": fmt.Sprint("role", pod%7), "tier": fmt.Sprint("tier", pod%3),
			"version": fmt.Sprint("v", version), "pod-template-hash": fmt.Sprint("h", pod/10), "env": "prod",
		}
	}
	for ns := range 1000 {
		x.SetParent(fmt.Sprint("kns.ns", ns), map[string]string{"pcns.team": fmt.Sprint("t", ns%50), "pcns.name": fmt.Sprint("ns", ns)})
	}
	for s := range 2000 {
		x.SetSelector(s, bigSelector(tb, s, "v2"))
	}
	for pod := range 100_000 {
		x.SetItem(pod, labels(pod, 1), []string{fmt.Sprint("kns.ns", pod%1000)})
	}
	return x, labels, callbacks
}

func bigSelector(tb testing.TB, s int, version string) *Selector {
	sel, err := Parse(fmt.Sprintf("projectcalico.org/orchestrator == 'k8s' && projectcalico.org/namespace == 'ns%d' && (app in {'app%d', 'app%d'} || version == '%s')",
		s%1000, s%10, (s+3)%10, version))
	if err != nil {
		tb.Fatal(err)
	}
	return sel
}

func BenchmarkIndex(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x, labels, callbacks := bigWorld(b)
	runtime.GC()
	runtime.ReadMemStats(&after)
	perItem := float64(after.HeapAlloc-before.HeapAlloc) / 100_000
	b.Run("item-label", func(b *testing.B) {
		b.ReportAllocs()
		*callbacks = 0
		i := 0
		for b.Loop() {
			pod := i * 7919 % 100_000
			x.SetItem(pod, labels(pod, 1+i/100_000%2), []string{fmt.Sprint("kns.ns", pod%1000)})
			x.SetItem(pod, labels(pod, 2+i/100_000%2), []string{fmt.Sprint("kns.ns", pod%1000)})
			i++
		}
		b.ReportMetric(float64(*callbacks)/float64(b.N), "matches/op")
		b.ReportMetric(perItem, "B/item")
	})
	b.Run("selector", func(b *testing.B) {
		b.ReportAllocs()
		*callbacks = 0
		a, c := bigSelector(b, 7, "v1"), bigSelector(b, 7, "v9")
		for b.Loop() {
			x.SetSelector(7, a)
			x.SetSelector(7, c)
		}
		b.ReportMetric(float64(*callbacks)/float64(b.N), "matches/op")
	})
	b.Run("parent-label", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			x.SetParent("kns.ns7", map[string]string{"pcns.team": "x", "pcns.name": "ns7"})
			x.SetParent("kns.ns7", map[string]string{"pcns.team": "y", "pcns.name": "ns7"})
		}
	})
	runtime.KeepAlive(x)
}

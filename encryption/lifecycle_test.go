package encryption

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestNextKeys(t *testing.T) {
	cases := []struct {
		name string
		in   KeyState
		want KeySteps
	}{
		{"off, and never on", KeyState{}, KeySteps{}},
		{"switched on", KeyState{Wanted: true}, KeySteps{Generate: []int{0}, Use: []int{0}}},
		{"at work", KeyState{Wanted: true, Have: []int{0}, InUse: []int{0}}, KeySteps{Use: []int{0}}},
		{"rotation begins", KeyState{Wanted: true, Epoch: 1, Have: []int{0}, InUse: []int{0}}, KeySteps{Generate: []int{1}, Use: []int{0, 1}, Rotating: true}},
		{"traffic moves", KeyState{Wanted: true, Epoch: 1, Have: []int{0, 1}, InUse: []int{0, 1}}, KeySteps{Use: []int{0, 1}, Rotating: true}},
		{"nobody uses the old one", KeyState{Wanted: true, Epoch: 1, Have: []int{0, 1}, InUse: []int{1}}, KeySteps{Use: []int{1}, Remove: []int{0}}},
		{"slept through rotations", KeyState{Wanted: true, Epoch: 5, Have: []int{1, 2}, InUse: []int{2}}, KeySteps{Generate: []int{5}, Use: []int{2, 5}, Remove: []int{1}, Rotating: true}},
		{"switched off, still in use", KeyState{Epoch: 1, Have: []int{1}, InUse: []int{1}}, KeySteps{Use: []int{1}}},
		{"switched off", KeyState{Epoch: 1, Have: []int{0, 1}}, KeySteps{Remove: []int{0}}},
		{"the store was put back", KeyState{Wanted: true, Epoch: 1, Have: []int{2}, InUse: []int{2}}, KeySteps{Generate: []int{1}, Use: []int{1, 2}, Rotating: true}},
	}
	for _, c := range cases {
		if diff := cmp.Diff(c.want, NextKeys(c.in)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// Whatever the state: what is in use keeps its key, the wanted key is there, no key is made twice, and
// following the steps leads to rest.
func TestNextKeysProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		epochs := rapid.SliceOfNDistinct(rapid.IntRange(0, 6), 0, 4, rapid.ID[int])
		s := KeyState{Wanted: rapid.Bool().Draw(t, "wanted"), Epoch: rapid.IntRange(0, 6).Draw(t, "epoch"), Have: epochs.Draw(t, "have"), InUse: epochs.Draw(t, "in use")}
		slices.Sort(s.Have)
		slices.Sort(s.InUse)
		k := NextKeys(s)
		for _, e := range k.Generate {
			if slices.Contains(s.Have, e) {
				t.Fatalf("%+v: key %d is generated again", s, e)
			}
		}
		for _, e := range s.InUse {
			if slices.Contains(s.Have, e) && (slices.Contains(k.Remove, e) || !slices.Contains(k.Use, e)) {
				t.Fatalf("%+v: key %d is in use, and the steps are %+v", s, e, k)
			}
		}
		if s.Wanted && !slices.Contains(k.Use, s.Epoch) {
			t.Fatalf("%+v: the wanted key is not used: %+v", s, k)
		}
		for _, e := range k.Use {
			if slices.Contains(k.Remove, e) || !slices.Contains(s.Have, e) && !slices.Contains(k.Generate, e) {
				t.Fatalf("%+v: key %d is used and cannot be: %+v", s, e, k)
			}
		}
		s.Have = append(slices.DeleteFunc(slices.Clone(s.Have), func(e int) bool { return slices.Contains(k.Remove, e) }), k.Generate...)
		slices.Sort(s.Have)
		if again := NextKeys(s); len(again.Generate)+len(again.Remove) > 0 || !slices.Equal(again.Use, k.Use) {
			t.Fatalf("%+v: not at rest: %+v after %+v", s, again, k)
		}
	})
}

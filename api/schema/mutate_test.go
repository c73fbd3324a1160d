package schema

import (
	"maps"
	"slices"
	"testing"

	"weft/internal/examples"

	v3 "weft/api/v3"
)

// strange are the values that are put in place of good ones.
func strange() []any {
	return []any{"", "x", "a b", "A", "0", "80", "90:80", "-1", int64(0), int64(-1), int64(5), int64(255), int64(65536), true, []any{}, map[string]any{},
		"10.0.0.1", "10.0.0.0/8", "10.0.0.1/8", "::/0", "fd00::1", "fd00::/64", "0.0.0.0/0", "224.0.0.1", "255.255.255.255", "::ffff:10.0.0.1",
		"-1s", "1.5s", "1h", "ICMP", "tcp", "global()", "has(a)", "a.b", "a-", "eth*", "1:2:3", "65536:1", "Delete", "Egress"}
}

// TestMutationsAgree puts strange values in place of each value of the good examples, and leaves each out: Go and the
// schemas agree on what comes of it too. Each place gets a third of the values, the next one the next third.
func TestMutationsAgree(t *testing.T) {
	const most = 1500 // bytes; longer ones repeat themselves
	places, all, refused, excuses := 0, 0, 0, 0
	for _, e := range everyExample(t) {
		info, _ := v3.LookupKind(e.Kind.Kind + "." + e.Kind.Group)
		if wrong, _ := byGo(t, e.Manifest); len(wrong) > 0 || len(e.Manifest) > most || info.Internal {
			continue
		}
		good := toJSON(t, parse(t, e.Manifest))
		for _, path := range paths(parse(t, good)["spec"], []any{"spec"}) {
			places++
			for i, v := range append(strange(), leftOut{}) {
				if i%3 != places%3 {
					continue
				}
				tree := parse(t, good)
				set(tree, path, v)
				text := toJSON(t, tree)
				inGo, stopped := byGo(t, text)
				inSchema := byServer(t, Embedded(), &examples.Example{Manifest: text, Kind: e.Kind})
				all++
				if len(inGo) > 0 {
					refused++
				}
				switch v := judge(inGo, inSchema, stopped, map[string]int{}); v {
				case agreed:
				case excused:
					excuses++
				default:
					t.Errorf("%s: %s\n  Go     %v\n  schema %v", v, text, inGo, inSchema)
				}
			}
		}
	}
	if all < 5_000 || refused < all/2 {
		t.Errorf("%d mutations, %d refused: too few", all, refused)
	}
	t.Logf("%d mutations, %d refused, %d differ where they have to", all, refused, excuses)
}

type leftOut struct{}

// paths are those of all values within v, which is at path itself.
func paths(v any, path []any) [][]any {
	out := [][]any{path}
	add := func(step, child any) { out = append(out, paths(child, append(slices.Clone(path), step))...) }
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			add(k, v[k])
		}
	case []any:
		for i, child := range v {
			add(i, child)
		}
	}
	return out
}

// set puts x at path, or leaves out what is there; an element of a list that is left out is null.
func set(v any, path []any, x any) {
	for _, step := range path[:len(path)-1] {
		switch s := step.(type) {
		case string:
			v = v.(map[string]any)[s]
		case int:
			v = v.([]any)[s]
		}
	}
	_, out := x.(leftOut)
	switch s := path[len(path)-1].(type) {
	case string:
		if out {
			delete(v.(map[string]any), s)
			return
		}
		v.(map[string]any)[s] = x
	case int:
		if out {
			x = nil
		}
		v.([]any)[s] = x
	}
}

package v3

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzDecode takes anything a person may write: it never panics, and what it reads is written and
// read again the same.
func FuzzDecode(f *testing.F) {
	for _, path := range manifests(f) {
		f.Add(readFile(f, path))
	}
	for _, s := range []string{
		"", "---", "--- {}", "a: &a [*a]", "a: &a [x, x]\nb: [*a, *a]", "{\"a\":1}{", "[1e999]", "{\"kind\":\"List\",\"items\":[null]}",
		"apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {asNumber: \"1.10\"}}",
		"apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems: [{metadata: {name: a}, spec: {cidr: 0/0}}]",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b}\ndata: {a: null, b: \"\", c: YQ==}\nstringData: {a: x, \"\": y}",
		"apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: a}\nspec: {peerIP: \"[fe80::1%eth0]:179\", asNumber: \"1.10\", keepaliveTime: 1h, ttlSecurity: 255}",
		"apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: a}\nspec: {importV6: [{action: Accept, operations: [], asPathPrefix: [], communities: {values: []}}]}",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, managedFields: [{fieldsV1: {f:x: {}}}], creationTimestamp: null}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := Decode(data)
		if err != nil {
			return
		}
		for _, o := range objects {
			stable(t, o)
			defaulted(t, o)
		}
	})
}

// stable checks that o is written, read and written again as the same bytes.
func stable(t *testing.T, o Object) {
	t.Helper()
	first := encode(t, o)
	again, err := Decode(first)
	if err != nil || len(again) != 1 {
		t.Fatalf("%s\nreads as %d objects, %v", first, len(again), err)
	}
	if second := encode(t, again[0]); !bytes.Equal(first, second) {
		t.Fatalf("not stable:\n%s\n%s", first, second)
	}
}

// defaulted checks that defaults are idempotent, and keep a valid object valid and storable.
func defaulted(t *testing.T, o Object) {
	t.Helper()
	valid := Validate(o) == nil
	Default(o)
	once := o.DeepCopyObject().(Object)
	Default(o)
	if diff := cmp.Diff(once, o); diff != "" {
		t.Fatalf("a second Default changes (-once +twice):\n%s", diff)
	}
	err := Validate(o)
	if valid != (err == nil) {
		t.Fatalf("valid %v without defaults, with defaults: %v", valid, err)
	}
	if !valid {
		return
	}
	kind, _ := KindOf(o)
	back, err := DecodeStored(kind, encode(t, o))
	if err != nil {
		t.Fatalf("a valid %s cannot be read back: %v", kind, err)
	}
	if err := ValidateUpdate(back, o); err != nil {
		t.Fatalf("a %s cannot take its own place: %v", kind, err)
	}
}

// FuzzDecodeStored takes anything the store may hold.
func FuzzDecodeStored(f *testing.F) {
	kinds := Kinds()
	paths, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("found %d golden files: %v", len(paths), err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		objects, err := Decode(data)
		if err != nil {
			f.Fatal(err)
		}
		for _, o := range objects {
			for i, k := range kinds {
				if kind, _ := KindOf(o); kind == k.Kind {
					f.Add(uint8(i), encode(f, o))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		k := kinds[int(kind)%len(kinds)]
		o, err := DecodeStored(k.Kind, data)
		if err != nil {
			return
		}
		if gvk, ok := GroupVersionKindOf(o); !ok || gvk != o.GetObjectKind().GroupVersionKind() || gvk != k.GroupVersionKind() {
			t.Fatalf("a %s came as %v", k.Kind, gvk)
		}
		stable(t, o)
		defaulted(t, o)
		for _, c := range k.Columns {
			c.Value(o)
		}
	})
}

func BenchmarkDecodeStored(b *testing.B) {
	for _, file := range []string{"cluster", "nodes", "internal"} {
		objects, err := Decode(readFile(b, "testdata/golden/"+file+".json"))
		if err != nil {
			b.Fatal(err)
		}
		for _, o := range objects {
			kind, data := o.GetObjectKind().GroupVersionKind().Kind, encode(b, o)
			b.Run(kind+"/"+o.GetName(), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := DecodeStored(kind, data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

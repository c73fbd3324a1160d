package v3

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// TestManifests takes manifests as people have them through decode, default, validate, encode and
// back, and holds the stored form to the golden files.
func TestManifests(t *testing.T) {
	for _, path := range manifests(t) {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		t.Run(name, func(t *testing.T) {
			objects, err := Decode(readFile(t, path))
			if err != nil {
				t.Fatal(err)
			}
			var stored bytes.Buffer
			for _, o := range objects {
				Default(o)
				if err := Validate(o); err != nil {
					t.Errorf("%s %s: %v", o.GetObjectKind().GroupVersionKind().Kind, o.GetName(), err)
				}
				data := encode(t, o)
				roundTrip(t, o, data)
				if err := json.Indent(&stored, data, "", "  "); err != nil {
					t.Fatal(err)
				}
				stored.WriteByte('\n')
			}
			golden := filepath.Join("testdata", "golden", name+".json")
			if *update {
				if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, stored.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(readFile(t, golden)), stored.String()); diff != "" {
				t.Errorf("stored form differs from %s (-want +got):\n%s", golden, diff)
			}
		})
	}
}

// roundTrip checks that what is stored reads back as the same object, and is written again as the
// same bytes.
func roundTrip(t *testing.T, o Object, data []byte) {
	t.Helper()
	kind, _ := KindOf(o)
	back, err := DecodeStored(kind, data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(o, back); diff != "" {
		t.Errorf("%s %s read back differs (-was +is):\n%s", kind, o.GetName(), diff)
	}
	if again := encode(t, back); !bytes.Equal(again, data) {
		t.Errorf("%s %s is written differently the second time:\n%s\n%s", kind, o.GetName(), data, again)
	}
	// The stored form is also one that a person may write.
	written, err := Decode(data)
	if err != nil || len(written) != 1 {
		t.Fatalf("decode of the stored form: %d objects, %v", len(written), err)
	}
	if diff := cmp.Diff(o, written[0]); diff != "" {
		t.Errorf("%s %s applied again differs (-was +is):\n%s", kind, o.GetName(), diff)
	}
}

func manifests(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/manifests/*.yaml")
	if err != nil || len(paths) < 6 {
		t.Fatalf("found %d manifests: %v", len(paths), err)
	}
	return paths
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func encode(t testing.TB, o Object) []byte {
	t.Helper()
	data, err := Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// decodeOne reads one manifest of which the test is sure.
func decodeOne(t testing.TB, manifest string) Object {
	t.Helper()
	objects, err := Decode([]byte(manifest))
	if err != nil || len(objects) != 1 {
		t.Fatalf("decode %s: %d objects, %v", manifest, len(objects), err)
	}
	return objects[0]
}

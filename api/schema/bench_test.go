package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	v3 "weft/api/v3"
)

// BenchmarkAdmit judges objects in their stored form, after the first of each kind, and beside it decodes and
// validates them in Go as a reader of the store does.
func BenchmarkAdmit(b *testing.B) {
	for _, c := range oneOfEach(b) {
		b.Run(c.kind, func(b *testing.B) {
			if _, err := Embedded().AdmitJSON(c.kind, c.data, nil); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if errs, err := Embedded().AdmitJSON(c.kind, c.data, nil); err != nil || len(errs) > 0 {
					b.Fatal(err, errs)
				}
			}
		})
		b.Run(c.kind+"/go", func(b *testing.B) {
			for b.Loop() {
				if _, err := v3.DecodeStored(c.kind, c.data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type stored struct {
	kind string
	data []byte
}

// oneOfEach takes the first object of each kind from the golden files of package v3.
func oneOfEach(tb testing.TB) []stored {
	tb.Helper()
	files, err := filepath.Glob("../v3/testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		tb.Fatal("no golden files", err)
	}
	var out []stored
	seen := map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for dec := json.NewDecoder(bytes.NewReader(data)); dec.More(); {
			var raw json.RawMessage
			var o struct{ Kind, APIVersion string }
			if err := dec.Decode(&raw); err != nil {
				tb.Fatal(err)
			}
			if err := json.Unmarshal(raw, &o); err != nil {
				tb.Fatal(err)
			}
			if o.APIVersion == v3.Group+"/"+v3.Version && !seen[o.Kind] && o.Kind != v3.KindIPAMBlock {
				seen[o.Kind] = true
				out = append(out, stored{o.Kind, raw})
			}
		}
	}
	return out
}

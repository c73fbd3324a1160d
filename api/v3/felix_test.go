package v3

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

// TestFelixAgreesWithCRD takes every bound that the CRD states and asks the code for the same one:
// both stores take the same configurations.
func TestFelixAgreesWithCRD(t *testing.T) {
	spec := customResources(t)[KindFelixConfiguration].Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	valid := func(field string, v any) bool {
		b, err := json.Marshal(map[string]any{"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
			"metadata": map[string]any{"name": "default"}, "spec": map[string]any{field: v}})
		if err != nil {
			t.Fatal(err)
		}
		objects, err := Decode(b)
		return err == nil && Validate(objects[0]) == nil
	}
	enums, patterns, bounds := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(spec.Properties)) {
		s := spec.Properties[name]
		if len(s.Enum) > 0 {
			enums++
			for _, v := range s.Enum {
				if !valid(name, v) {
					t.Errorf("%s: the CRD takes %q, the code does not", name, v)
				}
			}
			if valid(name, "bogus") {
				t.Errorf("%s: the code takes any value, the CRD one of %v", name, s.Enum)
			}
		}
		if s.Pattern != "" {
			patterns++
			if valid(name, "; bogus") {
				t.Errorf("%s: the code takes any value, the CRD %s", name, s.Pattern)
			}
		}
		for _, b := range []struct {
			at   *float64
			step float64
		}{{s.Minimum, -1}, {s.Maximum, 1}} {
			if b.at == nil {
				continue
			}
			bounds++
			if valid(name, int64(*b.at+b.step)) {
				t.Errorf("%s: the code takes %v, beyond the CRD's bound", name, *b.at+b.step)
			}
			if !valid(name, int64(*b.at)) && name != "iptablesMarkMask" && name != "nftablesMarkMask" {
				t.Errorf("%s: the CRD takes %v, the code does not", name, *b.at)
			}
		}
	}
	if enums < 15 || patterns < 20 || bounds < 40 {
		t.Errorf("only %d enums, %d patterns and %d bounds of %d fields were compared", enums, patterns, bounds, len(spec.Properties))
	}
	t.Logf("%d fields: %d enums, %d patterns, %d bounds agree", len(spec.Properties), enums, patterns, bounds)
}

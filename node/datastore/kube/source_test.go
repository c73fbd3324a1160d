package kube

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
)

// The table of sources says what the CRDs say: every kind of ours has one, at that path, with a status of its own, beside conditions, or not.
func TestSourcesFitCRDs(t *testing.T) {
	files, err := filepath.Glob("../../../manifests/crds/" + v3.Group + "_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type crd struct {
		Spec struct {
			Group    string
			Scope    string
			Names    struct{ Kind, Plural string }
			Versions []struct {
				Name         string
				Subresources map[string]any
				Schema       struct {
					OpenAPIV3Schema struct {
						Properties struct {
							Status struct{ Properties map[string]any }
						}
					} `json:"openAPIV3Schema"`
				}
			}
		}
	}
	found := map[string]crd{}
	for _, f := range files {
		var c crd
		b, err := os.ReadFile(f)
		if err == nil {
			err = yaml.Unmarshal(b, &c)
		}
		if err != nil || len(c.Spec.Versions) == 0 {
			t.Fatalf("%s: %v", f, err)
		}
		found[c.Spec.Names.Kind] = c
	}
	checked := 0
	for _, src := range sources("", false) {
		if src.group != v3.Group {
			continue
		}
		checked++
		c, ok := found[src.kind]
		if !ok {
			t.Errorf("%s has no CRD", src.kind)
			continue
		}
		v := c.Spec.Versions[0]
		_, status := v.Subresources["status"]
		// Conditions alone are written by themselves, whatever the store does.
		said := v.Schema.OpenAPIV3Schema.Properties.Status.Properties
		// So is what says which settings are in force: nobody writes it yet.
		delete(said, "environmentVars")
		delete(said, "runningConfig")
		if conditions := len(said) == 1 && said["conditions"] != nil; status != src.status && (src.status || !conditions) {
			t.Errorf("%s: the CRD has a status of its own: %v, with nothing but conditions: %v, the store writes one: %v", src.kind, status, conditions, src.status)
		}
		if c.Spec.Names.Plural != src.resource || v.Name != src.version || (c.Spec.Scope == "Namespaced") != src.namespaced {
			t.Errorf("%s: the CRD is %s/%s, %s; the store asks for %s/%s, namespaced %v", src.kind, c.Spec.Names.Plural, v.Name, c.Spec.Scope, src.resource, src.version, src.namespaced)
		}
	}
	if checked < 20 {
		t.Errorf("only %d kinds were compared", checked)
	}
}

package schema

import (
	"encoding/json"
	"errors"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
	"weft/internal/examples"
)

// everyExample returns the examples of kinds that have a schema.
func everyExample(t *testing.T) []*examples.Example {
	t.Helper()
	files, err := examples.Files("../v3/testdata/refused")
	if err != nil {
		t.Fatal(err)
	}
	var all []*examples.Example
	for _, file := range files {
		lines, err := examples.Lines(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			e, err := examples.Parse(line, lookup)
			if err != nil {
				t.Fatal(err)
			}
			if e == nil || e.Kind.Group != v3.Group {
				continue
			}
			if _, err := yaml.YAMLToJSONStrict([]byte(e.Manifest)); err != nil {
				continue // neither is asked what is no JSON
			}
			all = append(all, e)
		}
	}
	return all
}

func lookup(name string) (schema.GroupVersionKind, bool, bool) {
	k, ok := v3.LookupKind(name)
	return k.GroupVersionKind(), k.Namespaced, ok
}

// byGo is what is wrong with a manifest by the rules in Go, and whether they did not get beyond fields and types.
func byGo(t *testing.T, manifest string) (errs []*field.Error, stopped bool) {
	t.Helper()
	objects, err := v3.Decode([]byte(manifest))
	if err != nil {
		return fieldErrors(err), true
	}
	v3.Default(objects[0])
	return fieldErrors(v3.Validate(objects[0])), false
}

// fieldErrors takes an error apart.
func fieldErrors(err error) []*field.Error {
	var parts []error
	switch e := err.(type) {
	case nil:
		return nil
	case interface{ Errors() []error }:
		parts = e.Errors()
	case interface{ Unwrap() []error }:
		parts = e.Unwrap()
	default:
		var one *field.Error
		if !errors.As(err, &one) {
			one = &field.Error{Detail: err.Error()}
		}
		return []*field.Error{one}
	}
	var all []*field.Error
	for _, p := range parts {
		all = append(all, fieldErrors(p)...)
	}
	return all
}

// byServer is what is wrong with a manifest by the API server: its metadata, which no CRD describes, and then
// the schema.
func byServer(t *testing.T, s *Set, e *examples.Example) []*field.Error {
	t.Helper()
	tree := parse(t, e.Manifest)
	var errs field.ErrorList
	meta, _, unknown, err := objectmeta.GetObjectMetaWithOptions(tree, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: true})
	for _, path := range unknown {
		errs = append(errs, field.Invalid(field.NewPath(path), field.OmitValueType{}, "unknown field"))
	}
	info, _ := v3.LookupKind(e.Kind.Kind + "." + e.Kind.Group)
	if err != nil {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error()))
	} else {
		errs = append(errs, apivalidation.ValidateObjectMetaAccessor(meta, info.Namespaced, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))...)
	}
	said, err := s.Admit(e.Kind.Kind, tree, nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(errs, said...)
}

// parse reads a manifest as the API server does.
func parse(t *testing.T, manifest string) map[string]any {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := utiljson.Unmarshal(data, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func decodeAll(t *testing.T, manifest string) []v3.Object {
	t.Helper()
	objects, err := v3.Decode([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func decode(t *testing.T, manifest string) v3.Object {
	t.Helper()
	objects := decodeAll(t, manifest)
	if len(objects) != 1 {
		t.Fatalf("%d objects, want one: %s", len(objects), manifest)
	}
	return objects[0]
}

// Package schema judges resources of projectcalico.org/v3 as a Kubernetes API server that has the CRDs of
// package manifests/crds does, with the API server's own code: fields that there are not, defaults, the OpenAPI
// schema, sets and maps, and the rules in CEL. The etcd store asks it before each write, so that both stores
// take the same objects.
//
// It does not own the rules, which are markers in package api/v3, nor those that no schema can express, which
// are v3.Validate's; and it says nothing of Kubernetes' own kinds.
package schema

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	v3 "weft/api/v3"
	"weft/manifests/crds"
)

// Set holds the schema of every kind that has a CRD. It is safe for concurrent use.
type Set struct {
	kinds map[string]func() (*kind, error) // by kind; each is made when it is first asked for
}

// kind is what one CRD says, compiled.
type kind struct {
	structural *structural.Structural
	openapi    validation.SchemaValidator
	rules      *cel.Validator // nil when there are none
}

// Embedded returns the schemas that this binary has: those of manifests/crds. To read and compile one takes
// milliseconds to tens of them, which the first object of its kind pays.
var Embedded = sync.OnceValue(func() *Set { return New(crds.Files) })

// New returns the schemas of the CRDs in files, which are named as controller-gen names them.
func New(files fs.FS) *Set {
	s := &Set{kinds: map[string]func() (*kind, error){}}
	for _, k := range v3.Kinds() {
		if k.GroupVersion.Group == v3.Group {
			name := v3.Group + "_" + k.Plural + ".yaml"
			s.kinds[k.Kind] = sync.OnceValues(func() (*kind, error) { return compile(files, name) })
		}
	}
	return s
}

func compile(files fs.FS, name string) (*kind, error) {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		return nil, fmt.Errorf("read the schema %s: %w", name, err)
	}
	if len(crd.Spec.Versions) != 1 || crd.Spec.Versions[0].Schema == nil {
		return nil, fmt.Errorf("read the schema %s: it has %d versions, want one", name, len(crd.Spec.Versions))
	}
	var props apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, &props, nil); err != nil {
		return nil, fmt.Errorf("read the schema %s: %w", name, err)
	}
	k := &kind{}
	if k.structural, err = structural.NewStructural(&props); err != nil {
		return nil, fmt.Errorf("compile the schema %s: %w", name, err)
	}
	if k.openapi, _, err = validation.NewSchemaValidator(&props); err != nil {
		return nil, fmt.Errorf("compile the schema %s: %w", name, err)
	}
	k.rules = cel.NewValidator(k.structural, true, celconfig.PerCallLimit)
	return k, nil
}

// Has tells whether kind has a schema. Kubernetes' own kinds have none.
func (s *Set) Has(kind string) bool { return s.kinds[kind] != nil }

// Admit judges the object in tree, a JSON object with whole numbers as int64, as the API server does when it
// takes the place of old, or is created when old is nil: what it returns is wrong with it. In tree, unknown
// fields are left out afterwards, and defaults stand where nothing did.
func (s *Set) Admit(kind string, tree, old map[string]any) (field.ErrorList, error) {
	get := s.kinds[kind]
	if get == nil {
		return nil, fmt.Errorf("%s has no schema", kind)
	}
	k, err := get()
	if err != nil {
		return nil, err
	}
	errs := k.complete(tree)
	errs = append(errs, validation.ValidateCustomResource(nil, tree, k.openapi)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, tree)...)
	if k.rules == nil || blocks(errs) {
		return errs, nil
	}
	var before any
	if old != nil {
		before = old
	}
	wrong, _ := k.rules.Validate(context.Background(), nil, k.structural, tree, before, math.MaxInt64)
	return append(errs, wrong...), nil
}

// AdmitJSON is Admit for objects in their stored form. There is no old one when its data are nil.
func (s *Set) AdmitJSON(kind string, data, old []byte) (field.ErrorList, error) {
	var tree, before map[string]any
	if err := utiljson.Unmarshal(data, &tree); err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	if old != nil {
		if err := utiljson.Unmarshal(old, &before); err != nil {
			return nil, fmt.Errorf("read the object that it replaces: %w", err)
		}
	}
	return s.Admit(kind, tree, before)
}

// complete leaves out what the schema does not know, and reports it, and fills in defaults.
func (k *kind) complete(tree map[string]any) field.ErrorList {
	var errs field.ErrorList
	for _, path := range pruning.PruneWithOptions(tree, k.structural, true, structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}) {
		errs = append(errs, field.Invalid(field.NewPath(path), field.OmitValueType{}, "unknown field"))
	}
	defaulting.PruneNonNullableNullsWithoutDefaults(tree, k.structural)
	defaulting.Default(tree, k.structural)
	return errs
}

// blocks tells whether an object is so wrong that its rules would not find what they speak of: the API server
// does not run them then.
func blocks(errs field.ErrorList) bool {
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return true
		}
	}
	return false
}

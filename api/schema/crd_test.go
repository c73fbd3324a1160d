package schema

import (
	"context"
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"

	"weft/manifests/crds"
)

// TestCRDs asks the API server's own validation of CRDs whether it would take ours: structural schemas, defaults
// that are valid, rules that compile, and the bounds of what each rule and all of a CRD may cost.
func TestCRDs(t *testing.T) {
	names, err := fs.Glob(crds.Files, "*.yaml")
	if err != nil || len(names) != len(Embedded().kinds) {
		t.Fatalf("%d CRDs of %d kinds: %v", len(names), len(Embedded().kinds), err)
	}
	rules, patterns := 0, 0
	for _, name := range names {
		data, err := fs.ReadFile(crds.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range validateCRD(t, data) {
			t.Errorf("%s: %v", name, err)
		}
		rules += len(regexp.MustCompile(`(?m)^ *(?:- )?rule: `).FindAll(data, -1))
		patterns += len(regexp.MustCompile(`(?m)^ *pattern: `).FindAll(data, -1))
	}
	t.Logf("%d CRDs with %d rules and %d patterns", len(names), rules, patterns)
}

// TestCRDsCost is the control of TestCRDs: lists without bounds make a rule cost too much.
func TestCRDsCost(t *testing.T) {
	data, err := fs.ReadFile(without(t, "maxItems"), "projectcalico.org_networkpolicies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	errs := validateCRD(t, data)
	if len(errs) == 0 || !strings.Contains(errs[0].Error(), "exceeds budget") {
		t.Errorf("got %v, want that rules exceed their budget", errs)
	}
}

func validateCRD(t *testing.T, data []byte) (errs []error) {
	t.Helper()
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		t.Fatal(err)
	}
	apiextensionsv1.SetDefaults_CustomResourceDefinition(&crd)
	apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&crd.Spec)
	var internal apiextensions.CustomResourceDefinition
	if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&crd, &internal, nil); err != nil {
		t.Fatal(err)
	}
	for _, err := range validation.ValidateCustomResourceDefinition(context.Background(), &internal) {
		errs = append(errs, err)
	}
	return errs
}

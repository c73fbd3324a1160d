package schema

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v3 "weft/api/v3"
	"weft/internal/testkit/kube"
)

func TestMain(m *testing.M) { code := m.Run(); kube.StopShared(); os.Exit(code) }

// TestAPIServer puts every example to a real API server that has the CRDs, and holds its answers to those that this
// package gives in its place: the same objects are refused, for the same fields.
func TestAPIServer(t *testing.T) {
	c := kube.Shared(t)
	c.MustDo(t, http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "shop"}})
	taken, refused := 0, 0
	for _, e := range everyExample(t) {
		here := byServer(t, Embedded(), e)
		if slices.ContainsFunc(here, func(e *field.Error) bool { return e.Field == "metadata.namespace" }) {
			continue // the address of the request says the namespace
		}
		info, _ := v3.LookupKind(e.Kind.Kind + "." + e.Kind.Group)
		path := "/apis/" + v3.Group + "/" + v3.Version + "/"
		if info.Namespaced {
			path += "namespaces/shop/"
		}
		_, err := c.Do(t.Context(), kube.Admin, http.MethodPost, path+info.Plural+"?dryRun=All&fieldValidation=Strict", parse(t, e.Manifest))
		there, ok := causes(err)
		switch {
		case err != nil && !ok:
			t.Errorf("%.200s: %v", e.Line, err)
		case (err == nil) != (len(here) == 0):
			t.Errorf("%.200s\n  API server %v\n  here       %v", e.Line, err, here)
		case err == nil:
			taken++
		default:
			if refused++; !sameFields(there, here) {
				t.Errorf("%.200s\n  API server %v\n  here       %v", e.Line, there, here)
			}
		}
	}
	if taken < 80 || refused < 300 {
		t.Errorf("%d taken, %d refused: too few", taken, refused)
	}
	t.Logf("%d taken, %d refused", taken, refused)
}

// causes are the fields that the API server names. It names none where it refuses to read the object.
func causes(err error) (fields []string, ok bool) {
	var refused *kube.StatusError
	if !errors.As(err, &refused) {
		return nil, err == nil
	}
	var status struct {
		Details struct {
			Causes []struct {
				Field string `json:"field"`
			} `json:"causes"`
		} `json:"details"`
	}
	if err := json.Unmarshal(refused.Body, &status); err != nil {
		return nil, false
	}
	for _, c := range status.Details.Causes {
		fields = append(fields, c.Field)
	}
	return fields, refused.Code == http.StatusUnprocessableEntity || refused.Code == http.StatusBadRequest
}

// sameFields compares what both name; that not all rules were run, which the API server adds, names nothing.
func sameFields(there []string, here []*field.Error) bool {
	var fields []string
	for _, e := range here {
		fields = append(fields, e.Field)
	}
	return len(there) == 0 || slices.Equal(named(there), named(fields))
}

func named(fields []string) []string {
	fields = slices.DeleteFunc(slices.Clone(fields), func(s string) bool { return s == "" || s == "<nil>" })
	slices.Sort(fields)
	return slices.Compact(fields)
}

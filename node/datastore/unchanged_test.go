package datastore

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
)

// What differs in conditions alone is no change; whatever else differs is one, also of the same generation.
func TestUnchanged(t *testing.T) {
	policy := func(version string, generation int64, selector string, conditions ...metav1.Condition) *v3.NetworkPolicy {
		p := &v3.NetworkPolicy{}
		p.Name, p.Namespace, p.ResourceVersion, p.Generation = "a", "default", version, generation
		p.Spec.Selector = selector
		p.Status.Conditions = conditions
		return p
	}
	said := metav1.Condition{Type: v3.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v3.ReasonAccepted}
	labelled := policy("5", 2, "b", said)
	labelled.Labels = map[string]string{"x": "y"}
	pool := func(version string, conditions ...metav1.Condition) *v3.IPPool {
		p := &v3.IPPool{}
		p.Name, p.ResourceVersion = "p", version
		p.Status.Conditions = conditions
		return p
	}
	var u Unchanged
	for i, step := range []struct {
		what string
		c    Change
		drop bool
	}{
		{"new", Change{Object: policy("1", 1, "a")}, false},
		{"a condition", Change{Object: policy("2", 1, "a", said)}, true},
		{"another selector", Change{Object: policy("3", 2, "b", said)}, false},
		{"the same again", Change{Object: policy("3", 2, "b", said)}, true},
		{"another selector by the same generation", Change{Object: policy("4", 2, "c", said)}, false},
		{"back", Change{Object: policy("5", 2, "b")}, false},
		{"a label", Change{Object: labelled}, false},
		{"gone", Change{Key: KeyOf(labelled)}, false},
		{"back again", Change{Object: labelled}, false},
		{"not understood", Change{Key: KeyOf(labelled), Err: ErrInvalid}, false},
		{"not understood, for the same reason", Change{Key: KeyOf(labelled), Err: ErrInvalid}, true},
		{"not understood, for another", Change{Key: KeyOf(labelled), Err: ErrConflict}, false},
		{"understood", Change{Object: labelled}, false},
		{"a pool", Change{Object: pool("1")}, false},
		{"a condition of a pool", Change{Object: pool("2", said)}, false},
	} {
		if step.c.Object != nil {
			step.c.Key = KeyOf(step.c.Object)
		}
		before := ""
		if step.c.Object != nil {
			before = step.c.Object.GetResourceVersion()
		}
		if got := len(u.Drop([]Change{step.c})) == 0; got != step.drop {
			t.Errorf("step %d, %s: dropped %v, want %v", i, step.what, got, step.drop)
		}
		if step.c.Object != nil && step.c.Object.GetResourceVersion() != before {
			t.Errorf("step %d, %s: the object was changed", i, step.what)
		}
	}
}

package selector

import (
	"testing"

	"weft/internal/testkit/allocs"
)

func TestAllocs(t *testing.T) {
	s, err := Parse("projectcalico.org/namespace == 'default' && role in {'db', 'web', 'cache'} && !has(quarantine)")
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"projectcalico.org/namespace": "default", "role": "web", "app": "shop"}
	allocs.Most(t, 0, func() {
		if !s.Matches(labels) {
			t.Fatal("no match")
		}
	})
}

package block

import (
	"testing"

	"weft/internal/testkit/allocs"
)

func TestAllocs(t *testing.T) {
	b := mustNew(t, "10.0.0.0/26")
	p := Policy{Now: t0}
	o := &Owner{Handle: "a"}
	allocs.Most(t, 2, func() {
		if _, err := b.AssignNext(o, p); err != nil {
			t.Fatal(err)
		}
		b.ReleaseHandle("a", p)
	})
}

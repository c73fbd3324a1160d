package etcd

import (
	"errors"
	"strings"
	"testing"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// TestAdmit writes what only the schema refuses, and what both do: nothing of it is stored, and the error names the
// field.
func TestAdmit(t *testing.T) {
	s := testStore(t)
	many := &v3.BGPPeer{Spec: v3.BGPPeerSpec{PeerSelector: "all()", Filters: make([]string, 1025)}}
	many.Name = "many"
	for i := range many.Spec.Filters {
		many.Spec.Filters[i] = "a"
	}
	small := &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: "10.0.0.0/27"}}
	small.Name = "small"
	for _, c := range []struct {
		o     v3.Object
		field string
	}{{many, "spec.filters: Too many: 1025"}, {small, "spec.cidr: Invalid value: \"10.0.0.0/27\": is smaller than one block"}} {
		_, err := s.Create(t.Context(), c.o)
		if !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: got %v, want that %s", c.o.GetName(), err, c.field)
		}
	}
	many.Spec.Filters = many.Spec.Filters[:1024]
	if _, err := s.Create(t.Context(), many); err != nil {
		t.Error(err)
	}
	many.Spec.Filters = append(many.Spec.Filters, "b")
	if _, err := s.Update(t.Context(), many); !errors.Is(err, datastore.ErrInvalid) || !strings.Contains(err.Error(), "spec.filters: Too many") {
		t.Errorf("update: got %v, want that spec.filters has too many", err)
	}
}

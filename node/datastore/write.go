package datastore

import (
	"fmt"

	v3 "weft/api/v3"
)

// Prepared returns a copy of o with its kind and defaults, as it goes into a store.
func Prepared(o v3.Object) (v3.Object, error) {
	gvk, ok := v3.GroupVersionKindOf(o)
	if !ok {
		return nil, fmt.Errorf("%T is of no kind that is known here: %w", o, ErrInvalid)
	}
	in, ok := o.DeepCopyObject().(v3.Object)
	if !ok {
		return nil, fmt.Errorf("%T does not copy to a resource: %w", o, ErrInvalid)
	}
	in.GetObjectKind().SetGroupVersionKind(gvk)
	v3.Default(in)
	return in, nil
}

// Encode returns the JSON of a resource, of at most limit bytes.
func Encode(in v3.Object, limit int) ([]byte, error) {
	data, err := v3.Encode(in)
	if err != nil {
		return nil, fmt.Errorf("encode: %w: %w", ErrInvalid, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("it has %d bytes, the store takes at most %d: make it smaller, or more than one of it: %w", len(data), limit, ErrInvalid)
	}
	return data, nil
}

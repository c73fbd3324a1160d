package etcd

import (
	"fmt"

	"weft/api/schema"
	v3 "weft/api/v3"
	"weft/node/datastore"
)

// admit judges what is to be stored, as data, in place of old, which is nil for nothing. encode, which bounds its
// size, comes first. The rules in Go say best what is wrong; the schemas are those of Kubernetes, so that what is
// taken here is taken there.
func admit(in v3.Object, data, old []byte) error {
	if err := v3.Validate(in); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	kind, _ := v3.KindOf(in)
	if !judged(kind) {
		return nil
	}
	errs, err := schema.Embedded().AdmitJSON(kind, data, old)
	if err != nil {
		return fmt.Errorf("ask the schema of %s: %w", kind, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, errs.ToAggregate())
	}
	return nil
}

// judged tells whether the schema of a kind is asked: that of what people write. What nodes write of themselves, many
// times a second, is made by this program from types that the schemas are generated from; to compile them and to ask
// them would cost every node memory and every pod a millisecond.
func judged(kind string) bool {
	switch kind {
	case v3.KindNode, v3.KindWorkloadEndpoint, v3.KindIPAMBlock, v3.KindIPAMHandle, v3.KindBlockAffinity, v3.KindCalicoNodeStatus:
		return false
	}
	return schema.Embedded().Has(kind)
}

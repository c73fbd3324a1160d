package ipam

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/ipam/block"
)

// hostAffinity is how IPAMBlock.spec.affinity names a node.
func hostAffinity(node string) string { return v3.AffinityTypeHost + ":" + node }

// affinityNode returns the node that an affinity names, or "".
func affinityNode(affinity string) string {
	node, found := strings.CutPrefix(affinity, v3.AffinityTypeHost+":")
	if !found {
		return ""
	}
	return node
}

// blockName is the name of the IPAMBlock of a CIDR: 10-0-0-0-26.
func blockName(cidr netip.Prefix) string {
	return strings.NewReplacer(".", "-", ":", "-", "/", "-").Replace(cidr.String())
}

// affinityName is the name of the BlockAffinity of a node and a CIDR.
func affinityName(node string, cidr netip.Prefix) string { return node + "-" + blockName(cidr) }

// decodeBlock reads an IPAMBlock. Inconsistencies are repaired in the result and listed.
func decodeBlock(o *v3.IPAMBlock) (*block.Block, []string, error) {
	cidr, err := netip.ParsePrefix(o.Spec.CIDR)
	if err != nil {
		return nil, nil, fmt.Errorf("read block %s: cidr %q: %w", o.Name, o.Spec.CIDR, err)
	}
	s := block.State{
		CIDR: cidr, Deleted: o.Spec.Deleted, Unallocated: o.Spec.Unallocated, Sequence: o.Spec.SequenceNumber,
		Allocations: make([]int, len(o.Spec.Allocations)), Sequences: map[int]uint64{},
	}
	if o.Spec.Affinity != nil {
		s.Affinity = *o.Spec.Affinity
	}
	if o.Spec.AffinityClaimTime != nil {
		s.Claimed = o.Spec.AffinityClaimTime.Time
	}
	for i, at := range o.Spec.Allocations {
		switch {
		case at == nil:
			s.Allocations[i] = -1
		case *at < 0: // not a free address: an owner that does not exist
			s.Allocations[i] = len(o.Spec.Attributes)
		default:
			s.Allocations[i] = *at
		}
	}
	for _, a := range o.Spec.Attributes {
		s.Owners = append(s.Owners, decodeOwner(a))
	}
	for ordinal, n := range o.Spec.SequenceNumberForAllocation {
		i, err := strconv.Atoi(ordinal)
		if err != nil {
			return nil, nil, fmt.Errorf("read block %s: sequenceNumberForAllocation: key %q, want a number", o.Name, ordinal)
		}
		s.Sequences[i] = n
	}
	b, repairs, err := block.Restore(s)
	if err != nil {
		return nil, nil, fmt.Errorf("read block %s: %w", o.Name, err)
	}
	return b, repairs, nil
}

func decodeOwner(a v3.AllocationAttribute) block.Owner {
	o := block.Owner{Attributes: a.ActiveOwnerAttrs, Alternate: a.AlternateOwnerAttrs}
	if a.HandleID != nil {
		o.Handle = *a.HandleID
	}
	if a.ReleasedAt != nil {
		o.ReleasedAt = a.ReleasedAt.Time
	}
	return o
}

// encodeBlock writes b into the spec of o and leaves the rest of o alone.
func encodeBlock(b *block.Block, o *v3.IPAMBlock) {
	s := b.State()
	o.Spec.CIDR, o.Spec.Deleted, o.Spec.SequenceNumber = s.CIDR.String(), s.Deleted, s.Sequence
	o.Spec.Affinity, o.Spec.AffinityClaimTime = nil, nil
	if s.Affinity != "" {
		o.Spec.Affinity = &s.Affinity
	}
	if !s.Claimed.IsZero() {
		o.Spec.AffinityClaimTime = &metav1.Time{Time: s.Claimed}
	}
	o.Spec.Unallocated = s.Unallocated
	o.Spec.Allocations = make([]*int, len(s.Allocations))
	for i, at := range s.Allocations {
		if at >= 0 {
			o.Spec.Allocations[i] = &at
		}
	}
	o.Spec.Attributes = make([]v3.AllocationAttribute, len(s.Owners))
	for i, owner := range s.Owners {
		o.Spec.Attributes[i] = encodeOwner(owner)
	}
	o.Spec.SequenceNumberForAllocation = make(map[string]uint64, len(s.Sequences))
	for i, n := range s.Sequences {
		o.Spec.SequenceNumberForAllocation[strconv.Itoa(i)] = n
	}
}

func encodeOwner(o block.Owner) v3.AllocationAttribute {
	a := v3.AllocationAttribute{ActiveOwnerAttrs: o.Attributes, AlternateOwnerAttrs: o.Alternate}
	if o.Handle != "" {
		a.HandleID = &o.Handle
	}
	if !o.ReleasedAt.IsZero() {
		a.ReleasedAt = &metav1.Time{Time: o.ReleasedAt}
	}
	return a
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v3.Group + "/" + v3.Version, Kind: kind}
}

// newBlock returns an empty block claimed for node.
func newBlock(cidr netip.Prefix, node string, now time.Time) (*v3.IPAMBlock, error) {
	b, err := block.New(cidr, hostAffinity(node), now)
	if err != nil {
		return nil, err
	}
	o := &v3.IPAMBlock{TypeMeta: typeMeta(v3.KindIPAMBlock)}
	o.Name = blockName(cidr)
	encodeBlock(b, o)
	return o, nil
}

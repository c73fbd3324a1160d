package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	v3 "weft/api/v3"
)

// AdoptBlock returns the block of another allocator as this one would have written it. One whose lists do not agree is an
// error: a repair could give out an address that is in use.
func AdoptBlock(o *v3.IPAMBlock) (*v3.IPAMBlock, error) {
	b, repairs, err := decodeBlock(o)
	if err != nil {
		return nil, err
	}
	if len(repairs) > 0 {
		return nil, fmt.Errorf("its lists do not agree: %s", strings.Join(repairs, "; "))
	}
	out := o.DeepCopy()
	out.Name = blockName(b.CIDR())
	encodeBlock(b, out)
	out.Spec.DeprecatedStrictAffinity = false
	return out, nil
}

// AdoptAffinity does the same for a node's claim to a block: name, type and the labels by which the node finds it. One
// for another purpose than a node's stays as it is.
func AdoptAffinity(o *v3.BlockAffinity) (*v3.BlockAffinity, error) {
	if o.Spec.Type == v3.AffinityTypeVirtual {
		return o.DeepCopy(), nil
	}
	cidr, err := netip.ParsePrefix(o.Spec.CIDR)
	if err != nil {
		return nil, fmt.Errorf("cidr %q: %w", o.Spec.CIDR, err)
	}
	return affinityOf(o.Spec.Node, cidr, o.Spec.State), nil
}

// AdoptHandle does the same for a handle; node is whose addresses it holds, empty when no node's.
func AdoptHandle(o *v3.IPAMHandle, node string) *v3.IPAMHandle {
	out := o.DeepCopy()
	out.Name = handleName(o.Spec.HandleID)
	if node != "" {
		out.Annotations = map[string]string{AnnotationNode: node}
	}
	return out
}

// HandleNodes returns which node has the addresses of each handle, as the blocks tell.
func HandleNodes(blocks []*v3.IPAMBlock) map[string]string {
	nodes := map[string]string{}
	for _, b := range blocks {
		for _, a := range b.Spec.Attributes {
			if a.HandleID != nil && a.ActiveOwnerAttrs[AttrNode] != "" {
				nodes[*a.HandleID] = a.ActiveOwnerAttrs[AttrNode]
			}
		}
	}
	return nodes
}

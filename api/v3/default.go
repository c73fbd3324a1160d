package v3

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Default fills in what o leaves out. It is idempotent. FelixConfiguration and BGPConfiguration are left
// as they are: there an unset field means "as the wider configuration says", and the reader of the last of
// them applies the default that the field's comment names.
func Default(o Object) {
	if isNil(o) {
		return
	}
	switch o := o.(type) {
	case *IPPool:
		defaultPool(&o.Spec)
	case *IPAMConfiguration:
		setDefault(&o.Spec.AutoAllocateBlocks, new(true))
		setDefault(&o.Spec.KubeVirtVMAddressPersistence, new(VMAddressPersistenceEnabled))
	case *IPAMBlock:
		defaultBlock(&o.Spec)
	case *IPAMHandle:
		if o.Spec.Block == nil {
			o.Spec.Block = map[string]int{}
		}
	case *BlockAffinity:
		setDefault(&o.Spec.Type, AffinityTypeHost)
	case *corev1.Namespace:
		defaultNamespace(o)
	default:
		defaultBGPKind(o)
	}
}

// setDefault sets a field that has its zero value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func defaultPool(s *IPPoolSpec) {
	setDefault(&s.VXLANMode, EncapNever)
	setDefault(&s.IPIPMode, EncapNever)
	setDefault(&s.NodeSelector, "all()")
	setDefault(&s.AssignmentMode, AssignAutomatic)
	if cidr, err := netip.ParsePrefix(s.CIDR); err == nil {
		setDefault(&s.BlockSize, defaultBlockSize(cidr))
	}
	if len(s.AllowedUses) == 0 {
		s.AllowedUses = []AllowedUse{UseWorkload}
		// Addresses of tunnel devices belong to no namespace.
		if s.NamespaceSelector == "" {
			s.AllowedUses = append(s.AllowedUses, UseTunnel)
		}
	}
}

func defaultBlockSize(cidr netip.Prefix) int {
	if cidr.Addr().Is4() {
		return DefaultBlockSizeIPv4
	}
	return DefaultBlockSizeIPv6
}

// defaultBlock makes the lists of a block lists and not null: other readers of the store need them.
func defaultBlock(s *IPAMBlockSpec) {
	if s.Allocations == nil {
		s.Allocations = []*int{}
	}
	if s.Unallocated == nil {
		s.Unallocated = []int{}
	}
	if s.Attributes == nil {
		s.Attributes = []AllocationAttribute{}
	}
	if s.SequenceNumberForAllocation == nil {
		s.SequenceNumberForAllocation = map[string]uint64{}
	}
}

// defaultNamespace does what the Kubernetes API server does, so that selectors find the name.
func defaultNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
	setDefault(&n.Status.Phase, corev1.NamespaceActive)
}

package v3

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateBlock checks what a block is; whether its allocations agree with each other is for the
// allocator to see, which can repair them.
func validateBlock(path *field.Path, s *IPAMBlockSpec) field.ErrorList {
	errs := validateBlockCIDR(path.Child("cidr"), s.CIDR)
	if s.Affinity != nil {
		kind, name, _ := strings.Cut(*s.Affinity, ":")
		if name == "" || (kind != AffinityTypeHost && kind != AffinityTypeVirtual) {
			errs = append(errs, invalid(path.Child("affinity"), excerpt(*s.Affinity), "want host:<node> or virtual:<name>")...)
		}
	}
	return errs
}

func validateBlockCIDR(path *field.Path, cidr string) field.ErrorList {
	p, errs := checkMaskedCIDR(path, cidr, 0)
	if errs != nil {
		return errs
	}
	least := minBlockSizeIPv4
	if p.Addr().Is6() {
		least = minBlockSizeIPv6
	}
	if p.Bits() < least {
		return invalid(path, cidr, "is too large for a block: want a prefix length of at least %d", least)
	}
	return nil
}

func validateHandle(path *field.Path, s *IPAMHandleSpec) field.ErrorList {
	var errs field.ErrorList
	if s.HandleID == "" {
		errs = append(errs, field.Required(path.Child("handleID"), "whose addresses these are"))
	}
	for _, cidr := range slices.Sorted(maps.Keys(s.Block)) {
		at := path.Child("block").Key(cidr)
		errs = append(errs, validateBlockCIDR(at, cidr)...)
		if n := s.Block[cidr]; n < 0 {
			errs = append(errs, invalid(at, int64(n), "want a count of addresses: 0 or more")...)
		}
	}
	return errs
}

func validateAffinity(path *field.Path, s *BlockAffinitySpec) field.ErrorList {
	errs := slices.Concat(
		validateBlockCIDR(path.Child("cidr"), s.CIDR),
		checkEnum(path.Child("state"), s.State, AffinityPending, AffinityConfirmed, AffinityPendingDeletion),
	)
	if s.Node == "" {
		errs = append(errs, field.Required(path.Child("node"), "whose block this is"))
	}
	if s.Type != "" {
		errs = append(errs, checkEnum(path.Child("type"), s.Type, AffinityTypeHost, AffinityTypeVirtual)...)
	}
	return errs
}

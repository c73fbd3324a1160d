package v3

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft/model/selector"
)

func validatePool(path *field.Path, s *IPPoolSpec) field.ErrorList {
	cidr, errs := validatePoolCIDR(path, s)
	errs = append(errs, validatePoolModes(path, s, cidr)...)
	if s.NodeSelector != "" {
		errs = append(errs, checkSelector(path.Child("nodeSelector"), s.NodeSelector)...)
	}
	if s.NamespaceSelector != "" {
		errs = append(errs, checkSelector(path.Child("namespaceSelector"), s.NamespaceSelector)...)
	}
	if s.AssignmentMode != "" {
		errs = append(errs, checkEnum(path.Child("assignmentMode"), s.AssignmentMode, AssignAutomatic, AssignManual)...)
	}
	return append(errs, validateUses(path, s)...)
}

// reservedRanges are those whose addresses no pod can have, whatever routes there are (RFC 6890).
var reservedRanges = []struct{ cidr, name, why string }{
	{"0.0.0.0/8", "\"this network\"", "which is nobody's address"},
	{"127.0.0.0/8", "loopback", "which never leaves a host"},
	{"169.254.0.0/16", "link-local", "which is not routed"},
	{"224.0.0.0/4", "multicast", "which is nobody's own address"},
	{"240.0.0.0/4", "reserved", "which the kernel does not route"},
	{"::/64", "unspecified, loopback and IPv4-mapped", "which is not routed"},
	{"fe80::/10", "link-local", "which is not routed"},
	{"ff00::/8", "multicast", "which is nobody's own address"},
}

// validatePoolCIDR checks the range and the blocks that it is cut into. The range is the zero
// prefix when it is not one.
func validatePoolCIDR(path *field.Path, s *IPPoolSpec) (netip.Prefix, field.ErrorList) {
	at := path.Child("cidr")
	if s.CIDR == "" {
		return netip.Prefix{}, field.ErrorList{field.Required(at, "the range of the pool, such as 10.244.0.0/16")}
	}
	cidr, errs := checkMaskedCIDR(at, s.CIDR, 0)
	if errs != nil {
		return netip.Prefix{}, errs
	}
	for _, r := range reservedRanges {
		if p := netip.MustParsePrefix(r.cidr); p.Overlaps(cidr) {
			errs = append(errs, invalid(at, s.CIDR, "overlaps the %s range %s, %s", r.name, p, r.why)...)
		}
	}
	low, high := minBlockSizeIPv4, maxBlockSizeIPv4
	if cidr.Addr().Is6() {
		low, high = minBlockSizeIPv6, maxBlockSizeIPv6
	}
	size := s.effectiveBlockSize()
	switch {
	case size < low || size > high:
		errs = append(errs, invalid(path.Child("blockSize"), s.BlockSize, "want %d to %d in an %s pool", low, high, familyOf(cidr))...)
	case cidr.Bits() > size && !s.Disabled:
		errs = append(errs, invalid(at, s.CIDR, "is smaller than one block of /%d: want a prefix length of at most %d, or a larger blockSize", size, size)...)
	}
	return cidr, errs
}

func familyOf(p netip.Prefix) family {
	if p.Addr().Is4() {
		return 4
	}
	return 6
}

// effectiveBlockSize is the block size, or its default when it is not set.
func (s *IPPoolSpec) effectiveBlockSize() int {
	if s.BlockSize != 0 {
		return s.BlockSize
	}
	cidr, err := netip.ParsePrefix(s.CIDR)
	if err != nil {
		return 0
	}
	return defaultBlockSize(cidr)
}

func encapsulates(m EncapMode) bool { return m != "" && m != EncapNever }

func validatePoolModes(path *field.Path, s *IPPoolSpec, cidr netip.Prefix) field.ErrorList {
	var errs field.ErrorList
	for _, m := range []struct {
		name string
		mode EncapMode
	}{{"ipipMode", s.IPIPMode}, {"vxlanMode", s.VXLANMode}} {
		if m.mode != "" {
			errs = append(errs, checkEnum(path.Child(m.name), m.mode, EncapNever, EncapAlways, EncapCrossSubnet)...)
		}
	}
	if !encapsulates(s.IPIPMode) {
		return errs
	}
	at := path.Child("ipipMode")
	if encapsulates(s.VXLANMode) {
		errs = append(errs, invalid(at, string(s.IPIPMode), "excludes vxlanMode %s: set one of them to Never", s.VXLANMode)...)
	}
	if cidr.IsValid() && cidr.Addr().Is6() {
		errs = append(errs, invalid(at, string(s.IPIPMode), "IP-in-IP carries IPv4 only: want Never in an IPv6 pool")...)
	}
	return errs
}

func validateUses(path *field.Path, s *IPPoolSpec) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("allowedUses")
	for i, use := range s.AllowedUses {
		errs = append(errs, checkEnum(at.Index(i), use, UseWorkload, UseTunnel, UseLoadBalancer)...)
		if slices.Contains(s.AllowedUses[:i], use) {
			errs = append(errs, field.Duplicate(at.Index(i), use))
		}
	}
	if i := slices.Index(s.AllowedUses, UseTunnel); i >= 0 && s.NamespaceSelector != "" {
		errs = append(errs, invalid(at.Index(i), string(UseTunnel), "tunnel addresses belong to no namespace: leave Tunnel out, or namespaceSelector")...)
	}
	if !slices.Contains(s.AllowedUses, UseLoadBalancer) {
		return errs
	}
	if slices.ContainsFunc(s.AllowedUses, func(u AllowedUse) bool { return u != UseLoadBalancer }) {
		errs = append(errs, invalid(at, s.AllowedUses, "LoadBalancer excludes the other uses")...)
	}
	const lb = "in a LoadBalancer pool"
	for _, m := range []struct {
		name string
		mode EncapMode
	}{{"ipipMode", s.IPIPMode}, {"vxlanMode", s.VXLANMode}} {
		if encapsulates(m.mode) {
			errs = append(errs, invalid(path.Child(m.name), string(m.mode), "want Never %s", lb)...)
		}
	}
	if s.DisableBGPExport {
		errs = append(errs, invalid(path.Child("disableBGPExport"), true, "want false %s", lb)...)
	}
	if sel, err := selector.Parse(s.NodeSelector); err == nil && !sel.All() {
		errs = append(errs, invalid(path.Child("nodeSelector"), excerpt(s.NodeSelector), "want all() %s", lb)...)
	}
	return errs
}

func validateReservation(path *field.Path, s *IPReservationSpec) field.ErrorList {
	at := path.Child("reservedCIDRs")
	errs := checkCIDRs(at, s.ReservedCIDRs, 0)
	seen := make(map[string]bool, len(s.ReservedCIDRs))
	for i, c := range s.ReservedCIDRs {
		if seen[c] {
			errs = append(errs, field.Duplicate(at.Index(i), excerpt(c)))
		}
		seen[c] = true
	}
	return errs
}

func validateIPAMConfiguration(path *field.Path, s *IPAMConfigurationSpec) field.ErrorList {
	errs := slices.Concat(
		checkRange(path.Child("maxBlocksPerHost"), s.MaxBlocksPerHost, 0, 1_000_000),
		checkRange(path.Child("ipCooldownSeconds"), s.IPCooldownSeconds, 0, 1200),
	)
	if v := s.KubeVirtVMAddressPersistence; v != nil {
		errs = append(errs, checkEnum(path.Child("kubeVirtVMAddressPersistence"), *v, VMAddressPersistenceEnabled, VMAddressPersistenceDisabled)...)
	}
	if s.StrictAffinity {
		return errs
	}
	if s.AutoAllocateBlocks != nil && !*s.AutoAllocateBlocks {
		errs = append(errs, invalid(path.Child("autoAllocateBlocks"), false, "needs strictAffinity true: otherwise nodes borrow from each other's blocks")...)
	}
	if s.MaxBlocksPerHost > 0 {
		errs = append(errs, invalid(path.Child("maxBlocksPerHost"), int64(s.MaxBlocksPerHost),
			"needs strictAffinity true; 0 is the built-in cap of %d", DefaultMaxBlocksPerHost)...)
	}
	return errs
}

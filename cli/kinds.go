package cli

import (
	"slices"
	"strings"

	v3 "weft/api/v3"
)

const defaultNamespace = "default"

// refOf names a resource as the commands print and take it: "ippool/default-ipv4-ippool".
func refOf(k v3.KindInfo, name string) string { return strings.ToLower(k.Singular) + "/" + name }

// kindNames returns the plural names of all kinds, sorted; with internal, also those that only the
// nodes themselves write.
func kindNames(internal bool) []string {
	var names []string
	for _, k := range v3.Kinds() {
		if internal || !k.Internal {
			names = append(names, k.Plural)
		}
	}
	slices.Sort(names)
	return names
}

// lookupKind finds a kind by any of its names.
func lookupKind(name string) (v3.KindInfo, error) {
	if several := v3.Ambiguous(name); several != nil {
		return v3.KindInfo{}, Usagef("%q names kinds of two groups: want cnp (%s) or netpol (%s)", name, several[0], several[1])
	}
	if k, ok := v3.LookupKind(name); ok {
		return k, nil
	}
	// The plural of a short name: "pools".
	if short, plural := strings.CutSuffix(strings.ToLower(name), "s"); plural {
		if k, ok := v3.LookupKind(short); ok {
			return k, nil
		}
	}
	return v3.KindInfo{}, Usagef("unknown kind %q: want %s", name, oneOf(kindNames(true)))
}

// writable refuses the kinds that only the nodes themselves write.
func writable(k v3.KindInfo, verb string) error {
	if !k.Internal {
		return nil
	}
	return &internalKindError{verb, k.Kind}
}

type internalKindError struct{ verb, kind string }

// Error explains what to do instead.
func (e *internalKindError) Error() string {
	return "cannot " + e.verb + " " + e.kind + " resources: the nodes' address management writes them itself, and a change by hand loses or doubles addresses; use `weft ipam check` to find what is wrong and `weft ipam release` to free an address"
}

// writeRank orders kinds so that what others need comes first: namespaces, then what shapes address
// management, then the rest. Deleting goes the other way.
func writeRank(kind string) int {
	order := []string{
		v3.KindNamespace, v3.KindServiceAccount, v3.KindSecret, v3.KindClusterInformation, v3.KindIPAMConfiguration, v3.KindIPReservation,
		v3.KindIPPool, v3.KindFelixConfiguration, v3.KindTier, v3.KindNetworkSet, v3.KindGlobalNetworkSet, v3.KindNode,
		v3.KindBGPFilter, v3.KindBGPConfiguration,
	}
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	return len(order)
}

// sortForWriting sorts in the order of writeRank, otherwise as they were given.
func sortForWriting(in []input) {
	slices.SortStableFunc(in, func(a, b input) int { return writeRank(a.kind.Kind) - writeRank(b.kind.Kind) })
}

package v3

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// KindInfo is what the registry knows of a kind.
//
// +kubebuilder:object:generate=false
type KindInfo struct {
	Kind     string   // "IPPool"; tells kinds from each other, also those of one name on the wire
	Plural   string   // "ippools"
	Singular string   // "ippool"
	Short    []string // "ipp", "pool"
	// Namespaced tells whether objects of the kind live in a namespace.
	Namespaced bool
	// Internal kinds are written by the node service and not meant for people.
	Internal     bool
	GroupVersion schema.GroupVersion
	// New returns an empty object with its TypeMeta set.
	New func() Object
	// Columns are the kind's own columns of a table; name and namespace come before them and the
	// age after.
	Columns []Column
}

// GroupVersionKind is what objects of the kind say that they are.
func (k KindInfo) GroupVersionKind() schema.GroupVersionKind {
	return k.New().GetObjectKind().GroupVersionKind()
}

// Column is one column of a table of objects.
//
// +kubebuilder:object:generate=false
type Column struct {
	Name  string // upper case
	Wide  bool   // shown in the wide form only
	Value func(Object) string
}

// Kinds returns what is known of every kind, sorted by kind.
func Kinds() []KindInfo {
	v3, core := groupVersion(), corev1.SchemeGroupVersion
	kinds := []KindInfo{
		{Kind: KindBlockAffinity, Plural: "blockaffinities", Singular: "blockaffinity", Short: []string{"affinity", "affinities"},
			Internal: true, GroupVersion: v3, New: newObject[BlockAffinity](v3), Columns: blockAffinityColumns()},
		{Kind: KindClusterInformation, Plural: "clusterinformations", Singular: "clusterinformation", Short: []string{"clusterinfo"},
			GroupVersion: v3, New: newObject[ClusterInformation](v3), Columns: clusterInformationColumns()},
		{Kind: KindFelixConfiguration, Plural: "felixconfigurations", Singular: "felixconfiguration", Short: []string{"felixconfig", "felixconfigs"},
			GroupVersion: v3, New: newObject[FelixConfiguration](v3), Columns: felixConfigurationColumns()},
		{Kind: KindIPAMBlock, Plural: "ipamblocks", Singular: "ipamblock",
			Internal: true, GroupVersion: v3, New: newObject[IPAMBlock](v3), Columns: ipamBlockColumns()},
		{Kind: KindIPAMConfiguration, Plural: "ipamconfigurations", Singular: "ipamconfiguration", Short: []string{"ipamconfig"},
			GroupVersion: v3, New: newObject[IPAMConfiguration](v3), Columns: ipamConfigurationColumns()},
		{Kind: KindIPAMHandle, Plural: "ipamhandles", Singular: "ipamhandle",
			Internal: true, GroupVersion: v3, New: newObject[IPAMHandle](v3), Columns: ipamHandleColumns()},
		{Kind: KindIPPool, Plural: "ippools", Singular: "ippool", Short: []string{"ipp", "pool"},
			GroupVersion: v3, New: newObject[IPPool](v3), Columns: ipPoolColumns()},
		{Kind: KindIPReservation, Plural: "ipreservations", Singular: "ipreservation", Short: []string{"ipr"},
			GroupVersion: v3, New: newObject[IPReservation](v3), Columns: ipReservationColumns()},
		{Kind: KindKubeControllersConfiguration, Plural: "kubecontrollersconfigurations", Singular: "kubecontrollersconfiguration",
			Short: []string{"kubecontrollersconfig"}, GroupVersion: v3, New: newObject[KubeControllersConfiguration](v3), Columns: kubeControllersColumns()},
		{Kind: KindNamespace, Plural: "namespaces", Singular: "namespace", Short: []string{"ns"},
			GroupVersion: core, New: newObject[corev1.Namespace](core)},
		{Kind: KindNode, Plural: "nodes", Singular: "node", Short: []string{"no"},
			GroupVersion: v3, New: newObject[Node](v3), Columns: nodeColumns()},
		{Kind: KindWorkloadEndpoint, Plural: "workloadendpoints", Singular: "workloadendpoint", Short: []string{"wep", "weps"},
			Namespaced: true, GroupVersion: v3, New: newObject[WorkloadEndpoint](v3), Columns: workloadEndpointColumns()},
	}
	kinds = slices.Concat(kinds, bgpKinds(), policyKinds(), kubernetesKinds())
	for i := range kinds {
		if ConditionsOf(kinds[i].New()) != nil {
			kinds[i].Columns = append(kinds[i].Columns, acceptedColumn())
		}
	}
	slices.SortFunc(kinds, func(a, b KindInfo) int { return strings.Compare(a.Kind, b.Kind) })
	return kinds
}

// newObject returns the constructor of the kind whose Go type is T: its kind is the type's name.
func newObject[T any, P interface {
	*T
	Object
}](gv schema.GroupVersion) func() Object {
	kind := reflect.TypeFor[T]().Name()
	return func() Object {
		o := P(new(T))
		o.GetObjectKind().SetGroupVersionKind(gv.WithKind(kind))
		return o
	}
}

// LookupKind finds a kind by its name, plural, singular or a short name, in any case, also with the
// group appended: "ippools.projectcalico.org". Where Kubernetes has a kind of the same name, the plain
// one is that of this group; Ambiguous tells.
func LookupKind(name string) (KindInfo, bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	word, group, withGroup := strings.Cut(name, ".")
	for _, k := range Kinds() {
		if name == k.Plural || name == k.Singular {
			return k, true
		}
		if withGroup && group != k.GroupVersion.Group {
			continue
		}
		if word == strings.ToLower(k.Kind) || word == k.Plural || word == k.Singular || slices.Contains(k.Short, word) {
			return k, true
		}
	}
	return KindInfo{}, false
}

// Ambiguous returns the plural names of the kinds that a plain name may mean, when there are several.
func Ambiguous(name string) []string {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "networkpolicy", "networkpolicies":
		return []string{"networkpolicies." + Group, "networkpolicies.networking.k8s.io"}
	}
	return nil
}

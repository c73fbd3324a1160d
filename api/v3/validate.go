package v3

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxAnnotations is the most bytes that the keys and values of an object's annotations may have
// together.
const maxAnnotations = 256 << 10

// Validate checks o by itself and returns every violation with the field's path, the value and what
// is allowed. An unset field counts as its default, so that o need not be defaulted.
func Validate(o Object) error {
	kind, ok := KindOf(o)
	if !ok {
		return fmt.Errorf("validate %T %s: unknown kind", o, nameOf(o))
	}
	errs := validateMeta(o, kind)
	spec := field.NewPath("spec")
	switch o := o.(type) {
	case *IPPool:
		errs = append(errs, validatePool(spec, &o.Spec)...)
	case *IPReservation:
		errs = append(errs, validateReservation(spec, &o.Spec)...)
	case *IPAMConfiguration:
		errs = append(errs, validateIPAMConfiguration(spec, &o.Spec)...)
	case *KubeControllersConfiguration:
		errs = append(errs, validateKubeControllers(o)...)
	case *IPAMBlock:
		errs = append(errs, validateBlock(spec, &o.Spec)...)
	case *IPAMHandle:
		errs = append(errs, validateHandle(spec, &o.Spec)...)
	case *BlockAffinity:
		errs = append(errs, validateAffinity(spec, &o.Spec)...)
	case *Node:
		errs = append(errs, validateNode(o)...)
	case *WorkloadEndpoint:
		errs = append(errs, validateEndpoint(spec, &o.Spec)...)
	case *FelixConfiguration:
		errs = append(errs, validateFelix(o)...)
	default:
		errs = append(errs, validateBGPKind(spec, o)...)
	}
	return errs.ToAggregate()
}

// ValidateUpdate checks that updated may take the place of old: what cannot change has not. It does
// not repeat Validate.
func ValidateUpdate(updated, old Object) error {
	newKind, _ := KindOf(updated)
	oldKind, _ := KindOf(old)
	if newKind != oldKind || newKind == "" {
		return fmt.Errorf("replace %s %s: a %s cannot take its place", oldKind, nameOf(old), newKind)
	}
	meta, spec := field.NewPath("metadata"), field.NewPath("spec")
	errs := slices.Concat(
		unchanged(meta.Child("name"), updated.GetName(), old.GetName(), "create another object instead"),
		unchanged(meta.Child("namespace"), updated.GetNamespace(), old.GetNamespace(), "create another object instead"),
	)
	switch o := updated.(type) {
	case *IPPool:
		was := old.(*IPPool)
		errs = append(errs, unchanged(spec.Child("cidr"), o.Spec.CIDR, was.Spec.CIDR, "create another pool and disable this one")...)
		errs = append(errs, unchanged(spec.Child("blockSize"), o.Spec.effectiveBlockSize(), was.Spec.effectiveBlockSize(),
			"create another pool and disable this one")...)
	case *IPAMBlock:
		errs = append(errs, unchanged(spec.Child("cidr"), o.Spec.CIDR, old.(*IPAMBlock).Spec.CIDR, "it is the block's identity")...)
	case *IPAMHandle:
		errs = append(errs, unchanged(spec.Child("handleID"), o.Spec.HandleID, old.(*IPAMHandle).Spec.HandleID, "it is the handle's identity")...)
	case *BlockAffinity:
		was := old.(*BlockAffinity)
		errs = append(errs, unchanged(spec.Child("cidr"), o.Spec.CIDR, was.Spec.CIDR, "it is the affinity's identity")...)
		errs = append(errs, unchanged(spec.Child("node"), o.Spec.Node, was.Spec.Node, "it is the affinity's identity")...)
	case *corev1.Secret:
		errs = append(errs, validateSecretUpdate(o, old.(*corev1.Secret))...)
	case *discoveryv1.EndpointSlice:
		errs = append(errs, unchanged(field.NewPath("addressType"), o.AddressType, old.(*discoveryv1.EndpointSlice).AddressType, "create another slice")...)
	}
	return errs.ToAggregate()
}

func unchanged[T comparable](path *field.Path, v, old T, instead string) field.ErrorList {
	if v == old {
		return nil
	}
	return field.ErrorList{field.Invalid(path, v, fmt.Sprintf("cannot change from %v: %s", old, instead))}
}

// validateMeta checks what is the same for every kind, and the names that kinds prescribe.
func validateMeta(o Object, kind string) field.ErrorList {
	meta := field.NewPath("metadata")
	errs := slices.Concat(
		validateName(meta.Child("name"), o.GetName(), kind),
		validateNamespace(meta.Child("namespace"), o.GetNamespace(), kind),
	)
	errs = append(errs, validateLabels(meta.Child("labels"), o.GetLabels())...)
	return append(errs, validateAnnotations(meta.Child("annotations"), o.GetAnnotations())...)
}

func validateName(path *field.Path, name, kind string) field.ErrorList {
	switch {
	case name == "":
		return field.ErrorList{field.Required(path, "every object has a name")}
	case kind == KindBGPConfiguration && !isConfigurationName(name):
		return field.ErrorList{field.Invalid(path, excerpt(name), "want default, for all nodes, or node.<name>, for one")}
	case (kind == KindIPAMConfiguration || kind == KindClusterInformation || kind == KindKubeControllersConfiguration) && name != "default":
		return field.ErrorList{field.Invalid(path, excerpt(name), "the only "+kind+" is named default")}
	case kind == KindNamespace || kind == KindTier:
		return checkLabelName(path, name)
	case slices.Contains(TieredKinds(), kind):
		return checkPolicyName(path, name)
	case kind == KindService && len(validation.IsDNS1035Label(name)) > 0:
		return invalid(path, excerpt(name), "want a DNS label that begins with a letter: %s", dnsLabel)
	}
	return checkSubdomain(path, name)
}

const dnsSubdomain = `lower-case letters, digits, "-" and ".", a letter or digit at both ends of each part, at most 253 in all`

const dnsLabel = `lower-case letters, digits and "-", a letter or digit at both ends, at most 63 in all`

func validateNamespace(path *field.Path, namespace, kind string) field.ErrorList {
	namespaced := isNamespaced(kind)
	switch {
	case namespaced && namespace == "":
		return field.ErrorList{field.Required(path, "a "+kind+" lives in a namespace")}
	case !namespaced && namespace != "":
		return field.ErrorList{field.Invalid(path, excerpt(namespace), kind+" belongs to the whole cluster: leave the namespace out")}
	case namespaced && len(validation.IsDNS1123Label(namespace)) > 0:
		return field.ErrorList{field.Invalid(path, excerpt(namespace), "want a DNS label: "+dnsLabel)}
	}
	return nil
}

// isNamespaced is asked once an object, and says what the registry says.
func isNamespaced(kind string) bool {
	switch kind {
	case KindWorkloadEndpoint, KindNetworkPolicy, KindStagedNetworkPolicy, KindStagedKubernetesNetworkPolicy, KindNetworkSet,
		KindKubernetesNetworkPolicy, KindServiceAccount, KindSecret, KindService, KindEndpointSlice:
		return true
	}
	return false
}

func validateAnnotations(path *field.Path, annotations map[string]string) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		total += len(key) + len(annotations[key])
		for _, detail := range validation.IsQualifiedName(strings.ToLower(key)) {
			errs = append(errs, field.Invalid(path.Key(key), key, detail))
		}
	}
	if total > maxAnnotations {
		errs = append(errs, field.TooLong(path, total, maxAnnotations))
	}
	return errs
}

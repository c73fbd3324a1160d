package v3

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// legacyVersion is the group in which the same kinds are kept as Kubernetes custom resources by
// other releases. Manifests of it are read where the shape is the same.
const legacyVersion = "crd.projectcalico.org/v1"

// Decode reads what a person wrote: one or more YAML documents, or JSON values, each an object, a
// List or a <Kind>List. It is strict: unknown and duplicate fields, values of the wrong type and
// unknown kinds are errors that name the document, the object, the field, the value and what is
// allowed; all of them are reported, and then no object is returned. Objects come with their
// TypeMeta set to this package's version, and without defaults.
func Decode(data []byte) ([]Object, error) {
	docs, err := parseDocuments(data)
	if err != nil {
		return nil, err
	}
	var objects []Object
	var errs []error
	for _, d := range docs {
		got, err := decodeTree(d.where, d.tree, schema.GroupVersionKind{})
		objects = append(objects, got...)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return objects, nil
}

// decodeTree makes the objects of one parsed value. inherit is the kind of a list's items, which
// need not repeat it.
func decodeTree(where string, tree any, inherit schema.GroupVersionKind) ([]Object, error) {
	fields, ok := tree.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s: got %s, want an object with apiVersion, kind and metadata", where, excerpt(tree))
	}
	if inherit.Kind != "" && fields["kind"] == nil && fields["apiVersion"] == nil {
		fields["apiVersion"], fields["kind"] = inherit.GroupVersion().String(), inherit.Kind
	}
	apiVersion, kind, err := typeOf(where, fields)
	if err != nil {
		return nil, err
	}
	if items, isList := fields["items"]; isList && strings.HasSuffix(kind, "List") {
		return decodeList(where, fields, items, schema.FromAPIVersionAndKind(apiVersion, strings.TrimSuffix(kind, "List")))
	}
	where = describe(where, kind, fields)
	info, err := kindFor(apiVersion, kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	fields["apiVersion"] = info.GroupVersion.String()
	o := info.New()
	if errs := checkTree(checker{strict: true}, fields, o); len(errs) > 0 {
		return nil, locate(where, errs)
	}
	b, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if err := utiljson.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return []Object{o}, nil
}

// decodeList reads the items of a List, or of an <item kind>List.
func decodeList(where string, fields map[string]any, items any, item schema.GroupVersionKind) ([]Object, error) {
	list, ok := items.([]any)
	if !ok && items != nil {
		return nil, fmt.Errorf("%s: items: got %s, want a list", where, excerpt(items))
	}
	errs := []error{unknownListFields(where, fields)}
	var objects []Object
	for i, tree := range list {
		got, err := decodeTree(fmt.Sprintf("%s, items[%d]", where, i), tree, item)
		objects = append(objects, got...)
		errs = append(errs, err)
	}
	return objects, errors.Join(errs...)
}

func unknownListFields(where string, fields map[string]any) error {
	var errs []error
	for _, name := range sortedKeys(fields) {
		if !slices.Contains([]string{"apiVersion", "kind", "metadata", "items"}, name) {
			errs = append(errs, fmt.Errorf("%s: %s: unknown field of a list", where, name))
		}
	}
	return errors.Join(errs...)
}

// typeOf reads the two fields that every object must begin with.
func typeOf(where string, fields map[string]any) (apiVersion, kind string, err error) {
	var errs []error
	read := func(name, example string) string {
		v, present := fields[name]
		s, ok := v.(string)
		switch {
		case !present || s == "" && ok:
			errs = append(errs, fmt.Errorf("%s: %s: missing, for example %s", describe(where, "", fields), name, example))
		case !ok:
			errs = append(errs, fmt.Errorf("%s: %s: got %s, want a string", describe(where, "", fields), name, excerpt(v)))
		}
		return s
	}
	apiVersion, kind = read("apiVersion", groupVersion().String()), read("kind", KindIPPool)
	return apiVersion, kind, errors.Join(errs...)
}

// kindFor finds the kind that a manifest names, exactly as written.
func kindFor(apiVersion, kind string) (KindInfo, error) {
	if apiVersion == legacyVersion && kind == "IPAMConfig" {
		return KindInfo{}, fmt.Errorf("kind: %s %s has another shape here: write kind %s, apiVersion %s, name default",
			apiVersion, kind, KindIPAMConfiguration, groupVersion())
	}
	var names, versions []string
	for _, k := range Kinds() {
		gvk := k.GroupVersionKind()
		if names = append(names, gvk.Kind); gvk.Kind != kind {
			continue
		}
		legacy := apiVersion == legacyVersion && k.GroupVersion == groupVersion() && kind != KindNode && kind != KindWorkloadEndpoint
		if apiVersion == k.GroupVersion.String() || legacy {
			return k, nil
		}
		versions = append(versions, strconv.Quote(k.GroupVersion.String()))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(versions) > 0 {
		slices.Sort(versions)
		return KindInfo{}, fmt.Errorf("apiVersion: got %q, want %s for kind %s", apiVersion, strings.Join(versions, " or "), kind)
	}
	if near := nearest(kind, names); near != "" {
		return KindInfo{}, fmt.Errorf("kind: unknown kind %q, did you mean %q?", kind, near)
	}
	return KindInfo{}, fmt.Errorf("kind: unknown kind %q, want one of %s", kind, strings.Join(names, ", "))
}

// DecodeStored reads the store's JSON of one object. Fields that this release does not know are
// passed over, since a newer one may have written them; values that are not valid are errors.
func DecodeStored(kind string, data []byte) (Object, error) {
	o, ok := newOfKind(kind)
	if !ok {
		return nil, fmt.Errorf("decode stored %s: unknown kind", kind)
	}
	want := o.GetObjectKind().GroupVersionKind()
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if err := utiljson.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("decode stored %s: %w", kind, explain(data, o, err))
	}
	got := o.GetObjectKind().GroupVersionKind()
	if got.Kind != want.Kind || got.Group != want.Group {
		return nil, fmt.Errorf("decode stored %s %s: holds apiVersion %q, kind %q, want %q, %q", kind, o.GetName(),
			got.GroupVersion(), got.Kind, want.GroupVersion(), want.Kind)
	}
	o.GetObjectKind().SetGroupVersionKind(want)
	if err := Validate(o); err != nil {
		return nil, fmt.Errorf("decode stored %s %s: %w", kind, o.GetName(), err)
	}
	return o, nil
}

// explain finds the fields that kept data from being read into o; where there is none to name, err
// says it.
func explain(data []byte, o Object, err error) error {
	tree, parseErr := parseJSON(data)
	if parseErr != nil {
		return parseErr
	}
	if _, ok := tree.(map[string]any); !ok {
		return fmt.Errorf("got %s, want an object", excerpt(tree))
	}
	if errs := checkTree(checker{}, tree, o); len(errs) > 0 {
		return errs.ToAggregate()
	}
	return err
}

// Encode writes the store's JSON of o: fields in the order of the type, map keys sorted, with its
// TypeMeta. The same object always gives the same bytes. o is not changed.
func Encode(o Object) ([]byte, error) {
	gvk, ok := GroupVersionKindOf(o)
	if !ok {
		return nil, fmt.Errorf("encode %T %s: unknown kind", o, nameOf(o))
	}
	if o.GetObjectKind().GroupVersionKind() != gvk {
		o = o.DeepCopyObject().(Object)
		o.GetObjectKind().SetGroupVersionKind(gvk)
	}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s: %w", gvk.Kind, o.GetName(), err)
	}
	return b, nil
}

// GroupVersionKindOf tells what o is on the wire by its Go type, whatever its TypeMeta says.
func GroupVersionKindOf(o Object) (schema.GroupVersionKind, bool) {
	kind, ok := KindOf(o)
	if !ok {
		return schema.GroupVersionKind{}, false
	}
	empty, _ := newOfKind(kind)
	return empty.GetObjectKind().GroupVersionKind(), true
}

// KindOf tells the registry's name of o's kind by its Go type. It is the kind on the wire, but for
// Kubernetes' own NetworkPolicy, which is KindKubernetesNetworkPolicy.
func KindOf(o Object) (string, bool) {
	if isNil(o) {
		return "", false
	}
	t := reflect.TypeOf(o)
	kind := t.Elem().Name()
	if _, ok := o.(*networkingv1.NetworkPolicy); ok {
		kind = KindKubernetesNetworkPolicy
	}
	if empty, ok := newOfKind(kind); !ok || reflect.TypeOf(empty) != t {
		return "", false
	}
	return kind, true
}

// newOfKind returns an empty object of a kind, written as the registry writes it. It is the part of
// the registry that is asked for once an object.
func newOfKind(kind string) (Object, bool) {
	v3, core := groupVersion(), corev1.SchemeGroupVersion
	switch kind {
	case KindBlockAffinity:
		return newObject[BlockAffinity](v3)(), true
	case KindClusterInformation:
		return newObject[ClusterInformation](v3)(), true
	case KindFelixConfiguration:
		return newObject[FelixConfiguration](v3)(), true
	case KindIPAMBlock:
		return newObject[IPAMBlock](v3)(), true
	case KindIPAMConfiguration:
		return newObject[IPAMConfiguration](v3)(), true
	case KindIPAMHandle:
		return newObject[IPAMHandle](v3)(), true
	case KindIPPool:
		return newObject[IPPool](v3)(), true
	case KindIPReservation:
		return newObject[IPReservation](v3)(), true
	case KindKubeControllersConfiguration:
		return newObject[KubeControllersConfiguration](v3)(), true
	case KindNamespace:
		return newObject[corev1.Namespace](core)(), true
	case KindNode:
		return newObject[Node](v3)(), true
	case KindWorkloadEndpoint:
		return newObject[WorkloadEndpoint](v3)(), true
	}
	return newBGPKind(kind)
}

// newBGPKind is newOfKind for the kinds of BGP.
func newBGPKind(kind string) (Object, bool) {
	v3 := groupVersion()
	switch kind {
	case KindBGPConfiguration:
		return newObject[BGPConfiguration](v3)(), true
	case KindBGPFilter:
		return newObject[BGPFilter](v3)(), true
	case KindBGPPeer:
		return newObject[BGPPeer](v3)(), true
	case KindCalicoNodeStatus:
		return newObject[CalicoNodeStatus](v3)(), true
	}
	return newPolicyKind(kind)
}

// newPolicyKind is newOfKind for the kinds of network policy.
func newPolicyKind(kind string) (Object, bool) {
	v3 := groupVersion()
	switch kind {
	case KindGlobalNetworkPolicy:
		return newObject[GlobalNetworkPolicy](v3)(), true
	case KindGlobalNetworkSet:
		return newObject[GlobalNetworkSet](v3)(), true
	case KindHostEndpoint:
		return newObject[HostEndpoint](v3)(), true
	case KindNetworkPolicy:
		return newObject[NetworkPolicy](v3)(), true
	case KindNetworkSet:
		return newObject[NetworkSet](v3)(), true
	case KindProfile:
		return newObject[Profile](v3)(), true
	case KindStagedGlobalNetworkPolicy:
		return newObject[StagedGlobalNetworkPolicy](v3)(), true
	case KindStagedKubernetesNetworkPolicy:
		return newObject[StagedKubernetesNetworkPolicy](v3)(), true
	case KindStagedNetworkPolicy:
		return newObject[StagedNetworkPolicy](v3)(), true
	case KindTier:
		return newObject[Tier](v3)(), true
	}
	return newKubernetesKind(kind)
}

// newKubernetesKind is newOfKind for Kubernetes' own kinds.
func newKubernetesKind(kind string) (Object, bool) {
	switch kind {
	case KindClusterNetworkPolicy:
		return newObject[policyv1alpha2.ClusterNetworkPolicy](clusterPolicyVersion())(), true
	case KindEndpointSlice:
		return newObject[discoveryv1.EndpointSlice](discoveryv1.SchemeGroupVersion)(), true
	case KindKubernetesNetworkPolicy:
		return newObject[networkingv1.NetworkPolicy](networkingv1.SchemeGroupVersion)(), true
	case KindSecret:
		return newObject[corev1.Secret](corev1.SchemeGroupVersion)(), true
	case KindService:
		return newObject[corev1.Service](corev1.SchemeGroupVersion)(), true
	case KindServiceAccount:
		return newObject[corev1.ServiceAccount](corev1.SchemeGroupVersion)(), true
	}
	return nil, false
}

func nameOf(o Object) string {
	if isNil(o) {
		return "<nil>"
	}
	return o.GetName()
}

// isNil tells whether there is no object behind o. A resource is always a pointer.
func isNil(o Object) bool {
	v := reflect.ValueOf(o)
	return !v.IsValid() || v.Kind() != reflect.Pointer || v.IsNil()
}

// describe adds an object's kind and name to where it was found, as far as it tells them.
func describe(where, kind string, fields map[string]any) string {
	meta, _ := fields["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	if namespace, _ := meta["namespace"].(string); namespace != "" {
		name = namespace + "/" + name
	}
	if text := strings.TrimSpace(kind + " " + name); text != "" {
		where += ", " + text
	}
	return where
}

// locate puts where before each error.
func locate(where string, errs field.ErrorList) error {
	out := make([]error, len(errs))
	for i, e := range errs {
		out[i] = fmt.Errorf("%s: %w", where, e)
	}
	return errors.Join(out...)
}

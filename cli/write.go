package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// maxConflicts is how often a change is tried again because somebody else changed the resource
// between reading and writing.
const maxConflicts = 100

// writer does one verb on one resource after the other.
type writer struct {
	store datastore.Store
}

func keyFor(k v3.KindInfo, namespace, name string) datastore.Key {
	key := datastore.Key{Kind: k.Kind, Name: name}
	if k.Namespaced {
		key.Namespace = namespace
		if namespace == "" {
			key.Namespace = defaultNamespace
		}
	}
	return key
}

// create stores a resource that must not be there yet.
func (w writer) create(ctx context.Context, in input) (string, error) {
	o := fresh(in.object)
	if _, err := w.store.Create(ctx, o); err != nil {
		if errors.Is(err, datastore.ErrAlreadyExists) {
			return "", fmt.Errorf("create %s: it exists already; use `weft apply` or `weft replace` to change it", w.ref(in))
		}
		return "", failed("create", w.ref(in), err)
	}
	return "created", nil
}

// replace changes a resource that must be there.
func (w writer) replace(ctx context.Context, in input) (string, error) {
	return w.put(ctx, "replace", in, func() (string, error) {
		return "", errors.New("it does not exist; use `weft apply` or `weft create` to make it")
	})
}

// apply makes a resource what it is given to be.
func (w writer) apply(ctx context.Context, in input) (string, error) {
	return w.put(ctx, "apply", in, func() (string, error) {
		_, err := w.store.Create(ctx, fresh(in.object))
		return "created", err
	})
}

// put replaces what is stored. What the given resource does not carry and only the store or the
// node can know stays: identity, version, a status unless one is given that is not what the cluster reports, and the node's own addresses.
func (w writer) put(ctx context.Context, verb string, in input, absent func() (string, error)) (string, error) {
	key := datastore.KeyOf(in.object)
	given := in.object.GetResourceVersion()
	var result string
	err := retry(func() error {
		live, err := w.store.Get(ctx, key)
		if errors.Is(err, datastore.ErrNotFound) {
			result, err = absent()
			return err
		}
		if err != nil {
			return err
		}
		want, same, err := adopt(in, live)
		if err != nil {
			return err
		}
		if same {
			result = "unchanged"
			return nil
		}
		if given != "" && given != live.GetResourceVersion() {
			return &staleError{given, live.GetResourceVersion()}
		}
		result = "configured"
		if verb == "replace" {
			result = "replaced"
		}
		_, err = w.store.Update(ctx, want)
		return err
	})
	if err != nil {
		return "", failed(verb, w.ref(in), err)
	}
	return result, nil
}

// retry calls f again while somebody else was faster.
func retry(f func() error) error {
	var err error
	for range maxConflicts {
		err = f()
		if !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrAlreadyExists) {
			return err
		}
	}
	return fmt.Errorf("%w, %d times in a row; try again", err, maxConflicts)
}

// staleError tells that a file was made from an older state than the stored one.
type staleError struct{ given, live string }

// Error says how to go on.
func (e *staleError) Error() string {
	return fmt.Sprintf("it changed since this file was read (resourceVersion %s, now %s); get it again, or take resourceVersion out of the file to replace it anyway", e.given, e.live)
}

// fresh returns a copy of o as something new: without what the store gave to an earlier one.
func fresh(o v3.Object) v3.Object {
	c := o.DeepCopyObject().(v3.Object)
	c.SetResourceVersion("")
	c.SetUID("")
	c.SetGeneration(0)
	c.SetCreationTimestamp(metav1.Time{})
	if said := v3.ConditionsOf(c); said != nil {
		*said = nil
	}
	return c
}

// adopt returns what is to be written over live so that it is what in says, and whether that is
// what it is already.
func adopt(in input, live v3.Object) (v3.Object, bool, error) {
	if uid := in.object.GetUID(); uid != "" && uid != live.GetUID() {
		return nil, false, fmt.Errorf("its uid is %s, the file says %s: it was deleted and made anew since; take uid out of the file to replace it anyway", live.GetUID(), uid)
	}
	want := in.object.DeepCopyObject().(v3.Object)
	want.SetResourceVersion(live.GetResourceVersion())
	want.SetUID(live.GetUID())
	want.SetGeneration(live.GetGeneration())
	want.SetCreationTimestamp(live.GetCreationTimestamp())
	want.SetManagedFields(live.GetManagedFields())
	current := live.DeepCopyObject().(v3.Object)
	v3.Default(current)
	keepNodeOwned(want, current)
	a, err := toMap(want)
	if err != nil {
		return nil, false, err
	}
	b, err := toMap(current)
	if err != nil {
		return nil, false, err
	}
	reported := v3.ConditionsOf(want) != nil // by the cluster: what a file says is old at best
	if reported {
		delete(a, "status")
	}
	if status, ok := b["status"]; ok && emptyStatus(a["status"]) || reported {
		if ok {
			a["status"] = status
		}
		if want, err = fromMap(in.kind, a); err != nil {
			return nil, false, err
		}
	}
	return want, reflect.DeepEqual(a, b), nil
}

// keepNodeOwned keeps what the node itself writes into its record and want does not set: without its
// addresses the other nodes stop sending to it until it has written them again.
func keepNodeOwned(want, live v3.Object) {
	w, ok := want.(*v3.Node)
	l, was := live.(*v3.Node)
	if !ok || !was {
		return
	}
	keep := func(to *string, from string) {
		if *to == "" {
			*to = from
		}
	}
	keep(&w.Spec.IPv4VXLANTunnelAddr, l.Spec.IPv4VXLANTunnelAddr)
	keep(&w.Spec.IPv6VXLANTunnelAddr, l.Spec.IPv6VXLANTunnelAddr)
	keep(&w.Spec.VXLANTunnelMACAddr, l.Spec.VXLANTunnelMACAddr)
	keep(&w.Spec.VXLANTunnelMACAddrV6, l.Spec.VXLANTunnelMACAddrV6)
	if w.Spec.Wireguard == nil {
		w.Spec.Wireguard = l.Spec.Wireguard.DeepCopy()
	}
	b := l.Spec.BGP
	if b == nil || b.IPv4Address+b.IPv6Address+b.IPv4IPIPTunnelAddr == "" {
		return
	}
	if w.Spec.BGP == nil {
		w.Spec.BGP = &v3.NodeBGPSpec{}
	}
	keep(&w.Spec.BGP.IPv4Address, b.IPv4Address)
	keep(&w.Spec.BGP.IPv6Address, b.IPv6Address)
	keep(&w.Spec.BGP.IPv4IPIPTunnelAddr, b.IPv4IPIPTunnelAddr)
}

func emptyStatus(s any) bool {
	m, ok := s.(map[string]any)
	return s == nil || ok && len(m) == 0
}

// toMap turns a resource into the JSON value that it is stored as.
func toMap(o v3.Object) (map[string]any, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("write %s as JSON: %w", datastore.KeyOf(o), err)
	}
	v, err := decodeJSON(data)
	if err != nil {
		return nil, fmt.Errorf("read %s as JSON: %w", datastore.KeyOf(o), err)
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("read %s as JSON: it is no object", datastore.KeyOf(o))
	}
	return m, nil
}

func fromMap(k v3.KindInfo, m map[string]any) (v3.Object, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write a %s as JSON: %w", k.Kind, err)
	}
	o := k.New()
	if err := json.Unmarshal(data, o); err != nil {
		return nil, fmt.Errorf("read a %s from JSON: %w", k.Kind, err)
	}
	return o, nil
}

func (w writer) ref(in input) string {
	ref := refOf(in.kind, in.object.GetName())
	if in.kind.Namespaced {
		ref += " in namespace " + in.object.GetNamespace()
	}
	return ref
}

// failed says what was tried on what, and what to do where the cause alone does not tell.
func failed(verb, ref string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s %s: interrupted", verb, ref)
	}
	var stale *staleError
	advice := ""
	switch {
	case errors.As(err, &stale):
	case errors.Is(err, datastore.ErrNotFound):
		kind, _, _ := strings.Cut(ref, "/")
		if verb == "patch" {
			return fmt.Errorf("%s %s: %w: make it with `weft apply`; `weft get %s` shows what there is", verb, ref, datastore.ErrNotFound, kind)
		}
		return fmt.Errorf("%s %s: %w; `weft get %s` shows what there is", verb, ref, datastore.ErrNotFound, kind)
	case errors.Is(err, datastore.ErrUnavailable):
		advice = "; is the store still running? what was being written may have been written: look before you try again"
	}
	return fmt.Errorf("%s %s: %w%s", verb, ref, err, advice)
}

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// maxAttempts bounds how often a write that does not insist on a revision begins again because others wrote first.
const maxAttempts = 20

// maxObject is how many bytes a resource may have as JSON: what etcd takes unless it is told otherwise.
const maxObject = 1536 << 10

// Create stores o, which must not be there yet.
func (s *Store) Create(ctx context.Context, o v3.Object) (v3.Object, error) {
	out, err := s.create(ctx, o)
	if err != nil {
		return nil, datastore.Wrap("create", datastore.KeyOf(o), err)
	}
	return out, nil
}

func (s *Store) create(ctx context.Context, o v3.Object) (v3.Object, error) {
	src, in, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	if w, ok := in.(*v3.WorkloadEndpoint); ok {
		w.ResourceVersion, w.UID = "", ""
		return s.writeEndpoint(ctx, src, w, true)
	}
	in.SetResourceVersion("")
	in.SetUID("")
	data, err := encode(in)
	if err != nil {
		return nil, err
	}
	if err := s.guard(ctx, in, nil); err != nil {
		return nil, err
	}
	key := datastore.KeyOf(in)
	if _, err := src.at(key, ""); err != nil {
		return nil, err
	}
	b, err := s.do(ctx, &request{verb: http.MethodPost, path: src.path(key.Namespace, "", ""), body: data})
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, fmt.Errorf("there is no namespace %s: create it first: %w", key.Namespace, datastore.ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	_, out, _, err := src.decode(b)
	if err == nil && src.status {
		out, err = s.writeStatus(ctx, src, in, out)
	}
	return out, err
}

// Update replaces a resource that is there; see datastore.Store. Of kinds whose status is apart, both are
// written, one after the other, as far as they differ from what is there.
func (s *Store) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	out, err := s.update(ctx, o)
	if err != nil {
		return nil, datastore.Wrap("update", datastore.KeyOf(o), err)
	}
	return out, nil
}

func (s *Store) update(ctx context.Context, o v3.Object) (v3.Object, error) {
	src, in, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	if w, ok := in.(*v3.WorkloadEndpoint); ok {
		return s.writeEndpoint(ctx, src, w, false)
	}
	insists := in.GetResourceVersion() != ""
	for range maxAttempts {
		out, err := s.replace(ctx, src, in, insists)
		if insists || !errors.Is(err, datastore.ErrConflict) || errors.Is(err, errReborn) {
			return out, err
		}
	}
	return nil, fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// errReborn: the resource is another one of the same name.
var errReborn = errors.New("it was deleted and created anew")

// replace is one attempt of an update.
func (s *Store) replace(ctx context.Context, src *source, in v3.Object, insists bool) (v3.Object, error) {
	key := datastore.KeyOf(in)
	path, err := src.at(key, "")
	if err != nil {
		return nil, err
	}
	var old v3.Object
	if !insists || src.status || guarded(in) {
		revision := ""
		old, revision, err = s.present(ctx, src, path)
		switch {
		case err != nil:
			return nil, err
		case !insists:
			in.SetResourceVersion(revision)
		case in.GetResourceVersion() != revision:
			return nil, fmt.Errorf("resource version is %s, not %s: %w", revision, in.GetResourceVersion(), datastore.ErrConflict)
		}
		if old != nil && in.GetUID() != "" && in.GetUID() != old.GetUID() {
			return nil, fmt.Errorf("%w: UID is %s, not %s: %w", errReborn, old.GetUID(), in.GetUID(), datastore.ErrConflict)
		}
	}
	if old != nil {
		if err := v3.ValidateUpdate(in, old); err != nil {
			return nil, fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
		}
	}
	out := old
	if old == nil || !src.status || differs(in, old) {
		data, err := encode(in)
		if err != nil {
			return nil, err
		}
		if err := s.guard(ctx, in, old); err != nil {
			return nil, err
		}
		b, err := s.do(ctx, &request{verb: http.MethodPut, path: path, body: data})
		if err != nil {
			return nil, err
		}
		if _, out, _, err = src.decode(b); err != nil {
			return nil, err
		}
	}
	if src.status {
		return s.writeStatus(ctx, src, in, out)
	}
	return out, nil
}

// present reads what is there; the object is nil when it cannot be understood.
func (s *Store) present(ctx context.Context, src *source, path []string) (o v3.Object, revision string, err error) {
	b, err := s.do(ctx, get(path))
	if err != nil {
		return nil, "", err
	}
	_, o, revision, err = src.decode(b)
	if err != nil && revision != "" {
		return nil, revision, nil // it is replaced like anything else
	}
	return o, revision, err
}

// differs compares all but the status and what the server keeps.
func differs(a, b v3.Object) bool {
	bare := func(o v3.Object) map[string]any {
		var m map[string]any
		if data, err := v3.Encode(o); err == nil {
			_ = json.Unmarshal(data, &m)
		}
		delete(m, "status")
		m["metadata"] = map[string]any{"labels": o.GetLabels(), "annotations": o.GetAnnotations(), "owners": o.GetOwnerReferences(), "finalizers": o.GetFinalizers()}
		return m
	}
	return !reflect.DeepEqual(bare(a), bare(b))
}

// writeStatus writes the status of in, if it is not what out has, which is stored.
func (s *Store) writeStatus(ctx context.Context, src *source, in, out v3.Object) (v3.Object, error) {
	part := func(o v3.Object) (any, error) {
		data, err := v3.Encode(o)
		var m map[string]any
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		return m["status"], err
	}
	want, err1 := part(in)
	have, err2 := part(out)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("compare the status: %w", err)
	}
	if want == nil || reflect.DeepEqual(want, have) {
		return out, nil
	}
	next, ok := in.DeepCopyObject().(v3.Object)
	if !ok {
		return nil, fmt.Errorf("%T does not copy to a resource: %w", in, datastore.ErrInvalid)
	}
	next.SetResourceVersion(out.GetResourceVersion())
	next.SetUID(out.GetUID())
	data, err := encode(next)
	if err != nil {
		return nil, err
	}
	path, err := src.at(datastore.KeyOf(in), "status")
	if err != nil {
		return nil, err
	}
	b, err := s.do(ctx, &request{verb: http.MethodPut, path: path, body: data})
	if err != nil {
		return nil, fmt.Errorf("write the status: %w", err)
	}
	_, written, _, err := src.decode(b)
	return written, err
}

// prepare returns a copy of o, defaulted and found valid, and where its kind is.
func (s *Store) prepare(o v3.Object) (*source, v3.Object, error) {
	in, err := datastore.Prepared(o)
	if err != nil {
		return nil, nil, err
	}
	src, err := s.source(datastore.KeyOf(o).Kind)
	if err != nil {
		return nil, nil, err
	}
	if err := v3.Validate(in); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	return src, in, nil
}

func encode(in v3.Object) ([]byte, error) { return datastore.Encode(in, maxObject) }

// Delete removes a resource if the precondition holds (ErrConflict otherwise). One with finalizers goes when those
// who set them have done their part.
func (s *Store) Delete(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	return datastore.Wrap("delete", key, s.delete(ctx, key, p))
}

func (s *Store) delete(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	src, err := s.source(key.Kind)
	if err != nil {
		return err
	}
	if src.pods {
		return s.deleteEndpoint(ctx, src, key, p)
	}
	path, err := src.at(key, "")
	if err != nil {
		return err
	}
	opts := metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}}
	if p != (datastore.Precondition{}) {
		opts.Preconditions = &metav1.Preconditions{}
		if p.ResourceVersion != "" {
			opts.Preconditions.ResourceVersion = &p.ResourceVersion
		}
		if p.UID != "" {
			uid := types.UID(p.UID)
			opts.Preconditions.UID = &uid
		}
	}
	if key.Kind == v3.KindTier {
		if err := s.guardTierDelete(ctx, key.Name); err != nil {
			return err
		}
	}
	body, err := json.Marshal(opts)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, &request{verb: http.MethodDelete, path: path, body: body})
	return err
}

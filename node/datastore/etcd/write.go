package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// maxObject is how many bytes a resource may have in its stored form: what etcd takes unless it is
// told otherwise.
const maxObject = 1536 << 10

// maxAttempts bounds how often a write that does not insist on a revision begins again because
// others wrote first. Each failed attempt is somebody else's success.
const maxAttempts = 100

// Create stores o, which must not be there yet. UID and creation time are given here.
func (s *Store) Create(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, err := s.create(ctx, o)
	if err != nil {
		return nil, datastore.Wrap("create", keyOf(o), err)
	}
	return in, nil
}

func (s *Store) create(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, k, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	in.SetUID(uuid.NewUUID())
	in.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	in.SetGeneration(1)
	data, err := encode(in)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		w := write{key: k, data: data, has: 0}
		if err := s.guard(ctx, in, &w); err != nil {
			return nil, err
		}
		rev, now, err := s.commit(ctx, w)
		switch {
		case err != nil:
			return nil, err
		case rev != 0:
			in.SetResourceVersion(strconv.FormatInt(rev, 10))
			return in, nil
		case now != 0:
			return nil, datastore.ErrAlreadyExists
		}
	}
	return nil, fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// Update replaces a resource that is there; see datastore.Store. UID, creation time and generation
// are kept whatever o says; a UID in o that is not the stored one is a conflict. When nothing would
// change, nothing is written.
func (s *Store) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, err := s.update(ctx, o)
	if err != nil {
		return nil, datastore.Wrap("update", keyOf(o), err)
	}
	return in, nil
}

func (s *Store) update(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, k, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		old, kv, err := s.get(ctx, keyOf(o))
		if kv == nil {
			return nil, err
		}
		// What is there and cannot be understood (old is nil) is replaced like anything else.
		data, err := succeed(o, in, old, kv)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(data, kv.Value) {
			in.SetResourceVersion(strconv.FormatInt(kv.ModRevision, 10))
			return in, nil
		}
		w := write{key: k, data: data, has: kv.ModRevision}
		if err := s.guard(ctx, in, &w); err != nil {
			return nil, err
		}
		rev, _, err := s.commit(ctx, w)
		switch {
		case err != nil:
			return nil, err
		case rev != 0:
			in.SetResourceVersion(strconv.FormatInt(rev, 10))
			return in, nil
		}
	}
	return nil, fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// succeed checks that in, which the caller gave as o, may follow on old, carries over what the
// store owns, and returns the form to store.
func succeed(o, in, old v3.Object, kv *mvccpb.KeyValue) ([]byte, error) {
	have := strconv.FormatInt(kv.ModRevision, 10)
	if rv := o.GetResourceVersion(); rv != "" && rv != have {
		return nil, fmt.Errorf("resource version is %s, not %s: %w", have, rv, datastore.ErrConflict)
	}
	if old == nil {
		in.SetUID(uuid.NewUUID())
		in.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
		in.SetGeneration(1)
		return encode(in)
	}
	if uid := o.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, fmt.Errorf("it was deleted and created anew: UID is %s, not %s: %w", old.GetUID(), uid, datastore.ErrConflict)
	}
	if err := v3.ValidateUpdate(in, old); err != nil {
		return nil, fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	in.SetUID(old.GetUID())
	in.SetCreationTimestamp(old.GetCreationTimestamp())
	in.SetGeneration(old.GetGeneration())
	changed, err := specChanged(old, in)
	if err != nil {
		return nil, err
	}
	if changed {
		in.SetGeneration(old.GetGeneration() + 1)
	}
	return encode(in)
}

// specChanged compares all but metadata and status.
func specChanged(old, in v3.Object) (bool, error) {
	var parts [2]map[string]json.RawMessage
	for i, o := range []v3.Object{old, in} {
		data, err := v3.Encode(o)
		if err != nil {
			return false, fmt.Errorf("encode: %w", err)
		}
		if err := json.Unmarshal(data, &parts[i]); err != nil {
			return false, fmt.Errorf("encode: %w", err)
		}
		delete(parts[i], "metadata")
		delete(parts[i], "status")
	}
	return !maps.EqualFunc(parts[0], parts[1], func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }), nil
}

// keyOf tells the kind by the Go type: what a caller made itself may come without TypeMeta.
func keyOf(o v3.Object) datastore.Key {
	if gvk, ok := v3.GroupVersionKindOf(o); ok {
		return datastore.Key{Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
	}
	return datastore.KeyOf(o)
}

// prepare returns a copy of o, defaulted and found valid, and its key in etcd.
func (s *Store) prepare(o v3.Object) (v3.Object, string, error) {
	gvk, ok := v3.GroupVersionKindOf(o)
	if !ok {
		return nil, "", fmt.Errorf("%T is of no kind that is known here: %w", o, datastore.ErrInvalid)
	}
	k, err := s.keys.key(keyOf(o))
	if err != nil {
		return nil, "", err
	}
	in, ok := o.DeepCopyObject().(v3.Object)
	if !ok {
		return nil, "", fmt.Errorf("%T does not copy to a resource: %w", o, datastore.ErrInvalid)
	}
	in.GetObjectKind().SetGroupVersionKind(gvk)
	v3.Default(in)
	if _, err := encode(in); err != nil { // too large, before anything looks at every part of it
		return nil, "", err
	}
	if err := v3.Validate(in); err != nil {
		return nil, "", fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	return in, k, nil
}

// encode returns the stored form: the resource version is not part of it.
func encode(in v3.Object) ([]byte, error) {
	in.SetResourceVersion("")
	data, err := v3.Encode(in)
	if err != nil {
		return nil, fmt.Errorf("encode: %w: %w", datastore.ErrInvalid, err)
	}
	if len(data) > maxObject {
		return nil, fmt.Errorf("it has %d bytes, the store takes at most %d: make it smaller, or more than one of it: %w",
			len(data), maxObject, datastore.ErrInvalid)
	}
	return data, nil
}

// write is one conditional write of one key.
type write struct {
	key  string
	data []byte
	has  int64 // modification revision that key must have; 0: it must not be there
	// guard is a key that must be at guardHas, and is written as well; "" for most kinds.
	guard    string
	guardHas int64
}

// commit writes if the conditions hold, and returns the new revision. Otherwise it returns 0 and
// the revision that the key has, 0 if it is not there.
func (s *Store) commit(ctx context.Context, w write) (rev, now int64, err error) {
	cmps := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(w.key), "=", w.has)}
	puts := []clientv3.Op{clientv3.OpPut(w.key, string(w.data))}
	if w.guard != "" {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(w.guard), "=", w.guardHas))
		puts = append(puts, clientv3.OpPut(w.guard, w.key))
	}
	var resp *clientv3.TxnResponse
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).If(cmps...).Then(puts...).Else(clientv3.OpGet(w.key, clientv3.WithKeysOnly())).Commit()
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	if resp.Succeeded {
		return resp.Header.Revision, 0, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		now = kvs[0].ModRevision
	}
	return 0, now, nil
}

// Delete removes a resource if the precondition holds (ErrConflict otherwise).
func (s *Store) Delete(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	return datastore.Wrap("delete", key, s.delete(ctx, key, p))
}

func (s *Store) delete(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	k, err := s.keys.key(key)
	if err != nil {
		return err
	}
	if p == (datastore.Precondition{}) {
		var resp *clientv3.DeleteResponse
		err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Delete(ctx, k)
			return err
		})
		if err == nil && resp.Deleted == 0 {
			return datastore.ErrNotFound
		}
		return err
	}
	for range maxAttempts {
		old, kv, err := s.get(ctx, key)
		if kv == nil {
			return err
		}
		if have := strconv.FormatInt(kv.ModRevision, 10); p.ResourceVersion != "" && p.ResourceVersion != have {
			return fmt.Errorf("resource version is %s, not %s: %w", have, p.ResourceVersion, datastore.ErrConflict)
		}
		if p.UID != "" {
			if old == nil {
				return err // its UID is not known
			}
			if string(old.GetUID()) != p.UID {
				return fmt.Errorf("UID is %s, not %s: %w", old.GetUID(), p.UID, datastore.ErrConflict)
			}
		}
		var resp *clientv3.TxnResponse
		err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(k), "=", kv.ModRevision)).Then(clientv3.OpDelete(k)).Commit()
			return err
		})
		if err != nil || resp.Succeeded {
			return err
		}
	}
	return fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

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
		return nil, datastore.Wrap("create", datastore.KeyOf(o), err)
	}
	return in, nil
}

func (s *Store) create(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, p, err := s.planCreate(o)
	if err != nil {
		return nil, err
	}
	for range maxAttempts {
		w := write{conds: []cond{{key: p.key}}, puts: []put{p}}
		if err := s.guard(ctx, in, nil, &w); err != nil {
			return nil, err
		}
		rev, now, err := s.commit(ctx, w)
		switch {
		case err != nil:
			return nil, err
		case rev != 0:
			in.SetResourceVersion(strconv.FormatInt(rev, 10))
			return in, nil
		case now[0] != 0:
			return nil, datastore.ErrAlreadyExists
		}
	}
	return nil, fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// planCreate returns what is stored for a new resource.
func (s *Store) planCreate(o v3.Object) (v3.Object, put, error) {
	in, k, err := s.prepare(o)
	if err != nil {
		return nil, put{}, err
	}
	begin(in)
	data, err := encode(in)
	if err == nil {
		err = admit(in, data, nil)
	}
	return in, put{k, data}, err
}

// begin gives a resource its identity.
func begin(in v3.Object) {
	in.SetUID(uuid.NewUUID())
	in.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
	in.SetGeneration(1)
}

// Update replaces a resource that is there; see datastore.Store. UID, creation time and generation
// are kept whatever o says; a UID in o that is not the stored one is a conflict. When nothing would
// change, nothing is written. What this Store itself wrote last is not read again.
func (s *Store) Update(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, err := s.update(ctx, o)
	if err != nil {
		return nil, datastore.Wrap("update", datastore.KeyOf(o), err)
	}
	return in, nil
}

func (s *Store) update(ctx context.Context, o v3.Object) (v3.Object, error) {
	in, k, err := s.prepare(o)
	if err != nil {
		return nil, err
	}
	was := s.recent.get(k, o.GetResourceVersion())
	remembered := was != nil
	for range maxAttempts {
		if was == nil {
			if was, err = s.read(ctx, k, datastore.KeyOf(o)); err != nil {
				return nil, err
			}
		}
		next, err := succeed(o, in, was)
		if err != nil {
			return nil, err
		}
		if next.rev != 0 {
			if remembered { // nothing is written that would show whether it is still so
				remembered, was = false, nil
				continue
			}
			in.SetResourceVersion(strconv.FormatInt(next.rev, 10))
			return in, nil
		}
		w := write{conds: []cond{{key: k, rev: was.rev}}, puts: []put{{k, next.raw}}}
		if err := s.guard(ctx, in, was.object, &w); err != nil {
			return nil, err
		}
		rev, now, err := s.commit(ctx, w)
		switch {
		case err != nil:
			return nil, err
		case rev != 0:
			in.SetResourceVersion(strconv.FormatInt(rev, 10))
			s.recent.put(k, next, in, rev)
			return in, nil
		case o.GetResourceVersion() != "" && now[0] != was.rev:
			return nil, outdated(was.rev, now[0])
		}
		was = nil
	}
	return nil, fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// outdated is the error of a write that insists on a revision which is not the stored one any more.
func outdated(want, have int64) error {
	if have == 0 {
		return datastore.ErrNotFound
	}
	return fmt.Errorf("resource version is %d, not %d: %w", have, want, datastore.ErrConflict)
}

// read returns what is stored. Its object is nil when that cannot be understood.
func (s *Store) read(ctx context.Context, k string, key datastore.Key) (*known, error) {
	old, kv, err := s.get(ctx, key)
	if kv == nil {
		return nil, err
	}
	return &known{rev: kv.ModRevision, raw: kv.Value, object: old}, nil
}

// succeed checks that in, which the caller gave as o, may follow on old, carries over what the
// store owns, and returns the form to store; its rev is old's when nothing changes.
func succeed(o, in v3.Object, old *known) (*known, error) {
	have := strconv.FormatInt(old.rev, 10)
	if rv := o.GetResourceVersion(); rv != "" && rv != have {
		return nil, fmt.Errorf("resource version is %s, not %s: %w", have, rv, datastore.ErrConflict)
	}
	if old.object == nil { // what is there and cannot be understood is replaced like anything else
		begin(in)
		raw, err := encode(in)
		return &known{raw: raw}, err
	}
	if uid := o.GetUID(); uid != "" && uid != old.object.GetUID() {
		return nil, fmt.Errorf("it was deleted and created anew: UID is %s, not %s: %w", old.object.GetUID(), uid, datastore.ErrConflict)
	}
	if err := v3.ValidateUpdate(in, old.object); err != nil {
		return nil, fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	in.SetUID(old.object.GetUID())
	in.SetCreationTimestamp(old.object.GetCreationTimestamp())
	in.SetGeneration(old.object.GetGeneration() + 1)
	next := &known{}
	var err error
	if next.raw, err = encode(in); err != nil {
		return nil, err
	}
	if err := admit(in, next.raw, old.raw); err != nil {
		return nil, err
	}
	changed, err := specChanged(old, next)
	if err != nil || changed {
		return next, err
	}
	in.SetGeneration(old.object.GetGeneration())
	if next.raw, err = encode(in); err == nil && bytes.Equal(next.raw, old.raw) {
		next.rev = old.rev
	}
	return next, err
}

// specChanged compares all but metadata and status.
func specChanged(old, next *known) (bool, error) {
	for _, k := range []*known{old, next} {
		if k.body != nil {
			continue
		}
		if err := json.Unmarshal(k.raw, &k.body); err != nil {
			return false, fmt.Errorf("compare with what is stored: %w", err)
		}
		delete(k.body, "metadata")
		delete(k.body, "status")
	}
	return !maps.EqualFunc(old.body, next.body, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }), nil
}

// prepare returns a copy of o, defaulted, and its key in etcd.
func (s *Store) prepare(o v3.Object) (v3.Object, string, error) {
	in, err := datastore.Prepared(o)
	if err != nil {
		return nil, "", err
	}
	k, err := s.keys.key(datastore.KeyOf(o))
	return in, k, err
}

// encode returns the stored form: the resource version is not part of it.
func encode(in v3.Object) ([]byte, error) {
	in.SetResourceVersion("")
	return datastore.Encode(in, maxObject)
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
	if key.Kind == v3.KindTier {
		return s.deleteTier(ctx, key, p)
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
	if p.UID == "" {
		return s.deleteAt(ctx, k, p.ResourceVersion)
	}
	for range maxAttempts {
		old, kv, err := s.get(ctx, key)
		if kv == nil {
			return err
		}
		if have := strconv.FormatInt(kv.ModRevision, 10); p.ResourceVersion != "" && p.ResourceVersion != have {
			return fmt.Errorf("resource version is %s, not %s: %w", have, p.ResourceVersion, datastore.ErrConflict)
		}
		if old == nil {
			return err // its UID is not known
		}
		if string(old.GetUID()) != p.UID {
			return fmt.Errorf("UID is %s, not %s: %w", old.GetUID(), p.UID, datastore.ErrConflict)
		}
		rev, _, err := s.commit(ctx, write{conds: []cond{{key: k, rev: kv.ModRevision}}, dels: []string{k}})
		if err != nil || rev != 0 {
			return err
		}
	}
	return fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// deleteAt removes a resource if it has a certain revision.
func (s *Store) deleteAt(ctx context.Context, k, version string) error {
	want, err := parseVersion(version)
	if err != nil {
		return err
	}
	rev, now, err := s.commit(ctx, write{conds: []cond{{key: k, rev: want}}, dels: []string{k}})
	if err != nil || rev != 0 {
		return err
	}
	return outdated(want, now[0])
}

// parseVersion reads a resource version.
func parseVersion(version string) (int64, error) {
	rev, err := strconv.ParseInt(version, 10, 64)
	if err != nil || rev <= 0 {
		return 0, fmt.Errorf("resource version is not %q, which none is: %w", version, datastore.ErrConflict)
	}
	return rev, nil
}

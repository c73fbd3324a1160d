package etcd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// pageSize is how many resources one answer of a list brings: about 1 MB of ordinary ones.
const pageSize = 1000

// listAttempts is how often List begins again when the server compacts the revision it reads at.
const listAttempts = 3

// Get returns one resource, or datastore.ErrNotFound.
func (s *Store) Get(ctx context.Context, key datastore.Key) (v3.Object, error) {
	o, _, err := s.get(ctx, key)
	return o, datastore.Wrap("get", key, err)
}

// get also returns the stored form.
func (s *Store) get(ctx context.Context, key datastore.Key) (v3.Object, *mvccpb.KeyValue, error) {
	k, err := s.keys.key(key)
	if err != nil {
		return nil, nil, err
	}
	var resp *clientv3.GetResponse
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, k)
		return err
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(resp.Kvs) == 0:
		return nil, nil, datastore.ErrNotFound
	}
	o, err := decode(key, resp.Kvs[0])
	return o, resp.Kvs[0], err
}

// decode reads the stored form of key.
func decode(key datastore.Key, kv *mvccpb.KeyValue) (v3.Object, error) {
	o, err := v3.DecodeStored(key.Kind, kv.Value)
	if err != nil {
		return nil, fmt.Errorf("what is stored cannot be understood: %w", err)
	}
	if o.GetName() != key.Name || o.GetNamespace() != key.Namespace {
		return nil, fmt.Errorf("what is stored calls itself %s: rename or remove it", datastore.KeyOf(o))
	}
	o.SetResourceVersion(strconv.FormatInt(kv.ModRevision, 10))
	return o, nil
}

// List reads the kinds at one revision, a page at a time.
func (s *Store) List(ctx context.Context, kinds ...string) (*datastore.List, error) {
	var l *datastore.List
	var err error
	for range listAttempts {
		if l, err = s.list(ctx, kinds); !errors.Is(err, datastore.ErrCompacted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", strings.Join(kinds, ", "), err)
	}
	return l, nil
}

func (s *Store) list(ctx context.Context, kinds []string) (*datastore.List, error) {
	all := &datastore.List{}
	err := s.pages(ctx, kinds, func(l *datastore.List) {
		all.Items, all.Rejected = append(all.Items, l.Items...), append(all.Rejected, l.Rejected...)
		all.Revision, all.History = l.Revision, l.History
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// ListPages implements datastore.Pager.
func (s *Store) ListPages(ctx context.Context, kinds []string, f func(*datastore.List)) error {
	if err := s.pages(ctx, kinds, f); err != nil {
		return fmt.Errorf("list %s: %w", strings.Join(kinds, ", "), err)
	}
	return nil
}

// pages calls f with one page after the other, at least one.
func (s *Store) pages(ctx context.Context, kinds []string, f func(*datastore.List)) error {
	if len(kinds) == 0 {
		return fmt.Errorf("no kind given: %w", datastore.ErrInvalid)
	}
	var at revision
	for _, kind := range kinds {
		prefix, err := s.keys.kind(kind)
		if err != nil {
			return err
		}
		for from, more := prefix, true; more; {
			var resp *clientv3.GetResponse
			err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
				resp, err = c.Get(ctx, from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)),
					clientv3.WithLimit(pageSize), clientv3.WithRev(at.rev))
				return err
			})
			if err != nil {
				return err
			}
			if at.rev == 0 {
				at = revisionOf(resp.Header)
			} else if at.cluster != resp.Header.ClusterId {
				return fmt.Errorf("the endpoints belong to different clusters: %w", datastore.ErrCompacted)
			}
			l := &datastore.List{Revision: at.String(), History: at.history()}
			s.collect(l, resp.Kvs)
			if more = resp.More && len(resp.Kvs) > 0; more {
				from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
			}
			f(l)
		}
	}
	return nil
}

// collect decodes objects, a share of them on each processor.
func (s *Store) collect(l *datastore.List, kvs []*mvccpb.KeyValue) {
	parts := make([]datastore.List, max(1, min(runtime.GOMAXPROCS(0), len(kvs)/decodeAtOnce)))
	share := (len(kvs) + len(parts) - 1) / len(parts)
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() { s.decodeAll(&parts[i], kvs[min(i*share, len(kvs)):min((i+1)*share, len(kvs))]) })
	}
	wg.Wait()
	l.Items = slices.Grow(l.Items, len(kvs))
	for _, p := range parts {
		l.Items, l.Rejected = append(l.Items, p.Items...), append(l.Rejected, p.Rejected...)
	}
}

// decodeAtOnce is how many objects at least are worth another goroutine.
const decodeAtOnce = 64

func (s *Store) decodeAll(l *datastore.List, kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		key, ok, err := s.keys.parse(string(kv.Key))
		if !ok {
			continue
		}
		var o v3.Object
		if err == nil {
			o, err = decode(key, kv)
		}
		if err != nil {
			l.Rejected = append(l.Rejected, datastore.Rejection{Key: key, Err: err, Revision: strconv.FormatInt(kv.ModRevision, 10)})
			continue
		}
		l.Items = append(l.Items, o)
	}
}

// revision is a revision of one cluster's history, written "1234@9ab3".
type revision struct {
	rev     int64
	cluster uint64
}

func revisionOf(h *pb.ResponseHeader) revision { return revision{h.Revision, h.ClusterId} }

func (r revision) history() string { return strconv.FormatUint(r.cluster, 16) }

// String is the form that parseRevision reads.
func (r revision) String() string { return strconv.FormatInt(r.rev, 10) + "@" + r.history() }

// parseRevision reads what List and Stream gave out. Without the part after the "@" the cluster
// is not checked.
func parseRevision(s string) (revision, error) {
	rev, cluster, with := strings.Cut(s, "@")
	var r revision
	var err error
	if r.rev, err = strconv.ParseInt(rev, 10, 64); err != nil || r.rev < 0 {
		return revision{}, fmt.Errorf("revision %q: want one that a list gave: %w", s, datastore.ErrInvalid)
	}
	if with {
		if r.cluster, err = strconv.ParseUint(cluster, 16, 64); err != nil {
			return revision{}, fmt.Errorf("revision %q: want one that a list gave: %w", s, datastore.ErrInvalid)
		}
	}
	return r, nil
}

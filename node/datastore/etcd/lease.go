package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weft/node/datastore"
)

// lease is where a lease is: beside the resources, which it is none of.
func (l layout) lease(name string) string { return l.prefix + "/lease/" + name }

// GetLease implements datastore.Leaser. It is a key of ours and no lease of etcd's: who leads is decided in one way on
// every store, by clocks of the processes that want to.
func (s *Store) GetLease(ctx context.Context, name string) (datastore.Lease, error) {
	var resp *clientv3.GetResponse
	err := s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Get(ctx, s.keys.lease(name))
		return err
	})
	var l datastore.Lease
	if err == nil && len(resp.Kvs) > 0 {
		if err = json.Unmarshal(resp.Kvs[0].Value, &l); err == nil {
			l.Version = strconv.FormatInt(resp.Kvs[0].ModRevision, 10)
		}
	}
	if err != nil {
		return datastore.Lease{}, fmt.Errorf("get lease %s: %w", name, err)
	}
	return l, nil
}

// PutLease implements datastore.Leaser.
func (s *Store) PutLease(ctx context.Context, name string, l datastore.Lease) (datastore.Lease, error) {
	wrap := func(err error) (datastore.Lease, error) {
		return datastore.Lease{}, fmt.Errorf("write lease %s: %w", name, err)
	}
	at := cond{key: s.keys.lease(name)}
	if l.Version != "" {
		var err error
		if at.rev, err = parseVersion(l.Version); err != nil {
			return wrap(err)
		}
	}
	l.Version = ""
	data, err := json.Marshal(l)
	if err != nil {
		return wrap(err)
	}
	rev, _, err := s.commit(ctx, write{conds: []cond{at}, puts: []put{{at.key, data}}})
	switch {
	case err != nil:
		return wrap(err)
	case rev == 0:
		return wrap(datastore.ErrConflict)
	}
	l.Version = strconv.FormatInt(rev, 10)
	return l, nil
}

package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// guard makes the write w of o, which replaces old or nothing, depend on what o must agree with among
// other resources.
func (s *Store) guard(ctx context.Context, o, old v3.Object, w *write) error {
	if p := v3.PolicyOf(o); p != nil {
		return s.guardTier(ctx, p, v3.PolicyOf(old), w)
	}
	if pool, ok := o.(*v3.IPPool); ok {
		return s.guardPool(ctx, pool, w)
	}
	return nil
}

// guardPool: two pools that are enabled must not overlap. It reads the other pools and the guard key at one
// revision; any write of a pool replaces the guard key, so that of two concurrent writes, each of
// which is fine by itself, the second begins again and sees the first.
func (s *Store) guardPool(ctx context.Context, pool *v3.IPPool, w *write) error {
	prefix, err := s.keys.kind(v3.KindIPPool)
	if err != nil {
		return err
	}
	guard := cond{key: s.keys.guard("ippools")}
	var resp *clientv3.TxnResponse
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).Then(clientv3.OpGet(guard.key, clientv3.WithKeysOnly()), clientv3.OpGet(prefix, clientv3.WithPrefix())).Commit()
		return err
	})
	if err != nil {
		return err
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		guard.rev = kvs[0].ModRevision
	}
	var others []*v3.IPPool
	for _, kv := range resp.Responses[1].GetResponseRange().GetKvs() {
		key, ok, err := s.keys.parse(string(kv.Key))
		if !ok || err != nil {
			continue
		}
		// What cannot be understood is in nobody's way: nobody can use it either.
		if other, err := decode(key, kv); err == nil {
			others = append(others, other.(*v3.IPPool))
		}
	}
	if err := v3.PoolOverlap(pool, others...); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	w.conds, w.puts = append(w.conds, guard), append(w.puts, put{guard.key, []byte(pool.GetName())})
	return nil
}

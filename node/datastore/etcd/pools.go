package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
	switch o := o.(type) {
	case *v3.IPPool:
		return s.guardPool(ctx, o, old, w)
	case *v3.Node:
		was, _ := old.(*v3.Node)
		return s.guardNode(ctx, o, was, w)
	}
	return nil
}

// poolGuard and addressGuards name the keys by which writes of pools and of node addresses notice each
// other: any write of a pool replaces the first, any write of a node's address that address's own.
const (
	poolGuard     = "ippools"
	addressGuards = "nodeaddresses/"
)

// readPools reads the pools and the guard key of their writes at one revision, and the others of ops.
func (s *Store) readPools(ctx context.Context, ops ...clientv3.Op) (pools []*v3.IPPool, guard cond, rest *clientv3.TxnResponse, err error) {
	prefix, err := s.keys.kind(v3.KindIPPool)
	if err != nil {
		return nil, guard, nil, err
	}
	guard.key = s.keys.guard(poolGuard)
	ops = append([]clientv3.Op{clientv3.OpGet(guard.key, clientv3.WithKeysOnly()), clientv3.OpGet(prefix, clientv3.WithPrefix())}, ops...)
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		rest, err = c.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return nil, guard, nil, err
	}
	if kvs := rest.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
		guard.rev = kvs[0].ModRevision
	}
	pools = understood[*v3.IPPool](s, rest.Responses[1])
	rest.Responses = rest.Responses[2:]
	return pools, guard, rest, nil
}

// understood returns the resources that were read. One that cannot be understood is in nobody's way: nobody
// can use it either.
func understood[T v3.Object](s *Store, r *pb.ResponseOp) []T {
	var out []T
	for _, kv := range r.GetResponseRange().GetKvs() {
		key, ok, err := s.keys.parse(string(kv.Key))
		if !ok || err != nil {
			continue
		}
		if o, err := decode(key, kv); err == nil {
			if t, ok := o.(T); ok {
				out = append(out, t)
			}
		}
	}
	return out
}

// guardPool: see v3.PoolOverlap and v3.PoolOnUnderlay. It reads the other pools, the nodes and the guard
// keys at one revision; of two concurrent writes, each of which is fine by itself, the second begins
// again and sees the first. A pool that is in the way already can still be disabled.
func (s *Store) guardPool(ctx context.Context, pool *v3.IPPool, old v3.Object, w *write) error {
	nodes, err := s.keys.kind(v3.KindNode)
	if err != nil {
		return err
	}
	others, guard, rest, err := s.readPools(ctx, clientv3.OpGet(nodes, clientv3.WithPrefix()))
	if err != nil {
		return err
	}
	if was, _ := old.(*v3.IPPool); was == nil || was.Spec.Disabled || !pool.Spec.Disabled {
		if err := v3.PoolOverlap(pool, others...); err != nil {
			return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
		}
	}
	if old == nil || !pool.Spec.Disabled {
		if err := v3.PoolOnUnderlay(pool, understood[*v3.Node](s, rest.Responses[0])...); err != nil {
			return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
		}
	}
	addresses := cond{key: s.keys.guard(addressGuards), rev: rest.Header.Revision, all: true}
	w.conds, w.puts = append(w.conds, guard, addresses), append(w.puts, put{guard.key, []byte(pool.GetName())})
	return nil
}

// guardNode: see v3.NodeAddressTaken. The guard key of an address holds the name of the node that wrote
// it last, so that a node that joins reads one key and not the records of all the others. A record whose
// addresses stay as they are is not held up, whatever became of them.
func (s *Store) guardNode(ctx context.Context, node, old *v3.Node, w *write) error {
	addrs := v3.NodeAddresses(node)
	if len(addrs) == 0 || slices.Equal(addrs, v3.NodeAddresses(old)) {
		return nil
	}
	ops := make([]clientv3.Op, len(addrs))
	guards := make([]cond, len(addrs))
	for i, a := range addrs {
		guards[i].key = s.keys.guard(addressGuards + a.Addr().String())
		ops[i] = clientv3.OpGet(guards[i].key)
	}
	pools, guard, rest, err := s.readPools(ctx, ops...)
	if err != nil {
		return err
	}
	w.conds = append(w.conds, guard)
	owners := map[netip.Addr]string{}
	for i, a := range addrs {
		if kvs := rest.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			guards[i].rev = kvs[0].ModRevision
			if owners[a.Addr()], err = s.ownerOf(ctx, a.Addr(), string(kvs[0].Value)); err != nil {
				return err
			}
		}
		w.conds, w.puts = append(w.conds, guards[i]), append(w.puts, put{guards[i].key, []byte(node.Name)})
	}
	if err := v3.NodeAddressTaken(node, pools, func(a netip.Addr) string { return owners[a] }); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	return nil
}

// ownerOf returns name if the node of that name still has the address, else "".
func (s *Store) ownerOf(ctx context.Context, a netip.Addr, name string) (string, error) {
	o, kv, err := s.get(ctx, datastore.Key{Kind: v3.KindNode, Name: name})
	if kv == nil && err != nil && !errors.Is(err, datastore.ErrNotFound) {
		return "", err
	}
	n, _ := o.(*v3.Node)
	if slices.ContainsFunc(v3.NodeAddresses(n), func(p netip.Prefix) bool { return p.Addr() == a }) {
		return name, nil
	}
	return "", nil
}

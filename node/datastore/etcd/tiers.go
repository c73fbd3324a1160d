package etcd

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// tierState is what a write that concerns a tier depends on. Whoever puts a policy into the tier
// replaces its guard key, and whoever deletes the tier does so on condition that nobody has.
type tierState struct{ tier, guard cond }

// tierState reads the tier's revision and that of its guard, and the others of ops, at one revision.
func (s *Store) tierState(ctx context.Context, name string, ops ...clientv3.Op) (tierState, []*clientv3.GetResponse, error) {
	var st tierState
	key, err := s.keys.key(datastore.Key{Kind: v3.KindTier, Name: name})
	if err != nil {
		return st, nil, err
	}
	st.tier.key, st.guard.key = key, s.keys.guard("tiers/"+name)
	ops = append([]clientv3.Op{clientv3.OpGet(st.tier.key, clientv3.WithKeysOnly()), clientv3.OpGet(st.guard.key, clientv3.WithKeysOnly())}, ops...)
	var resp *clientv3.TxnResponse
	err = s.do(ctx, func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return st, nil, err
	}
	var rest []*clientv3.GetResponse
	for i, r := range resp.Responses {
		got := (*clientv3.GetResponse)(r.GetResponseRange())
		if i >= 2 {
			rest = append(rest, got)
		} else if len(got.Kvs) > 0 {
			[]*cond{&st.tier, &st.guard}[i].rev = got.Kvs[0].ModRevision
		}
	}
	return st, rest, nil
}

// guardTier makes the write w of a policy depend on its tier being there. The built-in ones always
// are, and one that the policy is in already cannot go.
func (s *Store) guardTier(ctx context.Context, p, old *v3.PolicySpec, w *write) error {
	if _, builtin := v3.BuiltinTier(p.Tier); builtin || old != nil && old.Tier == p.Tier {
		return nil
	}
	st, _, err := s.tierState(ctx, p.Tier)
	if err != nil {
		return err
	}
	if st.tier.rev == 0 {
		return fmt.Errorf("%w: spec.tier: Invalid value: %q: there is no such tier: create it first", datastore.ErrInvalid, p.Tier)
	}
	w.conds, w.puts = append(w.conds, st.tier, st.guard), append(w.puts, put{st.guard.key, nil})
	return nil
}

// deleteTier deletes a tier that is empty and not built in.
func (s *Store) deleteTier(ctx context.Context, key datastore.Key, p datastore.Precondition) error {
	if _, builtin := v3.BuiltinTier(key.Name); builtin {
		return fmt.Errorf("%w: the tier is built in and cannot be deleted", datastore.ErrInvalid)
	}
	var ops []clientv3.Op
	for _, kind := range v3.TieredKinds() {
		prefix, err := s.keys.kind(kind)
		if err != nil {
			return err
		}
		ops = append(ops, clientv3.OpGet(prefix, clientv3.WithPrefix()))
	}
	for range maxAttempts {
		st, policies, err := s.tierState(ctx, key.Name, ops...)
		if err != nil {
			return err
		}
		if st.tier.rev == 0 {
			return datastore.ErrNotFound
		}
		if err := s.checkTier(ctx, key, p, st.tier.rev); err != nil {
			return err
		}
		if users := s.policiesOf(key.Name, policies); len(users) > 0 {
			some := users[:min(len(users), 3)]
			return fmt.Errorf("%w: the tier has policies, %d in all (%s): delete them, or move them to another tier, first",
				datastore.ErrInvalid, len(users), strings.Join(some, ", "))
		}
		w := write{conds: []cond{st.tier, st.guard}, dels: []string{st.tier.key, st.guard.key}}
		if rev, _, err := s.commit(ctx, w); err != nil || rev != 0 {
			return err
		}
	}
	return fmt.Errorf("others wrote first, %d times in a row: %w", maxAttempts, datastore.ErrConflict)
}

// checkTier holds a precondition to the tier that has revision rev.
func (s *Store) checkTier(ctx context.Context, key datastore.Key, p datastore.Precondition, rev int64) error {
	if have := strconv.FormatInt(rev, 10); p.ResourceVersion != "" && p.ResourceVersion != have {
		return fmt.Errorf("resource version is %s, not %s: %w", have, p.ResourceVersion, datastore.ErrConflict)
	}
	if p.UID == "" {
		return nil
	}
	live, kv, err := s.get(ctx, key)
	switch {
	case live == nil:
		return err
	case string(live.GetUID()) != p.UID:
		return fmt.Errorf("UID is %s, not %s: %w", live.GetUID(), p.UID, datastore.ErrConflict)
	case kv.ModRevision != rev:
		return fmt.Errorf("resource version is %d, not %d: %w", kv.ModRevision, rev, datastore.ErrConflict)
	}
	return nil
}

// policiesOf names the policies among what was read that are in the tier. What cannot be understood is
// in nobody's way: nobody can use it either.
func (s *Store) policiesOf(tier string, read []*clientv3.GetResponse) []string {
	var users []string
	for _, r := range read {
		for _, kv := range r.Kvs {
			key, ok, err := s.keys.parse(string(kv.Key))
			if !ok || err != nil {
				continue
			}
			if o, err := decode(key, kv); err == nil {
				if p := v3.PolicyOf(o); p != nil && p.Tier == tier {
					users = append(users, key.String())
				}
			}
		}
	}
	slices.Sort(users)
	return users
}

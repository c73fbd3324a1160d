package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/node/datastore"
)

// guarded tells that a write of o depends on what other resources say.
func guarded(o v3.Object) bool {
	switch o.(type) {
	case *v3.IPPool, *v3.Node:
		return true
	}
	return v3.PolicyOf(o) != nil
}

// guard looks at what o, which replaces old or nothing, must agree with among other resources. Kubernetes has no
// writes on such conditions: two that are made at the same moment do not see each other.
func (s *Store) guard(ctx context.Context, o, old v3.Object) error {
	if p := v3.PolicyOf(o); p != nil {
		return s.guardTier(ctx, p.Tier, v3.PolicyOf(old))
	}
	switch o := o.(type) {
	case *v3.IPPool:
		was, _ := old.(*v3.IPPool)
		return s.guardPool(ctx, o, was)
	case *v3.Node:
		was, _ := old.(*v3.Node)
		return s.guardNode(ctx, o, was)
	}
	return nil
}

// guardTier: the tier of a policy is there. The built-in ones always are.
func (s *Store) guardTier(ctx context.Context, tier string, old *v3.PolicySpec) error {
	if _, builtin := v3.BuiltinTier(tier); builtin || old != nil && old.Tier == tier {
		return nil
	}
	_, err := s.Get(ctx, datastore.Key{Kind: v3.KindTier, Name: tier})
	if errors.Is(err, datastore.ErrNotFound) {
		return fmt.Errorf("%w: spec.tier: Invalid value: %q: there is no such tier: create it first", datastore.ErrInvalid, tier)
	}
	return err
}

// guardTierDelete: a tier that is built in or has policies stays.
func (s *Store) guardTierDelete(ctx context.Context, tier string) error {
	if _, builtin := v3.BuiltinTier(tier); builtin {
		return fmt.Errorf("%w: the tier is built in and cannot be deleted", datastore.ErrInvalid)
	}
	l, err := s.List(ctx, v3.TieredKinds()...)
	if err != nil {
		return err
	}
	var users []string
	for _, o := range l.Items {
		if p := v3.PolicyOf(o); p != nil && p.Tier == tier {
			users = append(users, datastore.KeyOf(o).String())
		}
	}
	if len(users) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the tier has policies, %d in all (%s): delete them, or move them to another tier, first",
		datastore.ErrInvalid, len(users), strings.Join(users[:min(len(users), 3)], ", "))
}

// guardPool: see v3.PoolOverlap and v3.PoolOnUnderlay. A pool that is in the way already can still be disabled.
func (s *Store) guardPool(ctx context.Context, pool, was *v3.IPPool) error {
	if was != nil && (pool.Spec.Disabled || reflect.DeepEqual(pool.Spec, was.Spec)) { // what is in the way may go
		return nil
	}
	l, err := s.List(ctx, v3.KindIPPool, v3.KindNode)
	if err != nil {
		return err
	}
	pools, nodes := of[*v3.IPPool](l), of[*v3.Node](l)
	if was == nil || was.Spec.Disabled {
		if err := v3.PoolOverlap(pool, pools...); err != nil {
			return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
		}
	}
	if err := v3.PoolOnUnderlay(pool, nodes...); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	return nil
}

// guardNode: see v3.NodeAddressTaken. A record whose addresses stay as they are is not held up.
func (s *Store) guardNode(ctx context.Context, node, old *v3.Node) error {
	addrs := v3.NodeAddresses(node)
	if len(addrs) == 0 || slices.Equal(addrs, v3.NodeAddresses(old)) {
		return nil
	}
	l, err := s.List(ctx, v3.KindIPPool, v3.KindNode)
	if err != nil {
		return err
	}
	owners := map[netip.Addr]string{}
	for _, n := range of[*v3.Node](l) {
		for _, a := range v3.NodeAddresses(n) {
			owners[a.Addr()] = n.Name
		}
	}
	if err := v3.NodeAddressTaken(node, of[*v3.IPPool](l), func(a netip.Addr) string { return owners[a] }); err != nil {
		return fmt.Errorf("%w: %w", datastore.ErrInvalid, err)
	}
	return nil
}

// of returns the objects of a list that are of one type.
func of[T v3.Object](l *datastore.List) []T {
	var out []T
	for _, o := range l.Items {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

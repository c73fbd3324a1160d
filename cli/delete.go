package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam"
)

type deleteOptions struct {
	namespace     string
	ignoreMissing bool
	force         bool
}

// deleter deletes resources, and what belongs to them.
type deleter struct {
	writer
	opts deleteOptions
	out  io.Writer
}

func (d deleter) delete(ctx context.Context, in input) (string, error) {
	var err error
	result := "deleted"
	switch {
	case in.kind.Kind == v3.KindIPPool:
		result, err = d.pool(ctx, in)
	case in.kind.Kind == v3.KindWorkloadEndpoint && !d.opts.force:
		// Without its record a running pod is still reachable, and its address looks unowned.
		err = errors.New("the node that runs the pod keeps this record and removes it with the pod: detach the pod (CNI DEL) instead, or give --force when that node is gone for good")
	case in.kind.Kind == v3.KindNode && !d.opts.force:
		err = d.node(ctx, in)
	default:
		err = d.store.Delete(ctx, datastore.KeyOf(in.object), datastore.Precondition{})
	}
	if errors.Is(err, datastore.ErrNotFound) && d.opts.ignoreMissing {
		return "was not there", nil
	}
	if err != nil {
		return "", failed("delete", d.ref(in), err)
	}
	return result, nil
}

// node deletes the record of a node that no node service keeps and that has no pods: without it the other
// nodes stop sending to its pods, until it has written it again.
func (d deleter) node(ctx context.Context, in input) error {
	key := datastore.KeyOf(in.object)
	live, err := d.store.Get(ctx, key)
	if errors.Is(err, datastore.ErrInvalid) {
		return d.store.Delete(ctx, key, datastore.Precondition{})
	}
	if err != nil {
		return err
	}
	list, err := d.store.List(ctx, v3.KindWorkloadEndpoint)
	if err != nil {
		return fmt.Errorf("list its pods: %w", err)
	}
	pods := 0
	for _, o := range list.Items {
		if w, ok := o.(*v3.WorkloadEndpoint); ok && w.Spec.Node == key.Name {
			pods++
		}
	}
	const advice = "stop weft node there and remove its pods first, or give --force when the node is gone for good"
	n, ok := live.(*v3.Node)
	switch {
	case pods > 0:
		return fmt.Errorf("%s there, which the other nodes could not reach any more: %s", runs(pods), advice)
	case ok && (len(n.Status.OnLink) > 0 || n.Status.Tunnels != nil):
		return fmt.Errorf("its node service keeps this record (it has published what it receives and reaches), and the other nodes stop sending there without it: %s", advice)
	}
	return d.store.Delete(ctx, key, datastore.Precondition{UID: string(live.GetUID())})
}

func runs(pods int) string {
	if pods == 1 {
		return "1 pod runs"
	}
	return fmt.Sprintf("%d pods run", pods)
}

// settle is how long nodes may take to hear that a pool is disabled.
const settle = 500 * time.Millisecond

// pool deletes an IPPool: no node shall take an address from it, or send to one, that nobody knows.
func (d deleter) pool(ctx context.Context, in input) (string, error) {
	key := datastore.KeyOf(in.object)
	live, err := d.store.Get(ctx, key)
	if errors.Is(err, datastore.ErrInvalid) {
		// Nothing can be in use of a pool that nobody understands.
		return "deleted", d.store.Delete(ctx, key, datastore.Precondition{})
	}
	if err != nil {
		return "", err
	}
	pool, ok := live.(*v3.IPPool)
	if !ok {
		return "", fmt.Errorf("the store holds a %T in its place", live)
	}
	cidr, err := netip.ParsePrefix(pool.Spec.CIDR)
	if err != nil {
		return "", fmt.Errorf("read its cidr: %w", err)
	}
	others, err := d.otherPools(ctx, key.Name)
	if err != nil {
		return "", err
	}
	if err := d.unused(ctx, cidr, others, "it is left as it was"); err != nil {
		return "", err
	}
	disabled, err := d.disable(ctx, key)
	if err != nil {
		return "", err
	}
	if disabled {
		if err := sleep(ctx, settle); err != nil {
			return "", err
		}
	}
	if err := d.unused(ctx, cidr, others, "it is disabled now, but not deleted"); err != nil {
		return "", err
	}
	freed, left, err := d.freeBlocks(ctx, cidr, others)
	if err != nil {
		return "", fmt.Errorf("it is disabled now, but not deleted: %w", err)
	}
	if err := d.store.Delete(ctx, key, datastore.Precondition{UID: string(live.GetUID())}); err != nil {
		return "", err
	}
	result := fmt.Sprintf("deleted (disabled first, %s given back)", count(freed, "empty block"))
	if left > 0 {
		result = fmt.Sprintf("deleted (disabled first, %s given back, %s with addresses in use left)", count(freed, "empty block"), count(left, "block"))
	}
	return result, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// disable sets the pool disabled and tells whether that was news.
func (d deleter) disable(ctx context.Context, key datastore.Key) (bool, error) {
	news := false
	err := retry(func() error {
		live, err := d.store.Get(ctx, key)
		if err != nil {
			return err
		}
		pool, ok := live.DeepCopyObject().(*v3.IPPool)
		if !ok || pool.Spec.Disabled {
			return nil
		}
		pool.Spec.Disabled = true
		_, err = d.store.Update(ctx, pool)
		news = err == nil
		return err
	})
	return news, err
}

// otherPools returns the ranges of all pools but one: what lies in them stays in use and routed.
func (d deleter) otherPools(ctx context.Context, name string) ([]netip.Prefix, error) {
	list, err := d.store.List(ctx, v3.KindIPPool)
	if err != nil {
		return nil, fmt.Errorf("list the other pools: %w", err)
	}
	var cidrs []netip.Prefix
	for _, o := range list.Items {
		p, ok := o.(*v3.IPPool)
		if !ok || p.Name == name {
			continue
		}
		if cidr, err := netip.ParsePrefix(p.Spec.CIDR); err == nil {
			cidrs = append(cidrs, cidr)
		}
	}
	return cidrs, nil
}

func holds(pools []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(a) })
}

// unused fails when pods have addresses of cidr that no other pool holds, unless that was forced.
func (d deleter) unused(ctx context.Context, cidr netip.Prefix, others []netip.Prefix, state string) error {
	if d.opts.force {
		return nil
	}
	blocks, err := d.blocks(ctx, cidr)
	if err != nil {
		return err
	}
	var users []string
	for _, b := range blocks {
		for _, a := range allocationsOf(b) {
			if a.inUse && !a.tunnel && !holds(others, a.addr) {
				users = append(users, a.addr.String()+" of "+a.user)
			}
		}
	}
	if len(users) == 0 {
		return nil
	}
	const most = 3
	some := users
	if len(users) > most {
		some = append(slices.Clone(users[:most]), "…")
	}
	return fmt.Errorf("pods use %d of the addresses of %s (%s); %s: delete those pods first, or give --force and leave them with addresses of no pool, which other nodes do not reach",
		len(users), cidr, strings.Join(some, ", "), state)
}

// blocks returns the allocation blocks within cidr, in the order of their addresses.
func (d deleter) blocks(ctx context.Context, cidr netip.Prefix) ([]*v3.IPAMBlock, error) {
	list, err := d.store.List(ctx, v3.KindIPAMBlock)
	if err != nil {
		return nil, fmt.Errorf("list the blocks of %s: %w", cidr, err)
	}
	if n := len(list.Rejected); n > 0 {
		return nil, fmt.Errorf("list the blocks of %s: %s cannot be read (%s: %w); see `weft ipam check`", cidr, count(n, "block"), list.Rejected[0].Key.Name, list.Rejected[0].Err)
	}
	var blocks []*v3.IPAMBlock
	for _, o := range list.Items {
		b, ok := o.(*v3.IPAMBlock)
		if !ok {
			continue
		}
		p, err := netip.ParsePrefix(b.Spec.CIDR)
		if err == nil && cidr.Overlaps(p) && p.Bits() >= cidr.Bits() {
			blocks = append(blocks, b)
		}
	}
	slices.SortFunc(blocks, func(a, b *v3.IPAMBlock) int { return cmp.Compare(a.Name, b.Name) })
	return blocks, nil
}

// allocation is one address of a block that is not free.
type allocation struct {
	addr  netip.Addr
	user  string // for people
	node  string // where it is used; empty: not known
	inUse bool   // not just cooling down after its release
	// tunnel tells that a node's own device has it. Such a node gives it back itself.
	tunnel bool
}

// allocationsOf returns the addresses of b that are not free, in order.
func allocationsOf(b *v3.IPAMBlock) []allocation {
	first, err := netip.ParsePrefix(b.Spec.CIDR)
	if err != nil {
		return nil
	}
	var all []allocation
	addr := first.Masked().Addr()
	for _, index := range b.Spec.Allocations {
		if index != nil {
			a := allocation{addr: addr, user: "somebody unknown", inUse: true}
			if i := *index; i >= 0 && i < len(b.Spec.Attributes) {
				a.owner(b.Spec.Attributes[i])
			}
			all = append(all, a)
		}
		addr = addr.Next()
	}
	return all
}

func (a *allocation) owner(attr v3.AllocationAttribute) {
	owner := attr.ActiveOwnerAttrs
	a.node = owner[ipam.AttrNode]
	a.inUse = attr.ReleasedAt == nil
	a.tunnel = owner[ipam.AttrType] != ""
	switch {
	case owner[ipam.AttrPod] != "":
		a.user = owner[ipam.AttrNamespace] + "/" + owner[ipam.AttrPod]
	case a.tunnel:
		a.user = owner[ipam.AttrType]
	case attr.HandleID != nil:
		a.user = "handle " + *attr.HandleID
	}
}

// freeBlocks deletes the blocks of cidr that hold no address, and the affinities to them. It returns
// how many those were and how many are left. Those within another pool are that one's.
func (d deleter) freeBlocks(ctx context.Context, cidr netip.Prefix, others []netip.Prefix) (freed, left int, err error) {
	blocks, err := d.blocks(ctx, cidr)
	if err != nil {
		return 0, 0, err
	}
	gone := map[string]bool{}
	for _, b := range blocks {
		if p, err := netip.ParsePrefix(b.Spec.CIDR); err == nil && holds(others, p.Addr()) {
			continue
		}
		if slices.ContainsFunc(b.Spec.Allocations, func(a *int) bool { return a != nil }) {
			left++
			continue
		}
		// The version guards against a node that takes an address at this moment.
		err := d.store.Delete(ctx, datastore.KeyOf(b), datastore.Precondition{ResourceVersion: b.ResourceVersion})
		switch {
		case errors.Is(err, datastore.ErrConflict):
			left++
		case err != nil && !errors.Is(err, datastore.ErrNotFound):
			return freed, left, fmt.Errorf("delete the empty block %s: %w", b.Spec.CIDR, err)
		default:
			freed++
			gone[b.Spec.CIDR] = true
		}
	}
	return freed, left, d.freeAffinities(ctx, gone)
}

func (d deleter) freeAffinities(ctx context.Context, gone map[string]bool) error {
	list, err := d.store.List(ctx, v3.KindBlockAffinity)
	if err != nil {
		return fmt.Errorf("list the block affinities: %w", err)
	}
	for _, o := range list.Items {
		a, ok := o.(*v3.BlockAffinity)
		if !ok || !gone[a.Spec.CIDR] {
			continue
		}
		err := d.store.Delete(ctx, datastore.KeyOf(a), datastore.Precondition{})
		if err != nil && !errors.Is(err, datastore.ErrNotFound) {
			return fmt.Errorf("delete the block affinity %s: %w", a.Name, err)
		}
	}
	return nil
}

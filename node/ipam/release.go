package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// Release gives back all addresses of a handle and returns how many there were. A handle that does
// not exist is not an error. After an error, call it again.
func (a *Allocator) Release(ctx context.Context, handleID string) (int, error) {
	unlock, err := a.handles.lock(ctx, handleID)
	if err != nil {
		return 0, fmt.Errorf("release handle %s: wait for another call for it: %w", handleID, err)
	}
	defer unlock()
	released, err := a.release(ctx, handleID)
	return len(released), err
}

// release does the work of Release. The caller holds the handle's lock.
func (a *Allocator) release(ctx context.Context, handleID string) ([]netip.Addr, error) {
	var released []netip.Addr
	for range commitAttempts {
		h, err := a.readHandle(ctx, handleID)
		missing := errors.Is(err, datastore.ErrNotFound)
		if err != nil && !missing {
			return released, fmt.Errorf("release handle %s: %w", handleID, err)
		}
		if missing {
			more, err := a.releaseUnlisted(ctx, handleID)
			return append(released, more...), err
		}
		more, err := a.releaseAll(ctx, handleBlocks(h), handleID)
		released = append(released, more...)
		if err != nil {
			return released, fmt.Errorf("release handle %s: %w", handleID, err)
		}
		err = a.store.Delete(ctx, handleKey(handleID), datastore.Precondition{ResourceVersion: h.ResourceVersion})
		switch {
		case err == nil || errors.Is(err, datastore.ErrNotFound):
			return released, nil
		case !errors.Is(err, datastore.ErrConflict):
			return released, fmt.Errorf("release handle %s: delete its record: %w", handleID, err)
		}
	}
	return released, fmt.Errorf("release handle %s: %d attempts lost to other writers: %w", handleID, commitAttempts, datastore.ErrConflict)
}

// releaseAll gives back what a handle has in some blocks, all at once.
func (a *Allocator) releaseAll(ctx context.Context, cidrs []netip.Prefix, handleID string) ([]netip.Addr, error) {
	freed, errs := make([][]netip.Addr, len(cidrs)), make([]error, len(cidrs))
	var wg sync.WaitGroup
	for i, cidr := range cidrs {
		wg.Go(func() { freed[i], errs[i] = a.releaseIn(ctx, cidr, handleID) })
	}
	wg.Wait()
	return slices.Concat(freed...), errors.Join(errs...)
}

// releaseIn gives back what a handle has in one block. A block that the handle's record names is
// written even when nothing is found there: a write whose outcome its caller never learnt may
// still be on its way, and fails then.
func (a *Allocator) releaseIn(ctx context.Context, cidr netip.Prefix, handleID string) ([]netip.Addr, error) {
	c, policy, err := a.releasePolicy(ctx)
	if err != nil {
		return nil, err
	}
	var released []netip.Addr
	last := false
	err = a.blocks.update(ctx, cidr, func(b *block.Block) error {
		if released = b.ReleaseHandle(handleID, policy); len(released) == 0 {
			b.Touch()
		}
		last = b.Affinity() == hostAffinity(a.node) && empty(b, policy)
		return nil
	})
	if errors.Is(err, datastore.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if last && ownerless(staying(c.Pools), cidr) {
		if _, err := a.drop(ctx, cidr, "", policy); err != nil {
			a.log.Warn("could not give back an empty block that is of no pool, will do when the next block is needed", "block", cidr, "error", err)
		}
	}
	return released, nil
}

// drop deletes a block if it is empty and has the affinity, if one is given, and with it the affinity's record. It tells
// whether it did.
func (a *Allocator) drop(ctx context.Context, cidr netip.Prefix, affinity string, policy block.Policy) (bool, error) {
	s, err := a.blocks.read(ctx, cidr)
	if errors.Is(err, datastore.ErrNotFound) {
		return false, nil
	}
	if err != nil || !empty(s.block, policy) || affinity != "" && affinity != s.block.Affinity() {
		return false, err
	}
	var f *v3.BlockAffinity
	o, err := a.store.Get(ctx, datastore.Key{Kind: v3.KindBlockAffinity, Name: affinityName(affinityNode(s.block.Affinity()), cidr)})
	if err != nil && !errors.Is(err, datastore.ErrNotFound) {
		return false, fmt.Errorf("read the affinity to block %v: %w", cidr, err)
	}
	if err == nil {
		f, _ = o.(*v3.BlockAffinity)
	}
	gone, err := a.reclaim(ctx, s, f)
	if gone {
		a.disown(cidr)
	}
	return gone, err
}

func (a *Allocator) releasePolicy(ctx context.Context) (*Cluster, block.Policy, error) {
	c, err := a.opts.View(ctx)
	if err != nil {
		return nil, block.Policy{}, fmt.Errorf("read settings: %w", err)
	}
	return c, block.Policy{Now: a.opts.Now(), Cooldown: settingsOf(c.Config).cooldown}, nil
}

// releaseUnlisted gives back what this node's blocks hold for a handle that has no record: after
// the store lost some writes, or somebody deleted the record.
func (a *Allocator) releaseUnlisted(ctx context.Context, handleID string) ([]netip.Addr, error) {
	a.blocks.mu.Lock()
	var holding []netip.Prefix
	for _, cidr := range a.owned {
		if q := a.blocks.at(cidr); q.cached != nil && len(q.cached.block.Held(handleID)) > 0 {
			holding = append(holding, cidr)
		}
	}
	a.blocks.mu.Unlock()
	var released []netip.Addr
	for _, cidr := range holding {
		more, err := a.releaseIn(ctx, cidr, handleID)
		if err != nil {
			return released, fmt.Errorf("release handle %s: %w", handleID, err)
		}
		released = append(released, more...)
	}
	return released, nil
}

// ReleaseAddresses gives back single allocations. One that is not there any more, because the
// address is free or went to another owner, counts as done. It returns how many were given back.
func (a *Allocator) ReleaseAddresses(ctx context.Context, refs []AddressRef) (int, error) {
	c, policy, err := a.releasePolicy(ctx)
	if err != nil {
		return 0, fmt.Errorf("release addresses: %w", err)
	}
	n := 0
	for _, ref := range refs {
		cidr, err := a.blockHolding(ctx, c, ref.Addr)
		if err != nil {
			return n, fmt.Errorf("release address %v: %w", ref.Addr, err)
		}
		if !cidr.IsValid() {
			continue
		}
		err = a.blocks.update(ctx, cidr, func(b *block.Block) error {
			return b.Release(ref.Addr, ref.HandleID, ref.Sequence, policy)
		})
		if errors.Is(err, block.ErrNotOwner) || errors.Is(err, datastore.ErrNotFound) {
			continue
		}
		if err != nil {
			return n, fmt.Errorf("release address %v: %w", ref.Addr, err)
		}
		n++
		if err := a.trimHandle(ctx, ref.HandleID, cidr); err != nil {
			return n, fmt.Errorf("release address %v: %w", ref.Addr, err)
		}
	}
	return n, nil
}

// blockHolding returns the CIDR of the stored block that an address lies in, or an invalid one.
func (a *Allocator) blockHolding(ctx context.Context, c *Cluster, addr netip.Addr) (netip.Prefix, error) {
	for _, o := range c.Pools {
		p, _ := poolFor(o, c, &Request{}, true) // a disabled pool's addresses can be given back, too
		if p.blockSize == 0 || !p.cidr.Contains(addr) {
			continue
		}
		s, err := a.blocks.read(ctx, p.blockOf(addr))
		if err == nil {
			return s.block.CIDR(), nil
		}
		if !errors.Is(err, datastore.ErrNotFound) {
			return netip.Prefix{}, err
		}
	}
	st, err := readState(ctx, a.store) // a block that outlived its pool
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, b := range st.blocks {
		if b.block.CIDR().Contains(addr) {
			return b.block.CIDR(), nil
		}
	}
	return netip.Prefix{}, nil
}

// trimHandle takes a block in which a handle has nothing left out of its record, and deletes the
// record when it names no other.
func (a *Allocator) trimHandle(ctx context.Context, handleID string, cidr netip.Prefix) error {
	if handleID == "" {
		return nil
	}
	unlock, err := a.handles.lock(ctx, handleID)
	if err != nil {
		return err
	}
	defer unlock()
	for range commitAttempts {
		h, err := a.readHandle(ctx, handleID)
		if errors.Is(err, datastore.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		s, err := a.blocks.read(ctx, cidr)
		if err != nil && !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
		left := h.DeepCopy()
		delete(left.Spec.Block, cidr.String())
		if err == nil && len(s.block.Held(handleID)) > 0 {
			left.Spec.Block[cidr.String()] = len(s.block.Held(handleID))
		}
		if len(left.Spec.Block) == 0 {
			err = a.store.Delete(ctx, handleKey(handleID), datastore.Precondition{ResourceVersion: h.ResourceVersion})
		} else {
			_, err = a.store.Update(ctx, left)
		}
		if err == nil || !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
	}
	return fmt.Errorf("write handle %s: %d attempts lost to other writers: %w", handleID, commitAttempts, datastore.ErrConflict)
}

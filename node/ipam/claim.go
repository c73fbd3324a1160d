package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// claim claims a block for this node and keeps it. It returns false when another node was faster.
// What an earlier attempt left behind at any step is completed.
func (a *Allocator) claim(ctx context.Context, cidr netip.Prefix) (bool, error) {
	f, err := a.openAffinity(ctx, cidr)
	if err != nil {
		return false, err
	}
	o, err := newBlock(cidr, a.node, a.opts.Now())
	if err != nil {
		return false, err
	}
	var s *stored
	created, err := a.store.Create(ctx, o)
	switch {
	case err == nil:
		s, err = a.blocks.decode(created)
	case errors.Is(err, datastore.ErrAlreadyExists):
		s, err = a.blocks.read(ctx, cidr)
		if errors.Is(err, datastore.ErrNotFound) {
			return false, nil // it went away in between; another attempt finds out
		}
	}
	if err != nil {
		return false, fmt.Errorf("claim block %v: %w", cidr, err)
	}
	if s.block.Affinity() != hostAffinity(a.node) {
		return false, a.dropAffinity(ctx, f)
	}
	if err := a.confirm(ctx, f); err != nil {
		return false, err
	}
	a.own(cidr, s)
	a.log.Info("claimed a block", "block", cidr)
	return true, nil
}

// openAffinity writes this node's claim to a block as pending, or returns the one that exists.
func (a *Allocator) openAffinity(ctx context.Context, cidr netip.Prefix) (*v3.BlockAffinity, error) {
	want := a.newAffinity(cidr, v3.AffinityPending)
	o, err := a.store.Create(ctx, want)
	if errors.Is(err, datastore.ErrAlreadyExists) {
		o, err = a.store.Get(ctx, datastore.KeyOf(want))
	}
	if err != nil {
		return nil, fmt.Errorf("claim block %v: %w", cidr, err)
	}
	f, ok := o.(*v3.BlockAffinity)
	if !ok {
		return nil, fmt.Errorf("claim block %v: the store returned %T", cidr, o)
	}
	return f, nil
}

func (a *Allocator) newAffinity(cidr netip.Prefix, state string) *v3.BlockAffinity {
	return affinityOf(a.node, cidr, state)
}

func affinityOf(node string, cidr netip.Prefix, state string) *v3.BlockAffinity {
	f := &v3.BlockAffinity{TypeMeta: typeMeta(v3.KindBlockAffinity)}
	f.Name = affinityName(node, cidr)
	f.Labels = map[string]string{
		v3.LabelHostnameHash: fmt.Sprintf("%016x", hashOf(node)),
		v3.LabelAffinityType: v3.AffinityTypeHost,
		v3.LabelIPVersion:    fmt.Sprint(int(model.FamilyOf(cidr.Addr()))),
	}
	f.Spec = v3.BlockAffinitySpec{State: state, Node: node, Type: v3.AffinityTypeHost, CIDR: cidr.String()}
	return f
}

// confirm sets an affinity of this node in force. The block exists and says so too.
func (a *Allocator) confirm(ctx context.Context, f *v3.BlockAffinity) error {
	for range commitAttempts {
		if f.Spec.State == v3.AffinityConfirmed && f.ResourceVersion != "" {
			return nil
		}
		want := f.DeepCopy()
		want.Spec.State = v3.AffinityConfirmed
		_, err := a.store.Update(ctx, want)
		if err == nil {
			return nil
		}
		cidr, parseErr := netip.ParsePrefix(f.Spec.CIDR)
		if parseErr != nil || !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrNotFound) {
			return fmt.Errorf("confirm affinity %s: %w", f.Name, err)
		}
		if f, err = a.openAffinity(ctx, cidr); err != nil && !errors.Is(err, datastore.ErrNotFound) {
			return err
		} else if err != nil {
			f = want
		}
	}
	return fmt.Errorf("confirm affinity %s: %d attempts lost to other writers: %w", f.Name, commitAttempts, datastore.ErrConflict)
}

// dropAffinity deletes an affinity unless it changed since it was read.
func (a *Allocator) dropAffinity(ctx context.Context, f *v3.BlockAffinity) error {
	err := a.store.Delete(ctx, datastore.KeyOf(f), datastore.Precondition{ResourceVersion: f.ResourceVersion})
	if err == nil || errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrConflict) {
		return nil
	}
	return fmt.Errorf("delete affinity %s: %w", f.Name, err)
}

// reclaim deletes an empty block and the affinity to it, nil when there is none. It returns false if the
// block is in use after all.
func (a *Allocator) reclaim(ctx context.Context, s *stored, f *v3.BlockAffinity) (bool, error) {
	cidr := s.block.CIDR()
	if f != nil && f.Spec.State != v3.AffinityPendingDeletion {
		leaving := f.DeepCopy()
		leaving.Spec.State = v3.AffinityPendingDeletion
		o, err := a.store.Update(ctx, leaving)
		if errors.Is(err, datastore.ErrConflict) || errors.Is(err, datastore.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("reclaim block %v: %w", cidr, err)
		}
		f = o.(*v3.BlockAffinity)
	}
	err := a.store.Delete(ctx, datastore.KeyOf(s.object), datastore.Precondition{ResourceVersion: s.object.ResourceVersion})
	if errors.Is(err, datastore.ErrConflict) {
		if f != nil {
			return false, a.restoreAffinity(ctx, f)
		}
		return false, nil
	}
	if err != nil && !errors.Is(err, datastore.ErrNotFound) {
		return false, fmt.Errorf("reclaim block %v: %w", cidr, err)
	}
	a.log.Info("reclaimed an empty block", "block", cidr, "from", s.block.Affinity())
	if f == nil {
		return true, nil
	}
	return true, a.dropAffinity(ctx, f)
}

func (a *Allocator) restoreAffinity(ctx context.Context, f *v3.BlockAffinity) error {
	f = f.DeepCopy()
	f.Spec.State = v3.AffinityConfirmed
	_, err := a.store.Update(ctx, f)
	if err != nil && !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrNotFound) {
		return fmt.Errorf("restore affinity %s: %w", f.Name, err)
	}
	return nil
}

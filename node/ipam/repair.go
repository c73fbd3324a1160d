package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// Release gives back addresses whoever holds them. Unless force is set it refuses those that an
// endpoint has, or that are held for one without addresses. It returns how many were given back; one that is not in use counts as none.
func Release(ctx context.Context, store datastore.Store, addrs []netip.Addr, force bool) (int, error) {
	s, err := readState(ctx, store)
	if err != nil {
		return 0, err
	}
	users := s.endpointAddresses()
	var refs []AddressRef
	var errs []error
	for _, a := range addrs {
		a = a.Unmap()
		if names := users[a]; len(names) > 0 && !force {
			errs = append(errs, fmt.Errorf("release address %v: endpoint %s has it: delete the pod, or force the release", a, names[0]))
			continue
		}
		b, found := s.find(a)
		if !found {
			continue
		}
		held, used := b.Find(a)
		if used && s.waits(held) && !force {
			errs = append(errs, fmt.Errorf("release address %v: it is held for pod %s/%s, which is there and does not say which address it has: delete the pod, or force the release",
				a, held.Owner.Attributes[AttrNamespace], held.Owner.Attributes[AttrPod]))
			continue
		}
		if used {
			refs = append(refs, AddressRef{Addr: a, HandleID: held.Owner.Handle, Sequence: held.Sequence})
		}
	}
	n, err := releaseRefs(ctx, store, refs)
	return n, errors.Join(append(errs, err)...)
}

func releaseRefs(ctx context.Context, store datastore.Store, refs []AddressRef) (int, error) {
	a := New(store, "", Options{})
	defer a.Close()
	return a.ReleaseAddresses(ctx, refs)
}

// repairFresh bounds the age of what a repair goes by; where reading it takes longer, three times that does.
const repairFresh = time.Second

// Repair does what a CheckReport calls for and what is safe: it gives back addresses that no
// endpoint has, and deletes empty handles, affinities without a block and empty blocks of no pool. It reads the store
// anew: what changed since the report was made is left alone, and so is an address whose handle has another one that is in
// use, and every address while there is an endpoint that cannot be understood. It returns how many problems of each kind it repaired.
func Repair(ctx context.Context, store datastore.Store, r *CheckReport) (map[string]int, error) {
	a := New(store, "", Options{})
	defer a.Close()
	repaired := map[string]int{}
	var errs []error
	var s *state
	var fresh time.Duration
	for _, p := range r.Problems {
		if s == nil || time.Since(s.now) > fresh {
			begun := time.Now()
			var err error
			if s, err = readState(ctx, store); err != nil {
				return repaired, errors.Join(append(errs, err)...)
			}
			s.now = begun
			fresh = max(repairFresh, 3*time.Since(begun))
			s.users, s.held = s.endpointAddresses(), s.byHandle()
		}
		fixed, err := a.repair(ctx, s, p)
		if err != nil {
			errs = append(errs, err)
		}
		if fixed {
			repaired[p.Kind]++
		}
	}
	return repaired, errors.Join(errs...)
}

// repair repairs one problem, if it is still there.
func (a *Allocator) repair(ctx context.Context, s *state, p Problem) (bool, error) {
	switch p.Kind {
	case ProblemLeak, ProblemUnknownNode:
		if p.Handle == "" || p.Sequence == 0 || !s.unused(p) {
			return false, nil
		}
		n, err := a.ReleaseAddresses(ctx, []AddressRef{{p.Addr, p.Handle, p.Sequence}})
		return n > 0, err
	case ProblemEmptyHandle:
		return a.dropHandle(ctx, s, p.Handle)
	case ProblemNoPool, ProblemBlockSize:
		return a.dropReported(ctx, s, p.Resource)
	case ProblemNoBlock, ProblemAffinity:
		key := datastore.Key{Kind: v3.KindBlockAffinity, Name: p.Resource}
		err := a.store.Delete(ctx, key, datastore.Precondition{ResourceVersion: p.Version})
		if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrConflict) {
			return false, nil
		}
		return err == nil, err
	}
	return false, nil
}

// dropHandle deletes a handle that holds nothing. Kinds need not be read at one revision: an address that it has been
// given since changed it, or stays in its block.
func (a *Allocator) dropHandle(ctx context.Context, s *state, handle string) (bool, error) {
	i := slices.IndexFunc(s.handles, func(h *v3.IPAMHandle) bool { return h.Spec.HandleID == handle })
	if i < 0 || len(s.held[handle]) > 0 {
		return false, nil
	}
	key := datastore.KeyOf(s.handles[i])
	err := a.store.Delete(ctx, key, datastore.Precondition{ResourceVersion: s.handles[i].ResourceVersion})
	if errors.Is(err, datastore.ErrNotFound) || errors.Is(err, datastore.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// unused tells whether an allocation that was reported is still that, and nobody uses what its handle has.
func (s *state) unused(p Problem) bool {
	there := false
	if s.blind && p.Kind == ProblemLeak {
		return false
	}
	for _, held := range s.held[p.Handle] {
		if len(s.users[held.Addr]) > 0 || p.Kind == ProblemLeak && s.waits(held) {
			return false
		}
		if held.Addr == p.Addr && held.Sequence == p.Sequence {
			there = p.Kind != ProblemUnknownNode || s.nodes[held.Owner.Attributes[AttrNode]] == nil
		}
	}
	return there
}

// byHandle returns what each handle holds.
func (s *state) byHandle() map[string][]block.Allocation {
	held := map[string][]block.Allocation{}
	for _, b := range s.blocks {
		for _, a := range b.block.Allocations() {
			held[a.Owner.Handle] = append(held[a.Owner.Handle], a)
		}
	}
	return held
}

// dropReported deletes a block that was reported to be of no pool, if it still is and is empty.
func (a *Allocator) dropReported(ctx context.Context, s *state, cidr string) (bool, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil || !ownerless(s.pools, p) {
		return false, nil
	}
	return a.drop(ctx, p, "", s.policy())
}

package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// TakenError tells that an address which is in use on this host belongs to another owner by the store.
type TakenError struct {
	Addr  netip.Addr
	Owner string // of the address by the store: namespace/pod, or a handle
	Node  string // the owner's; may be empty
}

// Error names the address and its owner.
func (e *TakenError) Error() string {
	if e.Node == "" {
		return fmt.Sprintf("address %v belongs to %s", e.Addr, e.Owner)
	}
	return fmt.Sprintf("address %v belongs to %s on node %s", e.Addr, e.Owner, e.Node)
}

// Retake makes the store say that r's handle holds r.Addresses, which it had been given and which are in use on this
// host: after somebody released them, or the store was put back to an earlier state. Pools are not asked whether the
// owner may have them, and nor are cooldown and reservations: the addresses are in use. It returns the addresses that it
// took; none when the store said so all along. Of an address that another owner has the error is a *TakenError, and nothing is
// changed then.
func (a *Allocator) Retake(ctx context.Context, r Request) ([]netip.Addr, error) {
	if _, err := r.validate(); err != nil {
		return nil, err
	}
	unlock, err := a.handles.lock(ctx, r.HandleID)
	if err != nil {
		return nil, fmt.Errorf("take addresses for %s again: wait for another call for handle %s: %w", r.owner(), r.HandleID, err)
	}
	defer unlock()
	c, policy, err := a.releasePolicy(ctx)
	if err != nil {
		return nil, fmt.Errorf("take addresses for %s again: %w", r.owner(), err)
	}
	t := &task{a: a, request: &r, cluster: c, settings: settingsOf(c.Config), owner: a.ownerOf(&r)}
	for _, addr := range r.Addresses {
		d, err := t.lost(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("take address %v for %s again: %w", addr, r.owner(), err)
		}
		if d != nil {
			t.demands = append(t.demands, d)
		}
	}
	if len(t.demands) == 0 {
		return nil, nil
	}
	open, err := t.openHandle(ctx)
	if err != nil {
		return nil, fmt.Errorf("take addresses for %s again: %w", r.owner(), err)
	}
	var taken []netip.Addr
	for _, d := range open {
		err := a.blocks.update(ctx, d.choice.cidr, func(b *block.Block) error {
			_, err := b.Assign(d.fixed, t.owner, policy)
			if held, used := b.Find(d.fixed); used && errors.Is(err, block.ErrTaken) {
				return takenBy(held)
			}
			if err == nil {
				b.Touch() // what is kept of the block may be out of date: only a write asks the store
			}
			return err
		})
		if err != nil {
			return taken, fmt.Errorf("take address %v for %s again: %w", d.fixed, r.owner(), err)
		}
		taken = append(taken, d.fixed)
	}
	return taken, nil
}

// lost returns what is to be done about an address that the task's owner is to have; nil: nothing.
func (t *task) lost(ctx context.Context, addr netip.Addr) (*demand, error) {
	d := &demand{family: model.FamilyOf(addr), fixed: addr}
	cidr, err := t.a.blockHolding(ctx, t.cluster, addr)
	if err != nil {
		return nil, err
	}
	if !cidr.IsValid() {
		cidr, err = t.reopen(ctx, addr)
		d.choice = choice{cidr: cidr}
		return d, err
	}
	s, err := t.a.blocks.read(ctx, cidr)
	if err != nil {
		return nil, err
	}
	held, used := s.block.Find(addr)
	switch {
	case used && held.Owner.Handle != t.request.HandleID:
		return nil, takenBy(held)
	case used && t.names(ctx, cidr):
		return nil, nil
	}
	d.choice = choice{cidr: cidr}
	return d, nil
}

// names tells whether the handle has a record that names a block; where the store does not tell, that it has.
func (t *task) names(ctx context.Context, cidr netip.Prefix) bool {
	h, err := t.a.readHandle(ctx, t.request.HandleID)
	if errors.Is(err, datastore.ErrNotFound) {
		return false
	}
	return err != nil || h.Spec.Block[cidr.String()] > 0
}

// reopen claims the block of an address that is in none.
func (t *task) reopen(ctx context.Context, addr netip.Addr) (netip.Prefix, error) {
	for _, o := range t.cluster.Pools {
		p, _ := poolFor(o, t.cluster, &Request{}, true)
		if p.blockSize == 0 || !p.cidr.Contains(addr) {
			continue
		}
		select {
		case t.a.claims <- struct{}{}:
			defer func() { <-t.a.claims }()
		case <-ctx.Done():
			return netip.Prefix{}, ctx.Err()
		}
		_, err := t.a.claim(ctx, p.blockOf(addr)) // where another node has just done so, there is a block as well
		return p.blockOf(addr), err
	}
	return netip.Prefix{}, errors.New("it lies in no block and in no IPPool: create the pool again, or delete who has the address")
}

func takenBy(held block.Allocation) error {
	attrs := held.Owner.Attributes
	e := &TakenError{Addr: held.Addr, Owner: held.Owner.Handle, Node: attrs[AttrNode]}
	switch {
	case attrs[AttrPod] != "":
		e.Owner = "pod " + attrs[AttrNamespace] + "/" + attrs[AttrPod]
	case e.Owner == "":
		e.Owner = "an unknown owner"
	}
	return e
}

// Holders returns the handles of the addresses that a block says are in use.
func Holders(o *v3.IPAMBlock) (netip.Prefix, map[netip.Addr]string, error) {
	b, _, err := decodeBlock(o)
	if err != nil {
		return netip.Prefix{}, nil, err
	}
	holders := map[netip.Addr]string{}
	for _, held := range b.Allocations() {
		holders[held.Addr] = held.Owner.Handle
	}
	return b.CIDR(), holders, nil
}

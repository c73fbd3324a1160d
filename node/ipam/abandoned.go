package ipam

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// Abandoned is what a node has that has no record.
type Abandoned struct {
	node       string
	Addresses  []AddressRef        // of its pods and tunnels, borrowed ones included
	Blocks     []netip.Prefix      // with an affinity to it
	Affinities []*v3.BlockAffinity // its own claims
}

// AbandonedIn returns, of a List of StateKinds, what nodes have that have no record, by their names.
func AbandonedIn(l *datastore.List) map[string]*Abandoned {
	s := stateOf(l, time.Time{})
	out := map[string]*Abandoned{}
	of := func(node string) *Abandoned {
		if out[node] == nil {
			out[node] = &Abandoned{node: node}
		}
		return out[node]
	}
	gone := func(node string) bool { return node != "" && s.nodes[node] == nil }
	for _, b := range s.blocks {
		if node := affinityNode(b.block.Affinity()); gone(node) {
			of(node).Blocks = append(of(node).Blocks, b.block.CIDR())
		}
		for _, a := range b.block.Allocations() {
			if node := a.Owner.Attributes[AttrNode]; gone(node) && a.Owner.Handle != "" {
				of(node).Addresses = append(of(node).Addresses, AddressRef{a.Addr, a.Owner.Handle, a.Sequence})
			}
		}
	}
	for _, f := range s.affinities {
		if node := f.Spec.Node; gone(node) && f.Spec.Type != v3.AffinityTypeVirtual {
			of(node).Affinities = append(of(node).Affinities, f)
		}
	}
	return out
}

// Clear gives back what a node that is gone has: addresses, then the blocks that are empty by now, then claims to blocks
// that do not exist. Before each it asks alive, and ends when the node is there. What changed since it was looked at is
// left alone. It returns how many addresses and blocks it gave back.
func (x *Abandoned) Clear(ctx context.Context, store datastore.Store, alive func(context.Context) (bool, error)) (addresses, blocks int, err error) {
	a := New(store, "", Options{})
	defer a.Close()
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, ref := range x.Addresses {
		if there, err := alive(ctx); there || err != nil {
			return addresses, blocks, errors.Join(append(errs, err)...)
		}
		n, err := a.ReleaseAddresses(ctx, []AddressRef{ref})
		addresses += n
		note(err)
	}
	c, _, err := a.releasePolicy(ctx)
	if err != nil {
		return addresses, blocks, errors.Join(append(errs, err)...)
	}
	for _, cidr := range x.Blocks {
		if there, err := alive(ctx); there || err != nil {
			return addresses, blocks, errors.Join(append(errs, err)...)
		}
		gone, err := a.drop(ctx, cidr, hostAffinity(x.node), block.Policy{Now: time.Now(), Cooldown: settingsOf(c.Config).cooldown})
		if gone {
			blocks++
		}
		note(err)
	}
	for _, f := range x.Affinities {
		cidr, err := netip.ParsePrefix(f.Spec.CIDR)
		if err != nil {
			continue
		}
		if _, err := a.blocks.read(ctx, cidr); !errors.Is(err, datastore.ErrNotFound) {
			continue // it goes with the block, when that is empty
		}
		if there, err := alive(ctx); there || err != nil {
			return addresses, blocks, errors.Join(append(errs, err)...)
		}
		err = store.Delete(ctx, datastore.KeyOf(f), datastore.Precondition{ResourceVersion: f.ResourceVersion})
		if err != nil && !errors.Is(err, datastore.ErrNotFound) && !errors.Is(err, datastore.ErrConflict) {
			note(fmt.Errorf("delete affinity %s: %w", f.Name, err))
		}
	}
	return addresses, blocks, errors.Join(errs...)
}

// PodAddressesIn counts the addresses of pods that blocks of a List hold within a range. Those of tunnels follow the pools
// by themselves.
func PodAddressesIn(cidr string, l *datastore.List) (int, error) {
	in, err := netip.ParsePrefix(cidr)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, o := range l.Items {
		if o, ok := o.(*v3.IPAMBlock); ok {
			b, _, err := decodeBlock(o)
			if err != nil {
				return 0, fmt.Errorf("read block %s: %w", o.Name, err)
			}
			for _, a := range b.Allocations() {
				if in.Contains(a.Addr) && a.Owner.Attributes[AttrType] == "" {
					n++
				}
			}
		}
	}
	return n, nil
}

package block

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"
)

// State is the stored form of a block, in the terms of IPAMBlock.spec: addresses by ordinal.
type State struct {
	CIDR        netip.Prefix
	Affinity    string
	Claimed     time.Time
	Deleted     bool
	Allocations []int // by ordinal: an index of Owners, or -1 for free
	Unallocated []int
	Owners      []Owner
	Sequence    uint64
	Sequences   map[int]uint64 // by ordinal
}

// Restore reads a stored block. What is inconsistent in it is repaired so that no address can be
// given out twice, and told in repairs; an error means that the block cannot be used at all.
func Restore(s State) (b *Block, repairs []string, err error) {
	size, err := Size(s.CIDR)
	if err != nil {
		return nil, nil, err
	}
	if len(s.Allocations) != size {
		return nil, nil, fmt.Errorf("block %v: %d allocations, want one entry for each of its %d addresses", s.CIDR, len(s.Allocations), size)
	}
	if s.Sequence > math.MaxInt64 {
		return nil, nil, fmt.Errorf("block %v: sequence number %d, want at most %d", s.CIDR, s.Sequence, math.MaxInt64)
	}
	b = &Block{cidr: s.CIDR, affinity: s.Affinity, claimed: s.Claimed, deleted: s.Deleted, sequence: s.Sequence}
	b.slots = make([]slot, size)
	owners := make([]*Owner, len(s.Owners))
	for i := range s.Owners {
		owners[i] = &s.Owners[i]
	}
	unknown := &Owner{}
	for i, owner := range s.Allocations {
		switch {
		case owner < 0:
		case owner < len(owners):
			b.slots[i] = slot{owners[owner], min(s.Sequences[i], math.MaxInt64)}
		default:
			b.slots[i] = slot{unknown, min(s.Sequences[i], math.MaxInt64)}
			repairs = append(repairs, fmt.Sprintf("%v is in use by owner %d of %d: kept in use by an unknown owner", b.addr(i), owner, len(owners)))
		}
	}
	for i, n := range s.Sequences {
		if i >= 0 && i < size && min(n, math.MaxInt64) > b.sequence {
			repairs = append(repairs, fmt.Sprintf("%v has sequence number %d, the block only %d: raised", b.addr(i), n, b.sequence))
			b.sequence = min(n, math.MaxInt64)
		}
	}
	return b, append(repairs, b.restoreFree(s.Unallocated)...), nil
}

// restoreFree rebuilds the queue: every free ordinal once, in the stored order.
func (b *Block) restoreFree(stored []int) (repairs []string) {
	queued := make([]bool, len(b.slots))
	b.free = make([]int, 0, len(b.slots))
	for _, i := range stored {
		switch {
		case i < 0 || i >= len(b.slots):
			repairs = append(repairs, fmt.Sprintf("free ordinal %d is outside of the block: dropped", i))
		case queued[i]:
			repairs = append(repairs, fmt.Sprintf("%v is queued as free twice: once is enough", b.addr(i)))
		case b.slots[i].owner != nil:
			repairs = append(repairs, fmt.Sprintf("%v is both free and in use: kept in use", b.addr(i)))
		default:
			queued[i] = true
			b.free = append(b.free, i)
		}
	}
	for i := range b.slots {
		if b.slots[i].owner == nil && !queued[i] {
			repairs = append(repairs, fmt.Sprintf("%v is neither free nor in use: queued as free", b.addr(i)))
			b.free = append(b.free, i)
		}
	}
	return repairs
}

// State returns the stored form. Equal owners share an entry.
func (b *Block) State() State {
	s := State{
		CIDR: b.cidr, Affinity: b.affinity, Claimed: b.claimed, Deleted: b.deleted, Sequence: b.sequence,
		Allocations: make([]int, len(b.slots)), Unallocated: slices.Clone(b.free), Owners: []Owner{}, Sequences: map[int]uint64{},
	}
	index, byHandle := map[*Owner]int{}, map[string][]int{}
	for i := range b.slots {
		o := b.slots[i].owner
		if o == nil {
			s.Allocations[i] = -1
			continue
		}
		at, known := index[o]
		if !known {
			at = -1
			for _, j := range byHandle[o.Handle] {
				if o.equal(&s.Owners[j]) {
					at = j
				}
			}
			if at < 0 {
				at = len(s.Owners)
				s.Owners = append(s.Owners, *o)
				byHandle[o.Handle] = append(byHandle[o.Handle], at)
			}
			index[o] = at
		}
		s.Allocations[i] = at
		s.Sequences[i] = b.slots[i].sequence
	}
	return s
}

// Check returns what is inconsistent: every address must be either queued as free, once, or held.
func (b *Block) Check() error {
	seen := make([]int, len(b.slots))
	for _, i := range b.free {
		if i < 0 || i >= len(b.slots) {
			return fmt.Errorf("block %v: free ordinal %d is outside", b.cidr, i)
		}
		seen[i]++
	}
	for i := range b.slots {
		if held := b.slots[i].owner != nil; held && seen[i] != 0 || !held && seen[i] != 1 {
			return fmt.Errorf("block %v: %v is queued as free %d times, held: %v", b.cidr, b.addr(i), seen[i], held)
		}
		if b.slots[i].sequence > b.sequence {
			return fmt.Errorf("block %v: %v has sequence number %d, the block only %d", b.cidr, b.addr(i), b.slots[i].sequence, b.sequence)
		}
	}
	return nil
}

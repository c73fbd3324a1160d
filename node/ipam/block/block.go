// Package block is one allocation block: which of its addresses are in use, by whom, and in which
// order the free ones are given out. It decides and does no I/O; the time comes from the caller.
// It does not know how a block is stored or claimed: package ipam does.
//
// Every address is in exactly one of three states: free (queued first in, first out), in use, or
// cooling: released a short while ago and not given out again yet.
package block

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"
)

// MaxSize is the most addresses a block can hold: a /20 or a /116.
const MaxSize = 4096

// Errors that callers decide on.
var (
	// ErrFull: no address is free, or every free one is skipped.
	ErrFull = errors.New("no free address in the block")
	// ErrTaken: the address is in use by another owner.
	ErrTaken = errors.New("address is in use")
	// ErrSkipped: the caller's policy forbids the address.
	ErrSkipped = errors.New("address may not be given out")
	// ErrNotInBlock: the address lies outside of the block.
	ErrNotInBlock = errors.New("address is not in the block")
	// ErrNotOwner: the address is free, or in use by another owner or of a later allocation.
	ErrNotOwner = errors.New("address is not held by this owner")
)

// Owner is who uses an address. It is never modified once given to a Block.
type Owner struct {
	Handle     string            // key of the owner; empty when unknown
	Attributes map[string]string // namespace, pod, node, timestamp
	Alternate  map[string]string // second owner during a live migration
	ReleasedAt time.Time         // zero while in use, else cooling since then
}

func (o *Owner) equal(p *Owner) bool {
	return o.Handle == p.Handle && o.ReleasedAt.Equal(p.ReleasedAt) &&
		maps.Equal(o.Attributes, p.Attributes) && maps.Equal(o.Alternate, p.Alternate)
}

// Allocation is one address in use. Sequence tells it from earlier and later allocations of the
// same address.
type Allocation struct {
	Addr     netip.Addr
	Owner    *Owner
	Sequence uint64
}

// Policy is what an assignment has to respect.
type Policy struct {
	Now      time.Time
	Cooldown time.Duration
	// Skip, optional, returns why an address must not be given out, or "".
	Skip func(netip.Addr) string
}

func (p *Policy) skip(a netip.Addr) string {
	if p.Skip == nil {
		return ""
	}
	return p.Skip(a)
}

type slot struct {
	owner    *Owner // nil: free
	sequence uint64
}

// Block is one allocation block. It is not safe for concurrent use; Clone is cheap.
type Block struct {
	cidr     netip.Prefix
	affinity string
	claimed  time.Time
	deleted  bool
	slots    []slot
	free     []int // ordinals of the free slots, in the order in which they are given out
	sequence uint64
}

// New returns a block with all addresses free. affinity is "host:<node>", "virtual:<name>" or
// empty. The sequence numbers start at the claim's time in milliseconds, so that those of a block
// that was deleted and made again do not repeat.
func New(cidr netip.Prefix, affinity string, claimed time.Time) (*Block, error) {
	size, err := Size(cidr)
	if err != nil {
		return nil, err
	}
	b := &Block{cidr: cidr, affinity: affinity, claimed: claimed, slots: make([]slot, size), free: make([]int, size)}
	if ms := claimed.UnixMilli(); ms > 0 {
		b.sequence = uint64(ms)
	}
	for i := range b.free {
		b.free[i] = i
	}
	return b, nil
}

// Size returns the number of addresses of a block with this CIDR, or why there is no such block.
func Size(cidr netip.Prefix) (int, error) {
	if !cidr.IsValid() || cidr.Addr().Is4In6() || cidr != cidr.Masked() {
		return 0, fmt.Errorf("block %v: want a prefix without host bits", cidr)
	}
	bits := cidr.Addr().BitLen() - cidr.Bits()
	if bits > 12 {
		return 0, fmt.Errorf("block %v: more than %d addresses", cidr, MaxSize)
	}
	return 1 << bits, nil
}

// Clone returns an independent copy.
func (b *Block) Clone() *Block {
	c := *b
	c.slots = append([]slot(nil), b.slots...)
	c.free = append([]int(nil), b.free...)
	return &c
}

// CIDR returns the block's range.
func (b *Block) CIDR() netip.Prefix { return b.cidr }

// Affinity returns "host:<node>", "virtual:<name>" or "".
func (b *Block) Affinity() string { return b.affinity }

// Claimed returns when the affinity was claimed; zero when that is not known.
func (b *Block) Claimed() time.Time { return b.claimed }

// Deleted tells that the block is being deleted: nothing is given out of it.
func (b *Block) Deleted() bool { return b.deleted }

// Sequence returns the number of the last change.
func (b *Block) Sequence() uint64 { return b.sequence }

// Touch counts as a change without changing anything else: whoever read the block before can no
// longer write it.
func (b *Block) Touch() { b.sequence++ }

// addr returns the address with ordinal i.
func (b *Block) addr(i int) netip.Addr {
	s := b.cidr.Addr().AsSlice()
	s[len(s)-2] |= byte(i >> 8)
	s[len(s)-1] |= byte(i)
	a, _ := netip.AddrFromSlice(s)
	return a
}

// ordinal returns an address's distance from the first address of the block.
func (b *Block) ordinal(a netip.Addr) (int, error) {
	if !b.cidr.Contains(a) || a.Zone() != "" {
		return 0, fmt.Errorf("address %v, block %v: %w", a, b.cidr, ErrNotInBlock)
	}
	s := a.AsSlice()
	low := int(s[len(s)-2])<<8 | int(s[len(s)-1])
	return low & (len(b.slots) - 1), nil
}

func (b *Block) cooling(i int) bool {
	return b.slots[i].owner != nil && !b.slots[i].owner.ReleasedAt.IsZero()
}

// cooled tells whether a cooling slot may be given out again. A release that claims to be further
// in the future than the cooldown is long comes from a wrong clock, and does not count.
func (p *Policy) cooled(o *Owner) bool {
	since := p.Now.Sub(o.ReleasedAt)
	return since >= p.Cooldown || since < -p.Cooldown
}

// expire queues the addresses that have cooled down.
func (b *Block) expire(p *Policy) {
	for i := range b.slots {
		if b.cooling(i) && p.cooled(b.slots[i].owner) {
			b.slots[i] = slot{}
			b.free = append(b.free, i)
		}
	}
}

// AssignNext gives o the address that has been free the longest and is not skipped. On an error
// the block is as before.
func (b *Block) AssignNext(o *Owner, p Policy) (Allocation, error) {
	if b.deleted {
		return Allocation{}, fmt.Errorf("block %v is being deleted: %w", b.cidr, ErrFull)
	}
	b.expire(&p)
	for at, i := range b.free {
		if p.skip(b.addr(i)) == "" {
			return b.take(at, o), nil
		}
	}
	return Allocation{}, fmt.Errorf("block %v: %w", b.cidr, ErrFull)
}

// Assign gives o one certain address. An address that o holds already is returned as it is; one
// that is cooling is given: whoever asks for it by name knows what it is.
func (b *Block) Assign(a netip.Addr, o *Owner, p Policy) (Allocation, error) {
	i, err := b.ordinal(a)
	if err != nil {
		return Allocation{}, err
	}
	if held := b.slots[i].owner; held != nil && !b.cooling(i) {
		if held.Handle == o.Handle && o.Handle != "" {
			return b.allocation(i), nil
		}
		return Allocation{}, fmt.Errorf("address %v: held by %s: %w", a, held.describe(), ErrTaken)
	}
	if why := p.skip(a); why != "" {
		return Allocation{}, fmt.Errorf("address %v: %s: %w", a, why, ErrSkipped)
	}
	if b.deleted {
		return Allocation{}, fmt.Errorf("block %v is being deleted: %w", b.cidr, ErrFull)
	}
	for at, free := range b.free {
		if free == i {
			return b.take(at, o), nil
		}
	}
	b.free = append(b.free, i) // it was cooling
	return b.take(len(b.free)-1, o), nil
}

func (o *Owner) describe() string {
	if o.Attributes["pod"] != "" {
		return o.Attributes["namespace"] + "/" + o.Attributes["pod"]
	}
	if o.Handle == "" {
		return "an unknown owner"
	}
	return o.Handle
}

// take gives o the address at position at of the queue.
func (b *Block) take(at int, o *Owner) Allocation {
	i := b.free[at]
	b.free = append(b.free[:at:at], b.free[at+1:]...)
	b.sequence++
	b.slots[i] = slot{owner: o, sequence: b.sequence}
	return b.allocation(i)
}

func (b *Block) allocation(i int) Allocation {
	return Allocation{Addr: b.addr(i), Owner: b.slots[i].owner, Sequence: b.slots[i].sequence}
}

// Release frees an address if it is still held by handle and, unless sequence is 0, by that very
// allocation; otherwise the error wraps ErrNotOwner and the block is as before.
func (b *Block) Release(a netip.Addr, handle string, sequence uint64, p Policy) error {
	i, err := b.ordinal(a)
	if err != nil {
		return err
	}
	s := b.slots[i]
	switch {
	case s.owner == nil || b.cooling(i):
		return fmt.Errorf("address %v is free: %w", a, ErrNotOwner)
	case s.owner.Handle != handle:
		return fmt.Errorf("address %v is held by %s: %w", a, s.owner.describe(), ErrNotOwner)
	case sequence != 0 && s.sequence != sequence:
		return fmt.Errorf("address %v was given out again since (allocation %d, not %d): %w", a, s.sequence, sequence, ErrNotOwner)
	}
	b.drop(i, p)
	return nil
}

// ReleaseHandle frees every address that handle holds and returns them.
func (b *Block) ReleaseHandle(handle string, p Policy) []netip.Addr {
	var released []netip.Addr
	for i := range b.slots {
		if o := b.slots[i].owner; o != nil && o.Handle == handle && !b.cooling(i) {
			b.drop(i, p)
			released = append(released, b.addr(i))
		}
	}
	return released
}

func (b *Block) drop(i int, p Policy) {
	b.sequence++
	if p.Cooldown <= 0 {
		b.slots[i] = slot{}
		b.free = append(b.free, i)
		return
	}
	released := *b.slots[i].owner
	// The stored form has whole seconds: round up, so that it never cools for too short a time.
	released.ReleasedAt = p.Now.Add(time.Second - 1).Truncate(time.Second)
	b.slots[i].owner = &released
}

// Find returns who holds an address.
func (b *Block) Find(a netip.Addr) (Allocation, bool) {
	i, err := b.ordinal(a)
	if err != nil || b.slots[i].owner == nil || b.cooling(i) {
		return Allocation{}, false
	}
	return b.allocation(i), true
}

// Held returns what handle holds, by address.
func (b *Block) Held(handle string) []Allocation {
	var held []Allocation
	for i := range b.slots {
		if o := b.slots[i].owner; o != nil && o.Handle == handle && !b.cooling(i) {
			held = append(held, b.allocation(i))
		}
	}
	return held
}

// Allocations returns all addresses in use, by address.
func (b *Block) Allocations() []Allocation {
	var all []Allocation
	for i := range b.slots {
		if b.slots[i].owner != nil && !b.cooling(i) {
			all = append(all, b.allocation(i))
		}
	}
	return all
}

// Usage counts the addresses of a block: Size = Used + Cooling + Free, and Skipped of the free
// ones may not be given out.
type Usage struct{ Size, Used, Cooling, Free, Skipped int }

// Available is how many addresses AssignNext can give.
func (u Usage) Available() int { return u.Free - u.Skipped }

// Usage counts under a policy: what has cooled down counts as free.
func (b *Block) Usage(p Policy) Usage {
	u := Usage{Size: len(b.slots)}
	for i := range b.slots {
		o := b.slots[i].owner
		switch {
		case o != nil && !b.cooling(i):
			u.Used++
			continue
		case o != nil && !p.cooled(o):
			u.Cooling++
			continue
		}
		u.Free++
		if p.skip(b.addr(i)) != "" {
			u.Skipped++
		}
	}
	return u
}

// CoolingSince returns when a was released, if it may not be given out yet because of that.
func (b *Block) CoolingSince(a netip.Addr, p Policy) (time.Time, bool) {
	i, err := b.ordinal(a)
	if err != nil || !b.cooling(i) || p.cooled(b.slots[i].owner) {
		return time.Time{}, false
	}
	return b.slots[i].owner.ReleasedAt, true
}

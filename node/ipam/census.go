package ipam

import (
	"context"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/ipam/block"
)

// census is who has which block, at one revision of the store.
type census struct {
	blocks     map[netip.Prefix]*stored
	affinities []affinity
	byCIDR     map[netip.Prefix][]affinity
	// unreadable are blocks that cannot be understood: nothing may be claimed in their place.
	unreadable []netip.Prefix
}

type affinity struct {
	cidr   netip.Prefix
	node   string
	object *v3.BlockAffinity
}

func hashOf(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}

// census reads all blocks and affinities, and brings what it finds of this node's in order. The
// caller holds claims.
func (a *Allocator) census(ctx context.Context, cluster *Cluster) (*census, error) {
	l, err := a.store.List(ctx, v3.KindBlockAffinity, v3.KindIPAMBlock)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	for _, r := range l.Rejected {
		a.log.Warn("a stored resource cannot be understood", "resource", r.Key, "error", r.Err)
	}
	c := &census{blocks: map[netip.Prefix]*stored{}, byCIDR: map[netip.Prefix][]affinity{}}
	for _, o := range l.Items {
		switch o := o.(type) {
		case *v3.IPAMBlock:
			s, err := a.blocks.decode(o)
			if err != nil {
				a.log.Warn("a stored block cannot be used", "block", o.Name, "error", err)
				if cidr, err := netip.ParsePrefix(o.Spec.CIDR); err == nil {
					c.unreadable = append(c.unreadable, cidr)
				}
				continue
			}
			c.blocks[s.block.CIDR()] = s
		case *v3.BlockAffinity:
			cidr, err := netip.ParsePrefix(o.Spec.CIDR)
			if err == nil && (o.Spec.Type == "" || o.Spec.Type == v3.AffinityTypeHost) {
				f := affinity{cidr, o.Spec.Node, o}
				c.affinities = append(c.affinities, f)
				c.byCIDR[cidr] = append(c.byCIDR[cidr], f)
			}
		}
	}
	if err := a.dropOwnerless(ctx, cluster, c); err != nil {
		return nil, err
	}
	return c, a.adopt(ctx, c)
}

// dropOwnerless gives back this node's blocks that are empty and of no pool. Others would count to what
// the node may have, and keep blocks of the size that their pool has now from being made.
func (a *Allocator) dropOwnerless(ctx context.Context, cluster *Cluster, c *census) error {
	policy := block.Policy{Now: a.opts.Now(), Cooldown: settingsOf(cluster.Config).cooldown}
	for cidr, s := range c.blocks {
		if s.block.Affinity() != hostAffinity(a.node) || !empty(s.block, policy) || !ownerless(staying(cluster.Pools), cidr) {
			continue
		}
		gone, err := a.reclaim(ctx, s, c.affinityOf(a.node, cidr))
		if err != nil {
			return err
		}
		if gone {
			c.forget(a.node, cidr)
			a.disown(cidr)
		}
	}
	return nil
}

// forget takes out a node's block and its affinity.
func (c *census) forget(node string, cidr netip.Prefix) {
	delete(c.blocks, cidr)
	is := func(f affinity) bool { return f.node == node && f.cidr == cidr }
	c.affinities = slices.DeleteFunc(c.affinities, is)
	c.byCIDR[cidr] = slices.DeleteFunc(c.byCIDR[cidr], is)
}

// empty tells that a block has no address in use or cooling down.
func empty(b *block.Block, p block.Policy) bool {
	u := b.Usage(block.Policy{Now: p.Now, Cooldown: p.Cooldown})
	return u.Free == u.Size
}

// adopt takes over this node's blocks, and completes or drops the claims that a crash left half
// way: a claim whose block never came into being is completed by claimNew when a block is needed.
func (a *Allocator) adopt(ctx context.Context, c *census) error {
	mine := map[netip.Prefix]bool{}
	for cidr, s := range c.blocks {
		if s.block.Affinity() != hostAffinity(a.node) {
			continue
		}
		f := c.affinityOf(a.node, cidr)
		if f == nil {
			f = a.newAffinity(cidr, v3.AffinityPending)
			o, err := a.store.Create(ctx, f)
			if err != nil {
				return fmt.Errorf("claim block %v, which names this node: %w", cidr, err)
			}
			f = o.(*v3.BlockAffinity)
		}
		if err := a.confirm(ctx, f); err != nil {
			return err
		}
		mine[cidr] = true
		a.own(cidr, s)
	}
	for _, f := range c.affinities {
		if c.stale(f, a.node, a.opts.Now()) {
			if err := a.dropAffinity(ctx, f.object); err != nil {
				return err
			}
		}
	}
	a.blocks.mu.Lock()
	var lost []netip.Prefix
	for _, cidr := range a.owned {
		if !mine[cidr] {
			lost = append(lost, cidr)
		}
	}
	a.blocks.mu.Unlock()
	for _, cidr := range lost {
		a.disown(cidr)
	}
	return nil
}

// stale tells that an affinity is what a crash left of a claim that was lost or given up. An
// affinity of another node is left alone while that node may be at work on it.
func (c *census) stale(f affinity, self string, now time.Time) bool {
	s := c.blocks[f.cidr]
	if s != nil && s.block.Affinity() == hostAffinity(f.node) {
		return false
	}
	state := f.object.Spec.State
	if f.node == self {
		return s != nil || state == v3.AffinityPendingDeletion
	}
	old := now.Sub(f.object.CreationTimestamp.Time) >= idleBeforeReclaim
	return state == v3.AffinityPendingDeletion || state == v3.AffinityPending && old
}

func (c *census) affinityOf(node string, cidr netip.Prefix) *v3.BlockAffinity {
	for _, f := range c.byCIDR[cidr] {
		if f.node == node {
			return f.object
		}
	}
	return nil
}

// ownedBy counts a node's blocks of one family.
func (c *census) ownedBy(node string, f model.Family) int {
	n := 0
	for cidr, s := range c.blocks {
		if s.block.Affinity() == hostAffinity(node) && model.FamilyOf(cidr.Addr()) == f {
			n++
		}
	}
	return n
}

// count returns how many of a pool's blocks exist.
func (c *census) count(p *pool) uint64 {
	var n uint64
	for cidr := range c.blocks {
		if p.has(cidr) {
			n++
		}
	}
	return n
}

// taken tells that a CIDR cannot become a block of node: there is a block already (of whatever
// size), or another node is about to make one.
func (c *census) taken(cidr netip.Prefix, node string, now time.Time) bool {
	if c.blocks[cidr] != nil {
		return true
	}
	for other := range c.otherSizes(cidr.Bits()) {
		if other.Overlaps(cidr) {
			return true
		}
	}
	for _, f := range c.byCIDR[cidr] {
		fresh := now.Sub(f.object.CreationTimestamp.Time) < idleBeforeReclaim
		if f.node != node && (fresh || f.object.Spec.State == v3.AffinityConfirmed) {
			return true
		}
	}
	return false
}

// otherSizes yields the blocks whose size is not the given one, and those that cannot be read: a
// pool made anew with another block size leaves such.
func (c *census) otherSizes(bits int) func(func(netip.Prefix) bool) {
	return func(yield func(netip.Prefix) bool) {
		for cidr := range maps.Keys(c.blocks) {
			if cidr.Bits() != bits && !yield(cidr) {
				return
			}
		}
		for _, cidr := range c.unreadable {
			if !yield(cidr) {
				return
			}
		}
	}
}

package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// idleBeforeReclaim is how long an empty block stays with its node after it was claimed.
const idleBeforeReclaim = time.Minute

// choose finds a block that probably has an address for d: one of this node's, else a new one, else
// an empty one that another node keeps, else a block of another node to borrow from.
func (t *task) choose(ctx context.Context, d *demand) error {
	if !d.fixed.IsValid() && t.promise(d) {
		return nil
	}
	select {
	case t.a.claims <- struct{}{}:
		defer func() { <-t.a.claims }()
	case <-ctx.Done():
		return fmt.Errorf("assign %v address to %s: wait for another call to claim a block: %w", d.family, t.request.owner(), ctx.Err())
	}
	if !d.fixed.IsValid() && t.promise(d) {
		return nil // the other call claimed one
	}
	if !d.fixed.IsValid() && t.borrowAgain(d) {
		return nil
	}
	c, err := t.a.census(ctx, t.cluster)
	if err != nil {
		return fmt.Errorf("assign %v address to %s: %w", d.family, t.request.owner(), err)
	}
	if d.fixed.IsValid() {
		return t.chooseFixed(ctx, d, c)
	}
	if t.promise(d) {
		return nil // there was one that this process did not know of
	}
	for _, find := range []func(context.Context, *demand, *census) (bool, error){t.claimNew, t.reclaimIdle, t.borrow} {
		found, err := find(ctx, d, c)
		if err != nil {
			return fmt.Errorf("assign %v address to %s: %w", d.family, t.request.owner(), err)
		}
		if found {
			return nil
		}
	}
	return t.exhausted(d, c)
}

// promise picks one of this node's blocks that has more addresses than calls that are about to
// take one. A block whose state is not known counts as having one.
func (t *task) promise(d *demand) bool {
	p := t.policy(nil)
	a := t.a
	a.blocks.mu.Lock()
	defer a.blocks.mu.Unlock()
	for _, pool := range d.pools {
		for _, cidr := range a.owned {
			if !pool.has(cidr) || d.tried[cidr] {
				continue
			}
			q := a.blocks.at(cidr)
			if q.cached != nil && q.cached.block.Usage(p).Available() <= q.promised {
				continue
			}
			q.promised++
			d.choice = choice{cidr: cidr, pool: pool.name, promised: true}
			return true
		}
	}
	return false
}

// chooseFixed picks the block that holds a certain address, and claims it if there is none yet.
func (t *task) chooseFixed(ctx context.Context, d *demand, c *census) error {
	p := d.pools[0]
	for cidr, s := range c.blocks {
		if !cidr.Contains(d.fixed) {
			continue
		}
		if s.block.Affinity() != hostAffinity(t.a.node) && t.settings.strictAffinity {
			why := fmt.Sprintf("block %v belongs to %q and strictAffinity forbids borrowing", cidr, s.block.Affinity())
			return &ExhaustedError{d.family, t.request.owner() + " (address " + d.fixed.String() + ")", t.a.node, []PoolReason{{p.name, p.cidr.String(), why}}}
		}
		d.choice = choice{cidr: cidr, pool: p.name}
		return nil
	}
	if !t.settings.autoAllocate {
		why := "the address is in no block, and autoAllocateBlocks is false: nodes may not claim one"
		return &ExhaustedError{d.family, t.request.owner() + " (address " + d.fixed.String() + ")", t.a.node, []PoolReason{{p.name, p.cidr.String(), why}}}
	}
	cidr := p.blockOf(d.fixed)
	claimed, err := t.a.claim(ctx, cidr)
	if err != nil {
		return fmt.Errorf("assign %v address to %s: %w", d.family, t.request.owner(), err)
	}
	if !claimed && t.settings.strictAffinity {
		return fmt.Errorf("assign address %v to %s: another node has just claimed block %v: %w", d.fixed, t.request.owner(), cidr, datastore.ErrConflict)
	}
	d.choice = choice{cidr: cidr, pool: p.name}
	return nil
}

// mayClaim says why this node may not claim another block of family f, or "".
func (t *task) mayClaim(f model.Family, c *census) string {
	if !t.settings.autoAllocate {
		return "autoAllocateBlocks is false"
	}
	if n := c.ownedBy(t.a.node, f); n >= t.settings.maxBlocks {
		return fmt.Sprintf("this node has %d %v blocks of at most %d", n, f, t.settings.maxBlocks)
	}
	return ""
}

// claimNew claims a block that nobody has.
func (t *task) claimNew(ctx context.Context, d *demand, c *census) (bool, error) {
	if t.mayClaim(d.family, c) != "" {
		return false, nil
	}
	for i := range d.pools {
		p := &d.pools[i]
		if c.count(p) >= p.blockCount() {
			continue
		}
		for cidr := range t.candidates(p, c) {
			if d.tried[cidr] || c.taken(cidr, t.a.node, t.a.opts.Now()) || !t.hasAddress(cidr) {
				continue
			}
			claimed, err := t.a.claim(ctx, cidr)
			if err != nil {
				return false, err
			}
			if claimed {
				return t.useNew(d, p, cidr), nil
			}
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
		}
	}
	return false, nil
}

func (t *task) useNew(d *demand, p *pool, cidr netip.Prefix) bool {
	t.a.blocks.mu.Lock()
	defer t.a.blocks.mu.Unlock()
	t.a.blocks.at(cidr).promised++
	d.choice = choice{cidr: cidr, pool: p.name, promised: true}
	return true
}

// candidates yields the pool's blocks in the order in which this node tries them: first what an
// earlier attempt left half claimed.
func (t *task) candidates(p *pool, c *census) func(func(netip.Prefix) bool) {
	return func(yield func(netip.Prefix) bool) {
		for _, f := range c.affinities {
			if f.node == t.a.node && p.has(f.cidr) && !yield(f.cidr) {
				return
			}
		}
		p.blocksFor(t.a.node)(yield)
	}
}

// hasAddress tells whether a block that is all free has an address that may be given out.
func (t *task) hasAddress(cidr netip.Prefix) bool {
	p := t.policy(nil)
	for a := cidr.Addr(); cidr.Contains(a); a = a.Next() {
		if p.Skip(a) == "" {
			return true
		}
	}
	return false
}

// reclaimIdle takes an empty block away from the node that has it, and claims it.
func (t *task) reclaimIdle(ctx context.Context, d *demand, c *census) (bool, error) {
	if t.mayClaim(d.family, c) != "" {
		return false, nil
	}
	for i := range d.pools {
		p := &d.pools[i]
		for _, s := range t.othersIn(p, c) {
			cidr := s.block.CIDR()
			if d.tried[cidr] || cidr.Bits() != p.blockSize || !t.idle(s.block) || !t.hasAddress(cidr) {
				continue
			}
			gone, err := t.a.reclaim(ctx, s, c.affinityOf(affinityNode(s.block.Affinity()), cidr))
			if err != nil {
				return false, err
			}
			if !gone {
				continue
			}
			claimed, err := t.a.claim(ctx, cidr)
			if err != nil {
				return false, err
			}
			if claimed {
				return t.useNew(d, p, cidr), nil
			}
		}
	}
	return false, nil
}

// idle tells that a block has no address in use or cooling, and was not claimed just now.
func (t *task) idle(b *block.Block) bool {
	return empty(b, block.Policy{Now: t.a.opts.Now(), Cooldown: t.settings.cooldown}) && t.a.opts.Now().Sub(b.Claimed()) >= idleBeforeReclaim
}

// remembered is a census that found nothing to claim. A node that lives on borrowed addresses would
// otherwise list all blocks of the cluster for every pod.
type remembered struct {
	census *census
	pools  string
	at     time.Time
}

// rememberFor is how long borrowing goes by a census: a stale one costs an attempt at a block that
// has filled up, and at most this long until a new block is noticed.
const rememberFor = time.Second

// borrowAgain borrows by the last census. The caller holds claims.
func (t *task) borrowAgain(d *demand) bool {
	last := t.a.dry
	age := t.a.opts.Now().Sub(last.at)
	if last.census == nil || last.pools != d.poolNames() || age < 0 || age >= rememberFor {
		return false
	}
	return t.borrowFrom(d, last.census)
}

func (d *demand) poolNames() string {
	var names strings.Builder
	for _, p := range d.pools {
		names.WriteString(p.name + " " + p.cidr.String() + " ")
	}
	return names.String()
}

// borrow picks a block of another node that has an address.
func (t *task) borrow(_ context.Context, d *demand, c *census) (bool, error) {
	t.a.dry = remembered{c, d.poolNames(), t.a.opts.Now()}
	return t.borrowFrom(d, c), nil
}

func (t *task) borrowFrom(d *demand, c *census) bool {
	if t.settings.strictAffinity {
		return false
	}
	policy := t.policy(nil)
	for i := range d.pools {
		for _, s := range t.othersIn(&d.pools[i], c) {
			cidr := s.block.CIDR()
			if d.pools[i].has(cidr) && !d.tried[cidr] && !s.block.Deleted() && s.block.Usage(policy).Available() > 0 {
				d.choice = choice{cidr: cidr, pool: d.pools[i].name}
				return true
			}
		}
	}
	return false
}

// othersIn returns the pool's blocks that are not this node's and not set apart for another
// purpose, in this node's order.
func (t *task) othersIn(p *pool, c *census) []*stored {
	var others []*stored
	for _, cidr := range slices.SortedFunc(maps.Keys(c.blocks), netip.Prefix.Compare) {
		s := c.blocks[cidr]
		aff := s.block.Affinity()
		if p.cidr.Contains(cidr.Addr()) && aff != hostAffinity(t.a.node) && (aff == "" || affinityNode(aff) != "") {
			others = append(others, s)
		}
	}
	if len(others) == 0 {
		return nil
	}
	at := int(hashOf(t.a.node) % uint64(len(others)))
	return append(slices.Clone(others[at:]), others[:at]...)
}

// exhausted says of every pool why it gave nothing.
func (t *task) exhausted(d *demand, c *census) error {
	e := &ExhaustedError{Family: d.family, Owner: t.request.owner(), Node: t.a.node, Pools: slices.Clone(d.refused)}
	for i := range d.pools {
		p := &d.pools[i]
		e.Pools = append(e.Pools, PoolReason{p.name, p.cidr.String(), t.fullness(p, d, c)})
	}
	return e
}

func (t *task) fullness(p *pool, d *demand, c *census) string {
	policy := t.policy(nil)
	var own, all block.Usage
	ownBlocks, blocks, foreign := 0, 0, 0
	add := func(sum *block.Usage, u block.Usage) {
		sum.Size, sum.Used, sum.Cooling = sum.Size+u.Size, sum.Used+u.Used, sum.Cooling+u.Cooling
		sum.Free, sum.Skipped = sum.Free+u.Free, sum.Skipped+u.Skipped
	}
	for cidr, s := range c.blocks {
		if !p.cidr.Contains(cidr.Addr()) {
			continue
		}
		if !p.has(cidr) {
			foreign++
			continue
		}
		u := s.block.Usage(policy)
		blocks++
		add(&all, u)
		if s.block.Affinity() == hostAffinity(t.a.node) {
			ownBlocks++
			add(&own, u)
		}
	}
	claim := t.mayClaim(d.family, c)
	if claim == "" {
		claim = "no other block is free, or idle for a minute"
	}
	lend := fmt.Sprintf("other nodes' blocks have %d", all.Available()-own.Available())
	if t.settings.strictAffinity {
		lend += " that strictAffinity keeps from this node"
	}
	if foreign > 0 {
		lend += fmt.Sprintf("; blocks of another size than /%d that are in the way until they are empty: %d", p.blockSize, foreign)
	}
	return fmt.Sprintf("%d of %d blocks exist, %d of them this node's with %d of %d addresses in use, %d cooling down, %d reserved or in use on this host, %d available; %s; %s",
		blocks, p.blockCount(), ownBlocks, own.Used, own.Size, own.Cooling, own.Skipped, own.Available(), claim, lend)
}

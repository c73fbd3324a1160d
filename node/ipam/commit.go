package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// commitAttempts bounds the rounds of one compare-and-swap loop.
const commitAttempts = 100

// blocks changes blocks in the store. All changes of one block go through one queue: while a write
// is under way, those that arrive wait and then share the next one, so that 32 owners cost a
// handful of writes instead of fighting each other with 32.
type blocks struct {
	store   datastore.Store
	log     *slog.Logger
	timeout time.Duration
	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu    sync.Mutex
	queue map[netip.Prefix]*blockQueue
}

type blockQueue struct {
	running bool
	waiting []*change
	// Of a block that this node owns, what was last read or written is kept: the next write
	// succeeds without a read, or learns from a conflict that it has to read.
	keep   bool
	cached *stored
	// promised counts the changes that are about to take an address of this block.
	promised int
}

// stored is a block as the store has it; neither field is modified.
type stored struct {
	object *v3.IPAMBlock
	block  *block.Block
}

// change is one caller's part of a write.
type change struct {
	// apply changes the block, or returns an error and leaves it as it is. It runs again whenever
	// the block turns out to have changed in the store.
	apply func(*block.Block) error
	err   error
	done  chan struct{}
	// promised: the change is counted in its queue's promised until it is made or refused.
	promised bool
}

// redeem ends the promises of changes. The caller holds the lock.
func (q *blockQueue) redeem(batch ...*change) {
	for _, c := range batch {
		if c.promised {
			c.promised = false
			q.promised--
		}
	}
}

func newBlocks(store datastore.Store, log *slog.Logger, timeout time.Duration) *blocks {
	b := &blocks{store: store, log: log, timeout: timeout, queue: map[netip.Prefix]*blockQueue{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// close ends writes under way and waits for them.
func (b *blocks) close() {
	b.mu.Lock()
	b.cancel()
	b.mu.Unlock()
	b.wg.Wait()
}

// at returns the queue of a block. The caller holds mu.
func (b *blocks) at(cidr netip.Prefix) *blockQueue {
	q := b.queue[cidr]
	if q == nil {
		q = &blockQueue{}
		b.queue[cidr] = q
	}
	return q
}

// forget drops what nobody needs. The caller holds mu.
func (b *blocks) forget(cidr netip.Prefix, q *blockQueue) {
	if !q.running && len(q.waiting) == 0 && !q.keep && q.promised == 0 && b.queue[cidr] == q {
		delete(b.queue, cidr)
	}
}

// update applies a change to a block and returns when the store has it. The error of apply comes
// back as it is, and is based on what the store held at some moment of the call; ErrNotFound
// means that there is no such block. Another error of the store, or the end of ctx, leaves it
// open whether the change was made.
func (b *blocks) update(ctx context.Context, cidr netip.Prefix, apply func(*block.Block) error) error {
	return b.submit(ctx, cidr, &change{apply: apply, done: make(chan struct{})})
}

func (b *blocks) submit(ctx context.Context, cidr netip.Prefix, c *change) error {
	b.mu.Lock()
	q := b.at(cidr)
	if err := b.ctx.Err(); err != nil {
		q.redeem(c)
		b.forget(cidr, q)
		b.mu.Unlock()
		return fmt.Errorf("update block %v: the allocator is closed: %w", cidr, datastore.ErrUnavailable)
	}
	q.waiting = append(q.waiting, c)
	if !q.running {
		q.running = true
		b.wg.Go(func() { b.run(cidr, q) })
	}
	b.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return b.abandon(ctx, cidr, q, c)
	}
}

// abandon takes a change out of the queue, if it is still there.
func (b *blocks) abandon(ctx context.Context, cidr netip.Prefix, q *blockQueue, c *change) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range q.waiting {
		if q.waiting[i] == c {
			q.waiting = append(q.waiting[:i:i], q.waiting[i+1:]...)
			q.redeem(c)
			return fmt.Errorf("update block %v: not begun: %w", cidr, ctx.Err())
		}
	}
	return fmt.Errorf("update block %v: the outcome is not known: %w", cidr, ctx.Err())
}

// run writes until nothing waits.
func (b *blocks) run(cidr netip.Prefix, q *blockQueue) {
	for {
		b.mu.Lock()
		batch := q.waiting
		q.waiting = nil
		if len(batch) == 0 {
			q.running = false
			b.forget(cidr, q)
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		err := b.commit(cidr, q, batch)
		b.mu.Lock()
		q.redeem(batch...)
		b.mu.Unlock()
		for _, c := range batch {
			if err != nil {
				c.err = err
			}
			close(c.done)
		}
	}
}

// commit writes a batch. An error concerns the whole batch; otherwise every change has its own.
func (b *blocks) commit(cidr netip.Prefix, q *blockQueue, batch []*change) error {
	for attempt := range commitAttempts {
		cur, fresh, err := b.current(cidr, q)
		if err != nil {
			return err
		}
		next := cur.block.Clone()
		changed := false
		for _, c := range batch {
			c.err = c.apply(next)
			changed = changed || c.err == nil
		}
		if !changed {
			if fresh {
				return nil
			}
			b.setCached(q, nil) // what was refused may be possible by now
			continue
		}
		err = b.write(q, cur, next, batch)
		if err == nil {
			return nil
		}
		b.setCached(q, nil)
		if !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrNotFound) {
			return err
		}
		if err := b.backOff(attempt); err != nil {
			return fmt.Errorf("update block %v: %w", cidr, err)
		}
	}
	return fmt.Errorf("update block %v: %d attempts lost to other writers: %w", cidr, commitAttempts, datastore.ErrConflict)
}

func (b *blocks) setCached(q *blockQueue, s *stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q.cached = s
}

// current returns the block to change; fresh tells that it was read just now.
func (b *blocks) current(cidr netip.Prefix, q *blockQueue) (cur *stored, fresh bool, err error) {
	b.mu.Lock()
	cur = q.cached
	b.mu.Unlock()
	if cur != nil {
		return cur, false, nil
	}
	cur, err = b.read(b.ctx, cidr)
	if err == nil {
		b.setCached(q, cur)
	}
	return cur, true, err
}

// read gets a block from the store.
func (b *blocks) read(ctx context.Context, cidr netip.Prefix) (*stored, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	o, err := b.store.Get(ctx, datastore.Key{Kind: v3.KindIPAMBlock, Name: blockName(cidr)})
	if err != nil {
		return nil, fmt.Errorf("read block %v: %w", cidr, err)
	}
	return b.decode(o)
}

func (b *blocks) decode(o v3.Object) (*stored, error) {
	object, ok := o.(*v3.IPAMBlock)
	if !ok {
		return nil, fmt.Errorf("read block %s: the store returned %T", o.GetName(), o)
	}
	blk, repairs, err := decodeBlock(object)
	if err != nil {
		return nil, err
	}
	if len(repairs) > 0 {
		b.log.Warn("repaired a stored block", "block", object.Spec.CIDR, "repairs", repairs)
	}
	return &stored{object, blk}, nil
}

// write stores a block. What it takes from the block and what was promised of it change together.
func (b *blocks) write(q *blockQueue, cur *stored, next *block.Block, batch []*change) error {
	// A shallow copy will do: encodeBlock replaces what differs, and the store changes nothing.
	o := &v3.IPAMBlock{TypeMeta: cur.object.TypeMeta, ObjectMeta: cur.object.ObjectMeta, Spec: cur.object.Spec}
	encodeBlock(next, o)
	ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
	defer cancel()
	written, err := b.store.Update(ctx, o)
	if err != nil {
		return fmt.Errorf("write block %v: %w", next.CIDR(), err)
	}
	object, ok := written.(*v3.IPAMBlock)
	if !ok {
		return fmt.Errorf("write block %v: the store returned %T", next.CIDR(), written)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	q.redeem(batch...)
	q.cached = nil
	if q.keep {
		q.cached = &stored{object, next}
	}
	return nil
}

// backOff waits after a lost round: at first not at all, later up to 50 ms at random.
func (b *blocks) backOff(attempt int) error {
	if attempt < 2 {
		return b.ctx.Err()
	}
	limit := min(50*time.Millisecond, time.Millisecond<<min(attempt, 6))
	t := time.NewTimer(rand.N(limit))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
}

package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam/block"
)

// Allocator gives out addresses on behalf of one node. It is safe for concurrent use, and is best
// the only one for its node: concurrent requests share their writes.
type Allocator struct {
	store   datastore.Store
	node    string
	opts    Options
	log     *slog.Logger
	blocks  *blocks
	handles keyedLock
	claims  chan struct{} // holds one token while a block is being claimed
	dry     remembered    // guarded by claims

	// owned are the blocks of this node, sorted; guarded by blocks.mu.
	owned []netip.Prefix
}

// New returns an allocator for a node. Close it when done.
func New(store datastore.Store, node string, opts Options) *Allocator {
	if opts.View == nil {
		opts.View = StoreView(store, node)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Timeout <= 0 {
		opts.Timeout = 5 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Allocator{
		store: store, node: node, opts: opts, log: opts.Log,
		blocks: newBlocks(store, opts.Log, opts.Timeout), claims: make(chan struct{}, 1),
	}
}

// Close ends what is under way, with an error to its callers, and waits for it.
func (a *Allocator) Close() { a.blocks.close() }

// Assign gives the handle one address of each family that is asked for, or none at all. Asked
// again for the same handle it returns the addresses that the handle has. The error is an
// *ExhaustedError when there is no address to give; an error that wraps ErrUnavailable or the
// context's leaves open what happened: Release the handle then.
func (a *Allocator) Assign(ctx context.Context, r Request) (Assignment, error) {
	families, err := r.validate()
	if err != nil {
		return Assignment{}, err
	}
	unlock, err := a.handles.lock(ctx, r.HandleID)
	if err != nil {
		return Assignment{}, fmt.Errorf("assign addresses to %s: wait for another call for handle %s: %w", r.owner(), r.HandleID, err)
	}
	defer unlock()
	cluster, err := a.opts.View(ctx)
	if err != nil {
		return Assignment{}, fmt.Errorf("assign addresses to %s: read pools and settings: %w", r.owner(), err)
	}
	got, err := a.assign(ctx, cluster, &r, families)
	var refused *ExhaustedError
	if a.opts.Fresh == nil || r.use() != UseWorkload || !errors.As(err, &refused) {
		return got, err
	}
	fresh, freshErr := a.opts.Fresh(ctx)
	if freshErr != nil || samePools(cluster.Pools, fresh.Pools) {
		return got, err // View was right, or nobody knows better
	}
	return a.assign(ctx, fresh, &r, families)
}

// assign is Assign by what cluster says.
func (a *Allocator) assign(ctx context.Context, cluster *Cluster, r *Request, families []model.Family) (Assignment, error) {
	t, err := a.newTask(cluster, r, families)
	if err != nil {
		return Assignment{}, err
	}
	defer t.settle()
	if err := t.run(ctx); err != nil {
		return Assignment{}, err
	}
	return t.assignment(), nil
}

// samePools tells whether a and b are the same pools, as they were stored.
func samePools(a, b []*v3.IPPool) bool {
	type stored struct {
		uid     types.UID
		version string
	}
	versions := func(pools []*v3.IPPool) map[string]stored {
		m := make(map[string]stored, len(pools))
		for _, p := range pools {
			m[p.Name] = stored{p.UID, p.ResourceVersion}
		}
		return m
	}
	return maps.Equal(versions(a), versions(b))
}

// task is one call of Assign.
type task struct {
	a        *Allocator
	request  *Request
	cluster  *Cluster
	settings settings
	owner    *block.Owner
	demands  []*demand

	mu     sync.Mutex
	handle *v3.IPAMHandle // as stored
}

// demand is one address to get.
type demand struct {
	family  model.Family
	fixed   netip.Addr // the address, when it is a certain one
	pools   []pool
	refused []PoolReason
	tried   map[netip.Prefix]bool // blocks that turned out to have no address for this demand

	choice choice
	got    AssignedAddress // valid when done
}

// choice is a block that probably has an address.
type choice struct {
	cidr     netip.Prefix
	pool     string
	promised bool // counted in the block's promised
}

func (a *Allocator) newTask(c *Cluster, r *Request, families []model.Family) (*task, error) {
	t := &task{a: a, request: r, cluster: c, settings: settingsOf(c.Config), owner: a.ownerOf(r)}
	all := len(families) == 0
	if all {
		families = []model.Family{model.IPv4, model.IPv6}
	}
	var none []*ExhaustedError
	var asked []error
	for _, f := range families {
		d := &demand{family: f, tried: map[netip.Prefix]bool{}}
		if fixed, ok := r.fixed(f); ok {
			p, why := poolOf(c, r, fixed)
			if why != nil {
				return nil, &ExhaustedError{f, r.owner() + " (address " + fixed.String() + ")", a.node, []PoolReason{*why}}
			}
			d.fixed, d.pools = fixed, []pool{p}
		} else {
			d.pools, d.refused = usablePools(c, r, f)
		}
		if len(d.pools) == 0 {
			e := &ExhaustedError{f, r.owner(), a.node, d.refused}
			if none = append(none, e); len(r.Pools[f]) > 0 {
				asked = append(asked, e)
			}
			continue
		}
		t.demands = append(t.demands, d)
	}
	if len(asked) > 0 { // who names pools of a family wants that family
		return nil, errors.Join(asked...)
	}
	if len(none) > 0 && (!all || len(t.demands) == 0) {
		return nil, errors.Join(relevant(none, all)...)
	}
	return t, nil
}

// relevant returns the reasons why there is no address. Where any family would have done, one that
// has no pool at all is none, if another has.
func relevant(none []*ExhaustedError, all bool) []error {
	var errs []error
	for _, e := range none {
		if !all || len(e.Pools) > 0 {
			errs = append(errs, e)
		}
	}
	if len(errs) == 0 {
		for _, e := range none {
			errs = append(errs, e)
		}
	}
	return errs
}

func (a *Allocator) ownerOf(r *Request) *block.Owner {
	o := &block.Owner{Handle: r.HandleID, Attributes: map[string]string{}}
	for k, v := range r.Attributes {
		o.Attributes[k] = v
	}
	for k, v := range map[string]string{
		AttrNamespace: r.Namespace, AttrPod: r.Pod, AttrPodUID: r.PodUID, AttrNode: a.node,
		AttrTime: a.opts.Now().UTC().Format(time.RFC3339),
	} {
		if v != "" {
			o.Attributes[k] = v
		}
	}
	return o
}

// policy is what free addresses are judged by. observe, optional, is told of those in use.
func (t *task) policy(observe func(netip.Addr)) block.Policy {
	reserved, inUse := reservedBy(t.cluster.Reservations), t.a.opts.InUse
	return block.Policy{Now: t.a.opts.Now(), Cooldown: t.settings.cooldown, Skip: func(a netip.Addr) string {
		if why := reserved(a); why != "" {
			return why
		}
		if inUse == nil || !inUse(a) {
			return ""
		}
		if observe != nil {
			observe(a)
		}
		return "in use on this host, although the store says it is free"
	}}
}

// run gets every demand its address. The handle is written first, so that whatever comes next is
// found again by it.
func (t *task) run(ctx context.Context) error {
	for _, d := range t.demands {
		if err := t.choose(ctx, d); err != nil {
			return err
		}
	}
	open, err := t.openHandle(ctx)
	if err != nil {
		return fmt.Errorf("assign addresses to %s: %w", t.request.owner(), err)
	}
	errs := make([]error, len(open))
	var wg sync.WaitGroup
	for i, d := range open[min(1, len(open)):] {
		wg.Go(func() { errs[i+1] = t.fill(ctx, d) })
	}
	if len(open) > 0 {
		errs[0] = t.fill(ctx, open[0])
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.undo(ctx)
		return err
	}
	return nil
}

// undo gives back what a failed call got. It does its best: who sees Assign fail releases the
// handle anyway.
func (t *task) undo(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.a.opts.Timeout)
	defer cancel()
	if _, err := t.a.release(ctx, t.request.HandleID); err != nil {
		t.a.log.Warn("could not give back the addresses of a failed request", "handle", t.request.HandleID, "error", err)
	}
}

// fill takes the address from the chosen block, or from another one if that has none any more.
func (t *task) fill(ctx context.Context, d *demand) error {
	for {
		err := t.take(ctx, d)
		if err == nil {
			return nil
		}
		gone := errors.Is(err, datastore.ErrNotFound)
		if gone {
			t.a.disown(d.choice.cidr)
		}
		again := gone || errors.Is(err, block.ErrFull)
		if !again || len(d.tried) > commitAttempts {
			return fmt.Errorf("assign %v address to %s: %w", d.family, t.request.owner(), err)
		}
		d.tried[d.choice.cidr] = true
		t.a.settle(&d.choice)
		if err := t.choose(ctx, d); err != nil {
			return err
		}
		if err := t.addToHandle(ctx, d.choice.cidr); err != nil {
			return fmt.Errorf("assign %v address to %s: %w", d.family, t.request.owner(), err)
		}
	}
}

// take takes the address from the chosen block.
func (t *task) take(ctx context.Context, d *demand) error {
	var got block.Allocation
	var skipped []netip.Addr
	lost := false
	own := hostAffinity(t.a.node)
	c := &change{done: make(chan struct{}), promised: d.choice.promised}
	d.choice.promised = false // from here on it is the change's
	c.apply = func(b *block.Block) (err error) {
		skipped = nil
		lost = b.Affinity() != own
		for _, held := range b.Held(t.owner.Handle) {
			if !d.fixed.IsValid() || held.Addr == d.fixed {
				got = held
				return nil
			}
		}
		if lost && t.settings.strictAffinity {
			return fmt.Errorf("block %v belongs to %q and strictAffinity forbids borrowing: %w", b.CIDR(), b.Affinity(), block.ErrFull)
		}
		p := t.policy(func(a netip.Addr) { skipped = append(skipped, a) })
		if d.fixed.IsValid() {
			got, err = b.Assign(d.fixed, t.owner, p)
		} else {
			got, err = b.AssignNext(t.owner, p)
		}
		return err
	}
	err := t.a.blocks.submit(ctx, d.choice.cidr, c)
	if err != nil && ctx.Err() != nil {
		return err // the change may still run: what it sets is not ours to read
	}
	if len(skipped) > 0 {
		t.a.log.Warn("skipped addresses that the store says are free but that are in use on this host", "addresses", skipped, "block", d.choice.cidr)
	}
	if lost {
		t.a.disown(d.choice.cidr)
	}
	if err == nil {
		d.got = AssignedAddress{Addr: got.Addr, Block: d.choice.cidr, Pool: d.choice.pool, Sequence: got.Sequence}
	}
	return err
}

// settle ends the promises of a call.
func (t *task) settle() {
	for _, d := range t.demands {
		t.a.settle(&d.choice)
	}
}

func (a *Allocator) settle(c *choice) {
	if !c.promised {
		return
	}
	a.blocks.mu.Lock()
	defer a.blocks.mu.Unlock()
	c.promised = false
	if q := a.blocks.queue[c.cidr]; q != nil {
		q.promised--
		a.blocks.forget(c.cidr, q)
	}
}

func (t *task) assignment() Assignment {
	var as Assignment
	for _, d := range t.demands {
		as.Addresses = append(as.Addresses, d.got)
	}
	return as
}

// own takes a block into this node's blocks. s is what the store holds, if that is known.
func (a *Allocator) own(cidr netip.Prefix, s *stored) {
	a.blocks.mu.Lock()
	defer a.blocks.mu.Unlock()
	q := a.blocks.at(cidr)
	q.keep = true
	if q.cached == nil && !q.running {
		q.cached = s
	}
	at, known := slices.BinarySearchFunc(a.owned, cidr, netip.Prefix.Compare)
	if !known {
		a.owned = slices.Insert(a.owned, at, cidr)
	}
}

// disown drops a block from this node's blocks.
func (a *Allocator) disown(cidr netip.Prefix) {
	a.blocks.mu.Lock()
	defer a.blocks.mu.Unlock()
	at, known := slices.BinarySearchFunc(a.owned, cidr, netip.Prefix.Compare)
	if !known {
		return
	}
	a.owned = slices.Delete(a.owned, at, at+1)
	q := a.blocks.at(cidr)
	q.keep, q.cached = false, nil
	a.blocks.forget(cidr, q)
}

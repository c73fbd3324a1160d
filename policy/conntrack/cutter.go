package conntrack

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/policy"
)

const (
	// walk is how many entries the kernel shows at the cost of one walk through a table of 262,144
	// buckets. To be shown the entries of one address only takes two.
	walk = 9000
	// rest and mostRest limit what changes that come one after the other may cost: after a look at the
	// table the next waits for so many times as long as that took, and no longer than mostRest.
	rest     = 9
	mostRest = 400 * time.Millisecond
)

// Options of a Cutter; the zero value is good for tests.
type Options struct {
	// Kick asks for another Apply soon. With it the Cutter puts off looking at the table when it looked
	// just now, so that a storm of changes costs a tenth of a processor at most. Nil: it never does.
	Kick func()
	// Delete ends connections by deleting their entries, as where the kernel cannot hold them. The
	// connection may then come back the other way round; see the package comment.
	Delete bool
}

// Cutter ends the connections that a change of policy denies. Its methods may be called by any goroutine.
type Cutter struct {
	h     *kernel.Handle
	log   *slog.Logger
	opts  Options
	owner *nft.Owner

	mu      sync.Mutex
	table   *table // nil: not open
	memory  memory
	scope   scope // to judge
	release bool  // those that are held may be allowed again
	held    int   // about how many are held; 0: none, and no rule is there
	started bool  // the first look was had
	deletes bool
	next    time.Time   // the next look, not before
	timer   *time.Timer // calls Kick then
}

// Result is what one Apply did, in entries of the table.
type Result struct {
	Read     int // that the kernel showed
	Judged   int // that policy was asked about
	Cut      int // that policy denies: held, or deleted
	Released int // that it allows again
	Ended    int // of pods that are gone
	Deferred bool
	Took     time.Duration
}

// New returns a Cutter that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger, o Options) *Cutter {
	return &Cutter{h: h, log: log, opts: o, owner: nft.New(h, prefix, nil), deletes: o.Delete}
}

// Close releases the sockets and leaves the kernel as it is.
func (c *Cutter) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.reset()
	c.owner.Close()
}

// Invalidate makes the next Apply look whether the rule that holds connections is still there.
func (c *Cutter) Invalidate() { c.owner.Invalidate() }

// Watch calls kick when somebody else changed that rule, until ctx ends, whose error it returns.
func (c *Cutter) Watch(ctx context.Context, kick func()) error { return c.owner.Watch(ctx, kick) }

// Dropped returns how many packets were dropped for belonging to a connection that is held.
func (c *Cutter) Dropped(ctx context.Context) (uint64, error) {
	return c.owner.Counter(ctx, counterHeld)
}

// Apply ends what u denies, and releases what it allows again. It is called after the kernel enforces
// u, with every Update of one Compiler or with some; after some it looks at everything, as the first
// time. An Update that can deny nothing costs nothing, unless a connection is held. After an error the
// next Apply does what was left.
func (c *Cutter) Apply(ctx context.Context, u policy.Update) (Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	generation := c.memory.generation
	c.memory.change(&u, &c.scope)
	c.release = c.release || c.held > 0 && c.memory.generation != generation
	if c.scope.empty() && !c.release {
		return Result{}, c.keepRule(ctx)
	}
	if wait := time.Until(c.next); wait > 0 && c.opts.Kick != nil {
		if c.timer == nil {
			c.timer = time.AfterFunc(wait, c.opts.Kick)
		} else {
			c.timer.Reset(wait)
		}
		return Result{Deferred: true}, nil
	}
	begin := time.Now()
	res, err := c.cut(ctx, u.Program)
	res.Took = time.Since(begin)
	c.next = time.Now().Add(min(rest*res.Took, mostRest))
	if err != nil {
		c.reset()
		return res, err
	}
	c.scope, c.release, c.started = scope{}, false, true
	if res.Cut+res.Released+res.Ended > 0 {
		c.log.Info("connections ended by policy", "cut", res.Cut, "released", res.Released, "ended", res.Ended, "read", res.Read,
			"judged", res.Judged, "took", res.Took.Round(time.Microsecond))
	}
	return res, nil
}

func (c *Cutter) reset() {
	if c.table != nil {
		c.table.close()
		c.table = nil
	}
}

// keepRule makes the rule be there as long as a connection is held.
func (c *Cutter) keepRule(ctx context.Context) error {
	if c.deletes || !c.started {
		return nil
	}
	want := nft.Program{}
	if c.held > 0 {
		want = holding()
	}
	_, err := c.owner.Sync(ctx, want)
	if lacking(err) && want.Empty() {
		c.deletes = true // and nothing is there to remove
		return nil
	}
	if err != nil {
		return fmt.Errorf("hold connections: %w", err)
	}
	return nil
}

// look is one reading of the table.
type look struct {
	judge   *judge
	scope   *scope
	res     Result
	held    int // that stay held
	acted   map[[4]byte]struct{}
	hold    []write
	free    []write
	end     []write
	deletes bool
}

func (l *look) entry(e *entry) {
	l.res.Read++
	held := e.held()
	if e.zone || !held && !l.inScope(e) {
		return
	}
	id := [4]byte(e.rawID)
	if _, seen := l.acted[id]; seen {
		return
	}
	if l.scope.isGone(e.src) || l.scope.isGone(e.to) {
		l.acted[id] = struct{}{}
		l.end = append(l.end, e.clone().deletion())
		return
	}
	allowed, asked := l.judge.allows(e)
	if asked {
		l.res.Judged++
	}
	switch {
	case allowed && held:
		l.free = append(l.free, e.clone().marking(false))
	case !allowed && held:
		l.held++
	case !allowed && l.deletes:
		l.hold = append(l.hold, e.clone().deletion())
	case !allowed:
		l.hold = append(l.hold, e.clone().marking(true))
	default:
		return
	}
	l.acted[id] = struct{}{}
}

func (l *look) inScope(e *entry) bool {
	s := l.scope
	return s.all || s.has(e.src) || s.has(e.to) || s.has(e.dst) || s.isGone(e.src) || s.isGone(e.to)
}

// cut looks at the table and changes what has to be changed.
func (c *Cutter) cut(ctx context.Context, p *policy.Program) (Result, error) {
	j, err := newJudge(ctx, c.h, p)
	if err != nil {
		return Result{}, fmt.Errorf("read this host's addresses: %w", err)
	}
	if c.table == nil {
		if c.table, err = openTable(c.h); err != nil {
			return Result{}, err
		}
	}
	l := &look{judge: j, scope: &c.scope, deletes: c.deletes, acted: map[[4]byte]struct{}{}}
	filters, err := c.filters(ctx, p)
	if err != nil {
		return l.res, err
	}
	for _, f := range filters {
		if err := c.table.dump(ctx, f, l.entry); err != nil {
			return l.res, err
		}
	}
	if err := c.hold(ctx, l); err != nil {
		return l.res, err
	}
	l.res.Released, err = c.table.do(ctx, l.free)
	if err != nil {
		return l.res, err
	}
	if l.res.Ended, err = c.table.do(ctx, l.end); err != nil {
		return l.res, err
	}
	if n := len(filters); n == 0 || filters[n-1] == (filter{}) || filters[n-1].marked {
		c.held = l.held // all that are held were seen
	}
	if !c.deletes {
		c.held += l.res.Cut
	}
	c.started = true
	return l.res, c.keepRule(ctx)
}

// hold makes sure that what is marked is dropped, and marks. Where the kernel cannot, it deletes.
func (c *Cutter) hold(ctx context.Context, l *look) error {
	if len(l.hold) == 0 {
		return nil
	}
	if !c.deletes {
		if _, err := c.owner.Sync(ctx, holding()); err != nil {
			if !lacking(err) {
				return fmt.Errorf("hold connections: %w", err)
			}
			c.log.Warn("connections that policy denies are deleted, and may come back the other way round, since this kernel cannot hold them",
				"err", err)
			c.deletes = true
			return fmt.Errorf("hold connections: %w; from now on they are deleted instead", err)
		}
	}
	var err error
	l.res.Cut, err = c.table.do(ctx, l.hold)
	return err
}

// filters says what the kernel is asked for: all at once, or one address after the other where that is
// cheaper; nothing where there are no connections, since a walk of the table costs as much when it is
// empty.
func (c *Cutter) filters(ctx context.Context, p *policy.Program) ([]filter, error) {
	n, err := c.table.count(ctx)
	if err != nil || n == 0 {
		return nil, err
	}
	s := &c.scope
	if s.all || len(s.nets) > 0 || len(p.Hosts) > 0 && !s.empty() {
		return []filter{{}}, nil
	}
	walks := 2 * (len(s.addrs) + len(s.gone))
	if c.release {
		walks++
	}
	if walks > 1 && n < walk*(walks-1) {
		return []filter{{}}, nil
	}
	var fs []filter
	for _, m := range []map[netip.Addr]struct{}{s.addrs, s.gone} {
		for a := range m {
			fs = append(fs, filter{from: a}, filter{to: a})
		}
	}
	if c.release {
		fs = append(fs, filter{marked: true})
	}
	return fs, nil
}

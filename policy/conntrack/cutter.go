package conntrack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/policy"
)

const (
	// walk is how many entries the kernel shows at the cost of one walk through a table of 262,144
	// buckets. To be shown the entries of one address only takes two.
	walk = 9000
	// goal is how long a connection that a change denies may live on, less a reserve for what else has
	// to be done meanwhile.
	goal = 900 * time.Millisecond
)

// pause is how long the next look at the table waits after one that took so long. In a storm of changes
// looks shall cost a tenth of a processor. But a change that comes just after a look began has to wait for
// that one, the pause and its own look, which shall not be longer than goal: looks of more than 82 ms cost
// more than a tenth, those of 0.2 s 29 %, and two thirds of a processor at the most, by looks of 0.36 s. With
// longer ones goal is missed.
func pause(took time.Duration) time.Duration {
	return min(9*took, max(goal-2*took, took/2))
}

// Options of a Cutter; the zero value is good for tests.
type Options struct {
	// Kick asks for another Cut soon. With it the Cutter puts off looking at the table when it looked
	// just now. Nil: it never does.
	Kick func()
	// Program is held while Cut reads the Program of the last Follow, for a thousandth of a second at a
	// time. Nil: nobody changes that meanwhile.
	Program sync.Locker
	// Flush takes all connections out of where packets meet no rules (policy/offload), and keeps those that are held
	// out. Nil: there is no such place.
	Flush func(context.Context) error
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

	cutting sync.Mutex // one Cut at a time; guards what follows
	table   *table     // nil: not open
	started bool       // the first look was had
	deletes bool
	next    time.Time   // the next look, not before
	timer   *time.Timer // calls Kick then
	// bypassed: entries were held or are to be deleted, and Flush was not called since.
	bypassed bool

	mu      sync.Mutex // guards what follows; never held for long
	memory  memory
	program *policy.Program // of the last Follow
	scope   scope           // to judge
	release bool            // those that are held may be allowed again
	held    int             // about how many are held; 0: none, and no rule is there
	looking bool            // some may be held any moment
}

// Result is what one Cut did, in entries of the table.
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
	c.cutting.Lock()
	defer c.cutting.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.reset()
	c.owner.Close()
}

// Invalidate makes the next Cut look whether the rule that holds connections is still there.
func (c *Cutter) Invalidate() { c.owner.Invalidate() }

// Watch calls kick when somebody else changed that rule, until ctx ends, whose error it returns. On a kernel
// without nftables there is nothing to watch.
func (c *Cutter) Watch(ctx context.Context, kick func()) error {
	err := c.owner.Watch(ctx, kick)
	if lacking(err) || errors.Is(err, unix.EINVAL) { // it has no such group of events
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// Dropped returns how many packets were dropped for belonging to a connection that is held.
func (c *Cutter) Dropped(ctx context.Context) (uint64, error) {
	return c.owner.Counter(ctx, counterHeld)
}

// Apply is Follow and Cut. The Program must not change meanwhile; Options.Program must not be held.
func (c *Cutter) Apply(ctx context.Context, u policy.Update) (Result, error) {
	c.Follow(u)
	return c.Cut(ctx)
}

// Follow notes what u can deny, for the next Cut. It is called after the kernel enforces u, with every
// Update of one Compiler or with some; after some Cut looks at everything, as the first time. The caller
// holds Options.Program. It costs microseconds.
func (c *Cutter) Follow(u policy.Update) {
	c.mu.Lock()
	defer c.mu.Unlock()
	generation := c.memory.generation
	c.memory.change(&u, &c.scope)
	c.program = u.Program
	c.release = c.release || (c.held > 0 || c.looking) && c.memory.generation != generation
}

// Cut ends what the Updates that Follow was told of deny, and releases what they allow again. When they can
// deny nothing it costs nothing, unless a connection is held. After an error the next Cut does what was
// left.
func (c *Cutter) Cut(ctx context.Context) (Result, error) {
	c.cutting.Lock()
	defer c.cutting.Unlock()
	c.mu.Lock()
	nothing := c.scope.empty() && !c.release && !c.bypassed
	if wait := time.Until(c.next); !nothing && wait > 0 && c.opts.Kick != nil {
		c.mu.Unlock()
		if c.timer == nil {
			c.timer = time.AfterFunc(wait, c.opts.Kick)
		} else {
			c.timer.Reset(wait)
		}
		return Result{Deferred: true}, nil
	}
	if nothing {
		c.mu.Unlock()
		return Result{}, c.keepRule(ctx)
	}
	l := &look{scope: c.scope, release: c.release, deletes: c.deletes, acted: map[[4]byte]struct{}{}}
	c.scope, c.release, c.looking = scope{}, false, true
	c.mu.Unlock()

	begin := time.Now()
	err := c.look(ctx, l)
	l.res.Took = time.Since(begin)
	c.next = time.Now().Add(pause(l.res.Took))
	c.mu.Lock()
	c.looking = false
	if err != nil {
		c.scope.merge(&l.scope)
		c.release = c.release || l.release
	}
	c.mu.Unlock()
	if err != nil {
		c.reset()
		return l.res, err
	}
	if res := &l.res; res.Cut+res.Released+res.Ended > 0 {
		c.log.Info("connections ended by policy", "cut", res.Cut, "released", res.Released, "ended", res.Ended, "read", res.Read,
			"judged", res.Judged, "took", res.Took.Round(time.Microsecond))
	}
	return l.res, nil
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
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	want := nft.Program{}
	if held > 0 {
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

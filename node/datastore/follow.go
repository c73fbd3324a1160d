package datastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"
)

// FollowOptions tunes Follow. The zero value is good.
type FollowOptions struct {
	// Logger tells of changes of state at Info and of every attempt at Debug. nil: nothing.
	Logger *slog.Logger
	// MinBackoff and MaxBackoff bound the pause before the next attempt; it doubles in between
	// and has half of it jittered. Zero: 100 ms and 5 s.
	MinBackoff, MaxBackoff time.Duration
}

func (o *FollowOptions) defaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = 100 * time.Millisecond
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(5*time.Second, o.MinBackoff)
	}
}

// Follow lists the kinds and then watches them for ever. Sink gets every object once, then every
// change in order; of a Partitioner, in the order of each part. A lost watch resumes where it ended; when the store no longer holds that
// revision, Follow lists again and delivers only what differs, deletions included. It holds a
// key and a revision for each object, never the object. It returns when ctx ends, with its error.
func Follow(ctx context.Context, store Store, kinds []string, sink Sink, opts FollowOptions) error {
	opts.defaults()
	if p, ok := store.(Partitioner); ok {
		if parts := p.Partition(kinds); len(parts) > 1 {
			return followParts(ctx, store, parts, sink, opts)
		}
	}
	return newFollower(store, kinds, sink, opts).run(ctx)
}

func newFollower(store Store, kinds []string, sink Sink, opts FollowOptions) *follower {
	return &follower{
		store: store, kinds: slices.Clone(kinds), sink: sink, opts: opts, log: opts.Logger,
		known: map[Key]string{},
	}
}

func (f *follower) run(ctx context.Context) error {
	f.setState(StateWait, nil)
	for ctx.Err() == nil {
		var contact <-chan struct{}
		if f.contact != nil {
			contact = f.contact() // before the attempt: what is heard during one that fails counts
		}
		err := f.step(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrCompacted) {
			f.log.Info("watch cannot resume, listing again", "kinds", f.kinds, "err", err)
			f.revision = ""
			if f.progress || !f.listed { // else the store compacts as fast as we list: slow down
				continue
			}
		} else {
			f.setState(StateWait, err)
		}
		if err := f.pause(ctx, contact); err != nil {
			break
		}
	}
	return context.Cause(ctx)
}

// follower is the state of one Follow; one goroutine uses it.
type follower struct {
	store Store
	kinds []string
	sink  Sink
	opts  FollowOptions
	log   *slog.Logger
	level slog.Level // at which changes of state are told
	// contact returns what is closed when another follower of the same store gets through again; nil where there is none.
	contact func() <-chan struct{}

	known    map[Key]string // revision of what the sink has, rejected ones included
	history  string         // what the revisions of known belong to
	revision string         // where a watch resumes; empty: list first

	state    State
	reason   string
	failures int  // attempts in a row that brought nothing
	progress bool // the present attempt brought something
	listed   bool // the present attempt began with a list
}

// step lists if need be, then watches until the watch breaks.
func (f *follower) step(ctx context.Context) error {
	f.progress, f.listed = false, f.revision == ""
	if f.listed {
		if err := f.list(ctx); err != nil {
			return err
		}
	}
	err := f.watch(ctx)
	if err == nil && ctx.Err() == nil {
		err = fmt.Errorf("watch ended without a reason: %w", ErrUnavailable)
	}
	return err
}

func (f *follower) list(ctx context.Context) error {
	if f.reason == "" { // else stay away until the store answers
		f.setState(StateResync, nil)
	}
	f.log.Debug("listing", "kinds", f.kinds)
	if p, ok := f.store.(Pager); ok && len(f.known) == 0 {
		return f.listPages(ctx, p)
	}
	l, err := f.store.List(ctx, f.kinds...)
	if err != nil {
		return err
	}
	f.setState(StateResync, nil)
	if l.History != f.history {
		// Equal revisions of another history mean nothing: deliver everything, keep the keys.
		for k := range f.known {
			f.known[k] = ""
		}
	}
	changes, known := f.diff(l)
	if len(changes) > 0 {
		f.sink.OnChanges(changes)
	}
	f.known, f.history, f.revision = known, l.History, l.Revision
	f.setState(StateInSync, nil)
	f.log.Log(ctx, f.level, "snapshot delivered", "kinds", f.kinds, "objects", len(l.Items), "rejected", len(l.Rejected), "changes", len(changes))
	return nil
}

// listPages is list when the sink has nothing yet: there is nothing to compare with. After an error
// the next list compares with what was delivered.
func (f *follower) listPages(ctx context.Context, p Pager) error {
	objects, rejected, revision := 0, 0, ""
	err := p.ListPages(ctx, f.kinds, func(l *List) {
		f.setState(StateResync, nil)
		f.deliver(f.puts(l))
		f.history, revision = l.History, l.Revision
		objects, rejected = objects+len(l.Items), rejected+len(l.Rejected)
	})
	if err != nil {
		return err
	}
	f.setState(StateResync, nil)
	f.revision = revision
	f.setState(StateInSync, nil)
	f.log.Log(ctx, f.level, "snapshot delivered", "kinds", f.kinds, "objects", objects, "rejected", rejected)
	return nil
}

// puts returns the changes that bring the sink what l has and it has not.
func (f *follower) puts(l *List) []Change {
	var out []Change
	add := func(c Change) {
		if had, ok := f.known[c.Key]; !ok || had != c.Revision || had == "" {
			out = append(out, c)
		}
	}
	for _, o := range l.Items {
		add(Change{Key: KeyOf(o), Object: o, Revision: o.GetResourceVersion()})
	}
	for _, r := range l.Rejected {
		add(Change{Key: r.Key, Err: r.Err, Revision: r.Revision})
	}
	return out
}

// diff returns what leads from what the sink has to l, deletions first so that whoever takes over
// a name or an address finds it free.
func (f *follower) diff(l *List) ([]Change, map[Key]string) {
	puts := f.puts(l)
	known := make(map[Key]string, len(l.Items)+len(l.Rejected))
	for _, o := range l.Items {
		known[KeyOf(o)] = o.GetResourceVersion()
	}
	for _, r := range l.Rejected {
		known[r.Key] = r.Revision
	}
	var dels []Change
	for k := range f.known {
		if _, ok := known[k]; !ok {
			dels = append(dels, Change{Key: k, Revision: l.Revision})
		}
	}
	slices.SortFunc(dels, func(a, b Change) int { return compareKeys(a.Key, b.Key) })
	return append(dels, puts...), known
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (f *follower) watch(ctx context.Context) error {
	f.log.Debug("watching", "kinds", f.kinds, "revision", f.revision)
	if s, ok := f.store.(Streamer); ok {
		return s.Stream(ctx, f.revision, f.kinds, func(b Batch) error {
			f.deliver(b.Changes)
			if b.Revision != "" {
				f.revision = b.Revision
			}
			f.progress = true
			f.failures = 0
			if b.CaughtUp {
				f.setState(StateInSync, nil)
			}
			return nil
		})
	}
	// A plain watch does not say when it has caught up: resume with a list after any loss.
	err := f.store.Watch(ctx, f.revision, f.kinds, func(c []Change) error {
		f.deliver(c)
		f.progress = true
		f.failures = 0
		return nil
	})
	f.revision = ""
	return err
}

func (f *follower) deliver(batch []Change) {
	c := batch[:0]
	for _, ch := range batch {
		_, had := f.known[ch.Key]
		switch {
		case ch.Object != nil || ch.Err != nil:
			f.known[ch.Key] = ch.Revision
		case had:
			delete(f.known, ch.Key)
		default:
			continue // that something is gone which the sink never had is no news
		}
		c = append(c, ch)
	}
	if len(c) > 0 {
		f.sink.OnChanges(c)
	}
}

func (f *follower) setState(s State, err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if s == f.state && reason == f.reason {
		return
	}
	if s != f.state || f.reason == "" {
		f.log.Log(context.Background(), f.level, "datastore state", "state", string(s), "err", reason)
	} else {
		f.log.Debug("datastore still away", "err", reason)
	}
	f.state, f.reason = s, reason
	f.sink.OnState(s, err)
}

// contactSpread is within what time followers try again after one of them got through: not all at once.
const contactSpread = 500 * time.Millisecond

// pause waits before the next attempt: twice as long after each that brought nothing, shorter once another follower
// got through.
func (f *follower) pause(ctx context.Context, contact <-chan struct{}) error {
	d := f.opts.MinBackoff
	for i := 0; i < f.failures && d < f.opts.MaxBackoff; i++ {
		d *= 2
	}
	d = min(d, f.opts.MaxBackoff)
	f.failures++
	d = d/2 + rand.N(d/2+1)
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
			return nil
		case <-contact:
			contact = nil
			t.Reset(min(d, rand.N(contactSpread)))
		}
	}
}

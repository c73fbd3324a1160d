package testkit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weft/internal/kernel"
)

// Kept counts what Keep did.
type Kept struct {
	Applies atomic.Int64 // runs of apply
	Changes atomic.Int64 // those that changed something
}

// Watcher is a driver as far as Keep needs it.
type Watcher interface {
	// Observe tells whether an event of the kernel asks for a run.
	Observe(kernel.Event) bool
	// Watch calls kick when it begins to listen, since what was before is unknown, and when something else
	// asks for a run, until ctx ends, whose error it returns.
	Watch(ctx context.Context, kick func()) error
}

// Keep runs what the node service runs around a driver, until the test ends: the namespace's events to
// Observe, and what asks for a run to apply, which is called by one goroutine, tells whether it changed
// something, and is called again a little later when it fails. Keep returns when the run that Watch asks
// for when it begins is over: what somebody does from then on is seen as theirs.
func Keep(t testing.TB, ns NS, d Watcher, apply func(context.Context) (changed bool, err error)) *Kept {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	k := keeper{ctx: ctx, t: t, apply: apply, kick: make(chan struct{}, 1), looked: make(chan struct{})}
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	monitor, err := kernel.NewMonitor(ctx, ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		k.ended("the monitor", monitor.Run(ctx, func(e kernel.Event) {
			if d.Observe(e) {
				k.poke()
			}
		}))
	})
	wg.Go(func() {
		k.ended("the driver's watch", d.Watch(ctx, func() { k.watching.Store(true); k.poke() }))
	})
	wg.Go(k.run)
	select {
	case <-k.looked:
	case <-time.After(20 * time.Second):
		t.Fatal("the driver's watch does not begin, or what it asks for then is not done, within 20 s")
	}
	return &k.Kept
}

type keeper struct {
	Kept
	ctx      context.Context
	t        testing.TB
	apply    func(context.Context) (bool, error)
	kick     chan struct{}
	watching atomic.Bool   // Watch has begun
	looked   chan struct{} // closed after a run since
}

func (k *keeper) poke() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *keeper) ended(what string, err error) {
	if !errors.Is(err, context.Canceled) {
		k.t.Errorf("%s ended: %v", what, err)
	}
}

func (k *keeper) run() {
	looked := false
	for {
		select {
		case <-k.ctx.Done():
			return
		case <-k.kick:
		}
		watching := k.watching.Load()
		k.Applies.Add(1)
		changed, err := k.apply(k.ctx)
		if changed {
			k.Changes.Add(1)
		}
		if err != nil && k.ctx.Err() == nil {
			k.t.Logf("apply: %v", err)
			time.AfterFunc(50*time.Millisecond, k.poke)
		}
		if watching && !looked {
			looked = true
			close(k.looked)
		}
	}
}

// Rests waits for a second in which nothing asks for a run: what runs write themselves causes no others.
func (k *Kept) Rests(t testing.TB) {
	t.Helper()
	runs, since := k.Applies.Load(), time.Now()
	Eventually(t, 10*time.Second, "a second without a run, while nothing changes", func() bool {
		if n := k.Applies.Load(); n != runs {
			runs, since = n, time.Now()
		}
		return time.Since(since) >= time.Second
	})
}

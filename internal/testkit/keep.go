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
	// Watch calls kick when something else does, until ctx ends, whose error it returns.
	Watch(ctx context.Context, kick func()) error
}

// Keep runs what the node service runs around a driver, until the test ends: the namespace's events to
// Observe, and what asks for a run to apply, which is called by one goroutine, tells whether it changed
// something, and is called again a little later when it fails.
func Keep(t testing.TB, ns NS, d Watcher, apply func(context.Context) (changed bool, err error)) *Kept {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	monitor, err := kernel.NewMonitor(ctx, ns.Path)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	kick := make(chan struct{}, 1)
	poke := func() {
		select {
		case kick <- struct{}{}:
		default:
		}
	}
	ended := func(what string, err error) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s ended: %v", what, err)
		}
	}
	var k Kept
	var wg sync.WaitGroup
	wg.Go(func() {
		ended("the monitor", monitor.Run(ctx, func(e kernel.Event) {
			if d.Observe(e) {
				poke()
			}
		}))
	})
	wg.Go(func() { ended("the driver's watch", d.Watch(ctx, poke)) })
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-kick:
			}
			k.Applies.Add(1)
			changed, err := apply(ctx)
			if changed {
				k.Changes.Add(1)
			}
			if err != nil && ctx.Err() == nil {
				t.Logf("apply: %v", err)
				time.AfterFunc(50*time.Millisecond, poke)
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return &k
}

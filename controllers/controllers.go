// Package controllers cleans up after what nobody looks after any more, for the whole cluster: what nodes leave behind
// that are gone, and addresses that nobody has. It works on the store's contract alone, and every action of it is a
// compare-and-swap on what it decided by, so that several of it at once do no harm and need no leader; they only do the
// same work twice.
//
// It owns no address and no endpoint: what a running node has, that node puts back (package node/cni, Keeper). What is
// known of the pods of a node that runs is that node's word.
package controllers

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weft/node/datastore"
	"weft/node/status"
)

// DefaultGrace is how long something has to be without an owner before it goes, and DefaultInterval the time between two
// looks.
const (
	DefaultGrace    = 15 * time.Minute
	DefaultInterval = 5 * time.Minute
)

// Config is what the controllers need. Store is required.
type Config struct {
	Store datastore.Store
	// Grace is how long something has to be without an owner. When 0 it is leakGracePeriod of the
	// KubeControllersConfiguration, else DefaultGrace.
	Grace time.Duration
	// Interval is the time between two looks at the whole store. When 0 it is reconcilerPeriod of the
	// KubeControllersConfiguration, else DefaultInterval.
	Interval time.Duration
	// Version is what this process says of itself.
	Version string
	// Health and Metrics are host:port of /livez and /readyz, and of /metrics; empty: none.
	Health, Metrics string
	Log             *slog.Logger // optional

	// settle, if not 0, stands for the minute that an ADD may take; for tests.
	settle time.Duration
	// hasty, for the control of tests, acts at the first look and does not look again.
	hasty bool
}

// controllers is what runs.
type controllers struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	sweeper *sweeper
	hosts   *hosts

	mu   sync.Mutex
	last time.Time // of a look that succeeded
	err  error     // of the last look
}

func newControllers(cfg Config) *controllers {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &controllers{cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Version)}
	c.sweeper, c.hosts = newSweeper(cfg, c.metrics), newHosts(cfg, c.metrics)
	return c
}

// Run works until ctx ends. It waits for a store that is away.
func Run(ctx context.Context, cfg Config) error {
	c := newControllers(cfg)
	c.log.Info("weft controllers start", "version", cfg.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.serve(ctx) })
	g.Go(func() error { return c.sweep(ctx) })
	g.Go(func() error { return c.hosts.follow(ctx) })
	g.Go(func() error { return c.hosts.runner.Run(ctx) })
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

const retryMin, retryMax = time.Second, time.Minute

// sweep looks at the store at every interval, and again soon when a look failed.
func (c *controllers) sweep(ctx context.Context) error {
	pause := retryMin
	for {
		wait, err := c.sweeper.look(ctx, time.Now())
		c.note(err)
		if err != nil {
			if ctx.Err() == nil {
				c.log.Warn("a look at the store failed, will try again", "err", err)
			}
			wait, pause = pause, min(2*pause, retryMax)
		} else {
			pause = retryMin
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (c *controllers) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.last = time.Now()
	}
	c.metrics.looked(err)
}

// checks is for /readyz.
func (c *controllers) checks() []status.Check {
	c.mu.Lock()
	defer c.mu.Unlock()
	check := status.Check{Name: "store", OK: c.err == nil && !c.last.IsZero(), Reason: "the store was looked at " + c.last.Format(time.RFC3339)}
	switch {
	case c.err != nil:
		check.Reason = c.err.Error()
	case c.last.IsZero():
		check.Reason = "the store has not been looked at yet"
	}
	return []status.Check{check}
}

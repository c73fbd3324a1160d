// Package controllers cleans up after what nobody looks after any more, for the whole cluster: what nodes leave behind
// that are gone, and addresses that nobody has. It works on the store's contract alone, on etcd as on Kubernetes.
// Of several, one acts: a lease in the store says which. Every action is a compare-and-swap on what it was decided by
// besides, so that even two at once would do no harm.
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

	// times of the election, for tests.
	times timings
	// settle, if not 0, stands for the minute that an ADD may take; for tests.
	settle time.Duration
	// hasty, for the control of tests, acts at the first look and does not look again.
	hasty bool
}

// inventory is what the store knows of the cluster's hosts, where it does.
func (c *Config) inventory() (datastore.Inventory, bool) {
	i, ok := unfenced(c.Store).(datastore.Inventory)
	return i, ok
}

// unfenced is the store itself, to ask what else it is.
func unfenced(s datastore.Store) datastore.Store {
	if f, ok := s.(*fenced); ok {
		return f.Store
	}
	return s
}

// controllers is what runs.
type controllers struct {
	cfg      Config
	log      *slog.Logger
	metrics  *metrics
	election *election // nil: the store keeps no leases

	mu   sync.Mutex
	last time.Time // of a look that succeeded
	err  error     // of the last look
}

func newControllers(cfg Config) *controllers {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &controllers{cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Version)}
	if l, ok := cfg.Store.(datastore.Leaser); ok {
		c.election = newElection(l, cfg, c.metrics.lead)
	}
	return c
}

// Run works until ctx ends. It waits for a store that is away, and while another process leads.
func Run(ctx context.Context, cfg Config) error {
	c := newControllers(cfg)
	c.log.Info("weft controllers start", "version", cfg.Version)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.serve(ctx) })
	g.Go(func() error {
		if c.election == nil {
			return c.act(ctx)
		}
		return c.election.run(ctx, c.act)
	})
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// act does all the work, for as long as this process leads: until ctx ends. What was seen in an earlier term counts for
// nothing.
func (c *controllers) act(ctx context.Context) error {
	cfg := c.cfg
	if c.election != nil {
		cfg.Store = &fenced{cfg.Store, c.election.leads}
	}
	cfg.Log = c.log
	s, h, guard, says := newSweeper(cfg, c.metrics), newHosts(cfg, c.metrics), newGuards(cfg), newAccepter(cfg, c.metrics)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.sweep(ctx, s) })
	g.Go(func() error { return h.follow(ctx, c.cfg.Store) })
	g.Go(func() error { return h.runner.Run(ctx) })
	g.Go(func() error { return guard.follow(ctx, c.cfg.Store) })
	g.Go(func() error { return guard.runner.Run(ctx) })
	g.Go(func() error { return says.follow(ctx, c.cfg.Store) })
	g.Go(func() error { return says.runner.Run(ctx) })
	return g.Wait()
}

const retryMin, retryMax = time.Second, time.Minute

// sweep looks at the store at every interval, and again soon when a look failed.
func (c *controllers) sweep(ctx context.Context, s *sweeper) error {
	pause := retryMin
	for {
		wait, err := s.look(ctx, time.Now())
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

// checks is for /readyz. One that does not lead is ready when it knows who does.
func (c *controllers) checks() []status.Check {
	if c.election != nil && !c.election.leads() {
		holder, err := c.election.holder()
		check := status.Check{Name: "store", OK: err == nil && holder != "", Reason: "another process leads: " + holder}
		switch {
		case err != nil:
			check.Reason = err.Error()
		case holder == "":
			check.Reason = "nobody is known to lead yet"
		}
		return []status.Check{check}
	}
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

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/rotation"
)

const (
	// lookPause is how often a node looks whether the keys are due; at what it knows already.
	lookPause = 30 * time.Second
	// spread is the longest that a node waits, by chance, when they are: of thousands, few ask the store.
	spread = time.Minute
	// notYetPause is how long it waits when an earlier rotation is not over.
	notYetPause = 5 * time.Minute
)

// rotator rotates the cluster's keys when they are as old as wireguardKeyRotationPeriod says. All nodes have one; the
// store decides whose it is.
type rotator struct {
	log     *slog.Logger
	store   datastore.Store
	cluster *cluster
	over    func() bool   // the rollout is
	period  time.Duration // if not 0, stands for the period that is set; for tests

	mu      sync.Mutex
	trouble string
}

// run looks after the keys' age until ctx ends.
func (r *rotator) run(ctx context.Context) error {
	for {
		wait := r.look(ctx)
		if r.period > 0 {
			wait = min(wait, r.period/4)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// look does what is due and returns when to look again.
func (r *rotator) look(ctx context.Context) time.Duration {
	due, period := r.due(time.Now())
	if !due {
		r.note("")
		return lookPause
	}
	select { // then somebody else may have been there
	case <-ctx.Done():
		return 0
	case <-time.After(rand.N(min(spread, period/10+1))):
	}
	if due, _ = r.due(time.Now()); !due {
		return lookPause
	}
	if err := r.under(); err != nil {
		r.note(err.Error())
		return lookPause
	}
	_, begun, err := rotation.Follow(ctx, r.store, time.Now(), r.period)
	var notYet *rotation.NotYetError
	switch {
	case errors.As(err, &notYet):
		r.note(err.Error())
		return min(notYetPause, period)
	case err != nil && ctx.Err() == nil:
		r.note(fmt.Sprintf("the keys are due to rotate: %v", err))
	case begun != nil:
		r.log.Info("the keys rotate, since their period is over", "epoch", begun.To, "nodes", begun.Nodes, "period", period)
		fallthrough
	default:
		r.note("")
	}
	return lookPause
}

// due tells, by what this node knows, whether there is something to do, and the period.
func (r *rotator) due(now time.Time) (bool, time.Duration) {
	f, on := r.cluster.defaultFelix()
	period := rotation.Period(f)
	if period == 0 || !on {
		return false, 0
	}
	if r.period > 0 {
		period = r.period
	}
	since, known := rotation.Since(f)
	return !known || now.Sub(since) >= period, period
}

// under says what is under way, by what this node knows, that the next epoch has to wait for.
func (r *rotator) under() error {
	if !r.over() {
		return errors.New("the keys are due to rotate: encryption is not on for good yet")
	}
	s, _, ok := r.cluster.snapshot()
	if !ok {
		return errors.New("the keys are due to rotate: the store has not been read")
	}
	for name, n := range s.Nodes {
		for _, k := range n.Keys {
			if k.Epoch != s.Encryption.Epoch {
				return fmt.Errorf("the keys are due to rotate: node %s still has the key of epoch %d", name, k.Epoch)
			}
		}
	}
	return nil
}

func (r *rotator) note(trouble string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if trouble != "" && trouble != r.trouble {
		r.log.Info("keys do not rotate yet", "why", trouble)
	}
	r.trouble = trouble
}

// problems is for status.
func (r *rotator) problems() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.trouble == "" {
		return nil
	}
	return []string{r.trouble}
}

// defaultFelix returns the FelixConfiguration "default", nil when there is none, and whether this node is to
// encrypt.
func (c *cluster) defaultFelix() (f *v3.FelixConfiguration, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.encryptionSettings()
	return c.felix["default"], e.Any() && c.everSynced
}

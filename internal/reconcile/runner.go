package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"
)

// RunnerOptions are a Runner's timings.
type RunnerOptions struct {
	// Settle is how long a run waits for more kicks before it starts; 0 starts at once. Kicks
	// that arrive during a run are joined into the next.
	Settle time.Duration
	// RetryMin and RetryMax bound the pause after a failed run; it doubles from one to the other.
	RetryMin, RetryMax time.Duration
	// Resync is the period of full runs, which read everything again. A safety net only: events
	// are what repairs.
	Resync time.Duration
}

// Runner calls one function whenever it is kicked, never twice at a time: it coalesces, retries
// with growing pauses, and makes a slow full run now and then.
type Runner struct {
	run  func(ctx context.Context, full bool) error
	opts RunnerOptions
	kick chan struct{}
	// ended is closed when Run has returned: nothing more will be done.
	ended chan struct{}

	mu      sync.Mutex
	asked   uint64        // kicks so far
	done    uint64        // kicks that a finished run has covered
	lastErr error         // of the run that covered them
	changed chan struct{} // closed and replaced when done moves
	full    bool
}

// NewRunner returns a Runner of f that does nothing until Run.
func NewRunner(f func(ctx context.Context, full bool) error, opts RunnerOptions) *Runner {
	return &Runner{run: f, opts: opts, kick: make(chan struct{}, 1), ended: make(chan struct{}), changed: make(chan struct{})}
}

// Kick asks for a run.
func (r *Runner) Kick() { r.ask(false) }

// KickFull asks for a run that reads everything again.
func (r *Runner) KickFull() { r.ask(true) }

func (r *Runner) ask(full bool) uint64 {
	r.mu.Lock()
	r.asked++
	n := r.asked
	r.full = r.full || full
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	return n
}

// Await kicks and returns when a run that began after this call has finished, with that run's
// error. It is how a caller knows that what it changed before is in the kernel. Once Run has ended it
// returns ErrEnded.
func (r *Runner) Await(ctx context.Context) error {
	n := r.ask(false)
	for {
		r.mu.Lock()
		done, err, changed := r.done, r.lastErr, r.changed
		r.mu.Unlock()
		if done >= n {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-r.ended:
			return ErrEnded
		}
	}
}

// ErrEnded tells that the Runner does nothing any more.
var ErrEnded = errors.New("the service is stopping")

// Run loops until ctx ends and returns its cause. It is called once.
func (r *Runner) Run(ctx context.Context) error {
	defer close(r.ended)
	resync := time.NewTimer(r.opts.Resync)
	defer resync.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	pause := r.opts.RetryMin
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-r.kick:
		case <-retry.C:
		case <-resync.C:
			r.mu.Lock()
			r.full = true
			r.mu.Unlock()
		}
		if r.opts.Settle > 0 {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(r.opts.Settle):
			}
		}
		r.mu.Lock()
		asked, full := r.asked, r.full
		r.full = false
		r.mu.Unlock()
		err := r.run(ctx, full)
		retry.Stop()
		if err != nil {
			retry.Reset(pause)
			pause = min(2*pause, r.opts.RetryMax)
		} else {
			pause = r.opts.RetryMin
		}
		if full {
			resync.Reset(r.opts.Resync)
		}
		r.mu.Lock()
		r.done, r.lastErr = asked, err
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

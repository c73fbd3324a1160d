package node

import (
	"context"
	"time"

	"weft/internal/reconcile"
	"weft/tunnel"
)

// linger is how long a tunnel device that no pool asks for any more still receives: peers learn of
// the change at different moments, and what they send until then is not lost.
const linger = 10 * time.Second

// remover takes a tunnel driver's devices away once nothing has wanted them for a while. One
// goroutine uses it.
type remover struct {
	driver tunnelDriver
	kick   func() // asks for another run
	now    func() time.Time
	since  time.Time // when it was first seen that nothing wants them; zero: something does
}

func (r *remover) apply(ctx context.Context, wanted bool) (reconcile.Result, error) {
	switch now := r.now(); {
	case wanted:
		r.since = time.Time{}
	case r.since.IsZero():
		r.since = now
		time.AfterFunc(linger, r.kick)
	case now.Sub(r.since) >= linger:
		return r.driver.Apply(ctx, tunnel.Plan{})
	}
	return reconcile.Result{}, nil
}

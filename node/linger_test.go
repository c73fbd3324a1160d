package node

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/tunnel"
)

// countingDriver counts the zero plans that it is given.
type countingDriver struct{ removals int }

func (c *countingDriver) Apply(_ context.Context, p tunnel.Plan) (reconcile.Result, error) {
	if len(p.Links) == 0 {
		c.removals++
	}
	return reconcile.Result{}, nil
}
func (*countingDriver) Observe(kernel.Event) bool           { return false }
func (*countingDriver) Invalidate()                         {}
func (*countingDriver) Watch(context.Context, func()) error { return nil }

func TestDevicesLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &countingDriver{}
		kicks := 0
		r := &remover{driver: d, kick: func() { kicks++ }, now: time.Now}
		run := func(wanted bool) {
			if _, err := r.apply(t.Context(), wanted); err != nil {
				t.Fatal(err)
			}
		}
		run(true)
		run(false)
		time.Sleep(linger / 2)
		run(false)
		if d.removals != 0 {
			t.Errorf("removed %v after it was no longer wanted, want %v", linger/2, linger)
		}
		run(true) // wanted again: the wait begins anew
		run(false)
		time.Sleep(linger * 3 / 4)
		run(false)
		if d.removals != 0 {
			t.Error("the wait did not begin anew")
		}
		time.Sleep(linger)
		run(false)
		if d.removals != 1 || kicks != 2 {
			t.Errorf("got %d removals and %d kicks, want 1 and 2", d.removals, kicks)
		}
	})
}

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// An entry whose connection is in a flow table cannot be deleted before Linux 6.4 (EBUSY); the kernel takes it out some
// time after Flush has returned.
const (
	busyPause    = 20 * time.Millisecond
	busyAttempts = 25
)

// flush sees to it that what was marked meets the rule that drops it.
func (c *Cutter) flush(ctx context.Context) error {
	if c.opts.Flush == nil || !c.bypassed {
		c.bypassed = false
		return nil
	}
	if err := c.opts.Flush(ctx); err != nil {
		return fmt.Errorf("take connections out of the flow table: %w", err)
	}
	c.bypassed = false
	return nil
}

// end deletes entries. Those that may be in a flow table are marked first, which keeps them out of it for good; where
// the kernel has no marks, it has no rule that offloads either.
func (c *Cutter) end(ctx context.Context, end, shut []write) (ended int, err error) {
	if c.opts.Flush == nil || len(end) == 0 {
		return c.table.do(ctx, end)
	}
	c.bypassed = true
	if _, err := c.table.do(ctx, shut); err != nil && !c.deletes {
		return 0, err
	}
	return emptied(ctx, c.flush, func() (int, error) { return c.table.do(ctx, end) })
}

// emptied deletes after each flush, until what is deleted is in no flow table any more.
func emptied(ctx context.Context, flush func(context.Context) error, del func() (int, error)) (ended int, err error) {
	for range busyAttempts {
		if err := flush(ctx); err != nil {
			return ended, err
		}
		n, err := del() // those that are gone by now count for nothing
		ended += n
		if !errors.Is(err, unix.EBUSY) {
			return ended, err
		}
		select {
		case <-ctx.Done():
			return ended, ctx.Err()
		case <-time.After(busyPause):
		}
	}
	return ended, fmt.Errorf("delete entries of connection tracking: %w", unix.EBUSY)
}

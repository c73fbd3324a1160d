// Package nftables makes the kernel translate addresses as a nat.Plan wants it, by rules of its own in
// the project's nftables table. It decides nothing, and does not filter but for packets that the kernel
// cannot translate.
package nftables

import (
	"context"
	"log/slog"
	"sync"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/nat"
)

// prefix begins the names of what the driver owns in the table kernel.NFTable.
const prefix = "nat-"

// Driver keeps the NAT rules. Its methods may be called by any goroutine.
type Driver struct {
	log   *slog.Logger
	owner *nft.Owner

	mu   sync.Mutex // one Apply at a time
	held bool       // our hook into the kernel's NAT is there, as far as we know
	seen bool       // held was looked up
	last *nat.Plan  // of the last Apply; nil when it failed
}

// New returns a Driver that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger) *Driver {
	return &Driver{log: log, owner: nft.New(h, prefix, nil)}
}

// Close releases the Driver's socket and leaves the kernel as it is.
func (d *Driver) Close() { d.owner.Close() }

// Apply makes the kernel translate as p wants. Each change is one transaction, and only what differs is
// sent; connections that are translated already stay as they are. The zero plan removes all, and ends
// such connections. It returns every error; the next call is the retry.
func (d *Driver) Apply(ctx context.Context, p nat.Plan) (reconcile.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.Hold && !d.seen {
		there, err := d.owner.HasChain(ctx, chainPost)
		if err != nil {
			return reconcile.Result{}, err
		}
		d.held, d.seen = there, true
	}
	want := program(p, d.held)
	var res reconcile.Result
	var err error
	if d.last != nil && sameButHosts(*d.last, p) {
		res, err = d.owner.Apply(ctx, want, hostsUpdate(*d.last, p))
	} else {
		res, err = d.owner.Sync(ctx, want)
	}
	if err != nil {
		d.seen, d.last = false, nil
		return res, err
	}
	d.held, d.seen, d.last = !want.Empty(), true, &p
	if res.Zero() {
		d.log.Debug("nat applied", "result", res)
	} else {
		d.log.Info("nat applied", "added", res.Added, "changed", res.Changed, "removed", res.Removed, "repaired", res.Repaired)
	}
	return res, nil
}

// Observe tells whether the event undoes something of the Driver's. None does: nftables has events of
// its own, see Watch.
func (d *Driver) Observe(kernel.Event) bool { return false }

// Invalidate makes the next Apply look at what is there.
func (d *Driver) Invalidate() { d.owner.Invalidate() }

// Watch calls kick when somebody else changed the Driver's rules or sets, until ctx ends, whose error
// it returns. The next Apply then repairs them.
func (d *Driver) Watch(ctx context.Context, kick func()) error { return d.owner.Watch(ctx, kick) }

// Dropped returns how many packets were dropped since they would have left with a pod's address.
func (d *Driver) Dropped(ctx context.Context) (uint64, error) {
	return d.owner.Counter(ctx, counterInvalid)
}

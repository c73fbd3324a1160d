package offload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/policy"
)

// Driver keeps the flow table. Its methods may be called by any goroutine.
type Driver struct {
	h     *kernel.Handle
	log   *slog.Logger
	owner *nft.Owner

	following sync.Mutex  // one Follow at a time; taken before mu
	behind    bool        // the last Follow failed
	each      atomic.Bool // policy asks about each packet; only Follow changes it

	mu    sync.Mutex // one change at a time; guards what follows
	plan  Plan
	have  map[string]link // devices of the flow table, as they were when it was written
	lacks error
	retry bool // ask the kernel once more for what it lacks

	known atomic.Pointer[known] // for those who wait for nobody
}

// known is how things were after the last change.
type known struct {
	plan  Plan
	have  map[string]link
	lacks error
}

// link is what flows know of a device: a new one of the same name, or with another MTU, asks for new flows.
type link struct{ index, mtu int }

// New returns a Driver that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger) *Driver {
	d := &Driver{h: h, log: log, owner: nft.New(h, prefix, nil)}
	d.known.Store(&known{})
	return d
}

// Close releases the sockets and leaves the kernel as it is: established connections go on.
func (d *Driver) Close() { d.owner.Close() }

// Watch calls kick when somebody else changed what is the Driver's, until ctx ends, whose error it returns.
func (d *Driver) Watch(ctx context.Context, kick func()) error { return d.owner.Watch(ctx, kick) }

// Invalidate makes the next Apply look at what is there.
func (d *Driver) Invalidate() {
	d.owner.Invalidate()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.retry = true
}

// Observe tells whether the event is about a device of the Plan that came, went or changed its MTU.
func (d *Driver) Observe(ev kernel.Event) bool {
	if ev.Kind != kernel.EventLink {
		return false
	}
	k := d.known.Load()
	had, is := k.have[ev.Link.Name]
	if ev.Removed || is {
		return is && (ev.Removed || had != link{ev.Link.Index, ev.Link.MTU})
	}
	return slices.Contains(k.plan.Pods, ev.Link.Name) || slices.Contains(k.plan.Other, ev.Link.Name)
}

// Apply makes the flow table take the connections of the Plan's devices, those that there are; the zero Plan removes it.
// On a kernel that has no flow tables nothing is done, which is no error: see Lacks.
func (d *Driver) Apply(ctx context.Context, p Plan) (reconcile.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan = p
	return d.write(ctx, false)
}

// Follow is told of a Program before the kernel enforces it. Where policy asks about each packet, and not about the first
// of a connection only (untracked policies of host endpoints), nothing may get by: the flow table goes, before Follow returns.
// Only where that differs from before Follow waits for other changes: of policy, none shall wait for one of routes.
func (d *Driver) Follow(ctx context.Context, p *policy.Program) error {
	each := asksEach(p)
	d.following.Lock()
	defer d.following.Unlock()
	if each == d.each.Load() && !d.behind {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.each.Store(each)
	_, err := d.write(ctx, false)
	d.behind = err != nil
	return err
}

func asksEach(p *policy.Program) bool {
	if p == nil {
		return false
	}
	for _, h := range p.Hosts {
		for i := range h.Untracked {
			if len(h.Untracked[i].Tiers)+len(h.Untracked[i].Profiles) > 0 {
				return true
			}
		}
	}
	return false
}

// Flush takes all connections out of the flow table: when it returns, the next packet of each meets all rules. Those
// that get as far as the Driver's chain are put back.
func (d *Driver) Flush(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.write(ctx, true)
	return err
}

// Devices tells of how many devices connections are offloaded.
func (d *Driver) Devices() int { return len(d.known.Load().have) }

// Refuses tells that nothing is offloaded since policy asks about each packet.
func (d *Driver) Refuses() bool { return d.each.Load() }

// Lacks tells what the kernel lacks for the last Plan; nil: nothing.
func (d *Driver) Lacks() error { return d.known.Load().lacks }

// attempts bounds how often a transaction is made anew since a device went while it was put together.
const attempts = 4

func (d *Driver) write(ctx context.Context, empty bool) (res reconcile.Result, err error) {
	defer func() { d.known.Store(&known{d.plan, d.have, d.lacks}) }()
	if d.lacks != nil && !d.retry {
		return reconcile.Result{}, nil
	}
	d.retry = false
	lacks := ""
	for range attempts {
		var links map[string]link
		if res, links, err = d.writeOnce(ctx, empty); err == nil {
			return res, nil
		}
		if lacks = d.lacking(ctx, err, links); lacks != "" || !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	// Whatever is wrong: no packet may get by what rules say by now.
	_, gone := d.owner.Sync(ctx, nft.Program{})
	d.have = nil
	if gone == nil && lacks != "" {
		if d.lacks == nil {
			d.log.Warn("flows are not offloaded, since this kernel lacks what that needs", "lacks", lacks, "err", err)
		}
		d.lacks = fmt.Errorf("this kernel lacks %s", lacks) // the log has the rest
		return reconcile.Result{}, nil
	}
	return res, errors.Join(fmt.Errorf("flow table: %w", err), gone)
}

// writeOnce makes the kernel have what is wanted of the devices that there are, which it returns.
func (d *Driver) writeOnce(ctx context.Context, empty bool) (res reconcile.Result, links map[string]link, err error) {
	want, links := d.plan, map[string]link{}
	if d.each.Load() {
		want = Plan{}
	}
	if len(want.Pods) > 0 {
		there, err := d.links(ctx)
		if err != nil {
			return res, nil, err
		}
		want = want.on(func(name string) bool { _, is := there[name]; return is })
		for _, list := range [][]string{want.Pods, want.Other} {
			for _, name := range list {
				links[name] = there[name]
			}
		}
	}
	for name, l := range d.have {
		now, is := links[name]
		empty = empty || is && now != l // the flow table has a hook on the device of before, or its MTU
	}
	res, err = d.owner.Sync(ctx, program(want))
	if err == nil && empty {
		err = d.owner.Rewrite(ctx)
	}
	if err != nil {
		return res, links, err
	}
	if (len(links) > 0) != (len(d.have) > 0) {
		d.log.Info("flow offload", "devices", len(links))
	}
	if len(links) > 0 {
		d.lacks = nil
	}
	d.have = links
	return res, links, nil
}

func (d *Driver) links(ctx context.Context) (map[string]link, error) {
	all, err := d.h.Links(ctx)
	if err != nil {
		return nil, err
	}
	there := map[string]link{}
	for _, l := range all {
		there[l.Name] = link{l.Index, l.MTU}
	}
	return there, nil
}

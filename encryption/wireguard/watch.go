package wireguard

import (
	"context"
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

const (
	// lookInterval is between two looks whether somebody changed key, port or peers, for which there are no
	// events. A process is asked for a number; the kernel's device is read in full, as seldom as one part in
	// lookShare of a processor demands.
	lookInterval = 500 * time.Millisecond
	lookShare    = 2000
)

// Observe tells whether the event is a change by somebody else to something of ours, so that Apply
// should be called. It costs nothing for what is not ours.
func (d *Driver) Observe(e kernel.Event) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.Kind {
	case kernel.EventLost:
		d.fresh = false
		for _, dev := range d.devices {
			dev.invalidate()
		}
		return true
	case kernel.EventLink:
		for name, dev := range d.devices {
			if e.Link.Index == dev.index || e.Link.Name == name {
				// What changed, the event does not tell in full; echoes of our own changes cost one reading of the
				// links.
				d.fresh = false
				return true
			}
		}
	case kernel.EventAddr:
		if dev := d.devices[e.Link.Name]; dev != nil && !e.Addr.Addr().IsLinkLocalUnicast() {
			return dev.addrs.Observe(kernel.AddrKey{Device: e.Link.Name, Prefix: e.Addr}, struct{}{}, e.Removed)
		}
	}
	return false
}

// onDeath is called when a process ended that nobody told to.
func (d *Driver) onDeath(p *process) {
	d.log.Warn("the process of a WireGuard device ended", "device", p.Name, "pid", p.PID, "after", time.Since(p.Since).Round(time.Millisecond))
	d.mu.Lock()
	d.fresh = false
	if dev := d.devices[p.Name]; dev != nil {
		dev.have = nil
	}
	d.mu.Unlock()
	d.ask()
}

// Watch calls kick when something of ours changed that kernel.Watch does not carry (the end of a process,
// by an event; key, port and peers, by looking), until ctx ends, whose error it returns. The next Apply
// then repairs it.
func (d *Driver) Watch(ctx context.Context, kick func()) error {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.again:
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(d.procs.wait()):
			}
			kick()
		case <-tick.C:
			if !d.look(ctx) {
				kick()
			}
		}
	}
}

// look tells whether the devices are configured as the last Apply left them.
func (d *Driver) look(ctx context.Context) bool {
	d.running.Lock()
	defer d.running.Unlock()
	type known struct {
		dev  *device
		have *state
	}
	var all []known
	d.mu.Lock()
	for _, dev := range d.devices {
		if d.fresh && dev.have != nil {
			all = append(all, known{dev, dev.have})
		}
	}
	d.mu.Unlock()
	hold := true
	for _, k := range all {
		ok, err := d.lookAt(ctx, k.dev, k.have)
		if ok && err == nil {
			err = d.greetSome(ctx, k.dev)
		}
		if ctx.Err() != nil {
			return true
		}
		if ok && err == nil {
			continue
		}
		if err != nil {
			d.log.Warn("cannot look at the WireGuard device", "device", k.dev.want.Name, "error", err)
		} else {
			d.log.Warn("somebody configured the WireGuard device", "device", k.dev.want.Name)
		}
		d.mu.Lock()
		d.fresh, k.dev.have = false, nil
		d.mu.Unlock()
		hold = false
	}
	return hold
}

func (d *Driver) lookAt(ctx context.Context, dev *device, have *state) (bool, error) {
	if c, ok := d.control.(*socketControl); ok {
		revision, err := c.revision(ctx, dev.want.Name)
		return revision == have.revision, err
	}
	if time.Now().Before(dev.lookNext) {
		return true, nil
	}
	var now *state
	cost, err := processorTime(func() (err error) {
		now, err = d.control.read(ctx, dev.want.Name)
		return err
	})
	dev.lookNext = time.Now().Add(lookShare * cost)
	return err == nil && have.holds(now), err
}

// processorTime returns how much processor time f takes.
func processorTime(f func() error) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Timespec
	err1 := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &before)
	err := f()
	err2 := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &after)
	return time.Duration(after.Nano() - before.Nano()), errors.Join(err, err1, err2)
}

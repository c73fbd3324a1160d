package vxlan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/tunnel"
	"weft/tunnel/guard"
)

// Driver makes the kernel look like the VXLAN part of a tunnel plan. Apply is called by one
// goroutine; Observe, Watch and Dropped by any.
type Driver struct {
	h     *kernel.Handle
	log   *slog.Logger
	guard *guard.Guard

	mu      sync.Mutex // for Observe: guards what follows
	devices map[string]*device
	// fresh is false when the links must be read before they can be believed.
	fresh bool
}

// New returns a Driver that works through h, in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle, log *slog.Logger) *Driver {
	return &Driver{h: h, log: log, guard: guard.New(h, tunnel.VXLAN), devices: map[string]*device{}}
}

// Close releases the Driver's sockets and leaves the kernel as it is.
func (d *Driver) Close() { d.guard.Close() }

// Dropped returns how many packets the guard refused.
func (d *Driver) Dropped(ctx context.Context) (guard.Dropped, error) { return d.guard.Dropped(ctx) }

// Watch calls kick when somebody else changed the guard, until ctx ends, whose error it returns.
// The next Apply then repairs it.
func (d *Driver) Watch(ctx context.Context, kick func()) error { return d.guard.Watch(ctx, kick) }

// Invalidate makes the next Apply read everything again; of the guard, while Watch runs, only the
// outline.
func (d *Driver) Invalidate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh = false
	d.guard.Invalidate()
	for _, dev := range d.devices {
		dev.invalidate()
	}
}

// Apply makes devices, addresses, neighbours, forwarding entries and the guard as p wants them; of
// p it reads only the part of VXLAN. The zero plan removes all. It returns every error; the next
// call is the retry.
//
// The order: the guard opens for what is wanted before a device can receive, a device has its
// neighbours and forwarding entries before it comes up, and the guard goes last.
func (d *Driver) Apply(ctx context.Context, p tunnel.Plan) (reconcile.Result, error) {
	p = p.For(tunnel.VXLAN)
	d.mu.Lock()
	believe := d.fresh
	d.fresh = true // until Observe says otherwise
	d.mu.Unlock()
	var res reconcile.Result
	var err error
	if believe && d.sameLinks(p.Links) {
		// Only entries can differ, unless a device went and its event is still under way: then
		// this fails.
		if res, err = d.applyAll(ctx, nil, p); err == nil {
			return res, nil
		}
		d.log.Debug("vxlan entries refused, reading the links", "error", err)
		d.mu.Lock()
		d.fresh = true
		d.mu.Unlock()
	}
	there, err := d.inventory(ctx)
	if err == nil {
		var more reconcile.Result
		more, err = d.applyAll(ctx, there, p)
		res = res.Add(more)
	}
	if err != nil {
		d.mu.Lock()
		d.fresh = false
		d.mu.Unlock()
	}
	d.report(res)
	return res, err
}

// applyAll goes through the parts in order. there is nil when the links are known to be as the
// last Apply left them.
func (d *Driver) applyAll(ctx context.Context, there *inventory, p tunnel.Plan) (reconcile.Result, error) {
	// Whatever can receive now, and whatever will: so that no device is ever without a guard.
	res, err := d.guard.Apply(ctx, endpoints(p.Links, there.ours()), p.Sources)
	if err != nil {
		return res, err
	}
	if there != nil {
		if err := d.arrange(ctx, there, p.Links); err != nil {
			return res, err
		}
	}
	var errs []error
	var taken []guard.Endpoint
	for _, l := range p.Links {
		r, err := d.applyDevice(ctx, there, l, p)
		res, errs = res.Add(r), append(errs, err)
		if errors.Is(err, unix.EADDRINUSE) {
			taken = append(taken, guard.VXLAN(l.Port, l.VNI))
		}
	}
	if there != nil {
		r, err := d.removeOthers(ctx, there, p.Links)
		res, errs = res.Add(r), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		if len(taken) > 0 {
			// What comes to a port that another program has is not for the guard to judge. The
			// device is down.
			open := slices.DeleteFunc(endpoints(p.Links, there.ours()), func(e guard.Endpoint) bool { return slices.Contains(taken, e) })
			_, closed := d.guard.Apply(ctx, open, p.Sources)
			err = errors.Join(err, closed)
		}
		return res, err
	}
	r, err := d.guard.Apply(ctx, endpoints(p.Links, nil), p.Sources)
	return res.Add(r), err
}

func (d *Driver) report(res reconcile.Result) {
	if res.Zero() {
		d.log.Debug("vxlan applied", "result", res)
		return
	}
	d.log.Info("vxlan applied", "added", res.Added, "changed", res.Changed, "removed", res.Removed, "repaired", res.Repaired)
}

// sameLinks tells whether the last Apply wanted the same devices.
func (d *Driver) sameLinks(links []tunnel.Link) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(links) != len(d.devices) {
		return false
	}
	for _, l := range links {
		if dev := d.devices[l.Name]; dev == nil || !equalLink(dev.want, l) {
			return false
		}
	}
	return true
}

func equalLink(a, b tunnel.Link) bool {
	if !slices.Equal(a.Addresses, b.Addresses) {
		return false
	}
	a.Addresses, b.Addresses = nil, nil
	return a.Driver == b.Driver && a.Name == b.Name && a.Local == b.Local && a.Parent == b.Parent &&
		a.MAC == b.MAC && a.MTU == b.MTU && a.VNI == b.VNI && a.Port == b.Port
}

func endpoints(links []tunnel.Link, there []kernel.VXLAN) []guard.Endpoint {
	var e []guard.Endpoint
	for _, l := range links {
		e = append(e, guard.VXLAN(l.Port, l.VNI))
	}
	for _, v := range there {
		if v.Port > 0 {
			e = append(e, guard.VXLAN(v.Port, v.VNI))
		}
	}
	return e
}

// inventory is what VXLAN devices and other links the namespace has.
type inventory struct {
	vxlans  []kernel.VXLAN
	links   map[string]kernel.Link
	matched map[string]int // by name of the plan's link: its device's place in vxlans
	renamed map[int]bool   // by index of the interface
}

func (d *Driver) inventory(ctx context.Context) (*inventory, error) {
	vxlans, err := d.h.VXLANs(ctx)
	if err != nil {
		return nil, err
	}
	links, err := d.h.Links(ctx)
	if err != nil {
		return nil, err
	}
	inv := &inventory{vxlans: vxlans, links: make(map[string]kernel.Link, len(links)), renamed: map[int]bool{}}
	for _, l := range links {
		inv.links[l.Name] = l
	}
	return inv, nil
}

// ours returns the devices that are ours.
func (i *inventory) ours() []kernel.VXLAN {
	if i == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(i.vxlans), func(v kernel.VXLAN) bool { return !ours(v) })
}

// ours tells whether we made the device, whatever its name is now, or it has a name of ours.
func ours(v kernel.VXLAN) bool { return v.Ours || strings.HasPrefix(v.Name, kernel.VXLANDevice) }

// removeOthers takes away devices of ours that the plan does not want: of an earlier plan, or of
// an earlier process.
func (d *Driver) removeOthers(ctx context.Context, there *inventory, wanted []tunnel.Link) (reconcile.Result, error) {
	var res reconcile.Result
	var errs []error
	for _, v := range there.ours() {
		wants := func(l tunnel.Link) bool { return l.Name == v.Name }
		if slices.ContainsFunc(wanted, wants) || there.has(v.Index) {
			continue
		}
		if err := d.h.LinkDelete(ctx, v.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		d.log.Info("removed VXLAN device", "device", v.Name, "vni", v.VNI, "port", v.Port)
		res.Removed++
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.devices, func(name string, _ *device) bool {
		return !slices.ContainsFunc(wanted, func(l tunnel.Link) bool { return l.Name == name })
	})
	return res, errors.Join(errs...)
}

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
		for _, dev := range d.devices {
			if dev.observeLink(e) {
				d.fresh = false
				return true
			}
		}
	case kernel.EventAddr:
		if dev := d.devices[e.Link.Name]; dev != nil && !e.Addr.Addr().IsLinkLocalUnicast() {
			return dev.addrs.Observe(kernel.AddrKey{Device: e.Link.Name, Prefix: e.Addr}, struct{}{}, e.Removed)
		}
	case kernel.EventNeigh:
		if dev := d.devices[e.NeighKey.Device]; dev != nil {
			return dev.neighs.Observe(e.NeighKey, e.MAC, dev.lost(e))
		}
	case kernel.EventFDB:
		if dev := d.devices[e.FDBKey.Device]; dev != nil {
			return dev.fdb.Observe(e.FDBKey, e.FDBDst, dev.lost(e))
		}
	}
	return false
}

// lost tells whether the entry is no longer a permanent one.
func (*device) lost(e kernel.Event) bool {
	return e.Removed || e.NeighState&(unix.NUD_PERMANENT|unix.NUD_NOARP) == 0
}

// conflict explains why a device cannot be made.
func (i *inventory) conflict(want kernel.VXLAN, err error) error {
	for _, v := range i.vxlans {
		if v.VNI == want.VNI && v.Port == want.Port && v.Name != want.Name {
			return fmt.Errorf("make VXLAN device %s: device %s, which is not ours, has VNI %d and UDP port %d already: remove it (ip link delete %s), or set another vxlanVNI or vxlanPort: %w",
				want.Name, v.Name, v.VNI, v.Port, v.Name, err)
		}
	}
	return err
}

package vxlan

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/tunnel"
)

// spareName is where a device's successor is made while the device still works. It is as long as
// an interface name may be.
const spareName = kernel.VXLANDevice + "-next"

// device is one VXLAN device as the last Apply left it.
type device struct {
	want   tunnel.Link
	index  int
	parent int // index of the underlay interface

	addrs  *reconcile.Syncer[kernel.AddrKey, struct{}]
	neighs *reconcile.SliceSyncer[tunnel.Neighbour, kernel.NeighKey, model.MAC]
	fdb    *reconcile.SliceSyncer[tunnel.FDBEntry, kernel.FDBKey, netip.Addr]
}

func (d *Driver) newDevice(name string) *device {
	return &device{
		addrs: reconcile.NewSyncer(kernel.NewAddrTable(d.h, name), reconcile.DeleteAfterCleanPuts),
		neighs: reconcile.NewSliceSyncer(reconcile.NewSyncer(kernel.NewNeighTable(d.h, name), reconcile.DeleteAlways),
			neighbour, tunnel.CompareNeighbours),
		fdb: reconcile.NewSliceSyncer(reconcile.NewSyncer(kernel.NewFDBTable(d.h, name), reconcile.DeleteAlways),
			fdbEntry, tunnel.CompareFDB),
	}
}

func neighbour(n tunnel.Neighbour) (kernel.NeighKey, model.MAC) {
	return kernel.NeighKey{Device: n.Device, IP: n.IP}, n.MAC
}

func fdbEntry(f tunnel.FDBEntry) (kernel.FDBKey, netip.Addr) {
	return kernel.FDBKey{Device: f.Device, MAC: f.MAC}, f.Dst
}

func (dev *device) invalidate() {
	dev.addrs.Invalidate()
	dev.neighs.Invalidate()
	dev.fdb.Invalidate()
}

// observeLink tells whether the event is about the device or about the interface below it. What
// changed the event does not tell in full (the underlay of a VXLAN device is not in it), so that
// one reading of the links follows; echoes of our own changes cost that too, once.
func (dev *device) observeLink(e kernel.Event) bool {
	return e.Link.Index == dev.index || e.Link.Name == dev.want.Name ||
		e.Link.Name == dev.want.Parent && (e.Removed || e.Link.Index != dev.parent)
}

// applyDevice makes one device and all that hangs from it. there is nil when the links are known
// to be as the last Apply left them.
func (d *Driver) applyDevice(ctx context.Context, there *inventory, l tunnel.Link, p tunnel.Plan) (reconcile.Result, error) {
	d.mu.Lock()
	dev := d.devices[l.Name]
	d.mu.Unlock()
	repair := dev != nil && equalLink(dev.want, l)
	if dev == nil {
		dev = d.newDevice(l.Name)
	}
	var res reconcile.Result
	var up bool
	if there != nil {
		var err error
		if res, up, err = d.applyLink(ctx, there, l, dev); err != nil {
			return res, err
		}
		if !res.Zero() && repair {
			res.Repaired++
		}
	}
	d.mu.Lock()
	dev.want = l
	d.devices[l.Name] = dev
	d.mu.Unlock()

	r, err := dev.applyEntries(ctx, l, p)
	res = res.Add(r)
	if err != nil || there == nil || up {
		return res, err
	}
	return res, portTaken(d.h.LinkSetUp(ctx, l.Name), l.Name, l.Port)
}

// portTaken explains why a device does not come up: that is when the kernel binds its port.
func portTaken(err error, device string, port int) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("VXLAN device %s: another program on this host has UDP port %d: stop it (ss -lunp sport = :%d), or set another vxlanPort: %w",
			device, port, port, err)
	}
	return err
}

func (dev *device) applyEntries(ctx context.Context, l tunnel.Link, p tunnel.Plan) (reconcile.Result, error) {
	addrs := make(map[kernel.AddrKey]struct{}, len(l.Addresses))
	for _, a := range l.Addresses {
		addrs[kernel.AddrKey{Device: l.Name, Prefix: model.HostPrefix(a)}] = struct{}{}
	}
	r1, err1 := dev.addrs.Sync(ctx, addrs)
	r2, err2 := dev.neighs.SyncSlice(ctx, run(p.Neighbours, func(n tunnel.Neighbour) bool { return n.Device == l.Name }))
	r3, err3 := dev.fdb.SyncSlice(ctx, run(p.FDB, func(f tunnel.FDBEntry) bool { return f.Device == l.Name }))
	return r1.Add(r2).Add(r3), errors.Join(err1, err2, err3)
}

// run returns the part of a plan's entries that belongs to one device; they are sorted by device.
func run[E any](entries []E, ours func(E) bool) []E {
	first := slices.IndexFunc(entries, ours)
	if first < 0 {
		return nil
	}
	entries = entries[first:]
	if i := slices.IndexFunc(entries, func(e E) bool { return !ours(e) }); i >= 0 {
		entries = entries[:i]
	}
	return entries
}

// applyLink makes the device itself as wanted, all but the last step of setting it up; up tells
// that this is not needed.
func (d *Driver) applyLink(ctx context.Context, there *inventory, l tunnel.Link, dev *device) (res reconcile.Result, up bool, err error) {
	want, err := wantedDevice(there, l)
	if err != nil {
		return res, false, err
	}
	if other, ok := there.links[l.Name]; ok && other.Kind != "vxlan" {
		return res, false, fmt.Errorf("make VXLAN device %s: an interface of that name exists and is not a VXLAN device but %q: rename or delete it (ip link delete %s)",
			l.Name, other.Kind, l.Name)
	}
	have, ok := there.of(l)
	switch {
	case !ok:
		err = d.h.AddVXLAN(ctx, want)
		if errors.Is(err, unix.EEXIST) {
			err = there.conflict(want, err)
		}
		res.Added++
	case mustRemake(have, want):
		err = d.remake(ctx, there, have, want)
		res.Changed++
	default:
		var changed bool
		changed, err = d.adjust(ctx, have, want)
		changed = changed || there.renamed[have.Index]
		up = have.Up
		if changed || !up {
			res.Changed++
		}
		if !changed && up && have.Index == dev.index {
			d.setIndexes(dev, have.Index, want.Parent)
			return res, up, err
		}
	}
	if err != nil {
		return reconcile.Result{}, false, err
	}
	// A new device has none of the entries, and the kernel drops those of a device that was set
	// down or got another MAC.
	dev.invalidate()
	made, ok, err := d.h.LinkByName(ctx, l.Name)
	if err != nil || !ok {
		return res, false, errors.Join(err, missing(ok, l.Name))
	}
	d.setIndexes(dev, made.Index, want.Parent)
	return res, up, nil
}

// setIndexes tells Observe which links to look for.
func (d *Driver) setIndexes(dev *device, index, parent int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dev.index, dev.parent = index, parent
}

func missing(ok bool, name string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("link %s vanished while it was made: %w", name, unix.ENODEV)
}

func wantedDevice(there *inventory, l tunnel.Link) (kernel.VXLAN, error) {
	v := kernel.VXLAN{Name: l.Name, VNI: l.VNI, Port: l.Port, Local: l.Local, MAC: l.MAC, MTU: l.MTU}
	if l.Parent == "" {
		return v, nil
	}
	parent, ok := there.links[l.Parent]
	if !ok {
		return v, fmt.Errorf("make VXLAN device %s: the underlay interface %s, which had the node address %s, is gone: bring it back or change the node address",
			l.Name, l.Parent, l.Local)
	}
	v.Parent = parent.Index
	return v, nil
}

// mustRemake tells whether the device differs in what the kernel cannot change.
func mustRemake(have, want kernel.VXLAN) bool {
	return have.VNI != want.VNI || have.Port != want.Port || have.External ||
		!have.Local.IsValid() || have.Local.Is4() != want.Local.Is4()
}

// adjust changes a living device, in place.
func (d *Driver) adjust(ctx context.Context, have, want kernel.VXLAN) (changed bool, err error) {
	steps := []struct {
		needed bool
		do     func() error
	}{
		{!have.Ours, func() error { return d.h.MarkTunnel(ctx, want.Name) }},
		{have.Master != 0, func() error { return d.h.LinkSetNoMaster(ctx, want.Name) }},
		{have.Local != want.Local || want.Parent != 0 && have.Parent != want.Parent || have.Learning, func() error { return d.h.ChangeVXLAN(ctx, want) }},
		{have.MAC != want.MAC, func() error { return d.h.LinkSetMAC(ctx, want.Name, want.MAC) }},
		{have.MTU != want.MTU, func() error { return d.h.LinkSetMTU(ctx, want.Name, want.MTU) }},
	}
	for _, s := range steps {
		if !s.needed {
			continue
		}
		changed = true
		if err := s.do(); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

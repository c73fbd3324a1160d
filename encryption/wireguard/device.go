package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"weft/encryption"
	"weft/internal/kernel"
	"weft/internal/reconcile"
)

func (w Way) kind() string {
	if w == Kernel {
		return kernel.KindWireGuard
	}
	return kernel.KindTUN
}

// ours tells whether a link is a WireGuard device of ours, of either way, whatever its name is now.
func ours(l kernel.TunnelLink) bool {
	return (l.Ours || strings.HasPrefix(l.Name, kernel.WireGuardDevice)) && (l.Kind == kernel.KindWireGuard || l.Kind == kernel.KindTUN)
}

// applyLink makes the interface, all but the last step of setting it up; up tells that this is not
// needed.
func (d *Driver) applyLink(ctx context.Context, w *encryption.Device, dev *device, links []kernel.TunnelLink) (res reconcile.Result, up bool, err error) {
	have, ok, err := d.find(w.Name, dev.index, links)
	if err != nil {
		return res, false, err
	}
	if ok && have.Kind != d.way.kind() { // of the other way
		d.log.Info("replacing WireGuard device", "device", have.Name, "kind", have.Kind, "way", d.way)
		if err := d.delete(ctx, have); err != nil {
			return res, false, err
		}
		ok = false
		res.Removed++
	}
	if ok && have.Name != w.Name {
		if err := d.rename(ctx, &have, w.Name); err != nil {
			return res, false, err
		}
		res.Changed++
	}
	made, err := d.make(ctx, w, ok)
	if err != nil {
		return res, false, err
	}
	if made {
		res.Added++
		d.setState(dev, nil)
	}
	if have, err = d.read(ctx, w.Name); err != nil {
		return res, false, err
	}
	if err := d.keepRoutes(w.Name); err != nil {
		return res, false, err
	}
	changed, err := d.adjust(ctx, have, w)
	if changed && !made || ok && !have.Up {
		res.Changed++
	}
	if have.Index != dev.index {
		dev.addrs.Invalidate()
	}
	d.mu.Lock()
	if have.Index != dev.index || !have.Up {
		dev.have = nil
	}
	dev.index = have.Index
	d.mu.Unlock()
	return res, have.Up, err
}

// find returns the interface of the name, or the one that an Apply of ours left and somebody renamed.
func (d *Driver) find(name string, index int, links []kernel.TunnelLink) (kernel.TunnelLink, bool, error) {
	i := slices.IndexFunc(links, func(l kernel.TunnelLink) bool { return l.Name == name })
	if i >= 0 {
		l := links[i]
		if !ours(l) {
			return l, false, fmt.Errorf("make WireGuard device %s: an interface of that name exists, of kind %q, and is not ours: rename or delete it (ip link delete %s), or set another wireguardInterfaceName",
				name, l.Kind, name)
		}
		return l, true, nil
	}
	i = slices.IndexFunc(links, func(l kernel.TunnelLink) bool {
		return l.Index == index && ours(l) && l.Kind == d.way.kind()
	})
	if i < 0 {
		return kernel.TunnelLink{}, false, nil
	}
	return links[i], true, nil
}

// rename gives the device its name back. A kernel before 6.2 renames only what is down.
func (d *Driver) rename(ctx context.Context, have *kernel.TunnelLink, name string) error {
	d.log.Warn("WireGuard device has another name", "device", have.Name, "want", name)
	err := d.h.LinkRename(ctx, have.Index, name)
	if errors.Is(err, unix.EBUSY) {
		if err = d.h.LinkSetDown(ctx, have.Name); err == nil {
			err = d.h.LinkRename(ctx, have.Index, name)
		}
	}
	if err == nil {
		have.Name = name
	}
	return err
}

// make makes the interface where it is not there, and sees to its process. It tells whether the device
// knows no key and no peers now.
func (d *Driver) make(ctx context.Context, w *encryption.Device, there bool) (made bool, err error) {
	if d.way == Kernel {
		if there {
			return false, nil
		}
		err := d.h.AddWireGuard(ctx, w.Name, w.MTU)
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w: this kernel has no WireGuard: load the module wireguard, or let a process have the device", err)
		}
		return true, err
	}
	if !there { // a process that lost its device ends by itself, which may take it a moment
		if err := d.endStale(ctx, w.Name); err != nil {
			return false, err
		}
	}
	_, started, err := d.procs.get(ctx, w.Name)
	if errors.Is(err, unix.EBUSY) {
		// Its process cannot be reached any more. It ends when its device goes.
		d.log.Warn("replacing a WireGuard device whose process cannot be reached", "device", w.Name, "error", err)
		if err := d.h.LinkDelete(ctx, w.Name); err != nil {
			return false, err
		}
		_, started, err = d.procs.get(ctx, w.Name)
	}
	return started, err
}

// endStale ends the process of a device that is not there.
func (d *Driver) endStale(ctx context.Context, name string) error {
	p := d.procs.take(name)
	var err error
	if p == nil {
		p, err = d.procs.adopt(ctx, name)
	}
	if err != nil || p == nil {
		return err
	}
	return d.procs.end(ctx, p)
}

// delete takes away a device and, with it, its process.
func (d *Driver) delete(ctx context.Context, l kernel.TunnelLink) error {
	p := d.procs.take(l.Name)
	if err := d.h.LinkDelete(ctx, l.Name); err != nil || p == nil {
		return err
	}
	return d.procs.end(ctx, p)
}

func (d *Driver) read(ctx context.Context, name string) (kernel.TunnelLink, error) {
	links, err := d.h.TunnelLinks(ctx)
	if err != nil {
		return kernel.TunnelLink{}, err
	}
	i := slices.IndexFunc(links, func(l kernel.TunnelLink) bool { return l.Name == name })
	if i < 0 {
		return kernel.TunnelLink{}, fmt.Errorf("link %s vanished while it was made: %w", name, unix.ENODEV)
	}
	return links[i], nil
}

// adjust changes a living interface, in place.
func (d *Driver) adjust(ctx context.Context, have kernel.TunnelLink, w *encryption.Device) (changed bool, err error) {
	threaded := false
	if d.way == Kernel {
		// A kernel before 5.12 has no such threads; there nobody can want them.
		if threaded, err = d.h.LinkThreaded(w.Name); err != nil && w.Threading {
			return false, err
		}
	}
	steps := []struct {
		needed bool
		do     func() error
	}{
		{!have.Ours, func() error { return d.h.MarkTunnel(ctx, w.Name) }},
		{have.Master != 0, func() error { return d.h.LinkSetNoMaster(ctx, w.Name) }},
		{have.MTU != w.MTU, func() error { return d.h.LinkSetMTU(ctx, w.Name, w.MTU) }},
		{d.way == Kernel && threaded != w.Threading, func() error { return d.h.LinkSetThreaded(w.Name, w.Threading) }},
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

// keepRoutes sees to it that routes through the device of a process that died, which has no carrier, still
// are the ones that traffic takes, whatever the host's default is: else it would take another way, in clear.
func (d *Driver) keepRoutes(name string) error {
	if d.way == Kernel {
		return nil // whose device always has a carrier
	}
	return d.h.Do(func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			err := kernel.SetSysctl("net/"+family+"/conf/"+name+"/ignore_routes_with_linkdown", "0")
			if err != nil && !errors.Is(err, os.ErrNotExist) { // without IPv6 there is none
				return err
			}
		}
		return nil
	})
}

// removeOthers takes away devices of ours that the plan does not have, and their processes. Those that it
// has and that could not be made stay as they are.
func (d *Driver) removeOthers(ctx context.Context, planned []encryption.Device) (res reconcile.Result, err error) {
	wanted := make(map[string]bool, len(planned))
	for _, p := range planned {
		wanted[p.Name] = true
	}
	links, err := d.h.TunnelLinks(ctx)
	if err != nil {
		return res, err
	}
	var errs []error
	for _, l := range links {
		if !ours(l) || wanted[l.Name] {
			continue
		}
		if err := d.delete(ctx, l); err != nil {
			errs = append(errs, err)
			continue
		}
		d.log.Info("removed WireGuard device", "device", l.Name, "kind", l.Kind)
		res.Removed++
	}
	d.mu.Lock()
	for name := range d.devices {
		if !wanted[name] {
			delete(d.devices, name)
		}
	}
	d.mu.Unlock()
	keep := wanted
	if d.way == Kernel {
		keep = nil
	}
	_, err = d.procs.endOthers(ctx, keep)
	return res, errors.Join(append(errs, err)...)
}

// portFree tells that a process could have a UDP port: it closes its sockets before it opens others.
func (d *Driver) portFree(w *encryption.Device) error {
	if d.way == Kernel {
		return nil
	}
	err := d.h.Do(func() error {
		for _, network := range []string{"udp4", "udp6"} {
			c, err := net.ListenUDP(network, &net.UDPAddr{Port: w.Port})
			if errors.Is(err, unix.EAFNOSUPPORT) {
				continue
			}
			if err != nil {
				return err
			}
			c.Close()
		}
		return nil
	})
	return portTaken(err, w)
}

// portTaken explains why a device does not get its port.
func portTaken(err error, w *encryption.Device) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("WireGuard device %s: another program on this host has UDP port %d: stop it (ss -lunp sport = :%d), or set another wireguardListeningPort: %w",
			w.Name, w.Port, w.Port, err)
	}
	return err
}

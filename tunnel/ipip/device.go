package ipip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/tunnel"
)

// kinds returns the kinds of link that can be the device, the preferred one first. dummy comes
// before ifb since loading it makes fewer links that nobody asked for.
func (w Way) kinds() []string {
	if w == Kernel {
		return []string{kernel.KindIPIP}
	}
	return []string{kernel.KindDummy, kernel.KindIFB}
}

// ours tells whether a link is a device of ours, of either way, whatever its name is now.
func ours(l kernel.TunnelLink) bool {
	return (l.Ours || l.Name == kernel.IPIPDevice) && (slices.Contains(Kernel.kinds(), l.Kind) || slices.Contains(EBPF.kinds(), l.Kind))
}

// applyDevice makes the device, all but the last step of setting it up, and returns it as it is now.
// fresh tells that it was not there before under its index.
func (d *Driver) applyDevice(ctx context.Context, links []kernel.TunnelLink, l tunnel.Link) (dev kernel.TunnelLink, res reconcile.Result, err error) {
	want := kernel.TunnelLink{Link: kernel.Link{Name: l.Name, MTU: l.MTU, MAC: kernel.TunnelMAC()}, Local: l.Local}
	have, ok, err := d.find(links, l.Name)
	if err != nil {
		return dev, res, err
	}
	if ok && !slices.Contains(d.way.kinds(), have.Kind) { // of the other way
		if err := d.putAside(ctx, links, have); err != nil {
			return dev, res, err
		}
		ok = false
		res.Removed++
	}
	if ok {
		changed, err := d.adjust(ctx, have, want)
		if changed || !have.Up {
			res.Changed++
		}
		if err != nil {
			return dev, res, err
		}
	} else {
		if err := d.add(ctx, links, want); err != nil {
			return dev, res, err
		}
		res.Added++
	}
	dev, err = d.read(ctx, l.Name)
	return dev, res, err
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

// find returns the link under the wanted name, or the one that we made and somebody renamed.
func (d *Driver) find(links []kernel.TunnelLink, name string) (kernel.TunnelLink, bool, error) {
	var renamed kernel.TunnelLink
	found := false
	for _, l := range links {
		if l.Name == name {
			if !ours(l) {
				return l, false, fmt.Errorf("make IPIP device %s: an interface of that name exists and is not a tunnel device but %q: rename or delete it (ip link delete %s)",
					name, l.Kind, name)
			}
			return l, true, nil
		}
		if l.Ours && slices.Contains(d.way.kinds(), l.Kind) {
			renamed, found = l, true
		}
	}
	return renamed, found, nil
}

func (d *Driver) add(ctx context.Context, links []kernel.TunnelLink, want kernel.TunnelLink) error {
	var errs []error
	for _, kind := range d.way.kinds() {
		want.Kind = kind
		err := d.h.AddIPIP(ctx, want)
		if err == nil {
			return nil
		}
		if errors.Is(err, unix.EEXIST) {
			for _, l := range links {
				if l.Kind == kernel.KindIPIP && l.Local == want.Local && l.Name != want.Name {
					err = fmt.Errorf("device %s, which is not ours, has the local address %v already: remove it (ip link delete %s): %w", l.Name, l.Local, l.Name, err)
				}
			}
		}
		errs = append(errs, err)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			break
		}
	}
	return errors.Join(errs...)
}

// adjust changes a living device, in place.
func (d *Driver) adjust(ctx context.Context, have, want kernel.TunnelLink) (changed bool, err error) {
	steps := []struct {
		needed bool
		do     func() error
	}{
		{have.Name != want.Name, func() error { return d.rename(ctx, have, want.Name) }},
		{!have.Ours, func() error { return d.h.MarkTunnel(ctx, want.Name) }},
		{have.Master != 0, func() error { return d.h.LinkSetNoMaster(ctx, want.Name) }},
		{d.way == Kernel && (have.Local != want.Local || !have.Standard), func() error { return d.h.ChangeIPIP(ctx, want) }},
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

// rename gives the device its name back. A kernel before 6.2 renames only what is down.
func (d *Driver) rename(ctx context.Context, have kernel.TunnelLink, name string) error {
	d.log.Warn("IPIP device has another name", "device", have.Name, "want", name)
	err := d.h.LinkRename(ctx, have.Index, name)
	if errors.Is(err, unix.EBUSY) {
		return d.h.LinkRenameDown(ctx, have.Index, name, false)
	}
	return err
}

// aside is what a device of the other way is called while its successor is made.
const aside = kernel.IPIPDevice + "-old"

// drain is how long packets may take to leave a device that nothing leads to any more.
const drain = 50 * time.Millisecond

// putAside frees the name of a device, which goes on working. A kernel before 6.2 renames only what is
// down, which takes the routes away: there it goes.
func (d *Driver) putAside(ctx context.Context, links []kernel.TunnelLink, have kernel.TunnelLink) error {
	d.log.Info("replacing IPIP device", "device", have.Name, "kind", have.Kind, "way", d.way)
	for _, l := range links {
		if l.Name == aside && ours(l) { // left by a process that was killed half way
			if err := d.h.LinkDelete(ctx, aside); err != nil {
				return err
			}
		}
	}
	err := d.h.LinkRename(ctx, have.Index, aside)
	if errors.Is(err, unix.EBUSY) {
		return d.h.LinkDelete(ctx, have.Name)
	}
	return err
}

// others returns the devices of ours but the one that is kept, as they are called now.
func (d *Driver) others(ctx context.Context, kept kernel.TunnelLink) ([]kernel.TunnelLink, error) {
	links, err := d.h.TunnelLinks(ctx)
	return slices.DeleteFunc(links, func(l kernel.TunnelLink) bool { return !ours(l) || l.Index == kept.Index }), err
}

// moveRoutes lets our routes that lead through other devices of ours lead through the kept one, each in
// place. The routing area wants them under its name in any case.
func (d *Driver) moveRoutes(ctx context.Context, others []kernel.TunnelLink, kept string) error {
	if len(others) == 0 {
		return nil
	}
	table := kernel.RouteTable(d.h)
	routes, err := table.List(ctx)
	if err != nil {
		return err
	}
	var puts []reconcile.Change[kernel.RouteKey, kernel.Route]
	for k, r := range routes {
		if slices.ContainsFunc(others, func(l kernel.TunnelLink) bool { return l.Name == r.Device }) {
			moved := r
			moved.Device = kept
			puts = append(puts, reconcile.Change[kernel.RouteKey, kernel.Route]{Key: k, Exists: true, Have: r, Want: moved})
		}
	}
	batch, ok := table.(reconcile.BatchTable[kernel.RouteKey, kernel.Route])
	if !ok {
		return fmt.Errorf("move routes to device %s: the table of routes takes no batches", kept)
	}
	if err := errors.Join(batch.PutMany(ctx, puts)...); err != nil {
		return fmt.Errorf("move routes to device %s: %w", kept, err)
	}
	return nil
}

// removeOthers takes away devices of ours that are not kept.
func (d *Driver) removeOthers(ctx context.Context, others []kernel.TunnelLink) (reconcile.Result, error) {
	var res reconcile.Result
	var errs []error
	if slices.ContainsFunc(others, func(l kernel.TunnelLink) bool { return l.Name == aside }) {
		select { // what was redirected to it, or routed by it, may still be in a queue of a processor
		case <-ctx.Done():
			return res, ctx.Err()
		case <-time.After(drain):
		}
	}
	for _, l := range others {
		if err := d.h.LinkDelete(ctx, l.Name); err != nil {
			errs = append(errs, err)
			continue
		}
		d.log.Info("removed IPIP device", "device", l.Name, "kind", l.Kind)
		if l.Name != aside { // that one was counted when it was put aside
			res.Removed++
		}
	}
	return res, errors.Join(errs...)
}

// loosen makes strict reverse path filtering loose on the device: while a peer moves from one tunnel
// to another, its packets come by a device that is not the way back.
func (d *Driver) loosen(name string) error {
	path := "net/ipv4/conf/" + name + "/rp_filter"
	return d.h.Do(func() error {
		all, err := kernel.GetSysctl("net/ipv4/conf/all/rp_filter")
		if err != nil {
			return err
		}
		own, err := kernel.GetSysctl(path)
		// The kernel takes the larger of the two: 0 off, 1 strict, 2 loose.
		if err != nil || max(all, own) != "1" {
			return err
		}
		return kernel.SetSysctl(path, "2")
	})
}

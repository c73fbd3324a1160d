package ipip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/tunnel"
	"weft/tunnel/guard"
)

// Way is how packets are put into and taken out of IPIP.
type Way string

// The ways.
const (
	Kernel Way = "kernel" // the device of the module ipip
	EBPF   Way = "ebpf"   // two tc programs
)

// Driver makes the kernel look like the IPIP part of a tunnel plan. Apply is called by one
// goroutine; Observe, Watch and Dropped by any.
type Driver struct {
	h     *kernel.Handle
	way   Way
	log   *slog.Logger
	guard *guard.Guard
	addrs *reconcile.Syncer[kernel.AddrKey, struct{}]

	running sync.Mutex // held by Apply, Dropped and look: guards the programs
	bpf     *programs
	pmtu    *pmtuSocket

	mu    sync.Mutex // for Observe: guards what follows
	fresh bool       // false: the links must be read before they can be believed
	there *applied   // as the last Apply left it; nil: no device
}

// applied is the device as the last Apply left it.
type applied struct {
	want    tunnel.Link
	index   int
	parent  int
	uplinks map[int]bool        // where the ingress program runs
	outers  map[netip.Addr]bool // the peers that the uplinks lead to
}

// New returns a Driver that works through h, in h's network namespace, in the way that Probe or the
// configuration says. It touches nothing yet.
func New(h *kernel.Handle, way Way, log *slog.Logger) *Driver {
	return &Driver{
		h: h, way: way, log: log, guard: guard.New(h, tunnel.IPIP), bpf: newPrograms(h, log),
		addrs: reconcile.NewSyncer(kernel.NewAddrTable(h, kernel.IPIPDevice), reconcile.DeleteAfterCleanPuts),
	}
}

// Way returns the way that New was told.
func (d *Driver) Way() Way { return d.way }

// Close releases what the Driver holds and leaves the kernel as it is: traffic goes on.
func (d *Driver) Close() {
	d.running.Lock()
	defer d.running.Unlock()
	d.guard.Close()
	d.bpf.close()
	d.pmtu.close()
	d.pmtu = nil
}

// Invalidate makes the next Apply read everything again.
func (d *Driver) Invalidate() {
	d.stale()
	d.guard.Invalidate()
	d.addrs.Invalidate()
}

// stale makes the next Apply read the links, programs and maps again.
func (d *Driver) stale() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fresh = false
}

// Apply makes device, addresses, guard and, by eBPF, programs and maps as p wants them; of p it reads
// only the part of IPIP. The zero plan removes all. It returns every error; the next call is the
// retry.
//
// The order: the guard is there and the maps are filled before anything can receive, and the guard
// goes last. An eBPF device drops everything until its program is there.
func (d *Driver) Apply(ctx context.Context, p tunnel.Plan) (reconcile.Result, error) {
	p = p.For(tunnel.IPIP)
	d.running.Lock()
	defer d.running.Unlock()
	res, err := d.apply(ctx, p)
	if err != nil {
		d.stale()
	}
	if res.Zero() {
		d.log.Debug("ipip applied", "result", res)
	} else {
		d.log.Info("ipip applied", "way", d.way, "added", res.Added, "changed", res.Changed, "removed", res.Removed, "repaired", res.Repaired)
	}
	return res, err
}

func (d *Driver) apply(ctx context.Context, p tunnel.Plan) (reconcile.Result, error) {
	if len(p.Links) == 0 {
		return d.remove(ctx)
	}
	l := p.Links[0]
	if err := check(p.Links); err != nil {
		return reconcile.Result{}, err
	}
	d.mu.Lock()
	there, believe := d.there, d.fresh
	d.fresh = true // until Observe says otherwise
	d.mu.Unlock()
	repair := there != nil && equalLink(there.want, l)
	if believe && repair {
		known, err := d.knownUplinks(ctx, there, p.Sources)
		if err != nil {
			return reconcile.Result{}, err
		}
		if known {
			return d.applyEntries(ctx, p)
		}
	}
	d.bpf.invalidate()
	links, err := d.h.TunnelLinks(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	// Until the programs run, packets of peers come by the kernel's device and through nftables.
	turning := d.way == EBPF && slices.ContainsFunc(links, func(l kernel.TunnelLink) bool { return ours(l) && l.Kind == kernel.KindIPIP })
	sources := d.guarded(p)
	if turning {
		sources = p.Sources
	}
	res, err := d.applyGuard(ctx, sources)
	if err != nil {
		return res, err
	}
	r, err := d.applyAll(ctx, links, l, p)
	if repair && !r.Zero() && r.Repaired == 0 {
		r.Repaired++
	}
	if res = res.Add(r); err != nil || !turning {
		return res, err
	}
	r, err = d.applyGuard(ctx, d.guarded(p))
	return res.Add(r), err
}

// check refuses what the driver cannot make.
func check(links []tunnel.Link) error {
	l := links[0]
	switch {
	case len(links) > 1:
		return fmt.Errorf("IPIP devices %s and %s: one device serves all peers, want one link in the plan", l.Name, links[1].Name)
	case l.Name != kernel.IPIPDevice:
		return fmt.Errorf("IPIP device %s: want the name %s", l.Name, kernel.IPIPDevice)
	case !l.Local.Is4():
		return fmt.Errorf("IPIP device %s: local address %v: IPIP is IPv4 over IPv4", l.Name, l.Local)
	}
	return nil
}

func equalLink(a, b tunnel.Link) bool {
	return a.Driver == b.Driver && a.Name == b.Name && a.Local == b.Local && a.Parent == b.Parent && a.MTU == b.MTU &&
		slices.Equal(a.Addresses, b.Addresses)
}

// applyEntries is for a device that is known to be as wanted.
func (d *Driver) applyEntries(ctx context.Context, p tunnel.Plan) (reconcile.Result, error) {
	res, err := d.applyGuard(ctx, d.guarded(p))
	if err != nil {
		return res, err
	}
	if d.way == EBPF {
		r, err := d.bpf.fill(ctx, p.Sources)
		if res = res.Add(r); err != nil {
			return res, err
		}
	}
	r, err := d.applyAddresses(ctx, p.Links[0])
	return res.Add(r), err
}

// guarded returns whom the guard lets in. By eBPF nothing that may come in gets as far as nftables:
// there the guard keeps the rest out, and pods from sending.
func (d *Driver) guarded(p tunnel.Plan) []tunnel.Source {
	if d.way == EBPF {
		return nil
	}
	return p.Sources
}

func (d *Driver) applyGuard(ctx context.Context, sources []tunnel.Source) (reconcile.Result, error) {
	return d.guard.Apply(ctx, []guard.Endpoint{guard.IPIP()}, sources)
}

func (d *Driver) applyAddresses(ctx context.Context, l tunnel.Link) (reconcile.Result, error) {
	want := make(map[kernel.AddrKey]struct{}, len(l.Addresses))
	for _, a := range l.Addresses {
		want[kernel.AddrKey{Device: l.Name, Prefix: model.HostPrefix(a)}] = struct{}{}
	}
	return d.addrs.Sync(ctx, want)
}

// applyAll makes device, programs and addresses. A device of the other way works until nothing is
// sent or received by it any more.
func (d *Driver) applyAll(ctx context.Context, links []kernel.TunnelLink, l tunnel.Link, p tunnel.Plan) (reconcile.Result, error) {
	parent, err := findParent(links, l)
	if err != nil && d.way == EBPF {
		return reconcile.Result{}, err
	}
	running, err := d.runningPrograms(ctx, links)
	if err != nil {
		return reconcile.Result{}, err
	}
	defer closeAll(running)
	var res reconcile.Result
	if d.way == EBPF {
		if err := d.bpf.load(running); err != nil {
			return res, err
		}
		if res, err = d.bpf.fill(ctx, p.Sources); err != nil {
			return res, err
		}
	}
	dev, r, err := d.applyDevice(ctx, links, l)
	if res = res.Add(r); err != nil {
		return res, err
	}
	now := &applied{want: l, index: dev.Index, parent: parent, outers: outersOf(p.Sources)}
	if !r.Zero() {
		d.addrs.Invalidate()
	}
	r, err = d.use(ctx, dev, links, now, running)
	return res.Add(r), err
}

// use sets the device up and turns traffic to it: sent packets first, then those received, for which
// the guard is ready. While it has no program, a device of eBPF drops everything.
func (d *Driver) use(ctx context.Context, dev kernel.TunnelLink, links []kernel.TunnelLink, now *applied, running []found) (reconcile.Result, error) {
	res, err := d.applyAddresses(ctx, now.want)
	if err != nil {
		return res, err
	}
	if err := d.loosen(dev.Name); err != nil {
		return res, err
	}
	if !dev.Up {
		if err := d.h.LinkSetUp(ctx, dev.Name); err != nil {
			return res, err
		}
	}
	if d.way == EBPF {
		r, err := d.attach(ctx, dev, links, now, running)
		if res = res.Add(r); err != nil {
			return res, err
		}
	}
	d.mu.Lock()
	d.there = now
	d.mu.Unlock()
	others, err := d.others(ctx, dev)
	if err != nil {
		return res, err
	}
	if err := d.moveRoutes(ctx, others, dev.Name); err != nil {
		return res, err
	}
	if d.way == Kernel { // where no program runs
		r, err := d.detachAll(ctx, running)
		if res = res.Add(r); err != nil {
			return res, err
		}
	}
	r, err := d.removeOthers(ctx, others)
	return res.Add(r), err
}

func findParent(links []kernel.TunnelLink, l tunnel.Link) (int, error) {
	for _, o := range links {
		if o.Name != l.Parent {
			continue
		}
		if !o.Ethernet {
			return o.Index, fmt.Errorf("run the eBPF programs of IPIP device %s: the underlay interface %s has no Ethernet header: use the kernel's ipip device (module ipip), or VXLAN", l.Name, l.Parent)
		}
		return o.Index, nil
	}
	return 0, fmt.Errorf("make IPIP device %s: the underlay interface %s, which had the node address %s, is gone: bring it back or change the node address",
		l.Name, l.Parent, l.Local)
}

// runningPrograms returns the programs of ours that run anywhere. In the kernel's way a kernel without
// eBPF has none.
func (d *Driver) runningPrograms(ctx context.Context, links []kernel.TunnelLink) ([]found, error) {
	if d.bpf.hooks == nil {
		d.bpf.hooks = hooksOf(d.h)
	}
	running, err := d.bpf.everywhere(ctx, links)
	if err != nil && d.way == Kernel {
		d.log.Debug("cannot look for eBPF programs of ours", "error", err)
		return nil, nil
	}
	return running, err
}

// attach makes the programs run where they should, and nowhere else.
func (d *Driver) attach(ctx context.Context, dev kernel.TunnelLink, links []kernel.TunnelLink, now *applied, running []found) (reconcile.Result, error) {
	uplinks, err := d.uplinks(ctx, links, now)
	if err != nil {
		return reconcile.Result{}, err
	}
	now.uplinks = uplinks
	var res reconcile.Result
	changed, err := d.bpf.configure(now.want.Local, dev.Index, now.parent, dev.MAC)
	if err != nil {
		return res, err
	}
	if changed {
		res.Changed++
	}
	r, err := d.bpf.attach(ctx, dev.Index, uplinks, running)
	if res = res.Add(r); err != nil {
		return res, err
	}
	if d.pmtu == nil {
		d.pmtu, err = listenPMTU(d.h)
	}
	return res, err
}

func (d *Driver) detachAll(ctx context.Context, running []found) (reconcile.Result, error) {
	var res reconcile.Result
	var errs []error
	for _, f := range running {
		if err := d.bpf.hooks.detach(ctx, f.at, f.program); err != nil {
			errs = append(errs, err)
			continue
		}
		res.Removed++
	}
	return res, errors.Join(errs...)
}

// remove takes everything away: the device, so that nothing is sent; the programs; the guard.
func (d *Driver) remove(ctx context.Context) (reconcile.Result, error) {
	d.mu.Lock()
	d.there, d.fresh = nil, false
	d.mu.Unlock()
	links, err := d.h.TunnelLinks(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	running, err := d.runningPrograms(ctx, links)
	if err != nil {
		return reconcile.Result{}, err
	}
	defer closeAll(running)
	res, err := d.detachAll(ctx, running)
	others := slices.DeleteFunc(links, func(l kernel.TunnelLink) bool { return !ours(l) })
	r, err2 := d.removeOthers(ctx, others)
	if res = res.Add(r); errors.Join(err, err2) != nil {
		return res, errors.Join(err, err2)
	}
	d.bpf.close()
	d.pmtu.close()
	d.pmtu = nil
	// Nothing is wanted, so that what is written next time is no repair.
	d.addrs.Invalidate()
	if r, err = d.addrs.Sync(ctx, nil); err != nil {
		return res.Add(r), err
	}
	r, err = d.guard.Apply(ctx, nil, nil)
	return res.Add(r), err
}

// Dropped counts packets that were refused, of either way; those of the programs since they were
// first loaded.
type Dropped struct {
	// Unknown came from no known node, or had an inner source that its node may not use.
	Unknown uint64
	// FromPods were tunnel packets sent by pods.
	FromPods uint64
	// By eBPF only. Malformed had headers that were not whole or contradicted themselves, Fragments
	// were fragments of outer packets, Congested had the mark of congestion on the way and could not
	// carry it on (RFC 6040).
	Malformed, Fragments, Congested uint64
	// NoPeer were for an address of no node, NoRoute for a node without a route, TooBig larger than
	// the path takes, Refused what cannot be encapsulated or what the kernel would not change.
	NoPeer, NoRoute, TooBig, Refused uint64
}

// Dropped reads the counters.
func (d *Driver) Dropped(ctx context.Context) (Dropped, error) {
	g, err := d.guard.Dropped(ctx)
	out := Dropped{Unknown: g.Unknown, FromPods: g.FromPods}
	d.running.Lock()
	defer d.running.Unlock()
	if err != nil || !d.bpf.loaded() {
		return out, err
	}
	c, err := d.bpf.counters()
	out.Unknown += c[countUnknown]
	out.Malformed, out.Fragments, out.Congested = c[countMalformed], c[countFragment], c[countCongested]
	out.NoPeer, out.NoRoute, out.TooBig = c[countNoPeer], c[countNoRoute], c[countTooBig]
	out.Refused = c[countNotSent] + c[countNotReceived]
	return out, err
}

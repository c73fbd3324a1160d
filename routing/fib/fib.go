// Package fib makes the main routing table of this host hold the routes of a routing.Plan, tables of our own and
// routing rules what a routing.Ruled says, and
// keeps the forwarding sysctls that they need. It owns the routes of these tables and the rules with our protocol
// number, and no other: a foreign route is never changed, not even one that is in the way.
package fib

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/routing"
)

// Metric is the metric of every route that we write, of both families, where the plan has no other. It is IPv6's
// own default, so that a route means the same in both; an administrator's route with a lower metric wins over
// ours.
const Metric = 1024

// FIB is the driver of the main routing table of one network namespace.
type FIB struct {
	h      *kernel.Handle
	log    *slog.Logger
	table  int
	shown  *shown
	syncer *reconcile.SliceSyncer[routing.Route, kernel.RouteKey, kernel.Route]

	mu     sync.Mutex
	use    use               // of the last plan
	links  map[int]linkState // as read at the first Apply and told by events
	seeded bool              // the links were read
	failed bool              // the last Apply left something undone
}

// linkState is what matters of a link: a change of anything else leaves routes alone.
type linkState struct {
	name string
	up   bool
}

// use is what routes hang from.
type use struct {
	devices map[string]bool
	sources map[netip.Addr]bool
}

func (u use) add(routes []routing.Route) {
	var last routing.Route // neighbours in the plan mostly share both
	for i := range routes {
		r := &routes[i]
		if r.Device != last.Device {
			u.devices[r.Device] = true
		}
		if r.Hops != last.Hops {
			for _, h := range r.Hops.All() {
				u.devices[h.Device] = true
			}
		}
		if r.Source != last.Source {
			u.sources[r.Source] = true
		}
		last.Device, last.Source, last.Hops = r.Device, r.Source, r.Hops
	}
}

// New returns a driver that has not touched the kernel yet.
func New(h *kernel.Handle, log *slog.Logger) *FIB { return newTable(h, log, kernel.MainTable) }

func newTable(h *kernel.Handle, log *slog.Logger, table int) *FIB {
	t := &shown{routeTable: kernel.RouteTable(h, table).(routeTable)}
	return &FIB{
		h:     h,
		log:   log,
		table: table,
		shown: t,
		syncer: reconcile.NewSliceSyncer(reconcile.NewSyncer(t, reconcile.DeleteAfterCleanPuts), func(r routing.Route) (kernel.RouteKey, kernel.Route) {
			return entry(table, r)
		}, routing.CompareRoutes),
		links: make(map[int]linkState),
	}
}

// Apply makes the kernel's routes equal to the plan: it replaces before it deletes, so that a
// prefix that stays is never without a route. A route that cannot be written (its device is gone or
// down, somebody else holds the prefix) is an error of its own; the others are written all the
// same, and what it would have replaced stays. The zero plan removes all our routes.
func (f *FIB) Apply(ctx context.Context, p routing.Plan) (reconcile.Result, error) {
	u := use{map[string]bool{}, map[netip.Addr]bool{}}
	u.add(p.Routes)
	u.add(p.Pods)
	u.add(p.Learned)
	f.mu.Lock()
	// Until this Apply is over, an event about anything that it uses may be what it needs.
	f.use, f.failed = u, true
	f.mu.Unlock()
	if err := f.readLinks(ctx); err != nil {
		return reconcile.Result{}, fmt.Errorf("apply routes: %w", err)
	}
	if f.shown.keep(p) {
		f.syncer.Invalidate()
	}
	res, err := f.syncer.SyncSlice(ctx, p.Routes, p.Pods, p.Learned)
	f.mu.Lock()
	f.failed = err != nil
	f.mu.Unlock()
	f.log.Debug("routes applied", "wanted", len(p.Routes)+len(p.Pods)+len(p.Learned), "change", res.String(), "err", err)
	if err == nil {
		return res, nil
	}
	err = fmt.Errorf("apply routes: %w", err)
	if learnedOnly(err, p.Learned) {
		err = &routing.LearnedError{Err: err}
	}
	return res, err
}

// learnedOnly tells whether an error is about nothing but learned routes.
func learnedOnly(err error, learned []routing.Route) bool {
	var entry *reconcile.EntryError
	switch e := err.(type) { //nolint:errorlint // every error of those that are joined counts
	case interface{ Unwrap() []error }:
		return !slices.ContainsFunc(e.Unwrap(), func(e error) bool { return !learnedOnly(e, learned) })
	case *reconcile.EntryError:
		entry = e
	case interface{ Unwrap() error }:
		return learnedOnly(e.Unwrap(), learned)
	default:
		return false
	}
	k, ok := entry.Key.(kernel.RouteKey)
	_, is := slices.BinarySearchFunc(learned, routing.Route{Dst: k.Dst}, routing.CompareRoutes)
	return ok && is
}

// routeTable is all that the kernel's table can do: what embeds less of it is slower, and deletes less.
type routeTable interface {
	reconcile.Table[kernel.RouteKey, kernel.Route]
	reconcile.BatchTable[kernel.RouteKey, kernel.Route]
	reconcile.HoldTable[kernel.RouteKey]
}

// shown is the kernel's table, without the routes that are not to be touched yet.
type shown struct {
	routeTable
	plan   routing.Plan             // the last
	hidden map[kernel.RouteKey]bool // that List left out
}

// keep takes over a plan, and tells whether there is more to be seen than at the last List.
func (t *shown) keep(p routing.Plan) (more bool) {
	last := t.plan
	t.plan = p
	if len(t.hidden) == 0 {
		return false
	}
	if p.Unsettled && slices.Equal(last.Pools, p.Pools) {
		for k := range t.hidden {
			if t.wants(k) {
				return true
			}
		}
		return false
	}
	return true
}

// wants tells whether the plan has a route to k's prefix.
func (t *shown) wants(k kernel.RouteKey) bool {
	for _, routes := range [][]routing.Route{t.plan.Routes, t.plan.Pods, t.plan.Learned} {
		if _, wanted := slices.BinarySearchFunc(routes, routing.Route{Dst: k.Dst}, routing.CompareRoutes); wanted {
			return true
		}
	}
	return false
}

// List leaves out what an earlier process may have learned, and this one has not yet.
func (t *shown) List(ctx context.Context) (map[kernel.RouteKey]kernel.Route, error) {
	all, err := t.routeTable.List(ctx)
	t.hidden = nil
	if !t.plan.Unsettled {
		return all, err
	}
	hidden := map[kernel.RouteKey]bool{}
	for k := range all {
		if !t.wants(k) && !slices.ContainsFunc(t.plan.Pools, func(p netip.Prefix) bool { return p.Bits() <= k.Dst.Bits() && p.Contains(k.Dst.Addr()) }) {
			hidden[k] = true
			delete(all, k)
		}
	}
	t.hidden = hidden
	return all, err
}

// readLinks learns, once, which links there are, so that the first event about one of them is a
// change only when it says so. What an event told already is newer.
func (f *FIB) readLinks(ctx context.Context) error {
	f.mu.Lock()
	seeded := f.seeded
	f.mu.Unlock()
	if seeded {
		return nil
	}
	links, err := f.h.Links(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range links {
		if _, known := f.links[l.Index]; !known {
			f.links[l.Index] = linkState{l.Name, l.Up}
		}
	}
	f.seeded = true
	return nil
}

// entry is a route as the kernel has it in a table.
func entry(table int, r routing.Route) (kernel.RouteKey, kernel.Route) {
	k := key(table, r.Dst)
	k.Metric = cmp.Or(r.Metric, k.Metric)
	return k, kernelRoute(r)
}

func key(table int, dst netip.Prefix) kernel.RouteKey {
	return kernel.RouteKey{Table: table, Dst: dst, Metric: Metric}
}

func kernelRoute(r routing.Route) kernel.Route {
	if r.Blackhole {
		return kernel.Route{Type: kernel.Blackhole}
	}
	if r.Unreachable {
		return kernel.Route{Type: kernel.UnreachableType}
	}
	if r.Throw {
		return kernel.Route{Type: kernel.Throw}
	}
	return kernel.Route{
		Type: kernel.Unicast, Via: r.Via, Device: r.Device, Hops: r.Hops, Source: r.Source, MTU: r.MTU,
		// A next hop behind a tunnel, and one in a subnet that this host has no address of, is on
		// no connected route: the device is what counts.
		OnLink: r.Via.IsValid() || !r.Hops.IsZero(),
	}
}

// Resync makes the next Apply read the kernel again, the links as well: events about them may have
// been lost.
func (f *FIB) Resync() {
	f.mu.Lock()
	clear(f.links)
	f.seeded = false
	f.mu.Unlock()
	f.syncer.Invalidate()
}

// Observe takes one kernel event and tells whether Apply should be called again: somebody else
// changed a route of ours, or may have; or what kept a route from being written has changed. It
// never blocks.
func (f *FIB) Observe(e kernel.Event) bool {
	switch e.Kind {
	case kernel.EventLost:
		f.syncer.Invalidate()
		return true
	case kernel.EventRoute:
		return f.observeRoute(e)
	case kernel.EventLink:
		return f.observeLink(e)
	case kernel.EventAddr:
		return f.observeAddr(e)
	}
	return false
}

func (f *FIB) observeRoute(e kernel.Event) bool {
	if e.RouteKey.Table != f.table {
		return false
	}
	if e.Protocol == kernel.RouteProtocol {
		if e.RouteKey.Metric == kernel.SpareMetric {
			return false
		}
		return f.syncer.Observe(e.RouteKey, e.Route, e.Removed)
	}
	// A foreign route under a key of ours: it has replaced ours, for which the kernel has no event
	// of its own, or it was in the way and is gone.
	ours := f.syncer.Wants(e.RouteKey)
	if ours {
		f.syncer.Invalidate()
	}
	return ours
}

// observeLink: with a link that goes down or away the kernel drops its routes, those of IPv4 without
// telling; one that comes up may be what a route has waited for.
func (f *FIB) observeLink(e kernel.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, known := f.links[e.Link.Index]
	now := linkState{e.Link.Name, e.Link.Up}
	if e.Removed {
		delete(f.links, e.Link.Index)
	} else {
		f.links[e.Link.Index] = now
	}
	if !e.Removed && known && have == now || !f.use.devices[now.name] && !f.use.devices[have.name] {
		return false
	}
	switch {
	case known && have.name != now.name: // its routes go by another name now
		f.syncer.Invalidate()
	case !e.Removed && now.up:
		return f.failed // what is written was written while it was up
	default:
		f.syncer.Forget(func(_ kernel.RouteKey, r kernel.Route) bool { return r.Device == now.name || r.Hops.On(now.name) })
	}
	return true
}

// observeAddr: with an address the kernel drops, without telling, the routes that prefer it as
// their source, and refuses them until it is there.
func (f *FIB) observeAddr(e kernel.Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.use.sources[e.Addr.Addr()] || !e.Removed && !f.failed {
		return false
	}
	f.syncer.Invalidate()
	return true
}

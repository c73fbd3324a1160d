package ipip

import (
	"context"
	"sync"
	"time"

	"weft/internal/kernel"
)

// Looking whether somebody detached a program or changed a map takes the place of events, which
// neither has. It is done every lookInterval; the maps are read as seldom as one part in lookShare of
// a processor demands.
const (
	lookInterval = 500 * time.Millisecond
	lookShare    = 2000
)

// Observe tells whether the event is a change by somebody else to something of ours, so that Apply
// should be called. It costs nothing for what is not ours.
func (d *Driver) Observe(e kernel.Event) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	there := d.there
	if e.Kind == kernel.EventLost {
		d.fresh = false
		d.addrs.Invalidate()
		return true
	}
	if there == nil {
		return false
	}
	switch e.Kind {
	case kernel.EventLink:
		if there.observeLink(e) {
			d.fresh = false
			return true
		}
	case kernel.EventAddr:
		if e.Link.Name == there.want.Name && !e.Addr.Addr().IsLinkLocalUnicast() {
			return d.addrs.Observe(kernel.AddrKey{Device: e.Link.Name, Prefix: e.Addr}, struct{}{}, e.Removed)
		}
	case kernel.EventSysctl:
		all, own := "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/"+there.want.Name+"/rp_filter"
		if (e.Sysctl == all || e.Sysctl == own) && e.SysctlValue == 1 {
			d.fresh = false
			return true
		}
	case kernel.EventRoute:
		if d.way == EBPF && there.observeRoute(e) {
			d.fresh = false
			return true
		}
	}
	return false
}

// observeLink tells whether the event is about the device or an interface below it. Echoes of our
// own changes cost one reading of the links.
func (s *applied) observeLink(e kernel.Event) bool {
	return e.Link.Index == s.index || e.Link.Name == s.want.Name ||
		e.Link.Name == s.want.Parent && (e.Removed || e.Link.Index != s.parent) ||
		e.Link.Index == s.parent && e.Link.Name != s.want.Parent ||
		e.Removed && s.uplinks[e.Link.Index]
}

// observeRoute tells whether a peer is now reached through an interface where no program runs.
func (s *applied) observeRoute(e kernel.Event) bool {
	if e.Removed || e.Protocol == kernel.RouteProtocol || e.RouteKey.Table != kernel.MainTable || !e.RouteKey.Dst.Addr().Is4() ||
		e.Link.Index == 0 || s.uplinks[e.Link.Index] || kernel.Owned(e.Link.Name) {
		return false
	}
	for a := range s.outers {
		if e.RouteKey.Dst.Contains(a) {
			return true
		}
	}
	return false
}

// Watch calls kick when somebody else changed what kernel.Watch does not carry (the guard, by its
// events; programs and maps, by looking), until ctx ends, whose error it returns. The next Apply then
// repairs it.
func (d *Driver) Watch(ctx context.Context, kick func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(d.guard.Watch(ctx, kick)) })
	defer wg.Wait()
	var l looker
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookInterval):
			l.look(ctx, d, kick)
		}
	}
}

// looker remembers when the maps may be read again.
type looker struct{ mapsAfter time.Time }

// look kicks when programs or maps are not as the last Apply left them.
func (l *looker) look(ctx context.Context, d *Driver, kick func()) {
	if d.way != EBPF {
		return
	}
	d.running.Lock()
	defer d.running.Unlock()
	d.mu.Lock()
	idle := d.there == nil || !d.fresh
	d.mu.Unlock()
	if idle || !d.bpf.loaded() || !d.bpf.filled {
		return
	}
	ok, err := d.bpf.quickLook(ctx)
	if now := time.Now(); ok && err == nil && now.After(l.mapsAfter) {
		var cost time.Duration
		cost, err = kernel.Cost(func() (err error) { ok, err = d.bpf.mapsHold(ctx); return err })
		l.mapsAfter = now.Add(lookShare * cost)
	}
	if ctx.Err() != nil || ok && err == nil {
		return
	}
	if err != nil {
		d.log.Warn("cannot look at the IPIP programs", "error", err)
	} else {
		d.log.Warn("somebody changed the IPIP programs or their maps")
	}
	d.stale()
	kick()
}

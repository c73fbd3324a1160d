package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
)

// HostSides configures the host sides of pods' links. *kernel.PodLinks implements it.
type HostSides interface {
	// Devices returns those that exist, by name.
	Devices(context.Context) (map[string]kernel.Link, error)
	Configure(context.Context, kernel.PodLink) error
}

// LinkHealer puts the host sides of running pods' links back as they were made, when somebody else
// changed them: set down, without the gateway's address, with settings that let a pod pose as another.
// A pod whose link is gone cannot be healed: it is taken from Registry.Endpoints, so that it keeps
// nobody else from being programmed.
type LinkHealer struct {
	registry *Registry
	links    HostSides
	log      *slog.Logger

	mu    sync.Mutex
	dirty map[string]bool // by device
	all   bool            // look at all of them
}

// NewLinkHealer returns a LinkHealer that believes the links to be in order: the start of Server sees
// to that. log is optional.
func NewLinkHealer(r *Registry, links HostSides, log *slog.Logger) *LinkHealer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &LinkHealer{registry: r, links: links, log: log, dirty: map[string]bool{}}
}

// Observe tells whether an event says that the link of a running pod is not as it should be. Of the
// settings the kernel tells only some: rp_filter and forwarding are among them, route_localnet is not.
func (l *LinkHealer) Observe(ev kernel.Event) bool {
	device := ev.Link.Name
	switch ev.Kind {
	case kernel.EventLost:
		l.Resync()
		return true
	case kernel.EventLink:
		if !ev.Removed && ev.Link.Up {
			return false
		}
	case kernel.EventAddr:
		if !ev.Removed {
			return false
		}
	case kernel.EventSysctl:
		if ev.SysctlValue == 1 { // what rp_filter and forwarding have
			return false
		}
		device = path.Base(path.Dir(ev.Sysctl))
	default:
		return false
	}
	if !l.registry.shows(device) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty[device] = true
	return true
}

// Resync makes the next Apply configure all links.
func (l *LinkHealer) Resync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = true
}

// Apply heals what Observe found, or all after Resync. The error joins one for each link that could not
// be healed; the next Apply tries these again.
func (l *LinkHealer) Apply(ctx context.Context) (reconcile.Result, error) {
	l.mu.Lock()
	dirty, all := l.dirty, l.all
	l.dirty, l.all = map[string]bool{}, false
	l.mu.Unlock()
	if len(dirty) == 0 && !all {
		return reconcile.Result{}, nil
	}
	var res reconcile.Result
	there, err := l.links.Devices(ctx)
	if err != nil {
		l.again(dirty, all)
		return res, fmt.Errorf("look for the links of pods: %w", err)
	}
	var errs []error
	for _, a := range l.registry.visible() {
		if !all && !dirty[a.Device] {
			continue
		}
		if _, ok := there[a.Device]; !ok {
			l.registry.hide(a.key())
			l.log.Warn("cni: the link of a pod was removed by somebody else; the pod is cut off until it is deleted",
				"pod", a.id().String(), "device", a.Device)
			continue
		}
		if err := l.links.Configure(ctx, a.link()); err != nil {
			l.again(map[string]bool{a.Device: true}, false)
			errs = append(errs, err)
			continue
		}
		if dirty[a.Device] {
			res.Changed++
			res.Repaired++
		}
	}
	return res, errors.Join(errs...)
}

// again notes what the next Apply is to try.
func (l *LinkHealer) again(dirty map[string]bool, all bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := range dirty {
		l.dirty[d] = true
	}
	l.all = l.all || all
}

package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
)

// The values of rp_filter (Documentation/networking/ip-sysctl.rst); the larger of the interface's and
// that of "all" is in force.
const (
	rpStrict = "1"
	rpLoose  = "2"
)

// ReversePath is the driver of rp_filter on the underlay's interfaces and on tunnel devices. While a
// pool changes its encapsulation, peers change at moments of their own: what one still sends by the
// old way arrives where this host's own route no longer leads, and a strict filter would drop it.
// Interfaces on which the filter is strict become loose; others are left as they are. Whose packets
// a tunnel may bring is the guard's business; pods' links stay strict.
type ReversePath struct {
	nsPath string
	was    *kernel.Originals
	log    *slog.Logger

	mu    sync.Mutex
	set   []string       // interfaces of the last Apply
	index map[string]int // of those whose events have been seen: one made anew has the default's filter
	clean bool           // none of them filters strictly, as far as events tell
}

// NewReversePath returns the driver for the network namespace at nsPath; empty means that of the
// process. What a filter was goes to was.
func NewReversePath(nsPath string, was *kernel.Originals, log *slog.Logger) *ReversePath {
	return &ReversePath{nsPath: nsPath, was: was, log: log}
}

// Apply takes care that no interface named filters strictly. One that does not exist, or went
// meanwhile, is passed over.
func (r *ReversePath) Apply(ctx context.Context, devices []string) (reconcile.Result, error) {
	if err := ctx.Err(); err != nil {
		return reconcile.Result{}, err
	}
	r.mu.Lock()
	known := r.set
	if r.clean && slices.Equal(known, devices) {
		r.mu.Unlock()
		return reconcile.Result{}, nil
	}
	r.set, r.clean = slices.Clone(devices), true // until Observe says otherwise
	r.mu.Unlock()
	var res reconcile.Result
	var errs []error
	for _, d := range devices {
		changed, err := r.loosen(d)
		if err != nil {
			errs = append(errs, err)
		}
		if changed {
			res.Changed++
			if slices.Contains(known, d) {
				res.Repaired++
			}
		}
	}
	if len(errs) > 0 {
		r.Invalidate()
	}
	return res, errors.Join(errs...)
}

// Invalidate makes the next Apply look at every interface again.
func (r *ReversePath) Invalidate() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clean = false
}

func (r *ReversePath) loosen(device string) (changed bool, err error) {
	get := func(path string) (string, error) {
		if r.nsPath == "" {
			return kernel.GetSysctl(path)
		}
		return kernel.GetSysctlAt(r.nsPath, path)
	}
	path := rpFilter(device)
	own, err := get(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	all, allErr := get(rpFilter("all"))
	if err := errors.Join(err, allErr); err != nil {
		return false, err
	}
	if max(own, all) != rpStrict {
		return false, nil
	}
	if err := r.was.Note(path, own, rpLoose); err != nil {
		r.log.Warn("a setting of the host will not be put back", "err", err)
	}
	if r.nsPath == "" {
		err = kernel.SetSysctl(path, rpLoose)
	} else {
		err = kernel.SetSysctlAt(r.nsPath, path, rpLoose)
	}
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("%w; strict, it would drop packets while a pool changes its encapsulation", err)
	}
	r.log.Info("reverse path filter is loose now", "device", device)
	return true, nil
}

func rpFilter(device string) string { return "net/ipv4/conf/" + device + "/rp_filter" }

// Observe tells whether somebody may have made one of the interfaces strict: the kernel tells by
// netconf notifications.
func (r *ReversePath) Observe(e kernel.Event) bool {
	if e.Kind == kernel.EventLost {
		r.Invalidate()
		return true
	}
	if e.Kind == kernel.EventLink && !e.Removed {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !slices.Contains(r.set, e.Link.Name) || r.index[e.Link.Name] == e.Link.Index {
			return false
		}
		if r.index == nil {
			r.index = map[string]int{}
		}
		r.index[e.Link.Name] = e.Link.Index
		r.clean = false
		return true
	}
	if e.Kind != kernel.EventSysctl || strconv.Itoa(e.SysctlValue) == rpLoose {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Sysctl == rpFilter("all") || slices.ContainsFunc(r.set, func(d string) bool { return e.Sysctl == rpFilter(d) }) {
		r.clean = false
		return true
	}
	return false
}

package fib

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
)

// sysctl is one setting of the host that routing needs.
type sysctl struct {
	path, value string
	why         string
}

// sysctls are what we set, and keep, for the whole host, in this order. What concerns one pod's
// link is set where that link is made.
func sysctls() []sysctl {
	return []sysctl{
		{"net/ipv4/ip_forward", "1", "pods on this host are reached through it"},
		{"net/ipv6/conf/all/forwarding", "1", "the same for IPv6"},
	}
}

// netconfPaths maps how the kernel's events name a setting to how we do: ip_forward is the
// forwarding flag of "all".
func netconfPaths() map[string]string {
	return map[string]string{
		"net/ipv4/conf/all/forwarding": "net/ipv4/ip_forward",
		"net/ipv6/conf/all/forwarding": "net/ipv6/conf/all/forwarding",
	}
}

// dragged lists what the kernel sets, on every interface there is, when forwarding is switched on or off
// (inet_forward_change in net/ipv4/devinet.c, addrconf_forward_change in net/ipv6/addrconf.c).
func dragged(path string) (out []string) {
	conf := "net/ipv6/conf/"
	if path == "net/ipv4/ip_forward" {
		conf = "net/ipv4/conf/"
		out = append(out, conf+"all/accept_redirects")
	}
	entries, _ := os.ReadDir("/proc/sys/" + conf)
	for _, e := range entries {
		if e.Name() != "all" { // the setting itself
			out = append(out, conf+e.Name()+"/forwarding")
		}
	}
	return out
}

// Sysctls is the driver of the forwarding settings of one network namespace.
type Sysctls struct {
	nsPath string
	was    *kernel.Originals
	log    *slog.Logger
	set    map[string]bool // was as wanted after an earlier Apply; only Apply uses it

	mu    sync.Mutex
	clean bool // all are as wanted, as far as events tell
}

// NewSysctls returns the driver for the network namespace at nsPath; empty means that of the
// process. What a setting was goes to was.
func NewSysctls(nsPath string, was *kernel.Originals, log *slog.Logger) *Sysctls {
	return &Sysctls{nsPath: nsPath, was: was, log: log, set: make(map[string]bool)}
}

// Apply sets what is not as it should be. A setting that this kernel lacks (no IPv6) is passed
// over. While no event says otherwise it does not look again. It has no "gone":
// kernel.Originals has what was before.
func (s *Sysctls) Apply(ctx context.Context) (reconcile.Result, error) {
	if err := ctx.Err(); err != nil {
		return reconcile.Result{}, err
	}
	s.mu.Lock()
	clean := s.clean
	s.clean = true // until Observe says otherwise
	s.mu.Unlock()
	if clean {
		return reconcile.Result{}, nil
	}
	var res reconcile.Result
	var err error
	if s.nsPath == "" {
		res, err = s.apply()
	} else {
		err = kernel.Do(s.nsPath, func() (err error) {
			res, err = s.apply()
			return err
		})
	}
	if err != nil {
		s.Invalidate()
	}
	return res, err
}

// Invalidate makes the next Apply look at every setting again.
func (s *Sysctls) Invalidate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clean = false
}

func (s *Sysctls) apply() (reconcile.Result, error) {
	var res reconcile.Result
	var errs []error
	for _, c := range sysctls() {
		have, err := kernel.GetSysctl(c.path)
		if errors.Is(err, os.ErrNotExist) {
			s.log.Debug("sysctl is absent, passed over", "sysctl", c.path)
			continue
		}
		if err == nil && have == c.value {
			s.set[c.path] = true
			continue
		}
		if err == nil {
			if err := s.was.Note(c.path, have, c.value, dragged(c.path)...); err != nil {
				s.log.Warn("a setting of the host will not be put back", "err", err)
			}
			err = kernel.SetSysctl(c.path, c.value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%w; it is needed because %s", err, c.why))
			continue
		}
		res.Changed++
		if s.set[c.path] {
			res.Repaired++
		}
		s.set[c.path] = true
		s.log.Info("sysctl set", "sysctl", c.path, "was", have, "now", c.value)
	}
	return res, errors.Join(errs...)
}

// Observe takes one kernel event and tells whether Apply should be called again: somebody changed
// one of our settings (the kernel tells by netconf notifications), or may have.
func (s *Sysctls) Observe(e kernel.Event) bool {
	switch e.Kind {
	case kernel.EventLost:
		s.Invalidate()
		return true
	case kernel.EventSysctl:
		path := netconfPaths()[e.Sysctl]
		for _, c := range sysctls() {
			if c.path == path && c.value != strconv.Itoa(e.SysctlValue) {
				s.Invalidate()
				return true
			}
		}
	}
	return false
}

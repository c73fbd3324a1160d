package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
)

// minMTU6 is what every link that carries IPv6 must take, in bytes (RFC 8200, section 5): the kernel
// takes the IPv6 addresses off a device that has less.
const minMTU6 = 1280

// LinkMTUs reads and changes the MTUs of pods' links. *kernel.PodLinks implements it.
type LinkMTUs interface {
	// MTUs returns what the links have, by their host side.
	MTUs(context.Context) (map[string]kernel.PodMTU, error)
	// SetMTUs makes changes and returns one error for each, nil where it was made.
	SetMTUs(context.Context, []kernel.PodMTUChange) []error
}

// MTUSyncer keeps the links of running pods at the MTU that the node wants. It leaves alone what the
// pods' owners decided: a link whose MTU the network configuration says, and an MTU inside a pod that
// the pod itself made smaller than the one that it was given.
type MTUSyncer struct {
	registry *Registry
	links    LinkMTUs
	log      *slog.Logger

	mu    sync.Mutex
	stale bool           // the kernel is to be read again
	hosts map[string]int // MTU of the host sides as they were left, in bytes
}

// NewMTUSyncer returns an MTUSyncer that has not read the kernel yet. log is optional.
func NewMTUSyncer(r *Registry, links LinkMTUs, log *slog.Logger) *MTUSyncer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &MTUSyncer{registry: r, links: links, log: log, stale: true, hosts: map[string]int{}}
}

// Observe tells whether an event says that somebody else changed the MTU of a host side. What happens
// to the pod's side is not told to the host.
func (s *MTUSyncer) Observe(ev kernel.Event) bool {
	if ev.Kind != kernel.EventLink || ev.Removed {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if want, ours := s.hosts[ev.Link.Name]; !ours || want == ev.Link.MTU {
		return false
	}
	s.stale = true
	return true
}

// Resync makes the next Apply read the kernel.
func (s *MTUSyncer) Resync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = true
}

// Apply gives the links of all attached pods the MTU, in bytes; 0 stands for one that is not known
// yet and changes nothing. A pod that is being attached is among them from before its routes are
// programmed, so that one which began with an earlier MTU ends with this one. The error joins one for
// each pod that could not be changed; the next Apply tries these again.
func (s *MTUSyncer) Apply(ctx context.Context, mtu int) (reconcile.Result, error) {
	return s.apply(ctx, mtu, false)
}

// Lower is Apply for those pods whose MTU is to shrink: what comes before less fits, as Apply comes
// after more does.
func (s *MTUSyncer) Lower(ctx context.Context, mtu int) (reconcile.Result, error) {
	return s.apply(ctx, mtu, true)
}

func (s *MTUSyncer) apply(ctx context.Context, mtu int, lower bool) (reconcile.Result, error) {
	if mtu <= 0 {
		return reconcile.Result{}, nil
	}
	pods := s.registry.visible()
	wants, errs := wantedMTUs(pods, mtu)
	for i, a := range pods {
		if lower && a.MTU > 0 {
			wants[i] = min(wants[i], a.MTU)
		}
	}
	if !s.begin(pods, wants) {
		return reconcile.Result{}, errors.Join(errs...)
	}
	have, err := s.links.MTUs(ctx)
	if err != nil {
		s.Resync()
		return reconcile.Result{}, err
	}
	res, changes, changed := s.compare(pods, wants, have)
	for i, err := range s.links.SetMTUs(ctx, changes) {
		a := changed[i]
		if err == nil {
			err = s.registry.setMTU(a.key(), changes[i].Host)
		}
		if err != nil {
			s.Resync()
			errs = append(errs, fmt.Errorf("pod %s: %w", a.id(), err))
		}
	}
	return res, errors.Join(errs...)
}

// wantedMTUs returns the MTU of each pod's link, in the order of pods.
func wantedMTUs(pods []*attachment, mtu int) (wants []int, errs []error) {
	wants = make([]int, len(pods))
	for i, a := range pods {
		wants[i] = mtu
		if a.FixedMTU {
			wants[i] = a.MTU
		} else if mtu < minMTU6 && a.has(model.IPv6) {
			wants[i] = minMTU6
			errs = append(errs, fmt.Errorf("pod %s keeps an MTU of %d, since it has an IPv6 address, although the paths take %d only: raise the MTU of the uplink or of the tunnels", a.id(), minMTU6, mtu))
		}
	}
	return wants, errs
}

func (a *attachment) has(f model.Family) bool {
	for _, ip := range a.Addresses {
		if model.FamilyOf(ip) == f {
			return true
		}
	}
	return false
}

// begin tells whether there is anything to do, and notes what the host sides are to have: from now on
// an event that says so is our own. A link that ADD has just made has what the journal says.
func (s *MTUSyncer) begin(pods []*attachment, wants []int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo := s.stale
	s.stale = false
	for i, a := range pods {
		have, known := s.hosts[a.Device]
		todo = todo || a.MTU != wants[i] || known && have != wants[i]
		s.hosts[a.Device] = wants[i]
	}
	if len(s.hosts) > len(pods) {
		there := make(map[string]bool, len(pods))
		for _, a := range pods {
			there[a.Device] = true
		}
		for device := range s.hosts {
			if !there[device] {
				delete(s.hosts, device)
			}
		}
	}
	return todo
}

// compare returns the changes that lead from what the links have to what they are to have, and whose
// they are. Before an MTU shrinks the journal says so: whatever happens then, a pod whose own side has
// less than the journal says made it so itself.
func (s *MTUSyncer) compare(pods []*attachment, wants []int, have map[string]kernel.PodMTU) (res reconcile.Result,
	changes []kernel.PodMTUChange, changed []*attachment) {
	for i, a := range pods {
		now, there := have[a.Device]
		if !there {
			continue // whoever notices that a link is gone takes care of it
		}
		want := kernel.PodMTU{Host: wants[i], Pod: wants[i]}
		if now.Pod > 0 && now.Pod < a.MTU {
			want.Pod = min(want.Pod, now.Pod)
		}
		if now.Pod == 0 || now == want {
			s.note(a, wants[i])
			continue
		}
		if wants[i] < a.MTU {
			s.note(a, wants[i])
		}
		res.Changed++
		if a.MTU == wants[i] {
			res.Repaired++
			s.log.Info("pod MTU put back", "pod", a.id().String(), "device", a.Device, "host", now.Host, "inside", now.Pod, "mtu", wants[i])
		}
		changes = append(changes, kernel.PodMTUChange{Device: a.Device, Netns: a.Netns, PodMTU: want})
		changed = append(changed, a)
	}
	return res, changes, changed
}

// note writes an MTU into the journal.
func (s *MTUSyncer) note(a *attachment, mtu int) {
	if err := s.registry.setMTU(a.key(), mtu); err != nil {
		s.Resync()
		s.log.Warn("the MTU of a pod is not in the journal, will retry", "pod", a.id().String(), "err", err)
	}
}

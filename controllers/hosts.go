package controllers

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/node/datastore"
)

// What a host endpoint that is made for a node has.
const (
	hostSuffix   = "-auto-hep"
	hostProfile  = "projectcalico-default-allow" // lets pass what no policy is about
	hostsSettle  = 200 * time.Millisecond
	hostsResync  = 10 * time.Minute
	hostsAllIfcs = "*"
)

// A node writes its record as often as it likes, and each time it may be as many host endpoints as it has interfaces.
const (
	hostsRate  = 2 // a second for one node: endpoints made or changed, and as many removed
	hostsBurst = v3.MaxHostInterfaces
)

// hosts makes a host endpoint for every node, where the KubeControllersConfiguration asks for it, and keeps it in step
// with the node. That of a node that is gone goes with all that the node left (sweeper).
type hosts struct {
	follower
	store   datastore.Store
	log     *slog.Logger
	metrics *metrics

	nodes  map[string]*v3.Node
	have   map[string]*v3.HostEndpoint
	config *v3.KubeControllersConfiguration
	blind  bool // the configuration cannot be understood

	limits map[hostsLimit]*rate.Limiter // of no other goroutine than run's
	later  func(time.Duration)          // asks for another run
	asked  time.Time                    // when that is
}

func newHosts(cfg Config, m *metrics) *hosts {
	h := &hosts{store: cfg.Store, log: cfg.Log, metrics: m, nodes: map[string]*v3.Node{}, have: map[string]*v3.HostEndpoint{}, limits: map[hostsLimit]*rate.Limiter{}}
	h.later = func(d time.Duration) { time.AfterFunc(d, h.runner.Kick) }
	h.runner = reconcile.NewRunner(h.run, reconcile.RunnerOptions{Settle: hostsSettle, RetryMin: retryMin, RetryMax: retryMax, Resync: hostsResync})
	return h
}

// follow keeps h fed by a store until ctx ends.
func (h *hosts) follow(ctx context.Context, from datastore.Store) error {
	return datastore.Follow(ctx, from, []string{v3.KindKubeControllersConfiguration, v3.KindNode, v3.KindHostEndpoint}, h, datastore.FollowOptions{Logger: h.log})
}

// OnChanges implements datastore.Sink.
func (h *hosts) OnChanges(changes []datastore.Change) {
	h.mu.Lock()
	for _, c := range changes {
		switch {
		case c.Key == datastore.Key{Kind: v3.KindKubeControllersConfiguration, Name: "default"}:
			h.blind = c.Err != nil
			if c.Err == nil {
				h.config, _ = c.Object.(*v3.KubeControllersConfiguration)
			}
		case c.Err != nil: // what was known stays
		case c.Key.Kind == v3.KindNode:
			note(h.nodes, c)
		case c.Key.Kind == v3.KindHostEndpoint:
			note(h.have, c)
		}
	}
	h.mu.Unlock()
	h.runner.Kick()
}

func note[T v3.Object](m map[string]T, c datastore.Change) {
	if o, ok := c.Object.(T); ok {
		m[c.Key.Name] = o
	} else {
		delete(m, c.Key.Name)
	}
}

// run brings the store to what is wanted. Somebody who was faster is no error: his change arrives.
func (h *hosts) run(ctx context.Context, _ bool) error {
	h.mu.Lock()
	if !h.synced || h.blind {
		h.mu.Unlock()
		return nil
	}
	p := planHosts(h.nodes, h.have, wantedHosts(h.config))
	h.mu.Unlock()
	var errs []error
	may := h.turns(time.Now())
	do := func(what string, o v3.Object, err error) {
		switch {
		case err == nil:
			h.metrics.hosts.WithLabelValues(what).Inc()
			h.log.Info("host endpoint "+what, "name", o.GetName())
		case !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrAlreadyExists) && !errors.Is(err, datastore.ErrNotFound):
			errs = append(errs, fmt.Errorf("HostEndpoint %s: %w", o.GetName(), err))
		}
	}
	for o := range may(p.create, false) {
		_, err := h.store.Create(ctx, o)
		do("created", o, err)
	}
	for o := range may(p.update, false) {
		_, err := h.store.Update(ctx, o)
		do("updated", o, err)
	}
	for o := range may(p.remove, true) {
		do("removed", o, h.store.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{ResourceVersion: o.ResourceVersion}))
	}
	if err := errors.Join(errs...); err != nil {
		h.log.Warn("host endpoints are not as they are wanted, will try again", "err", err)
		return err
	}
	return nil
}

// hostsLimit names a limit: removals have one of their own, so that they keep up with what is made.
type hostsLimit struct {
	node   string
	remove bool
}

// turns returns what takes out of a part of a plan those endpoints that have their turn: each node has so many changes, so that
// one does not keep the others waiting. The others' turn comes with another run. What is there for an interface stays as long
// as something for that interface waits: it is not without an endpoint before it has the new one.
func (h *hosts) turns(now time.Time) func(list []*v3.HostEndpoint, remove bool) iter.Seq[*v3.HostEndpoint] {
	maps.DeleteFunc(h.limits, func(_ hostsLimit, l *rate.Limiter) bool { return l.TokensAt(now) >= hostsBurst })
	type subject struct{ node, iface string }
	waits := map[subject]bool{}
	return func(list []*v3.HostEndpoint, remove bool) iter.Seq[*v3.HostEndpoint] {
		return func(yield func(*v3.HostEndpoint) bool) {
			for _, o := range list {
				k := hostsLimit{o.Spec.Node, remove}
				if h.limits[k] == nil {
					h.limits[k] = rate.NewLimiter(hostsRate, hostsBurst)
				}
				of := subject{o.Spec.Node, o.Spec.InterfaceName}
				if remove && waits[of] || !h.limits[k].AllowN(now, 1) {
					waits[of] = true
					if !h.asked.After(now) {
						h.asked = now.Add(time.Second)
						h.later(time.Second)
					}
				} else if !yield(o) {
					return
				}
			}
		}
	}
}

// wantedHosts returns what asks for host endpoints of every node; nil: nothing does.
func wantedHosts(c *v3.KubeControllersConfiguration) *v3.AutoHostEndpointConfig {
	if c == nil || c.Spec.Controllers.Node == nil || c.Spec.Controllers.Node.HostEndpoint == nil {
		return nil
	}
	if e := c.Spec.Controllers.Node.HostEndpoint; e.AutoCreate == v3.ControllerEnabled {
		return e
	}
	return nil
}

// hostsPlan is what to do; updates and removals carry the resource version that they follow on.
type hostsPlan struct{ create, update, remove []*v3.HostEndpoint }

// planHosts decides. It is pure. What bears the name of a host endpoint of ours without our label is somebody's own. What a
// node that is gone has is the sweeper's matter.
func planHosts(nodes map[string]*v3.Node, have map[string]*v3.HostEndpoint, wanted *v3.AutoHostEndpointConfig) hostsPlan {
	var p hostsPlan
	names := map[string]bool{}
	if wanted != nil {
		all := slices.Sorted(maps.Keys(nodes))
		var want []*v3.HostEndpoint
		for _, node := range all {
			if wanted.CreateDefaultHostEndpoint != v3.ControllerDisabled {
				want = append(want, hostOf(nodes[node]))
			}
		}
		templates := templatesOf(wanted.Templates)
		for _, node := range all {
			for _, t := range templates {
				want = append(want, t.hosts(nodes[node])...)
			}
		}
		tellApart(want, have)
		for _, o := range want {
			if !names[o.Name] { // two templates of one name: the first
				names[o.Name] = true
				p.keep(o, have[o.Name])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		o := have[name]
		ours := o.Labels[CreatedBy] == ByController && strings.HasSuffix(name, hostSuffix)
		if ours && !names[name] && (wanted == nil || nodes[o.Spec.Node] != nil) {
			p.remove = append(p.remove, o)
		}
	}
	return p
}

// tellApart gives an endpoint another name whose name another node's has: template b of node a has the name of node a-b's. What
// exists keeps its name, else the first does.
func tellApart(want []*v3.HostEndpoint, have map[string]*v3.HostEndpoint) {
	holders := map[string]string{}
	for _, o := range want {
		if is := have[o.Name]; is != nil {
			holders[o.Name] = is.Spec.Node
		}
	}
	for _, o := range want {
		if node, held := holders[o.Name]; held && node != o.Spec.Node {
			raw := strings.TrimSuffix(o.Name, hostSuffix)
			o.Name = hashedName(raw, o.Spec.Node, raw)
			continue
		}
		holders[o.Name] = o.Spec.Node
	}
}

// keep plans what makes is, or nothing, what is wanted.
func (p *hostsPlan) keep(want, is *v3.HostEndpoint) {
	switch {
	case is == nil:
		p.create = append(p.create, want)
	case is.Labels[CreatedBy] != ByController:
	case !reflect.DeepEqual(is.Spec, want.Spec) || !maps.Equal(is.Labels, want.Labels) || !has(is.Annotations, want.Annotations):
		next := is.DeepCopy()
		next.Spec, next.Labels = want.Spec, want.Labels
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		maps.Copy(next.Annotations, want.Annotations)
		p.update = append(p.update, next)
	}
}

// has tells whether all of want is in is.
func has(is, want map[string]string) bool {
	for k, v := range want {
		if is[k] != v {
			return false
		}
	}
	return true
}

// hostOf returns the host endpoint of all interfaces of a node: it has the node's labels and all its
// addresses.
func hostOf(n *v3.Node) *v3.HostEndpoint {
	info, _ := v3.LookupKind(v3.KindHostEndpoint)
	o := info.New().(*v3.HostEndpoint)
	o.Name = hostName(n.Name, "", "")
	o.Labels = map[string]string{}
	maps.Copy(o.Labels, n.Labels)
	o.Labels[CreatedBy] = ByController
	o.Spec = v3.HostEndpointSpec{Node: n.Name, InterfaceName: hostsAllIfcs, Profiles: []string{hostProfile}, ExpectedIPs: texts(addressesOf(n))}
	return o
}

func texts(addrs []netip.Addr) (out []string) {
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

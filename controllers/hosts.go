package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

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

// hosts makes a host endpoint for every node, where the KubeControllersConfiguration asks for it, and keeps it in step
// with the node. That of a node that is gone goes with all that the node left (sweeper).
type hosts struct {
	store   datastore.Store
	log     *slog.Logger
	metrics *metrics
	runner  *reconcile.Runner

	mu     sync.Mutex
	synced bool
	nodes  map[string]*v3.Node
	have   map[string]*v3.HostEndpoint
	config *v3.KubeControllersConfiguration
	blind  bool // the configuration cannot be understood
}

func newHosts(cfg Config, m *metrics) *hosts {
	h := &hosts{store: cfg.Store, log: cfg.Log, metrics: m, nodes: map[string]*v3.Node{}, have: map[string]*v3.HostEndpoint{}}
	h.runner = reconcile.NewRunner(h.run, reconcile.RunnerOptions{Settle: hostsSettle, RetryMin: retryMin, RetryMax: retryMax, Resync: hostsResync})
	return h
}

// follow keeps h fed until ctx ends.
func (h *hosts) follow(ctx context.Context) error {
	return datastore.Follow(ctx, h.store, []string{v3.KindKubeControllersConfiguration, v3.KindNode, v3.KindHostEndpoint}, h, datastore.FollowOptions{Logger: h.log})
}

// OnState implements datastore.Sink.
func (h *hosts) OnState(s datastore.State, _ error) {
	h.mu.Lock()
	h.synced = s == datastore.StateInSync
	h.mu.Unlock()
	h.runner.Kick()
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
	p := planHosts(h.nodes, h.have, wantsHosts(h.config))
	h.mu.Unlock()
	var errs []error
	do := func(what string, o v3.Object, err error) {
		switch {
		case err == nil:
			h.metrics.hosts.WithLabelValues(what).Inc()
			h.log.Info("host endpoint "+what, "name", o.GetName())
		case !errors.Is(err, datastore.ErrConflict) && !errors.Is(err, datastore.ErrAlreadyExists) && !errors.Is(err, datastore.ErrNotFound):
			errs = append(errs, fmt.Errorf("HostEndpoint %s: %w", o.GetName(), err))
		}
	}
	for _, o := range p.create {
		_, err := h.store.Create(ctx, o)
		do("created", o, err)
	}
	for _, o := range p.update {
		_, err := h.store.Update(ctx, o)
		do("updated", o, err)
	}
	for _, o := range p.remove {
		do("removed", o, h.store.Delete(ctx, datastore.KeyOf(o), datastore.Precondition{ResourceVersion: o.ResourceVersion}))
	}
	if err := errors.Join(errs...); err != nil {
		h.log.Warn("host endpoints are not as they are wanted, will try again", "err", err)
		return err
	}
	return nil
}

// wantsHosts tells whether every node is to have a host endpoint.
func wantsHosts(c *v3.KubeControllersConfiguration) bool {
	if c == nil || c.Spec.Controllers.Node == nil || c.Spec.Controllers.Node.HostEndpoint == nil {
		return false
	}
	e := c.Spec.Controllers.Node.HostEndpoint
	return e.AutoCreate == v3.ControllerEnabled && e.CreateDefaultHostEndpoint != v3.ControllerDisabled
}

// hostsPlan is what to do; updates and removals carry the resource version that they follow on.
type hostsPlan struct{ create, update, remove []*v3.HostEndpoint }

// planHosts decides. It is pure. What bears the name of a host endpoint of ours without our label is somebody's own.
func planHosts(nodes map[string]*v3.Node, have map[string]*v3.HostEndpoint, wanted bool) hostsPlan {
	var p hostsPlan
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if o := have[name]; !wanted && o.Labels[CreatedBy] == ByController && strings.HasSuffix(name, hostSuffix) {
			p.remove = append(p.remove, o)
		}
	}
	if !wanted {
		return p
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		want := hostOf(nodes[name])
		is := have[want.Name]
		switch {
		case is == nil:
			p.create = append(p.create, want)
		case is.Labels[CreatedBy] != ByController:
		case !reflect.DeepEqual(is.Spec, want.Spec) || !maps.Equal(is.Labels, want.Labels):
			next := is.DeepCopy()
			next.Spec, next.Labels = want.Spec, want.Labels
			p.update = append(p.update, next)
		}
	}
	return p
}

// hostOf returns the host endpoint of all interfaces of a node: it has the node's labels and all its addresses.
func hostOf(n *v3.Node) *v3.HostEndpoint {
	info, _ := v3.LookupKind(v3.KindHostEndpoint)
	o := info.New().(*v3.HostEndpoint)
	o.Name = n.Name + hostSuffix
	o.Labels = map[string]string{}
	maps.Copy(o.Labels, n.Labels)
	o.Labels[CreatedBy] = ByController
	o.Spec = v3.HostEndpointSpec{Node: n.Name, InterfaceName: hostsAllIfcs, Profiles: []string{hostProfile}, ExpectedIPs: addressesOf(n)}
	return o
}

// addressesOf returns the addresses of a node and of its tunnels, sorted.
func addressesOf(n *v3.Node) []string {
	texts := []string{n.Spec.IPv4VXLANTunnelAddr, n.Spec.IPv6VXLANTunnelAddr}
	if b := n.Spec.BGP; b != nil {
		texts = append(texts, b.IPv4Address, b.IPv6Address, b.IPv4IPIPTunnelAddr)
	}
	if w := n.Spec.Wireguard; w != nil {
		texts = append(texts, w.InterfaceIPv4Address, w.InterfaceIPv6Address)
	}
	for _, a := range n.Spec.Addresses {
		texts = append(texts, a.Address)
	}
	var addrs []netip.Addr
	for _, s := range texts {
		s, _, _ = strings.Cut(s, "/")
		if a, err := netip.ParseAddr(s); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []string
	for _, a := range slices.Compact(addrs) {
		out = append(out, a.String())
	}
	return out
}

// Package policytest makes random worlds of policies, endpoints and packets for tests, small enough
// that everything has to do with everything: few labels, addresses, ports and names. It changes a
// world step by step, and tells whoever listens what it changed. It knows nothing of how policy is
// compiled, and is no part of the product.
package policytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"weft/model"
)

// Self is the node that worlds are seen from; Other is another one.
const (
	Self  model.NodeName = "n1"
	Other model.NodeName = "n2"
)

// Sink is told of changes: a policy.Compiler is one.
type Sink interface {
	SetConfig(model.PolicyConfig)
	SetLinks([]model.Link)
	SetOverlay(model.Overlay)
	SetTier(*model.Tier)
	DeleteTier(string)
	SetPolicy(*model.Policy) error
	DeletePolicy(model.PolicyID)
	SetProfile(*model.Profile) error
	DeleteProfile(string)
	SetEndpoint(*model.Endpoint) error
	DeleteEndpoint(model.EndpointID)
	SetRemote(*model.RemoteEndpoint) error
	DeleteRemote(model.RemoteID)
	SetNetworkSet(*model.NetworkSet) error
	DeleteNetworkSet(model.NetworkSetID)
	SetHostEndpoint(*model.HostEndpoint) error
	DeleteHostEndpoint(string)
	SetService(model.ServiceID, []model.ServiceEndpoint) error
	DeleteService(model.ServiceID)
}

// World is a random world. Its snapshot's maps change in place; what they hold is replaced.
type World struct {
	*rand.Rand
	Snapshot *model.Snapshot
	// Hosts makes host endpoints, and policies that are for them only.
	Hosts bool
}

// New returns an empty world whose steps follow from the seed.
func New(seed uint64, hosts bool) *World {
	w := &World{Rand: rand.New(rand.NewPCG(seed, 20)), Hosts: hosts}
	w.Snapshot = &model.Snapshot{Self: Self, Endpoints: map[model.EndpointID]model.Endpoint{}, Policy: model.PolicyView{
		Tiers: map[string]*model.Tier{}, Policies: map[model.PolicyID]*model.Policy{}, Profiles: map[string]*model.Profile{},
		NetworkSets: map[model.NetworkSetID]*model.NetworkSet{}, Services: map[model.ServiceID][]model.ServiceEndpoint{},
		Remote: map[model.RemoteID]*model.RemoteEndpoint{}, HostEndpoints: map[string]*model.HostEndpoint{}}}
	return w
}

// Full returns a world with some of everything, as many as a world holds when steps go on.
func Full(seed uint64, hosts bool) *World {
	w := New(seed, hosts)
	for range 90 {
		w.Step(nil)
	}
	return w
}

// Step changes one thing, tells the sink (which may be nil), and says what it was.
func (w *World) Step(sink Sink) string {
	if sink == nil {
		sink = nobody{}
	}
	n := w.IntN(24)
	switch {
	case n < 7:
		return w.stepPolicy(sink)
	case n < 9:
		return w.stepTier(sink)
	case n < 11:
		return w.stepProfile(sink)
	case n < 14:
		return w.stepEndpoint(sink)
	case n < 17:
		return w.stepRemote(sink)
	case n < 19:
		return w.stepNetworkSet(sink)
	case n < 21:
		return w.stepService(sink)
	case n < 23 && w.Hosts:
		return w.stepHost(sink)
	case w.Hosts:
		return w.stepSettings(sink)
	}
	return w.stepPolicy(sink)
}

func (w *World) gone() bool { return w.IntN(5) == 0 }

// must reports what a sink refused: a world has nothing to refuse.
func must(what string, err error) string {
	if err != nil {
		panic(fmt.Sprintf("%s: %v", what, err))
	}
	return what
}

func (w *World) stepPolicy(sink Sink) string {
	v := &w.Snapshot.Policy
	id := w.policyID()
	if w.gone() {
		delete(v.Policies, id)
		sink.DeletePolicy(id)
		return fmt.Sprintf("delete %s", id)
	}
	p := w.Policy(id)
	if old := v.Policies[id]; old != nil {
		c := *old
		switch w.IntN(6) { // change some of it only
		case 0:
			c.Order, p = p.Order, &c
		case 1:
			c.Selector, p = p.Selector, &c
		case 2:
			c.Ingress, p = p.Ingress, &c
		case 3:
			c.Tier, p = p.Tier, &c
		}
	}
	v.Policies[id] = p
	return must(fmt.Sprintf("set %+v", *p), sink.SetPolicy(p))
}

func (w *World) stepTier(sink Sink) string {
	v := &w.Snapshot.Policy
	name := pick(w, "default", "t1", "t2", "kube-admin")
	if w.gone() {
		delete(v.Tiers, name)
		sink.DeleteTier(name)
		return "delete tier " + name
	}
	t := &model.Tier{Name: name, Order: w.order(), DefaultAction: pick(w, 0, model.Deny, model.Pass)}
	v.Tiers[name] = t
	sink.SetTier(t)
	return fmt.Sprintf("set tier %+v", *t)
}

func (w *World) stepProfile(sink Sink) string {
	v := &w.Snapshot.Policy
	name := w.profileName()
	if w.gone() {
		delete(v.Profiles, name)
		sink.DeleteProfile(name)
		return "delete profile " + name
	}
	p := &model.Profile{Name: name, Labels: w.labels(), Ingress: w.Rules(model.Ingress), Egress: w.Rules(model.Egress)}
	v.Profiles[name] = p
	return must(fmt.Sprintf("set profile %+v", *p), sink.SetProfile(p))
}

func (w *World) stepEndpoint(sink Sink) string {
	v := w.Snapshot
	n := w.IntN(3)
	id := model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("p", n), Interface: "eth0"}
	if w.gone() {
		delete(v.Endpoints, id)
		sink.DeleteEndpoint(id)
		return "delete endpoint " + id.String()
	}
	e := model.Endpoint{ID: id, Device: Device(n), MAC: model.MAC{2, 0, 0, 0, 0, byte(n)}, Addresses: []netip.Addr{Local4(n), Local6(n)},
		Labels: w.labels(), Profiles: w.profileNames(), Ports: w.namedPorts()}
	switch w.IntN(12) {
	case 0:
		e.Device = Device(w.IntN(3)) // two may claim one
	case 1:
		e.Device = ""
	case 2:
		e.Sources = []netip.Prefix{w.prefix(model.IPv4)}
	case 3:
		e.Addresses = e.Addresses[:1]
	}
	v.Endpoints[id] = e
	return must(fmt.Sprintf("set endpoint %+v", e), sink.SetEndpoint(&e))
}

func (w *World) stepRemote(sink Sink) string {
	v := &w.Snapshot.Policy
	id := model.RemoteID{Node: Other, EndpointID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("r", w.IntN(5)), Interface: "eth0"}}
	if w.gone() {
		delete(v.Remote, id)
		sink.DeleteRemote(id)
		return fmt.Sprintf("delete remote %+v", id)
	}
	e := &model.RemoteEndpoint{ID: id, Addresses: w.addrs(), Labels: w.labels(), Profiles: w.profileNames(), Ports: w.namedPorts()}
	v.Remote[id] = e
	return must(fmt.Sprintf("set remote %+v", *e), sink.SetRemote(e))
}

func (w *World) stepNetworkSet(sink Sink) string {
	v := &w.Snapshot.Policy
	id := model.NetworkSetID{Name: fmt.Sprint("set", w.IntN(3))}
	if w.gone() {
		delete(v.NetworkSets, id)
		sink.DeleteNetworkSet(id)
		return "delete network set " + id.Name
	}
	n := &model.NetworkSet{ID: id, Labels: w.labels(), Profiles: w.profileNames()}
	for range w.IntN(4) {
		n.Nets = append(n.Nets, w.prefix(w.family()))
	}
	v.NetworkSets[id] = n
	return must(fmt.Sprintf("set network set %+v", *n), sink.SetNetworkSet(n))
}

func (w *World) stepService(sink Sink) string {
	v := &w.Snapshot.Policy
	id := w.serviceID()
	if w.gone() {
		delete(v.Services, id)
		sink.DeleteService(id)
		return "delete service " + id.String()
	}
	var endpoints []model.ServiceEndpoint
	for range w.IntN(5) {
		endpoints = append(endpoints, model.ServiceEndpoint{Address: w.addr(w.family()), Protocol: w.portProtocol(), Port: uint16(w.IntN(5))})
	}
	v.Services[id] = endpoints
	return must(fmt.Sprintf("set service %s %v", id, endpoints), sink.SetService(id, endpoints))
}

func (w *World) stepHost(sink Sink) string {
	v := &w.Snapshot.Policy
	name := fmt.Sprint("hep", w.IntN(4))
	if w.gone() {
		delete(v.HostEndpoints, name)
		sink.DeleteHostEndpoint(name)
		return "delete host endpoint " + name
	}
	h := &model.HostEndpoint{Name: name, Node: pick(w, Self, Self, Self, Other), Interface: pick(w, "", "eth0", "eth1", "*"),
		Labels: w.labels(), Profiles: w.profileNames(), Ports: w.namedPorts()}
	for range w.IntN(3) {
		h.ExpectedIPs = append(h.ExpectedIPs, w.addr(w.family()))
	}
	v.HostEndpoints[name] = h
	return must(fmt.Sprintf("set host endpoint %+v", *h), sink.SetHostEndpoint(h))
}

func (w *World) stepSettings(sink Sink) string {
	s := w.Snapshot
	switch w.IntN(3) {
	case 0:
		o := w.overlay()
		s.Policy.Overlay = o
		sink.SetOverlay(o)
		return fmt.Sprintf("set overlay %+v", o)
	case 1:
		var links []model.Link
		for _, name := range []string{"eth0", "eth1", "eth2"} {
			links = append(links, model.Link{Name: name, Addresses: []netip.Prefix{netip.PrefixFrom(w.addr(w.family()), 24)}})
		}
		s.Underlay.Links = links
		sink.SetLinks(links)
		return fmt.Sprintf("set links %+v", links)
	}
	cfg := model.PolicyConfig{PodsToHost: w.IntN(2) == 0}
	for range w.IntN(2) {
		cfg.FailsafeIn = append(cfg.FailsafeIn, w.failsafe())
	}
	for range w.IntN(2) {
		cfg.FailsafeOut = append(cfg.FailsafeOut, w.failsafe())
	}
	s.Policy.Config = cfg
	sink.SetConfig(cfg)
	return fmt.Sprintf("set config %+v", cfg)
}

func (w *World) overlay() (o model.Overlay) {
	for range w.IntN(8) {
		o.Peers = append(o.Peers, w.addr(w.family()))
	}
	for range w.IntN(4) {
		o.Carriers = append(o.Carriers, pick(w, model.Carrier{Family: model.IPv4, Protocol: model.IPIP}, model.Carrier{Family: w.family(), Protocol: model.UDP, Port: w.port()}))
	}
	slices.SortFunc(o.Peers, netip.Addr.Compare)
	slices.SortFunc(o.Carriers, model.Carrier.Compare)
	for range w.IntN(3) {
		o.Local = append(o.Local, w.addr(w.family()))
	}
	slices.SortFunc(o.Local, netip.Addr.Compare)
	o.Peers, o.Carriers, o.Local = slices.Compact(o.Peers), slices.Compact(o.Carriers), slices.Compact(o.Local)
	return o
}

func (w *World) failsafe() model.Failsafe {
	f := model.Failsafe{Protocol: w.portProtocol(), Port: w.port()}
	if w.IntN(2) == 0 {
		f.Net = w.prefix(w.family())
	}
	return f
}

package policies

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
)

// Kinds are the kinds of resources that this package reads.
func Kinds() []string {
	return append(v3.TieredKinds(), v3.KindStagedKubernetesNetworkPolicy, v3.KindKubernetesNetworkPolicy, v3.KindClusterNetworkPolicy,
		v3.KindTier, v3.KindProfile, v3.KindNetworkSet, v3.KindGlobalNetworkSet, v3.KindHostEndpoint, v3.KindWorkloadEndpoint,
		v3.KindNamespace, v3.KindServiceAccount, v3.KindEndpointSlice, v3.KindFelixConfiguration, v3.KindNode)
}

// Problem is a resource of which something could not be understood.
type Problem struct {
	Key     datastore.Key
	Err     error
	Instead string // what is done about the whole resource; empty when Err says it
}

// Error names the resource, the field and what is done instead.
func (p Problem) Error() string {
	if p.Instead == "" {
		return fmt.Sprintf("%s: %v", p.Key, p.Err)
	}
	return fmt.Sprintf("%s is rejected: %v; %s", p.Key, p.Err, p.Instead)
}

// Unwrap returns what could not be understood.
func (p Problem) Unwrap() error { return p.Err }

// Load reads all that policy on a node depends on, once: the snapshot's Endpoints are the records of
// that node's pods, and Policy everything else; all other parts are empty, also what host endpoints
// need of the node's interfaces. What could not be understood is left out, or taken as its kind has
// it, and listed; the error is for a store that did not answer.
func Load(ctx context.Context, store datastore.Store, self model.NodeName) (*model.Snapshot, []Problem, error) {
	l, err := store.List(ctx, Kinds()...)
	if err != nil {
		return nil, nil, fmt.Errorf("read what policy depends on: %w", err)
	}
	var labels map[string]string
	for _, o := range l.Items {
		if n, ok := o.(*v3.Node); ok && n.Name == string(self) {
			labels = n.Labels
		}
	}
	s, problems := convert(self, labels, l.Items, l.Rejected...)
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return s, problems, nil
}

// loader converts everything at once, without a memory: a Feeder must come to the same.
type loader struct {
	self     model.NodeName
	snapshot *model.Snapshot
	problems []Problem

	generated map[string]map[string]string // labels by the name of the profile
	profiles  map[string]*model.Profile
	used      map[string]bool
	felix     map[string]*v3.FelixConfiguration
	nodes     nodes
}

func convert(self model.NodeName, labels map[string]string, objects []v3.Object, rejected ...datastore.Rejection) (*model.Snapshot, []Problem) {
	l := loader{self: self, generated: map[string]map[string]string{}, profiles: map[string]*model.Profile{},
		used: map[string]bool{}, felix: map[string]*v3.FelixConfiguration{}, nodes: nodes{}}
	l.snapshot = &model.Snapshot{Self: self, Endpoints: map[model.EndpointID]model.Endpoint{}, Policy: model.PolicyView{
		Tiers: map[string]*model.Tier{}, Policies: map[model.PolicyID]*model.Policy{}, Profiles: map[string]*model.Profile{},
		NetworkSets: map[model.NetworkSetID]*model.NetworkSet{}, Services: map[model.ServiceID][]model.ServiceEndpoint{},
		Remote: map[model.RemoteID]*model.RemoteEndpoint{}, HostEndpoints: map[string]*model.HostEndpoint{}}}
	for _, o := range objects {
		l.note(datastore.KeyOf(o), l.take(o))
	}
	for _, r := range rejected {
		l.note(r.Key, r.Err)
	}
	for _, p := range l.snapshot.Policy.Policies {
		for text, s := range nodeSelectors(p) {
			if endpoints := l.nodes.selected(s); len(endpoints) > 0 {
				l.snapshot.Policy.Services[model.NodesID(text)] = endpoints
			}
		}
	}
	names := maps.Clone(l.used)
	for name := range l.generated {
		names[name] = true
	}
	for name := range l.profiles {
		names[name] = true
	}
	for name := range names {
		if p := profileFrom(name, l.generated[name], l.profiles[name], l.used[name]); p != nil {
			l.snapshot.Policy.Profiles[name] = p
		}
	}
	settings, err := settingsOf(FelixChain(self, labels, l.felix), toHostDrop)
	l.note(datastore.Key{Kind: v3.KindFelixConfiguration, Name: "default"}, err)
	l.snapshot.Policy.Config = settings.Config
	if !settings.Spoofing {
		for id, e := range l.snapshot.Endpoints {
			e.Sources = nil
			l.snapshot.Endpoints[id] = e
		}
	}
	return l.snapshot, l.problems
}

func (l *loader) note(k datastore.Key, err error) {
	if err == nil {
		return
	}
	p := Problem{Key: k, Err: err}
	if !errors.As(err, &partly{}) {
		p.Instead = l.standIn(k)
	}
	l.problems = append(l.problems, p)
}

func (l *loader) use(names []string) {
	for _, n := range names {
		l.used[n] = true
	}
}

// take converts one object.
func (l *loader) take(o v3.Object) error {
	v := &l.snapshot.Policy
	switch o := o.(type) {
	case *v3.Tier:
		t, err := TierOf(o)
		if err == nil {
			v.Tiers[t.Name] = t
		}
		return err
	case *v3.Profile:
		p, err := profileOf(o)
		if err == nil {
			l.profiles[p.Name] = p
		}
		return err
	case *corev1.Namespace:
		l.generated[namespaceProfile(o.Name)] = inherited(o.Labels, namespacePrefix, o.Name)
	case *corev1.ServiceAccount:
		l.generated[accountProfile(o.Namespace, o.Name)] = inherited(o.Labels, accountPrefix, o.Name)
	case *v3.WorkloadEndpoint:
		return l.pod(o)
	case *v3.HostEndpoint:
		h, err := hostOf(o)
		if err == nil {
			v.HostEndpoints[h.Name] = h
			l.use(h.Profiles)
		}
		return err
	case *v3.NetworkSet:
		return l.set(setOf(o, &o.Spec))
	case *v3.GlobalNetworkSet:
		return l.set(setOf(o, &o.Spec))
	case *discoveryv1.EndpointSlice:
		id, endpoints, err := sliceOf(o)
		if err == nil && id.Name != "" {
			v.Services[id] = append(v.Services[id], endpoints...)
		}
		return err
	case *v3.FelixConfiguration:
		l.felix[o.Name] = o
	case *v3.Node:
		l.nodes[o.Name] = nodeOf(o)
	case *networkingv1.NetworkPolicy, *policyv1alpha2.ClusterNetworkPolicy, *v3.NetworkPolicy, *v3.GlobalNetworkPolicy,
		*v3.StagedNetworkPolicy, *v3.StagedGlobalNetworkPolicy, *v3.StagedKubernetesNetworkPolicy:
		p, err := PolicyOf(o)
		if p == nil {
			return err
		}
		v.Policies[p.ID] = p
		if err != nil {
			return partly{err}
		}
	}
	return nil
}

func (l *loader) set(n *model.NetworkSet, err error) error {
	if err != nil {
		return err
	}
	l.snapshot.Policy.NetworkSets[n.ID] = n
	l.use(n.Profiles)
	return nil
}

func (l *loader) pod(w *v3.WorkloadEndpoint) error {
	p, err := podOf(w)
	if err != nil {
		return err
	}
	l.use(p.profiles)
	if w.Spec.Node == string(l.self) {
		e := p.local(endpointID(w), w.Spec.InterfaceName, p.addresses, p.mac)
		l.snapshot.Endpoints[e.ID] = *e
		return nil
	}
	id := remoteID(w.Namespace, w.Name)
	l.snapshot.Policy.Remote[id] = p.remote(id)
	return nil
}

func (p *pod) local(id model.EndpointID, device string, addresses []netip.Addr, mac model.MAC) *model.Endpoint {
	return &model.Endpoint{ID: id, Device: device, Addresses: addresses, MAC: mac, Labels: p.labels, Profiles: p.profiles, Ports: p.ports, Sources: p.sources}
}

func (p *pod) remote(id model.RemoteID) *model.RemoteEndpoint {
	return &model.RemoteEndpoint{ID: id, Addresses: p.addresses, Labels: p.labels, Profiles: p.profiles, Ports: p.ports}
}

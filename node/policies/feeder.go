package policies

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	v3 "weft/api/v3"
	"weft/model"
	"weft/model/selector"
	"weft/node/datastore"
)

// Compiler is told of changes, in the model's nouns; policy.Compiler is one. A Set method refuses
// what it cannot understand and keeps what it knew.
type Compiler interface {
	SetConfig(model.PolicyConfig)
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

// Attachment is a pod of this node as the host knows it, whatever the store says.
type Attachment struct {
	ID        model.EndpointID
	Container string // that it was made for: a record of another one is of an earlier or later pod
	Device    string
	Addresses []netip.Addr
	MAC       model.MAC
}

// Feeder passes what the store says on to a compiler, change by change. A resource that cannot be
// understood leaves the last good one in force and is among Problems; for a policy of which there is none
// something stands that denies. Not for concurrent use.
type Feeder struct {
	self     model.NodeName
	to       Compiler
	attached map[model.EndpointID]Attachment // nil: the records of this node's pods are its pods

	problems map[datastore.Key]Problem
	good     map[datastore.Key]bool // of which something is known
	standIns map[datastore.Key]bool // policies in tierRejected
	felix    map[string]*v3.FelixConfiguration
	labels   map[string]string // of this node
	settings Settings
	toHost   string // defaultEndpointToHostAction that holds where no configuration has one

	pods      map[datastore.Key]*localPod // records of this node's pods
	byID      map[model.EndpointID]*localPod
	names     map[datastore.Key]*profileNames // that a resource names
	lists     map[string]*profileNames
	uses      map[string]int
	generated map[string]map[string]string // labels by the name of the profile
	profiles  map[string]*model.Profile
	given     map[string]bool // profiles that the compiler has

	slices   map[datastore.Key]model.ServiceID
	services map[model.ServiceID]map[datastore.Key][]model.ServiceEndpoint

	nodes    nodes
	peers    map[datastore.Key]map[string]*selector.Selector // of nodes, by canonical text, that a policy names
	peerUses map[string]int
}

// profileNames is a list that many endpoints have in common.
type profileNames struct {
	names []string
	key   string // in lists
	users int    // in names
}

// localPod is the record of a pod of this node.
type localPod struct {
	key       datastore.Key
	id        model.EndpointID
	container string
	device    string
	pod       *pod
	given     bool // the compiler has the pod
	gone      bool // the record is, and the pod is not yet
}

// NewFeeder returns a Feeder for a node. The compiler is in its hands from then on, but for Flush.
// With attachments, this node's pods are those that Attach is told of, and records only say what
// labels, profiles and ports these have; without, the records are the pods.
func NewFeeder(self model.NodeName, to Compiler, attachments bool) *Feeder {
	f := &Feeder{self: self, to: to, toHost: toHostDrop, problems: map[datastore.Key]Problem{}, good: map[datastore.Key]bool{}, standIns: map[datastore.Key]bool{}, felix: map[string]*v3.FelixConfiguration{},
		pods: map[datastore.Key]*localPod{}, byID: map[model.EndpointID]*localPod{},
		names: map[datastore.Key]*profileNames{}, lists: map[string]*profileNames{}, uses: map[string]int{},
		generated: map[string]map[string]string{}, profiles: map[string]*model.Profile{}, given: map[string]bool{},
		slices: map[datastore.Key]model.ServiceID{}, services: map[model.ServiceID]map[datastore.Key][]model.ServiceEndpoint{},
		nodes: nodes{}, peers: map[datastore.Key]map[string]*selector.Selector{}, peerUses: map[string]int{}}
	if attachments {
		f.attached = map[model.EndpointID]Attachment{}
	}
	_ = f.configure() // of no configuration: the defaults
	return f
}

// AcceptToHost has defaultEndpointToHostAction be Accept where no FelixConfiguration says it: in Kubernetes pods need
// what runs on their own node's network.
func (f *Feeder) AcceptToHost() error {
	f.toHost = toHostAccept
	return f.configure()
}

// Settings returns what the FelixConfigurations say by now.
func (f *Feeder) Settings() Settings { return f.settings }

// Problems lists the resources that could not be understood, sorted.
func (f *Feeder) Problems() []Problem {
	out := make([]Problem, 0, len(f.problems))
	for _, p := range f.problems {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return out
}

// Change takes one change of the store in. The error is a Problem, which is also kept among Problems until
// the resource changes again: what could not be understood, and what is done instead.
func (f *Feeder) Change(ch datastore.Change) error {
	var err error
	switch {
	case ch.Err != nil:
		err = ch.Err
	case ch.Object == nil:
		err = f.remove(ch.Key)
	default:
		err = f.set(ch.Key, ch.Object)
	}
	if err == nil {
		delete(f.problems, ch.Key)
		f.understood(ch.Key, ch.Object != nil)
		return nil
	}
	p := Problem{Key: ch.Key, Err: err}
	if !errors.As(err, &partly{}) {
		p.Instead = f.insteadOf(ch.Key)
	}
	f.problems[ch.Key] = p
	return p
}

func (f *Feeder) set(k datastore.Key, o v3.Object) error {
	switch o := o.(type) {
	case *v3.Tier:
		t, err := TierOf(o)
		if err == nil {
			f.to.SetTier(t)
		}
		return err
	case *v3.Profile:
		p, err := profileOf(o)
		if err != nil {
			return err
		}
		return f.setProfile(p)
	case *corev1.Namespace:
		return f.generate(namespaceProfile(o.Name), inherited(o.Labels, namespacePrefix, o.Name))
	case *corev1.ServiceAccount:
		return f.generate(accountProfile(o.Namespace, o.Name), inherited(o.Labels, accountPrefix, o.Name))
	case *v3.WorkloadEndpoint:
		return f.setPod(k, o)
	case *v3.HostEndpoint:
		h, err := hostOf(o)
		if err == nil {
			err = f.to.SetHostEndpoint(h)
		}
		if err != nil {
			return err
		}
		return f.use(k, h.Profiles)
	case *v3.NetworkSet:
		n, err := setOf(o, &o.Spec)
		return f.setNetworkSet(k, n, err)
	case *v3.GlobalNetworkSet:
		n, err := setOf(o, &o.Spec)
		return f.setNetworkSet(k, n, err)
	case *discoveryv1.EndpointSlice:
		id, endpoints, err := sliceOf(o)
		if err != nil {
			return err
		}
		return f.setSlice(k, id, endpoints)
	case *v3.FelixConfiguration:
		return f.setFelix(o.Name, o)
	case *v3.Node:
		err := f.setNode(o.Name, nodeOf(o))
		if o.Name == string(f.self) {
			f.labels = o.Labels
			err = errors.Join(err, f.configure())
		}
		return err
	}
	if _, isPolicy := policyKind(k.Kind); isPolicy {
		return f.setPolicy(k, o)
	}
	return nil
}

// policyKind returns the model's name of a kind of policies.
func policyKind(kind string) (string, bool) {
	switch kind {
	case v3.KindNetworkPolicy:
		return model.KindNetworkPolicy, true
	case v3.KindGlobalNetworkPolicy:
		return model.KindGlobalNetworkPolicy, true
	case v3.KindKubernetesNetworkPolicy:
		return model.KindKubernetesNetworkPolicy, true
	case v3.KindClusterNetworkPolicy:
		return model.KindClusterNetworkPolicy, true
	case v3.KindStagedNetworkPolicy:
		return model.KindStagedNetworkPolicy, true
	case v3.KindStagedGlobalNetworkPolicy:
		return model.KindStagedGlobalNetworkPolicy, true
	case v3.KindStagedKubernetesNetworkPolicy:
		return model.KindStagedKubernetesNetworkPolicy, true
	}
	return "", false
}

func (f *Feeder) remove(k datastore.Key) error {
	if kind, isPolicy := policyKind(k.Kind); isPolicy {
		f.to.DeletePolicy(policyID(kind, k.Namespace, k.Name))
		return f.usePeers(k, nil)
	}
	switch k.Kind {
	case v3.KindTier:
		if k.Name != tierRejected {
			f.to.DeleteTier(k.Name)
		}
	case v3.KindProfile:
		delete(f.profiles, k.Name)
		return f.refresh(k.Name)
	case v3.KindNamespace:
		return f.generate(namespaceProfile(k.Name), nil)
	case v3.KindServiceAccount:
		return f.generate(accountProfile(k.Namespace, k.Name), nil)
	case v3.KindWorkloadEndpoint:
		return f.removePod(k)
	case v3.KindHostEndpoint:
		f.to.DeleteHostEndpoint(k.Name)
		return f.use(k, nil)
	case v3.KindNetworkSet, v3.KindGlobalNetworkSet:
		f.to.DeleteNetworkSet(model.NetworkSetID{Namespace: k.Namespace, Name: k.Name})
		return f.use(k, nil)
	case v3.KindEndpointSlice:
		return f.setSlice(k, model.ServiceID{}, nil)
	case v3.KindFelixConfiguration:
		return f.setFelix(k.Name, nil)
	case v3.KindNode:
		return f.setNode(k.Name, nil)
	}
	return nil
}

// setPolicy keeps a policy that comes with an error: what of it could not be understood is in it as
// its kind has it.
func (f *Feeder) setPolicy(k datastore.Key, o v3.Object) error {
	p, err := PolicyOf(o)
	switch {
	case p != nil:
		if refused := f.to.SetPolicy(p); refused != nil {
			return refused
		}
		f.understood(k, true)
		if refused := f.usePeers(k, nodeSelectors(p)); refused != nil {
			return refused
		}
		if err != nil {
			return partly{err}
		}
	case err == nil: // a staged one that is not shown
		return f.remove(k)
	}
	return err
}

func (f *Feeder) setNetworkSet(k datastore.Key, n *model.NetworkSet, err error) error {
	if err == nil {
		err = f.to.SetNetworkSet(n)
	}
	if err != nil {
		return err
	}
	return f.use(k, n.Profiles)
}

func (f *Feeder) setFelix(name string, o *v3.FelixConfiguration) error {
	before := f.felix[name]
	if o == nil {
		delete(f.felix, name)
	} else {
		f.felix[name] = o
	}
	err := f.configure()
	if err != nil && before != nil {
		f.felix[name] = before
	} else if err != nil {
		delete(f.felix, name)
	}
	return err
}

// configure merges the configurations of this node anew.
func (f *Feeder) configure() error {
	s, err := settingsOf(FelixChain(f.self, f.labels, f.felix), f.toHost)
	if err != nil {
		return err
	}
	again := s.Spoofing != f.settings.Spoofing
	f.settings = s
	f.to.SetConfig(s.Config)
	if !again {
		return nil
	}
	var errs []error
	for _, l := range f.pods {
		errs = append(errs, f.give(l))
	}
	return errors.Join(errs...)
}

// setSlice replaces what one EndpointSlice gives; no service takes it away.
func (f *Feeder) setSlice(k datastore.Key, id model.ServiceID, endpoints []model.ServiceEndpoint) error {
	if was, had := f.slices[k]; had && was != id {
		delete(f.slices, k)
		delete(f.services[was], k)
		if err := f.refreshService(was); err != nil {
			return err
		}
	}
	if id.Name == "" {
		return nil
	}
	f.slices[k] = id
	if f.services[id] == nil {
		f.services[id] = map[datastore.Key][]model.ServiceEndpoint{}
	}
	f.services[id][k] = endpoints
	return f.refreshService(id)
}

// refreshService joins the slices of a service, in the order of their names.
func (f *Feeder) refreshService(id model.ServiceID) error {
	parts := f.services[id]
	if len(parts) == 0 {
		delete(f.services, id)
		f.to.DeleteService(id)
		return nil
	}
	keys := make([]datastore.Key, 0, len(parts))
	for k := range parts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b datastore.Key) int { return strings.Compare(a.Name, b.Name) })
	var all []model.ServiceEndpoint
	for _, k := range keys {
		all = append(all, parts[k]...)
	}
	return f.to.SetService(id, all)
}

func (f *Feeder) setProfile(p *model.Profile) error {
	before := f.profiles[p.Name]
	f.profiles[p.Name] = p
	err := f.refresh(p.Name)
	if err != nil {
		f.profiles[p.Name] = before
		if before == nil {
			delete(f.profiles, p.Name)
		}
	}
	return err
}

// generate keeps the labels that a namespace or service account gives; nil: there is none.
func (f *Feeder) generate(profile string, labels map[string]string) error {
	if labels == nil {
		delete(f.generated, profile)
	} else {
		f.generated[profile] = labels
	}
	return f.refresh(profile)
}

// use keeps account of the profiles that a resource names.
func (f *Feeder) use(k datastore.Key, names []string) error {
	before := f.names[k]
	if before == nil && len(names) == 0 || before != nil && slices.Equal(before.names, names) {
		return nil
	}
	var changed []string
	if before != nil {
		for _, n := range before.names {
			if f.uses[n]--; f.uses[n] == 0 {
				delete(f.uses, n)
				changed = append(changed, n)
			}
		}
		delete(f.names, k)
		if before.users--; before.users == 0 {
			delete(f.lists, before.key)
		}
	}
	for _, n := range names {
		if f.uses[n]++; f.uses[n] == 1 {
			changed = append(changed, n)
		}
	}
	if len(names) > 0 {
		l := f.shared(names)
		l.users++
		f.names[k] = l
	}
	for _, n := range changed {
		if err := f.refresh(n); err != nil {
			return err
		}
	}
	return nil
}

// shared returns the one list of these names.
func (f *Feeder) shared(names []string) *profileNames {
	key := strings.Join(names, "\x00")
	l := f.lists[key]
	if l == nil {
		l = &profileNames{names: slices.Clone(names), key: key}
		f.lists[key] = l
	}
	return l
}

// refresh tells the compiler what a profile is by now.
func (f *Feeder) refresh(name string) error {
	p := profileFrom(name, f.generated[name], f.profiles[name], f.uses[name] > 0)
	if p == nil {
		if f.given[name] {
			delete(f.given, name)
			f.to.DeleteProfile(name)
		}
		return nil
	}
	if err := f.to.SetProfile(p); err != nil {
		return fmt.Errorf("profile %s: %w", name, err)
	}
	f.given[name] = true
	return nil
}

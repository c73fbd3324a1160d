package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/routing"
)

// maxPassword is the longest key of TCP-MD5 in bytes (TCP_MD5SIG_MAXKEYLEN of Linux).
const maxPassword = 80

// bgpKinds are what bgpResources takes in.
func bgpKinds() []string {
	return []string{v3.KindBGPConfiguration, v3.KindBGPFilter, v3.KindBGPPeer, v3.KindService, v3.KindEndpointSlice, v3.KindSecret}
}

// bgpResources is what the store says of BGP, in the compilers' nouns. A resource that cannot be understood
// leaves the last good one in force. Not for concurrent use.
type bgpResources struct {
	self      model.NodeName
	namespace string // of the Secrets

	configs  map[string]*v3.BGPConfiguration
	peers    map[string]model.BGPPeer
	filters  map[string]*model.BGPFilter
	services map[datastore.Key]model.BGPService // without Ready
	ready    map[datastore.Key]readySlice       // by EndpointSlice
	slices   map[model.ServiceID]map[datastore.Key]bool
	secrets  map[string]*secret // by name
}

// secret is behind a pointer, so that no one who prints what holds it prints it: package fmt does not ask
// Password how it wants to look where the field is not exported.
type secret struct{ keys map[string]routing.Password }

// readySlice is what one EndpointSlice tells.
type readySlice struct {
	service model.ServiceID
	family  model.Family
	nodes   []model.NodeName
}

func newBGPResources(self model.NodeName, namespace string) *bgpResources {
	return &bgpResources{self: self, namespace: namespace, configs: map[string]*v3.BGPConfiguration{}, peers: map[string]model.BGPPeer{},
		filters: map[string]*model.BGPFilter{}, services: map[datastore.Key]model.BGPService{}, ready: map[datastore.Key]readySlice{},
		slices: map[model.ServiceID]map[datastore.Key]bool{}, secrets: map[string]*secret{}}
}

// apply takes one change in; it tells whether the speaker may see a difference.
func (r *bgpResources) apply(ch datastore.Change) (changed bool, err error) {
	switch ch.Key.Kind {
	case v3.KindBGPConfiguration:
		o, _ := ch.Object.(*v3.BGPConfiguration)
		return put(r.configs, ch.Key.Name, o), nil
	case v3.KindBGPPeer:
		o, _ := ch.Object.(*v3.BGPPeer)
		if o == nil {
			return drop(r.peers, ch.Key.Name), nil
		}
		p, err := bgpPeerOf(o)
		if err == nil {
			r.peers[ch.Key.Name] = p
		}
		return err == nil, err
	case v3.KindBGPFilter:
		o, _ := ch.Object.(*v3.BGPFilter)
		if o == nil {
			return drop(r.filters, ch.Key.Name), nil
		}
		f, err := bgpFilterOf(o)
		if err == nil {
			r.filters[ch.Key.Name] = f
		}
		return err == nil, err
	case v3.KindService:
		return r.applyService(ch), nil
	case v3.KindEndpointSlice:
		return r.applySlice(ch), nil
	case v3.KindSecret:
		return r.applySecret(ch), nil
	}
	return false, nil
}

// drop removes; it tells whether anything was there.
func drop[K comparable, V any](m map[K]V, k K) bool {
	_, had := m[k]
	delete(m, k)
	return had
}

func (r *bgpResources) applyService(ch datastore.Change) bool {
	o, _ := ch.Object.(*corev1.Service)
	if o == nil {
		return drop(r.services, ch.Key)
	}
	s, has := bgpServiceOf(o)
	if !has {
		return drop(r.services, ch.Key)
	}
	old, had := r.services[ch.Key]
	r.services[ch.Key] = s
	return !had || old.Local != s.Local || !slices.Equal(old.ClusterIPs, s.ClusterIPs) ||
		!slices.Equal(old.ExternalIPs, s.ExternalIPs) || !slices.Equal(old.LoadBalancerIPs, s.LoadBalancerIPs)
}

// applySlice notices only changes of which nodes have something ready: pods that come and go on a node that
// has others make none.
func (r *bgpResources) applySlice(ch datastore.Change) bool {
	var now readySlice
	if o, _ := ch.Object.(*discoveryv1.EndpointSlice); o != nil {
		now.service, now.family, now.nodes = readyNodes(o)
	}
	old, had := r.ready[ch.Key]
	if had && (old.service != now.service || now.service.Name == "") {
		delete(r.ready, ch.Key)
		if delete(r.slices[old.service], ch.Key); len(r.slices[old.service]) == 0 {
			delete(r.slices, old.service)
		}
	}
	if now.service.Name == "" {
		return had && len(old.nodes) > 0
	}
	r.ready[ch.Key] = now
	if r.slices[now.service] == nil {
		r.slices[now.service] = map[datastore.Key]bool{}
	}
	r.slices[now.service][ch.Key] = true
	return old.service != now.service || old.family != now.family || !slices.Equal(old.nodes, now.nodes)
}

// applySecret keeps Secrets of the one namespace; of all of them, since a BGPPeer that names one may come
// later.
func (r *bgpResources) applySecret(ch datastore.Change) bool {
	if ch.Key.Namespace != r.namespace {
		return false
	}
	o, _ := ch.Object.(*corev1.Secret)
	if o == nil {
		return drop(r.secrets, ch.Key.Name)
	}
	now := make(map[string]routing.Password, len(o.Data))
	for k, v := range o.Data {
		now[k] = routing.Password(v)
	}
	old := r.secrets[ch.Key.Name]
	r.secrets[ch.Key.Name] = &secret{now}
	return old == nil || !maps.Equal(old.keys, now)
}

// nouns returns what the speaker is compiled from. Its errors name resources; the rest is good.
func (r *bgpResources) nouns() (model.BGP, map[model.SecretRef]routing.Password, error) {
	cfg, errs := bgpConfigOf(r.self, r.configs)
	b := model.BGP{Config: cfg, Filters: maps.Clone(r.filters)}
	b.DefaultPort, b.ListenPorts = listenPorts(r.configs)
	for _, name := range slices.Sorted(maps.Keys(r.peers)) {
		b.Peers = append(b.Peers, r.peers[name])
	}
	// Services matter where addresses of theirs may be announced.
	if len(cfg.ClusterIPs)+len(cfg.ExternalIPs)+len(cfg.LoadBalancerIPs) > 0 {
		for _, s := range r.services {
			s.Ready = r.readyOf(s.ID)
			b.Services = append(b.Services, s)
		}
		slices.SortFunc(b.Services, func(a, b model.BGPService) int {
			return cmp.Or(cmp.Compare(a.ID.Namespace, b.ID.Namespace), cmp.Compare(a.ID.Name, b.ID.Name))
		})
	}
	passwords, perrs := r.passwords(&b)
	return b, passwords, errors.Join(append(errs, perrs...)...)
}

func (r *bgpResources) readyOf(id model.ServiceID) map[model.Family][]model.NodeName {
	ready := map[model.Family][]model.NodeName{}
	for key := range r.slices[id] {
		s := r.ready[key]
		ready[s.family] = append(ready[s.family], s.nodes...)
	}
	for f := range ready {
		slices.Sort(ready[f])
		ready[f] = slices.Compact(ready[f])
	}
	return ready
}

// passwords returns those that b names, and no other.
func (r *bgpResources) passwords(b *model.BGP) (map[model.SecretRef]routing.Password, []error) {
	out := map[model.SecretRef]routing.Password{}
	var errs []error
	refs := []model.SecretRef{b.Config.MeshPassword}
	for i := range b.Peers {
		refs = append(refs, b.Peers[i].Password)
	}
	for _, ref := range refs {
		s := r.secrets[ref.Name]
		if s == nil {
			continue // the speaker's compiler names who lacks it
		}
		p, there := s.keys[ref.Key]
		if _, known := out[ref]; known || !there {
			continue
		}
		if len(p) > maxPassword {
			errs = append(errs, fmt.Errorf("Secret %s/%s: key %q has %d bytes, and a password of BGP at most %d", r.namespace, ref.Name, ref.Key, len(p), maxPassword))
			continue
		}
		out[ref] = p
	}
	return out, errs
}

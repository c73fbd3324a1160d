package node

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/node/policies"
)

// clusterKinds are what cluster takes in.
func clusterKinds() []string {
	return []string{v3.KindNode, v3.KindIPPool, v3.KindIPAMBlock, v3.KindFelixConfiguration, v3.KindIPReservation, v3.KindIPAMConfiguration, v3.KindNamespace}
}

// watchedKinds are what a node follows in the store, in the order in which they are listed: what
// others refer to comes first.
func watchedKinds() []string {
	kinds := clusterKinds()
	for _, k := range policies.Kinds() {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	kinds = append(kinds, v3.KindCalicoNodeStatus)
	for _, k := range bgpKinds() {
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// cluster is what the store says, kept in the compilers' own small types; of the wire types only
// those that this node itself writes or hands to IPAM are kept. It implements datastore.Sink.
type cluster struct {
	self  model.NodeName
	log   *slog.Logger
	kinds map[string]bool // that matter here
	// notify is called, without the lock, when something changed that the compilers see; aboutSelf
	// tells that it may change this node's own record as well.
	notify func(aboutSelf bool)

	mu         sync.Mutex
	state      datastore.State
	stateErr   error
	everSynced bool
	generation uint64 // counts changes that matter to the compilers
	rejected   map[datastore.Key]error

	nodes        map[model.NodeName]*model.Node
	blocks       map[netip.Prefix]*model.Block
	pools        map[string]*v3.IPPool
	felix        map[string]*v3.FelixConfiguration
	reservations map[string]*v3.IPReservation
	ipamConfig   *v3.IPAMConfiguration
	namespaces   map[string]namespace
	own          *v3.Node // this node's record

	// copied are the maps of snapshots; nil: they have to be copied again.
	copied struct {
		nodes  map[model.NodeName]*model.Node
		blocks map[netip.Prefix]*model.Block
	}
	since model.Since // what changed since the last call of next
}

// namespace is what decides which pools its pods may use.
type namespace struct{ labels, annotations map[string]string }

func newCluster(self model.NodeName, log *slog.Logger, notify func(aboutSelf bool)) *cluster {
	kinds := map[string]bool{}
	for _, k := range clusterKinds() {
		kinds[k] = true
	}
	return &cluster{
		self: self, log: log, kinds: kinds, notify: notify, state: datastore.StateWait,
		rejected:     map[datastore.Key]error{},
		nodes:        map[model.NodeName]*model.Node{},
		blocks:       map[netip.Prefix]*model.Block{},
		pools:        map[string]*v3.IPPool{},
		felix:        map[string]*v3.FelixConfiguration{},
		reservations: map[string]*v3.IPReservation{},
		namespaces:   map[string]namespace{},
	}
}

// OnState implements datastore.Sink.
func (c *cluster) OnState(s datastore.State, err error) {
	c.mu.Lock()
	c.state, c.stateErr = s, err
	c.everSynced = c.everSynced || s == datastore.StateInSync
	c.mu.Unlock()
	c.notify(true)
}

// OnChanges implements datastore.Sink. A resource that cannot be understood leaves the last good
// one in force.
func (c *cluster) OnChanges(changes []datastore.Change) {
	c.mu.Lock()
	relevant, aboutSelf := false, false
	for _, ch := range changes {
		if !c.kinds[ch.Key.Kind] {
			continue
		}
		aboutSelf = aboutSelf || ch.Key.Kind == "IPPool" || ch.Key.Kind == "Node" && ch.Key.Name == string(c.self)
		if ch.Err != nil {
			c.rejected[ch.Key] = ch.Err
			c.log.Warn("resource rejected, keeping the last good one", "resource", ch.Key.String(), "err", ch.Err)
			continue
		}
		delete(c.rejected, ch.Key)
		if err := c.apply(ch, &relevant); err != nil {
			c.rejected[ch.Key] = err
			c.log.Warn("resource rejected, keeping the last good one", "resource", ch.Key.String(), "err", err)
		}
	}
	if relevant {
		c.generation++
	}
	c.mu.Unlock()
	if relevant {
		c.notify(aboutSelf)
	}
}

// apply takes one change in; relevant is set when the compilers would see a difference.
func (c *cluster) apply(ch datastore.Change, relevant *bool) error {
	switch ch.Key.Kind {
	case "Node":
		return c.applyNode(ch, relevant)
	case "IPAMBlock":
		return c.applyBlock(ch, relevant)
	case "IPPool":
		o, _ := ch.Object.(*v3.IPPool)
		*relevant = put(c.pools, ch.Key.Name, o) || *relevant
	case "FelixConfiguration":
		o, _ := ch.Object.(*v3.FelixConfiguration)
		*relevant = put(c.felix, ch.Key.Name, o) || *relevant
	case "IPReservation":
		o, _ := ch.Object.(*v3.IPReservation)
		put(c.reservations, ch.Key.Name, o)
	case "IPAMConfiguration":
		o, _ := ch.Object.(*v3.IPAMConfiguration)
		c.ipamConfig = o
	case "Namespace":
		if ch.Object == nil {
			delete(c.namespaces, ch.Key.Name)
		} else {
			c.namespaces[ch.Key.Name] = namespace{ch.Object.GetLabels(), ch.Object.GetAnnotations()}
		}
	}
	return nil
}

// put stores or, when o is nil, removes; it tells whether anything changed.
func put[T any](m map[string]*T, name string, o *T) bool {
	if o == nil {
		_, had := m[name]
		delete(m, name)
		return had
	}
	m[name] = o
	return true
}

func (c *cluster) applyNode(ch datastore.Change, relevant *bool) error {
	name := model.NodeName(ch.Key.Name)
	o, _ := ch.Object.(*v3.Node)
	if name == c.self {
		c.own = o
		*relevant = true
	}
	if o == nil {
		if _, had := c.nodes[name]; had {
			delete(c.nodes, name)
			c.noteNode(name)
			*relevant = true
		}
		return nil
	}
	n, err := nodeOf(o)
	if err != nil {
		return err
	}
	if old := c.nodes[name]; old == nil || !reflect.DeepEqual(old, n) {
		c.nodes[name] = n
		c.noteNode(name)
		*relevant = true
	}
	return nil
}

func (c *cluster) applyBlock(ch datastore.Change, relevant *bool) error {
	o, _ := ch.Object.(*v3.IPAMBlock)
	if o == nil || o.Spec.Deleted {
		p, err := prefixOfBlockName(ch.Key.Name)
		if err != nil {
			return nil //nolint:nilerr // a block of such a name was never taken in
		}
		if _, had := c.blocks[p]; had {
			delete(c.blocks, p)
			c.noteBlock(p)
			*relevant = true
		}
		return nil
	}
	b, err := blockOf(o)
	if err != nil {
		return err
	}
	// A deletion tells only the name, so a block under another name could never be withdrawn.
	if named, err := prefixOfBlockName(ch.Key.Name); err != nil || named != b.CIDR {
		return fmt.Errorf("its name does not say its CIDR %s", b.CIDR)
	}
	old := c.blocks[b.CIDR]
	if old == nil || old.Node != b.Node || !maps.Equal(old.Borrowed, b.Borrowed) {
		c.blocks[b.CIDR] = b
		c.noteBlock(b.CIDR)
		*relevant = true
	}
	return nil
}

// snapshot returns what the compilers read, without endpoints and underlay, and its generation;
// ok is false before the first complete snapshot. Snapshots share what did not change: their maps
// must not be changed.
func (c *cluster) snapshot() (s *model.Snapshot, generation uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.snapshotLocked()
}

func (c *cluster) snapshotLocked() (s *model.Snapshot, generation uint64, ok bool) {
	if !c.everSynced {
		return nil, 0, false
	}
	if c.copied.nodes == nil {
		c.copied.nodes = maps.Clone(c.nodes)
	}
	if c.copied.blocks == nil {
		c.copied.blocks = maps.Clone(c.blocks)
	}
	s = &model.Snapshot{Self: c.self, Nodes: c.copied.nodes, Blocks: c.copied.blocks, Generation: c.generation + 1} // 0 has a meaning of its own
	s.VXLAN, s.MTU = c.tunnelSettings()
	s.NAT = c.natSettings()
	s.FlowOffload = c.flowOffload()
	s.Encryption = c.encryptionSettings()
	for _, p := range c.pools {
		if pool, ok := poolOf(p); ok {
			s.Pools = append(s.Pools, pool)
		}
	}
	slices.SortFunc(s.Pools, func(a, b model.Pool) int {
		return cmp.Or(a.CIDR.Addr().Compare(b.CIDR.Addr()), cmp.Compare(a.CIDR.Bits(), b.CIDR.Bits()), cmp.Compare(a.Name, b.Name))
	})
	return s, c.generation, true
}

// next is snapshot for the one caller that follows what changes: it is told what differs from the last
// one that it got.
func (c *cluster) next() (s *model.Snapshot, generation uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, generation, ok = c.snapshotLocked()
	if !ok {
		return nil, 0, false
	}
	if since := c.since; since.Generation != 0 {
		s.Since = &since
	}
	c.since = model.Since{Generation: s.Generation}
	return s, generation, true
}

// noteNode notes that a node came, went or changed.
func (c *cluster) noteNode(n model.NodeName) {
	c.copied.nodes = nil
	if c.noting() {
		c.since.Nodes = append(c.since.Nodes, n)
	}
}

// noteBlock does so for a block.
func (c *cluster) noteBlock(p netip.Prefix) {
	c.copied.blocks = nil
	if c.noting() {
		c.since.Blocks = append(c.since.Blocks, p)
	}
}

// maxNoted bounds what is noted while nobody asks.
const maxNoted = 10_000

func (c *cluster) noting() bool {
	if len(c.since.Nodes)+len(c.since.Blocks) >= maxNoted {
		c.since = model.Since{} // whoever asks has to compare
	}
	return c.since.Generation != 0
}

// currentGeneration is cheap: it tells whether snapshot would return something new.
func (c *cluster) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

func poolOf(p *v3.IPPool) (model.Pool, bool) {
	cidr, err := netip.ParsePrefix(p.Spec.CIDR)
	if err != nil || slices.Equal(p.Spec.AllowedUses, []v3.AllowedUse{v3.UseLoadBalancer}) {
		return model.Pool{}, false
	}
	pool := model.Pool{Name: p.Name, CIDR: cidr.Masked(), NATOutgoing: p.Spec.NATOutgoing, Disabled: p.Spec.Disabled,
		Unadvertised: p.Spec.DisableBGPExport}
	for _, m := range []struct {
		encap model.Encap
		mode  v3.EncapMode
	}{{model.EncapVXLAN, p.Spec.VXLANMode}, {model.EncapIPIP, p.Spec.IPIPMode}} {
		if m.mode == v3.EncapAlways || m.mode == v3.EncapCrossSubnet {
			pool.Encap, pool.CrossSubnet = m.encap, m.mode == v3.EncapCrossSubnet
		}
	}
	return pool, true
}

// The defaults of FelixConfiguration.
const (
	defaultVNI       = 4096
	defaultVXLANPort = 4789
)

// tunnelSettings merges the FelixConfigurations that apply to this node, field by field: its own
// before the one that selects it before the default one.
func (c *cluster) tunnelSettings() (model.VXLANConfig, model.MTUConfig) {
	v, m := model.VXLANConfig{VNI: defaultVNI, Port: defaultVXLANPort}, model.MTUConfig{}
	for _, f := range c.felixChain() {
		override(&v.VNI, f.Spec.VXLANVNI)
		override(&v.Port, f.Spec.VXLANPort)
		override(&m.VXLAN, f.Spec.VXLANMTU)
		override(&m.VXLAN6, f.Spec.VXLANMTUV6)
		override(&m.IPIP, f.Spec.IPIPMTU)
		if f.Spec.MTUMode != "" {
			m.PerRoute = f.Spec.MTUMode == v3.MTUPerRoute
		}
		m.IfacePattern = cmp.Or(f.Spec.MTUIfacePattern, m.IfacePattern)
		m.Profile = cmp.Or(f.Spec.MTUProfile, m.Profile)
	}
	return v, m
}

// felixChain returns the FelixConfigurations of this node, the weakest first.
func (c *cluster) felixChain() []*v3.FelixConfiguration {
	var labels map[string]string
	if n := c.nodes[c.self]; n != nil {
		labels = n.Labels
	}
	return policies.FelixChain(c.self, labels, c.felix)
}

// unread says which of the FelixConfigurations that are for this node there is no good one of; nil where all could be
// read.
func (c *cluster) unread() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range []string{"default", "node." + string(c.self)} {
		k := datastore.Key{Kind: v3.KindFelixConfiguration, Name: name}
		if err := c.rejected[k]; err != nil && c.felix[name] == nil {
			return fmt.Errorf("%s cannot be read, and no earlier one is known: %w", k, err)
		}
	}
	return nil
}

// ownRecord returns this node's record as the store has it; nil when there is none.
func (c *cluster) ownRecord() *v3.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own
}

// inSync tells whether the store is there and everything it said has arrived; if not, why.
func (c *cluster) inSync() (datastore.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.stateErr
}

// problems lists the resources that could not be understood.
func (c *cluster) problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for k, err := range c.rejected {
		out = append(out, fmt.Sprintf("%s is rejected, the last good one stays in force: %v", k, err))
	}
	slices.Sort(out)
	return out
}

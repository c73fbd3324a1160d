package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/ipam"
)

// CreatedBy is the label of resources that a controller made, with ByController as its value.
const (
	CreatedBy    = "projectcalico.org/created-by"
	ByController = "calico-kube-controllers"
)

// sweeper gives back what nodes that are gone have, and addresses that nobody has.
type sweeper struct {
	cfg     Config
	store   datastore.Store
	log     *slog.Logger
	metrics *metrics

	nodes   sightings[string]
	garbage sightings[garbage]
}

func newSweeper(cfg Config, m *metrics) *sweeper {
	return &sweeper{cfg: cfg, store: cfg.Store, log: cfg.Log, metrics: m, nodes: sightings[string]{}, garbage: sightings[garbage]{}}
}

// garbage is what of a problem tells it from another one.
type garbage struct {
	kind, handle, resource, version string
	addr                            string
	sequence                        uint64
}

func garbageOf(p ipam.Problem) garbage {
	return garbage{kind: p.Kind, handle: p.Handle, resource: p.Resource, version: p.Version, addr: p.Addr.String(), sequence: p.Sequence}
}

// collectable are the problems that go by themselves; the others need a person.
func collectable() []string {
	return []string{ipam.ProblemLeak, ipam.ProblemUnknownNode, ipam.ProblemEmptyHandle, ipam.ProblemNoBlock, ipam.ProblemAffinity,
		ipam.ProblemNoPool, ipam.ProblemBlockSize}
}

// settings are what a look goes by.
type settings struct {
	grace    time.Duration
	interval time.Duration
	keep     bool // garbage stays
	paused   bool // everything does: somebody moves the store
}

// settingsIn returns what the configuration of the process says, else the KubeControllersConfiguration. It is pure.
func settingsIn(l *datastore.List, cfg Config) settings {
	s := settings{grace: DefaultGrace, interval: DefaultInterval}
	for _, o := range l.Items {
		if c, ok := o.(*v3.ClusterInformation); ok {
			s.paused = c.Spec.DatastoreReady != nil && !*c.Spec.DatastoreReady
		}
		c, ok := o.(*v3.KubeControllersConfiguration)
		if !ok || c.Spec.Controllers.Node == nil {
			continue
		}
		if d := c.Spec.Controllers.Node.LeakGracePeriod; d != nil && d.Duration > 0 {
			s.grace = d.Duration
		} else if d != nil {
			s.keep = cfg.Grace <= 0
		}
		if d := c.Spec.Controllers.Node.ReconcilerPeriod; d != nil && d.Duration > 0 {
			s.interval = d.Duration
		}
	}
	if cfg.Grace > 0 {
		s.grace = cfg.Grace
	}
	if cfg.Interval > 0 {
		s.interval = cfg.Interval
	}
	return s
}

// look reads the store once, and does what is ripe. It returns when to look again.
func (s *sweeper) look(ctx context.Context, now time.Time) (time.Duration, error) {
	l, err := s.store.List(ctx, append(ipam.StateKinds(), v3.KindCalicoNodeStatus, v3.KindHostEndpoint, v3.KindKubeControllersConfiguration,
		v3.KindClusterInformation)...)
	if err != nil {
		return 0, fmt.Errorf("read the store: %w", err)
	}
	set := settingsIn(l, s.cfg)
	if set.paused {
		s.nodes, s.garbage = sightings[string]{}, sightings[garbage]{}
		return set.interval, s.keepClusterInformation(ctx, l)
	}
	orphans, err := s.witness(ctx, l)
	if err != nil {
		return 0, err
	}
	gone := leftBy(l)
	for _, n := range orphans {
		gone[n.Name] = &left{record: n}
	}
	report := ipam.CheckList(l, now, s.cfg.settle)
	problems := map[garbage]ipam.Problem{}
	for _, p := range report.Problems {
		if slices.Contains(collectable(), p.Kind) && !set.keep {
			problems[garbageOf(p)] = p
		}
	}
	s.metrics.candidates(gone, problems)
	nodes := s.nodes.observe(now, slices.Sorted(maps.Keys(gone)), set.grace)
	ripe := s.garbage.observe(now, slices.Collect(maps.Keys(problems)), set.grace)
	if s.cfg.hasty {
		nodes, ripe = slices.Collect(maps.Keys(gone)), slices.Collect(maps.Keys(problems))
	}
	errs := []error{s.keepClusterInformation(ctx, l)}
	for _, node := range nodes {
		errs = append(errs, s.clear(ctx, node, gone[node]))
	}
	return set.interval, errors.Join(append(errs, s.collect(ctx, problems, ripe))...)
}

// witness has l say of every host that the store's inventory knows, and of every node that pods are on, that it is there,
// where the store has one. It returns the records of hosts that are gone: of hosts of Kubernetes that Kubernetes does not
// have, while no pod is on them.
func (s *sweeper) witness(ctx context.Context, l *datastore.List) (orphans []*v3.Node, err error) {
	inventory, ok := s.cfg.inventory()
	if !ok {
		return nil, nil
	}
	there, err := inventory.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range l.Items {
		if w, ok := o.(*v3.WorkloadEndpoint); ok {
			there[w.Spec.Node] = true
		}
	}
	for _, o := range l.Items {
		if n, ok := o.(*v3.Node); ok {
			if !there[n.Name] && slices.ContainsFunc(n.Spec.OrchRefs, func(r v3.OrchRef) bool { return r.Orchestrator == "k8s" }) {
				orphans = append(orphans, n)
			}
			delete(there, n.Name)
		}
	}
	for name := range there {
		l.Items = append(l.Items, &v3.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	return orphans, nil
}

// collect has ripe problems repaired, which looks again before it does anything.
func (s *sweeper) collect(ctx context.Context, problems map[garbage]ipam.Problem, ripe []garbage) error {
	if len(ripe) == 0 {
		return nil
	}
	r := &ipam.CheckReport{}
	for _, g := range ripe {
		r.Problems = append(r.Problems, problems[g])
	}
	slices.SortFunc(r.Problems, func(a, b ipam.Problem) int { return a.Addr.Compare(b.Addr) })
	repaired, err := ipam.Repair(ctx, s.store, r)
	for kind, n := range repaired {
		s.metrics.released(kind, n)
		s.log.Info("collected", "what", kind, "count", n)
	}
	if err != nil {
		return fmt.Errorf("collect what nobody has: %w", err)
	}
	return nil
}

// left is what a node left behind.
type left struct {
	// record is that of a host which the store's inventory has no more; while it is there nothing else is known to be left.
	record *v3.Node
	ipam   *ipam.Abandoned // nil: nothing
	// objects are its WorkloadEndpoints, and what else is about it.
	objects []v3.Object
}

// leftBy returns what nodes have that have no record, by their names. It is pure.
func leftBy(l *datastore.List) map[string]*left {
	there := map[string]bool{}
	for _, o := range l.Items {
		if n, ok := o.(*v3.Node); ok {
			there[n.Name] = true
		}
	}
	for _, r := range l.Rejected {
		if r.Key.Kind == v3.KindNode {
			there[r.Key.Name] = true
		}
	}
	out := map[string]*left{}
	of := func(node string) *left {
		if out[node] == nil {
			out[node] = &left{}
		}
		return out[node]
	}
	for node, a := range ipam.AbandonedIn(l) {
		of(node).ipam = a
	}
	for _, o := range l.Items {
		node := ""
		switch o := o.(type) {
		case *v3.WorkloadEndpoint:
			node = o.Spec.Node
		case *v3.CalicoNodeStatus:
			node = o.Spec.Node
		case *v3.HostEndpoint:
			if o.Labels[CreatedBy] == ByController {
				node = o.Spec.Node
			}
		}
		if node != "" && !there[node] {
			of(node).objects = append(of(node).objects, o)
		}
	}
	return out
}

// clear removes what a node left: endpoints first, so that no address is free that an endpoint names. It ends as soon as
// the node is there.
func (s *sweeper) clear(ctx context.Context, node string, x *left) error {
	inventory, _ := s.cfg.inventory()
	alive := func(ctx context.Context) (bool, error) {
		if inventory != nil {
			if there, err := inventory.HasHost(ctx, node); there || err != nil {
				return there, err
			}
		}
		if x.record != nil {
			return false, nil
		}
		_, err := s.store.Get(ctx, datastore.Key{Kind: v3.KindNode, Name: node})
		if errors.Is(err, datastore.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	}
	removed := map[string]int{}
	defer func() {
		maps.DeleteFunc(removed, func(_ string, n int) bool { return n == 0 })
		for what, n := range removed {
			s.metrics.released(what, n)
		}
		if len(removed) > 0 {
			s.log.Info("cleaned up after a node that is gone", "node", node, "removed", removed)
		}
	}()
	objects := x.objects
	if x.record != nil {
		objects = []v3.Object{x.record}
	}
	for _, o := range objects {
		if there, err := alive(ctx); there || err != nil {
			return err
		}
		key := datastore.KeyOf(o)
		err := s.store.Delete(ctx, key, datastore.Precondition{ResourceVersion: o.GetResourceVersion(), UID: string(o.GetUID())})
		switch {
		case errors.Is(err, datastore.ErrConflict), errors.Is(err, datastore.ErrNotFound):
		case err != nil:
			return fmt.Errorf("clean up after node %s: %w", node, err)
		default:
			removed[key.Kind]++
		}
	}
	if x.ipam == nil {
		return nil
	}
	addresses, blocks, err := x.ipam.Clear(ctx, s.store, alive)
	removed["address"], removed["block"] = addresses, blocks
	if err != nil {
		return fmt.Errorf("clean up after node %s: %w", node, err)
	}
	return nil
}

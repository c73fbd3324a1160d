package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/model"
	"weft/node/datastore"
	"weft/node/ipam"
)

// Keeper keeps the store true about the pods that are attached here: a record that disappears is written again, and an
// address that its block does not give to the pod is taken again. Whoever cleans up after nodes that are gone relies on
// it: what a running node has comes back. It is fed with what the node follows in the store anyway (datastore.Sink);
// what that says is only a reason to look, under the locks of ADD and DEL, at what the store says then.
type Keeper struct {
	server *Server
	log    *slog.Logger
	runner *reconcile.Runner
	opts   KeeperOptions

	mu       sync.Mutex
	synced   bool
	all      bool // look at every attachment
	dirty    map[key]bool
	records  map[key]*v3.WorkloadEndpoint // of attachments here, as last seen
	blocks   map[string]heldBlock         // by resource name: those of this node, and those that addresses here are in
	brakes   map[key]*brake
	troubles map[key]string
}

// heldBlock is what a block says of its addresses.
type heldBlock struct {
	cidr    netip.Prefix
	holders map[netip.Addr]string // handles
}

// errLater makes the Runner come back.
var errLater = errors.New("some records are to be written later")

// KeeperOptions of a Keeper. The zero value works.
type KeeperOptions struct {
	// Derived: the store makes the records of what it knows of pods itself, as Kubernetes does. One that is there and wrong is
	// written again, but none that is absent: its pod has ended, or is not known any more.
	Derived bool
	// Kept is told of everything that was put back: "record" or "address".
	Kept func(what string)
}

// NewKeeper returns the Keeper of a Server's attachments.
func NewKeeper(s *Server, o KeeperOptions) *Keeper {
	if o.Kept == nil {
		o.Kept = func(string) {}
	}
	k := &Keeper{server: s, log: s.log, opts: o, dirty: map[key]bool{}, records: map[key]*v3.WorkloadEndpoint{},
		blocks: map[string]heldBlock{}, brakes: map[key]*brake{}, troubles: map[key]string{}}
	k.runner = reconcile.NewRunner(k.run, reconcile.RunnerOptions{RetryMin: keepRetryMin, RetryMax: keepRetryMax, Resync: keepResync})
	return k
}

const (
	keepRetryMin, keepRetryMax = 200 * time.Millisecond, 10 * time.Second
	// keepResync is how often everything is looked at, in what is known already.
	keepResync = 10 * time.Minute
)

// Run works until ctx ends, whose cause it returns.
func (k *Keeper) Run(ctx context.Context) error { return k.runner.Run(ctx) }

// OnState implements datastore.Sink.
func (k *Keeper) OnState(s datastore.State, _ error) {
	k.mu.Lock()
	k.synced = s == datastore.StateInSync
	k.all = k.all || k.synced
	k.mu.Unlock()
	k.runner.Kick()
}

// OnChanges implements datastore.Sink.
func (k *Keeper) OnChanges(changes []datastore.Change) {
	look := false
	for _, c := range changes {
		switch {
		case c.Err != nil:
		case c.Key.Kind == v3.KindWorkloadEndpoint:
			look = k.noteRecord(c) || look
		case c.Key.Kind == v3.KindIPAMBlock:
			look = k.noteBlock(c) || look
		}
	}
	if look {
		k.runner.Kick()
	}
}

// noteRecord tells whether a record of a pod here is not as it was written.
func (k *Keeper) noteRecord(c datastore.Change) bool {
	a, ours := k.server.cfg.Registry.recordOf(recordID{c.Key.Namespace, c.Key.Name})
	if !ours {
		return false
	}
	w, _ := c.Object.(*v3.WorkloadEndpoint)
	k.mu.Lock()
	defer k.mu.Unlock()
	if w != nil && recordFits(k.server.cfg.Node, w, a) {
		k.records[a.key()] = w
		return false
	}
	k.dirty[a.key()] = true
	return true
}

// noteBlock tells whether a block gives an address of a pod here to nobody, or to somebody else.
func (k *Keeper) noteBlock(c datastore.Change) bool {
	k.mu.Lock()
	was := k.blocks[c.Key.Name]
	delete(k.blocks, c.Key.Name)
	k.mu.Unlock()
	now := heldBlock{cidr: was.cidr}
	if o, ok := c.Object.(*v3.IPAMBlock); ok && !o.Spec.Deleted {
		cidr, err := netip.ParsePrefix(o.Spec.CIDR)
		own := o.Spec.Affinity != nil && *o.Spec.Affinity == v3.AffinityTypeHost+":"+k.server.cfg.Node
		if err != nil || !own && len(k.server.cfg.Registry.usersIn(cidr)) == 0 {
			return false
		}
		if now.cidr, now.holders, err = ipam.Holders(o); err != nil {
			return false // the node reports what it cannot read
		}
	}
	if !now.cidr.IsValid() {
		return false
	}
	users := k.server.cfg.Registry.usersIn(now.cidr)
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.holders != nil {
		k.blocks[c.Key.Name] = now
	}
	look := false
	for ip, a := range users {
		if now.holders[ip] != a.Handle {
			k.dirty[a.key()], look = true, true
		}
	}
	return look
}

// recordFits tells whether w says of a what matters to others.
func recordFits(node string, w *v3.WorkloadEndpoint, a *attachment) bool {
	s := &w.Spec
	if s.Node != node || s.ContainerID != a.ContainerID || s.InterfaceName != a.Device || len(s.IPNetworks) != len(a.Addresses) {
		return false
	}
	return !slices.ContainsFunc(a.Addresses, func(ip netip.Addr) bool { return !slices.Contains(s.IPNetworks, model.HostPrefix(ip).String()) })
}

// run looks at what there is a reason to look at.
func (k *Keeper) run(ctx context.Context, full bool) error {
	var errs []error
	for _, q := range k.take(full) {
		if err := k.keep(ctx, q); err != nil {
			k.mu.Lock()
			k.dirty[q] = true
			k.mu.Unlock()
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// take returns whom to look at, and forgets what is known of those that are gone.
func (k *Keeper) take(full bool) []key {
	all := k.server.cfg.Registry.list()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.synced {
		return nil
	}
	full, k.all = full || k.all, false
	there := map[key]bool{}
	var keys []key
	for _, a := range all {
		q := a.key()
		there[q] = true
		switch {
		case k.dirty[q], full && k.server.lasting(a) && !k.asKnown(a):
			keys = append(keys, q)
		case full && k.brakes[q].rested(time.Now()):
			delete(k.troubles, q)
			delete(k.brakes, q)
		}
	}
	clear(k.dirty)
	forget(k.records, there)
	forget(k.brakes, there)
	forget(k.troubles, there)
	return keys
}

func forget[V any](m map[key]V, there map[key]bool) {
	for q := range m {
		if !there[q] {
			delete(m, q)
		}
	}
}

// lasting tells whether the store is to say what a has: from the end of ADD to DEL, or to the host's next boot.
func (s *Server) lasting(a *attachment) bool {
	return a.State == stateReady && !a.Superseded && a.Boot == s.boot
}

// asKnown tells whether what was last seen of a is as it should be. The caller holds mu.
func (k *Keeper) asKnown(a *attachment) bool {
	w := k.records[a.key()]
	if w == nil || !recordFits(k.server.cfg.Node, w, a) {
		return false
	}
	for _, ip := range a.Addresses {
		held := false
		for _, b := range k.blocks {
			held = held || b.holders[ip] == a.Handle
		}
		if !held {
			return false
		}
	}
	return true
}

// keepTimeout bounds the look at one attachment, during which a DEL of it waits.
const keepTimeout = 5 * time.Second

// keep has the store say what one attachment has. An ADD or DEL that is under way comes first.
func (k *Keeper) keep(ctx context.Context, q key) error {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	s := k.server
	a, there := s.cfg.Registry.get(q)
	if !there {
		return nil
	}
	unlock, err := s.lock(ctx, a)
	if err != nil {
		return err
	}
	defer unlock()
	if a, there = s.cfg.Registry.get(q); !there || !s.lasting(a) {
		return nil
	}
	if !k.mayWrite(a) {
		return errLater
	}
	lost, err := k.recordLost(ctx, a)
	if err != nil {
		return err
	}
	taken, err := s.cfg.IPAM.Keep(ctx, AddressRequest{Handle: a.Handle, Addresses: a.Addresses, Attributes: a.attributes()})
	var other *ipam.TakenError
	switch {
	case errors.As(err, &other):
		// A record would give the other owner what policy allows this pod.
		k.trouble(a, fmt.Sprintf("pod %s has address %v on its link, but by the store it belongs to %s: delete one of the two", a.id(), other.Addr, other.Owner+onNode(other.Node)))
		return nil
	case err != nil:
		k.trouble(a, fmt.Sprintf("the store does not say that pod %s has its addresses: %v", a.id(), err))
		return err
	}
	if len(taken) > 0 {
		k.opts.Kept("address")
		if !lost { // else writing the record counts
			k.wrote(a)
		}
		k.log.Warn("cni: the store did not say any more that an attached pod has its addresses: taken again", "pod", a.id().String(), "addresses", taken)
	}
	if !lost {
		k.trouble(a, "")
		return nil
	}
	if !k.mayWrite(a) {
		return errLater
	}
	return k.rewrite(ctx, a)
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on node " + node
}

// recordLost tells whether the store has no record of a, or another one.
func (k *Keeper) recordLost(ctx context.Context, a *attachment) (bool, error) {
	w, _, err := k.server.getRecord(ctx, a)
	if err != nil {
		return false, err
	}
	if w == nil || !recordFits(k.server.cfg.Node, w, a) {
		return w != nil || !k.opts.Derived, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.records[a.key()] = w
	return false, nil
}

// rewrite writes the record of a again: as it was last seen, or as the runtime told it at ADD.
func (k *Keeper) rewrite(ctx context.Context, a *attachment) error {
	k.mu.Lock()
	w := k.records[a.key()]
	k.mu.Unlock()
	switch {
	case w != nil && recordFits(k.server.cfg.Node, w, a):
		w = w.DeepCopy()
		w.ObjectMeta = metav1.ObjectMeta{Namespace: w.Namespace, Name: w.Name, Labels: w.Labels, Annotations: w.Annotations}
	case a.Told != nil:
		w = record(k.server.cfg.Node, a)
	default:
		k.trouble(a, fmt.Sprintf("the record of pod %s is gone from the store, and this node does not know its labels any more: delete the pod", a.id()))
		return nil
	}
	if err := k.server.putRecord(ctx, w, uidOf(a)); err != nil {
		return err
	}
	k.opts.Kept("record")
	k.wrote(a)
	k.log.Warn("cni: the record of an attached pod had disappeared from the store: written again", "pod", a.id().String())
	k.mu.Lock()
	defer k.mu.Unlock()
	k.records[a.key()] = w
	k.troubles[a.key()] = k.brakes[a.key()].trouble(a)
	return nil
}

func (k *Keeper) trouble(a *attachment, text string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if text != "" && text != k.troubles[a.key()] {
		k.log.Warn("cni: " + text)
	}
	k.troubles[a.key()] = text
}

// Problems returns sentences about what the Keeper cannot put right.
func (k *Keeper) Problems() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, t := range k.troubles {
		if t != "" {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return out
}

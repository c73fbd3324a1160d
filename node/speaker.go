package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/model"
	"weft/node/datastore"
	"weft/node/status"
	"weft/routing"
	"weft/routing/bgp"
	daemon "weft/routing/bgp/speaker"
	"weft/routing/fib"
)

// bgpDriver is what makes the host speak BGP.
type bgpDriver interface {
	Apply(context.Context, routing.Speaker) (reconcile.Result, error)
	Watch(ctx context.Context, kick func()) error
	Invalidate()
	// News has a value when Learned would return something else.
	News() <-chan struct{}
	Learned() (routes []routing.Learned, settled bool)
	// Pending tells whether so much more is known that it need not be waited for.
	Pending() bool
	Peers(context.Context) ([]bgp.Peer, error)
	handoverDriver
	Close()
}

// speaker is this node's side of BGP. It runs beside the engine: a neighbour that is slow, or a speaker that
// has to be started, holds up no route and no pod. It implements datastore.Sink for the resources of BGP.
type speaker struct {
	self    model.NodeName
	log     *slog.Logger
	driver  bgpDriver
	off     bool // nothing is to be spoken: what an earlier process left is ended
	cluster *cluster
	learned func()                      // is called when there are other routes
	applied func(context.Context) error // the same, and waits until the kernel has them
	runner  *reconcile.Runner
	// handover decides whom this node relies on.
	handover *handover

	mu       sync.Mutex
	records  *bgpResources
	rejected map[datastore.Key]error
	nodePeer map[string]bool           // by Session.Name: BGPPeers with a node or nodeSelector
	plan     routing.Speaker           // of the last run
	problems error                     // of compiling it
	none     string                    // why it has no sessions, where it has none
	services []netip.Prefix            // ranges of service addresses
	priority map[model.Family]uint32   // metric of learned routes
	gateways map[netip.Addr]netip.Addr // to peers that are on no link
	said     []netip.Prefix            // what is announced of service addresses
	planned  bool                      // said is of this process
	ignored  []string                  // interfaces that lead to no next hop
	latest   []routing.Learned
	settled  bool
	input    routing.LearnedInput // that the last plan of routes was made of
	err      error                // of applying it
}

// settleTime is how long more changes are waited for: what is said to neighbours is compiled as a whole.
const settleTime = 100 * time.Millisecond

// hearAfter returns how long no news must come before a look is taken at what was learned, of which there were n routes
// before; it is taken after ten times that in any case. A look costs as much as there is, some 0.5 us for each route.
func hearAfter(n int) time.Duration { return 20*time.Millisecond + time.Duration(n)*time.Microsecond }

func newSpeaker(self model.NodeName, driver bgpDriver, off bool, c *cluster, log *slog.Logger, engine *reconcile.Runner, publish func(), resync time.Duration) *speaker {
	s := &speaker{self: self, log: log, driver: driver, off: off, cluster: c, learned: engine.Kick, applied: engine.Await, records: newBGPResources(self, v3.BGPPasswordNamespace), rejected: map[datastore.Key]error{}}
	s.runner = reconcile.NewRunner(s.run, reconcile.RunnerOptions{Settle: settleTime, RetryMin: retryMin, RetryMax: retryMax, Resync: resync})
	s.handover = &handover{off: off, log: log, driver: driver, publish: publish, again: s.runner.Kick, now: time.Now}
	return s
}

// OnState implements datastore.Sink.
func (s *speaker) OnState(datastore.State, error) { s.runner.Kick() }

// OnChanges implements datastore.Sink.
func (s *speaker) OnChanges(changes []datastore.Change) {
	s.mu.Lock()
	relevant := false
	for _, ch := range changes {
		if !slices.Contains(bgpKinds(), ch.Key.Kind) {
			continue
		}
		changed, err := false, ch.Err
		if err == nil {
			changed, err = s.records.apply(ch)
		}
		delete(s.rejected, ch.Key)
		if err != nil {
			s.rejected[ch.Key] = err
			s.log.Warn("resource rejected, keeping the last good one", "resource", ch.Key.String(), "err", err)
		}
		relevant = relevant || changed
	}
	s.mu.Unlock()
	if relevant {
		s.runner.Kick()
	}
}

// Run keeps the speaker as the resources say until ctx ends.
func (s *speaker) Run(ctx context.Context) error {
	var done sync.WaitGroup
	done.Go(func() { s.listen(ctx) })
	done.Go(func() { _ = s.driver.Watch(ctx, s.runner.Kick) })
	done.Go(func() { s.handover.run(ctx) })
	err := s.runner.Run(ctx)
	done.Wait()
	s.driver.Close()
	return err
}

// listen takes over what others say, until ctx ends. What it takes over is in the kernel before it takes over more:
// routes of this cluster, and pods, are not held up for longer than that.
func (s *speaker) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.driver.News():
		}
		if !s.calm(ctx) {
			return
		}
		for more := true; more && ctx.Err() == nil; more = s.driver.Pending() {
			s.take()
			_ = s.applied(ctx) // the engine says itself what is wrong
		}
	}
}

// calm waits until no more news come, or too long; false when ctx ends.
func (s *speaker) calm(ctx context.Context) bool {
	pause := hearAfter(len(s.routes()))
	late, quiet := time.NewTimer(10*pause), time.NewTimer(pause)
	defer late.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-s.driver.News():
			quiet.Reset(pause)
		case <-quiet.C:
			return true
		case <-late.C:
			return true
		}
	}
}

// run is one pass. Before the first complete snapshot it does nothing: the speaker of an earlier process goes on.
func (s *speaker) run(ctx context.Context, full bool) error {
	if full {
		s.driver.Invalidate()
	}
	if s.off {
		if s.forgot() {
			return nil
		}
		_, err := s.driver.Apply(ctx, routing.Speaker{})
		if err == nil {
			s.hear()
		}
		return err
	}
	snap, _, ok := s.cluster.snapshot()
	if !ok {
		return nil
	}
	if n := snap.Nodes[s.self]; n == nil || len(n.Addresses) == 0 {
		return nil // this node's record is on its way
	}
	s.mu.Lock()
	in := routing.SpeakerInput{Self: s.self, Nodes: snap.Nodes, Pools: snap.Pools, Blocks: snap.Blocks}
	var unread error
	in.BGP, in.Passwords, unread = s.records.nouns()
	s.mu.Unlock()
	s.handover.restrict(&in)
	plan, problems := routing.CompileSpeaker(in)
	problems = errors.Join(unread, problems)
	s.prepare(&in.BGP, plan)
	res, err := s.driver.Apply(ctx, plan)
	if ctx.Err() != nil {
		return err
	}
	none := ""
	if plan.ASN == 0 {
		none = routing.WhyNoSessions(in)
		if !s.forgot() {
			s.hear() // that there is nothing to be learned
		}
	}
	s.mu.Lock()
	s.plan, s.problems, s.none, s.err = plan, problems, none, err
	s.mu.Unlock()
	if err == nil {
		s.handover.ran(in, len(plan.Sessions))
	}
	if !res.Zero() {
		s.log.Info("BGP applied", "change", res.String(), "sessions", len(plan.Sessions), "advertisements", len(plan.Advertisements))
	}
	if err != nil {
		s.log.Warn("BGP is not as the resources say", "err", err)
	}
	return err
}

// format prints the plan of the last run.
func (s *speaker) format() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan.Format()
}

// hear takes over what others said.
func (s *speaker) hear() {
	s.take()
	s.learned()
}

func (s *speaker) take() {
	some, settled := s.driver.Learned()
	s.mu.Lock()
	s.latest, s.settled = some, settled
	s.mu.Unlock()
}

// prepare takes over what the routes depend on, before the speaker has its plan: what it tells then is what is to be.
func (s *speaker) prepare(b *model.BGP, plan routing.Speaker) {
	nodePeer := map[string]bool{}
	for i := range b.Peers {
		p := &b.Peers[i]
		nodePeer["BGPPeer "+p.Name] = p.Node != "" || p.NodeSelector != ""
	}
	gateways, cfg := plan.Gateways(), &b.Config
	services, said := slices.Concat(cfg.ClusterIPs, cfg.ExternalIPs, cfg.LoadBalancerIPs), plan.Services()
	s.mu.Lock()
	same := s.planned && slices.Equal(s.ignored, cfg.IgnoredInterfaces) && slices.Equal(s.said, said) && maps.Equal(s.gateways, gateways) && slices.Equal(s.services, services) && maps.Equal(s.priority, cfg.Priority)
	s.ignored = cfg.IgnoredInterfaces
	s.nodePeer, s.gateways, s.services, s.priority, s.said, s.planned = nodePeer, gateways, services, cfg.Priority, said, true
	s.mu.Unlock()
	if !same {
		s.learned()
	}
}

// announced returns what this host announces of service addresses, sorted; false while that is not known.
func (s *speaker) announced() (said []netip.Prefix, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.said, s.off || s.planned
}

// forgot tells that nothing is learned any more, and that this is known.
func (s *speaker) forgot() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled && len(s.latest) == 0
}

// add adds to a plan of routes what others said.
func (s *speaker) add(c *routing.LearnedCompiler, p routing.Plan, snap *model.Snapshot) (routing.Plan, error) {
	s.mu.Lock()
	in := routing.LearnedInput{Routes: s.latest, Underlay: snap.Underlay, Services: s.services, Priority: s.priority, Gateways: s.gateways, Ignored: s.ignored}
	settled := s.settled
	s.input = in
	s.mu.Unlock()
	p, err := c.Compile(p, in)
	if !settled {
		p.Unsettled = true
		for _, pool := range snap.Pools {
			p.Pools = append(p.Pools, pool.CIDR)
		}
	}
	return p, err
}

func (s *speaker) routes() []routing.Learned {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest
}

// slow is how long a session may take before that is a problem.
const slow = 30 * time.Second

// describe says where the node is with BGP; nil where it speaks none.
func (s *speaker) describe() *status.BGP {
	if s.off {
		return nil
	}
	states := byAddress(s.driver.States())
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &status.BGP{On: s.plan.ASN != 0, Why: s.none, ASN: s.plan.ASN, Sessions: len(s.plan.Sessions), Advertised: len(s.plan.Advertisements), Learned: len(s.latest)}
	if b.On {
		b.RouterID = s.plan.RouterID.String()
	}
	b.Problems = sentences(s.problems)
	for k, err := range s.rejected {
		b.Problems = append(b.Problems, fmt.Sprintf("%s is rejected, the last good one stays in force: %v", k, err))
	}
	slices.Sort(b.Problems)
	for i := range s.plan.Sessions {
		x := &s.plan.Sessions[i]
		p := states[x.Peer]
		if p.State == daemon.Established {
			b.Established++
		} else if text, ok := down(x, &p); ok {
			b.Problems = append(b.Problems, text)
		}
	}
	if s.err != nil {
		b.Problems = append(b.Problems, s.err.Error())
	}
	if text := s.handover.problem(); text != "" {
		b.Problems = append(b.Problems, text)
	}
	return b
}

func byAddress(peers []bgp.Peer) map[netip.Addr]bgp.Peer {
	out := make(map[netip.Addr]bgp.Peer, len(peers))
	for _, p := range peers {
		out[p.Address] = p
	}
	return out
}

// down says of a session that is not established why, as far as that is known; false while it may be on its way.
func down(x *routing.Session, p *bgp.Peer) (string, bool) {
	text := fmt.Sprintf("BGP session with %s (%v, AS %d) is ", x.Name, x.Peer, x.ASN)
	switch {
	case p.LastError != "":
		return text + "down: " + p.LastError, true
	case !p.Since.IsZero() && time.Since(p.Since) > slow:
		return fmt.Sprintf("%snot established since %v: %s", text, p.Since.Format(time.TimeOnly), p.State), true
	}
	return "", false
}

// sentences returns the texts of joined errors.
func sentences(err error) []string {
	if err == nil {
		return nil
	}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var out []string
		for _, e := range joined.Unwrap() {
			out = append(out, sentences(e)...)
		}
		return out
	}
	return []string{err.Error()}
}

// peers is the account of every session.
func (s *speaker) peers(ctx context.Context) status.BGPPeers {
	doc := status.BGPPeers{Peers: []status.BGPPeer{}}
	if s.off {
		return doc
	}
	have, err := s.driver.Peers(ctx)
	if err != nil {
		doc.Error = err.Error()
		have = s.driver.States()
	}
	return s.rows(doc, have)
}

// sessions is the same without counts, which cost the speaker a walk through its table for each session.
func (s *speaker) sessions(context.Context) status.BGPPeers {
	doc := status.BGPPeers{Peers: []status.BGPPeer{}}
	if s.off {
		return doc
	}
	return s.rows(doc, s.driver.States())
}

func (s *speaker) rows(doc status.BGPPeers, have []bgp.Peer) status.BGPPeers {
	doc.BGP = *s.describe()
	states := byAddress(have)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.plan.Sessions {
		doc.Peers = append(doc.Peers, s.peerLocked(&s.plan.Sessions[i], states[s.plan.Sessions[i].Peer]))
	}
	return doc
}

func (s *speaker) peerLocked(x *routing.Session, p bgp.Peer) status.BGPPeer {
	out := status.BGPPeer{Node: string(s.self), Address: x.Peer.String(), Peer: x.Node, Type: v3.PeerTypeNodeMesh, From: x.Name, ASN: x.ASN,
		State: string(cmp.Or(p.State, daemon.Idle)), Since: p.Since, BFD: p.BFD, Received: p.Received, Accepted: p.Accepted, Sent: p.Sent,
		Flaps: p.Flaps, Malformed: p.Malformed, LastError: p.LastError, LastErrorAt: p.ErrorAt}
	if !x.Mesh {
		out.Type = v3.PeerTypeGlobalPeer
		if s.nodePeer[x.Name] {
			out.Type = v3.PeerTypeNodePeer
		}
	}
	return out
}

// table is the account of what is advertised and what was learned. fill adds of a learned one whether the kernel's route to
// the prefix is that one, and if not, why.
func (s *speaker) table(fill func(*status.BGPRoute, *routing.Learned)) status.BGPRoutes {
	doc := status.BGPRoutes{Routes: []status.BGPRoute{}}
	s.mu.Lock()
	for _, a := range s.plan.Advertisements {
		doc.Routes = append(doc.Routes, status.BGPRoute{Prefix: a.Prefix.String(), Origin: "Local", Why: a.Why, Communities: a.Communities})
	}
	s.mu.Unlock()
	for _, l := range s.routes() {
		r := status.BGPRoute{Prefix: l.Prefix.String(), Origin: "Learned", Peer: l.Peer.String(), Priority: l.Priority}
		fill(&r, &l)
		for _, h := range l.NextHops {
			r.NextHops = append(r.NextHops, h.String())
		}
		doc.Routes = append(doc.Routes, r)
	}
	slices.SortStableFunc(doc.Routes, func(a, b status.BGPRoute) int {
		pa, pb := netip.MustParsePrefix(a.Prefix), netip.MustParsePrefix(b.Prefix)
		return cmp.Or(pa.Compare(pb), cmp.Compare(a.Origin, b.Origin))
	})
	return doc
}

// newSpeaker makes this node's side of BGP.
func (s *service) newSpeaker() *speaker {
	d := bgp.New(s.handle, s.log, bgp.Options{Dir: s.cfg.RunDir, LogDir: s.cfg.RunDir, Keeper: s.cfg.Keeper})
	return newSpeaker(model.NodeName(s.cfg.NodeName), d, !s.cfg.BGP, s.cluster, s.log, s.engine.runner, func() { s.publish.Kick() }, s.cfg.Resync)
}

// bgpRoutes is the account of BGP's routes.
func (s *service) bgpRoutes(ctx context.Context) status.BGPRoutes {
	var plan routing.Plan
	if p := s.engine.current(); p != nil {
		plan = p.routing
	}
	planned := plan.Learned
	installed, err := fib.Installed(ctx, s.handle, planned)
	unwanted := routing.NewUnwanted(plan, s.speaker.lastInput())
	doc := s.speaker.table(func(r *status.BGPRoute, l *routing.Learned) {
		_, wanted := slices.BinarySearchFunc(planned, routing.Route{Dst: l.Prefix}, routing.CompareRoutes)
		switch {
		case installed[l.Prefix]:
			r.Installed = true
		case wanted && err != nil:
			r.Why = "whether the kernel has it could not be read"
		case wanted:
			r.Why = "not in the kernel, or not like this: it is on its way there, or the kernel refused it (weft status says why)"
		default:
			if r.Why, r.Store = unwanted.Why(l); r.Why == "" {
				r.Why = "it is on its way to the kernel"
			}
		}
	})
	if err != nil {
		doc.Error = err.Error()
	}
	return doc
}

// lastInput is what the last plan of routes was made of.
func (s *speaker) lastInput() routing.LearnedInput {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.input
}

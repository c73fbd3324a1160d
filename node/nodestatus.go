package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/status"
)

// reporter answers the CalicoNodeStatus resources that are about this node. It implements datastore.Sink.
type reporter struct {
	self    string
	version string
	started time.Time
	store   datastore.Store
	log     *slog.Logger
	peers   func(context.Context) status.BGPPeers
	routes  func(context.Context) status.BGPRoutes

	mu    sync.Mutex
	asked map[string]*v3.CalicoNodeStatus // of those about other nodes what asks only
	due   map[string]time.Time            // when to answer next; those that are not in it are answered for good
	poke  chan struct{}                   // of capacity 1
}

// OnState implements datastore.Sink.
func (r *reporter) OnState(datastore.State, error) {}

// OnChanges implements datastore.Sink.
func (r *reporter) OnChanges(changes []datastore.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ch := range changes {
		if ch.Key.Kind != v3.KindCalicoNodeStatus || ch.Err != nil {
			continue
		}
		o, _ := ch.Object.(*v3.CalicoNodeStatus)
		before := r.asked[ch.Key.Name]
		switch {
		case o == nil:
			delete(r.asked, ch.Key.Name)
			delete(r.due, ch.Key.Name)
			continue
		case o.Spec.Node != r.self: // kept, for where it moves here its answer is another node's
			r.asked[ch.Key.Name] = &v3.CalicoNodeStatus{ObjectMeta: metav1.ObjectMeta{UID: o.UID}, Spec: o.Spec}
			delete(r.due, ch.Key.Name)
			continue
		}
		r.asked[ch.Key.Name] = o
		if before == nil || before.UID != o.UID || before.Spec.Node != o.Spec.Node || period(before) != period(o) || !slices.Equal(before.Spec.Classes, o.Spec.Classes) {
			r.due[ch.Key.Name] = firstDue(o, before != nil && before.UID == o.UID)
			select {
			case r.poke <- struct{}{}:
			default:
			}
		}
	}
}

func period(o *v3.CalicoNodeStatus) time.Duration {
	if o.Spec.UpdatePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*o.Spec.UpdatePeriodSeconds) * time.Second
}

// firstDue is when to answer first: at once what nobody answered yet, or what asks for something else now; what an
// earlier process answered, a period later, or never.
func firstDue(o *v3.CalicoNodeStatus, changed bool) time.Time {
	switch last := o.Status.LastUpdated; {
	case last == nil || changed:
		return time.Now()
	case period(o) == 0:
		return time.Time{}
	default:
		return last.Add(period(o))
	}
}

// Run answers until ctx ends.
func (r *reporter) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		next := r.answerDue(ctx)
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		case <-r.poke:
		}
	}
}

// answerDue answers what is due and returns how long nothing is.
func (r *reporter) answerDue(ctx context.Context) time.Duration {
	now, next := time.Now(), time.Hour
	r.mu.Lock()
	names := slices.Sorted(maps.Keys(r.due))
	r.mu.Unlock()
	for _, name := range names {
		r.mu.Lock()
		at, o := r.due[name], r.asked[name]
		if o == nil || at.IsZero() {
			delete(r.due, name)
			r.mu.Unlock()
			continue
		}
		r.mu.Unlock()
		if wait := at.Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		again := period(o)
		if err := r.answer(ctx, o); err != nil {
			r.log.Warn("CalicoNodeStatus is not answered", "name", name, "err", err)
			if !errors.Is(err, datastore.ErrInvalid) { // which it would be again
				again = retryMax
			}
		}
		r.mu.Lock()
		switch {
		case !r.due[name].Equal(at): // it was changed meanwhile
			next = 0
		case again == 0:
			delete(r.due, name)
		default:
			r.due[name] = time.Now().Add(again)
			next = min(next, again)
		}
		r.mu.Unlock()
	}
	return next
}

// answer writes the status, over whatever somebody else wrote meanwhile.
func (r *reporter) answer(ctx context.Context, asked *v3.CalicoNodeStatus) error {
	st := r.fill(ctx, asked.Spec.Classes)
	o := asked.DeepCopy()
	o.Status = st
	_, err := r.store.Update(ctx, o)
	if !errors.Is(err, datastore.ErrConflict) {
		if errors.Is(err, datastore.ErrNotFound) {
			return nil
		}
		return err
	}
	now, err := r.store.Get(ctx, datastore.Key{Kind: v3.KindCalicoNodeStatus, Name: asked.Name})
	if errors.Is(err, datastore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	o, ok := now.(*v3.CalicoNodeStatus)
	if !ok || o.UID != asked.UID || o.Spec.Node != asked.Spec.Node {
		return nil
	}
	o = o.DeepCopy()
	o.Status = st
	_, err = r.store.Update(ctx, o)
	return err
}

func (r *reporter) fill(ctx context.Context, classes []string) (st v3.CalicoNodeStatusStatus) {
	now := metav1.Now()
	st.LastUpdated = &now
	doc := r.peers(ctx)
	if slices.Contains(classes, v3.StatusAgent) {
		st.Agent.BIRDV4 = v3.BGPDaemonStatus{State: "NotReady", Version: r.version, RouterID: doc.RouterID, LastBootTime: r.started.UTC().Format(time.RFC3339)}
		if doc.On {
			st.Agent.BIRDV4.State = "Ready"
		}
		st.Agent.BIRDV6 = st.Agent.BIRDV4
	}
	if slices.Contains(classes, v3.StatusBGP) {
		st.BGP = sessionsOf(doc.Peers)
	}
	if slices.Contains(classes, v3.StatusRoutes) {
		st.Routes = routesOf(r.routes(ctx).Routes, doc.Peers)
	}
	return st
}

func sessionsOf(peers []status.BGPPeer) (out v3.CalicoNodeBGPStatus) {
	for i := range peers {
		p := &peers[i]
		peer := v3.CalicoNodePeer{PeerIP: p.Address, Type: p.Type, State: p.State}
		if !p.Since.IsZero() {
			peer.Since = p.Since.UTC().Format(time.RFC3339)
		}
		list, up, down := &out.PeersV4, &out.NumberEstablishedV4, &out.NumberNotEstablishedV4
		if a, err := netip.ParseAddr(p.Address); err == nil && a.Is6() {
			list, up, down = &out.PeersV6, &out.NumberEstablishedV6, &out.NumberNotEstablishedV6
		}
		*list = append(*list, peer)
		if p.State == "Established" {
			*up++
		} else {
			*down++
		}
	}
	return out
}

// maxReported bounds the routes of one report: a store takes no object of any size.
const maxReported = 5000

func routesOf(routes []status.BGPRoute, peers []status.BGPPeer) (out v3.CalicoNodeBGPRouteStatus) {
	mesh := map[string]bool{}
	for i := range peers {
		mesh[peers[i].Address] = peers[i].Type == v3.PeerTypeNodeMesh
	}
	for i := range routes[:min(len(routes), maxReported)] {
		r := &routes[i]
		route := v3.CalicoNodeRoute{Type: v3.RouteTypeRIB, Destination: r.Prefix, LearnedFrom: v3.CalicoNodeRouteLearnedFrom{SourceType: v3.RouteSourceStatic}}
		if r.Origin == "Learned" {
			route.LearnedFrom = v3.CalicoNodeRouteLearnedFrom{SourceType: v3.RouteSourceBGPPeer, PeerIP: r.Peer}
			if mesh[r.Peer] {
				route.LearnedFrom.SourceType = v3.RouteSourceNodeMesh
			}
			if len(r.NextHops) > 0 {
				route.Gateway = r.NextHops[0]
			}
			if r.Installed {
				route.Type = v3.RouteTypeFIB
			}
		}
		if p, err := netip.ParsePrefix(r.Prefix); err == nil && p.Addr().Is6() {
			out.RoutesV6 = append(out.RoutesV6, route)
		} else {
			out.RoutesV4 = append(out.RoutesV4, route)
		}
	}
	return out
}

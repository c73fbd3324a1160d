package node

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/status"
)

func asked(uid, node string, seconds uint32, last time.Time, classes ...string) *v3.CalicoNodeStatus {
	o := &v3.CalicoNodeStatus{}
	o.Name, o.UID = "ask", types.UID(uid)
	o.Spec.Node, o.Spec.UpdatePeriodSeconds, o.Spec.Classes = node, &seconds, classes
	if !last.IsZero() {
		o.Status.LastUpdated = &metav1.Time{Time: last}
	}
	return o
}

// TestWhenNodeStatusIsDue: what nobody answered is due at once, and so is a question that changed; what an earlier
// process answered a period later, or never; what is about another node, or gone, never.
func TestWhenNodeStatusIsDue(t *testing.T) {
	long := time.Now().Add(-time.Hour).Round(time.Second)
	at := func(steps ...*v3.CalicoNodeStatus) string {
		t.Helper()
		r := &reporter{self: "n1", asked: map[string]*v3.CalicoNodeStatus{}, due: map[string]time.Time{}, poke: make(chan struct{}, 1)}
		for _, o := range steps {
			ch := datastore.Change{Key: datastore.Key{Kind: v3.KindCalicoNodeStatus, Name: "ask"}}
			if o != nil {
				ch.Object = o
			}
			r.OnChanges([]datastore.Change{ch})
		}
		due, there := r.due["ask"]
		switch {
		case !there:
			return "not asked"
		case due.IsZero():
			return "never"
		case time.Since(due) < time.Minute:
			return "now"
		}
		return fmt.Sprint(due.Sub(long))
	}
	for _, c := range []struct {
		what, want string
		steps      []*v3.CalicoNodeStatus
	}{
		{"nobody answered", "now", []*v3.CalicoNodeStatus{asked("a", "n1", 10, time.Time{}, "BGP")}},
		{"answered before", "10s", []*v3.CalicoNodeStatus{asked("a", "n1", 10, long, "BGP")}},
		{"answered once for all", "never", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP")}},
		{"the classes change", "now", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP"), asked("a", "n1", 0, long, "BGP", "Routes")}},
		{"the period changes", "now", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP"), asked("a", "n1", 9, long, "BGP")}},
		{"our own answer comes back", "never", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP"), asked("a", "n1", 0, time.Now(), "BGP")}},
		{"it is another of the same name", "10s", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP"), asked("b", "n1", 10, long, "BGP")}},
		{"another node's", "not asked", []*v3.CalicoNodeStatus{asked("a", "n2", 10, time.Time{}, "BGP")}},
		{"it moves to another node", "not asked", []*v3.CalicoNodeStatus{asked("a", "n1", 10, time.Time{}, "BGP"), asked("a", "n2", 10, time.Time{}, "BGP")}},
		{"it moves here, answered by the other", "now", []*v3.CalicoNodeStatus{asked("a", "n2", 0, long, "BGP"), asked("a", "n1", 0, long, "BGP")}},
		{"it moves away and back", "now", []*v3.CalicoNodeStatus{asked("a", "n1", 0, long, "BGP"), asked("a", "n2", 0, long, "BGP"), asked("a", "n1", 0, long, "BGP")}},
		{"another of the same name, answered, is about this node", "never", []*v3.CalicoNodeStatus{asked("a", "n2", 0, long, "BGP"), asked("b", "n1", 0, long, "BGP")}},
		{"it goes", "not asked", []*v3.CalicoNodeStatus{asked("a", "n1", 10, time.Time{}, "BGP"), nil}},
	} {
		if got := at(c.steps...); got != c.want {
			t.Errorf("%s: due %s, want %s", c.what, got, c.want)
		}
	}
}

// movedStore has a CalicoNodeStatus that was changed since it was read.
type movedStore struct {
	datastore.Store
	now     *v3.CalicoNodeStatus
	written int
}

func (s *movedStore) Get(context.Context, datastore.Key) (v3.Object, error) { return s.now, nil }

func (s *movedStore) Update(_ context.Context, o v3.Object) (v3.Object, error) {
	if o.GetResourceVersion() != s.now.ResourceVersion {
		return nil, datastore.ErrConflict
	}
	s.written++
	return o, nil
}

// TestNodeStatusMovedMeanwhile: a node that is late answers what changed since it asked, but nothing that is about
// another node by now.
func TestNodeStatusMovedMeanwhile(t *testing.T) {
	for node, want := range map[string]int{"n1": 1, "n2": 0} {
		s := &movedStore{now: asked("a", node, 0, time.Time{}, v3.StatusBGP)}
		s.now.ResourceVersion = "2"
		r := &reporter{self: "n1", store: s, peers: func(context.Context) status.BGPPeers { return status.BGPPeers{} }}
		before := asked("a", "n1", 0, time.Time{}, v3.StatusBGP)
		before.ResourceVersion = "1"
		if err := r.answer(t.Context(), before); err != nil || s.written != want {
			t.Errorf("it is about %s by now: n1 wrote %d answers, %v; want %d", node, s.written, err, want)
		}
	}
}

// TestNodeStatusAnswers: each class is answered where it is asked for, families apart, and routes by where they come from.
func TestNodeStatusAnswers(t *testing.T) {
	doc := status.BGPPeers{BGP: status.BGP{On: true, RouterID: "172.31.1.1"}, Peers: []status.BGPPeer{
		{Address: "172.31.1.2", Type: v3.PeerTypeNodeMesh, State: "Established", Since: time.Unix(1_700_000_000, 0)},
		{Address: "172.31.1.254", Type: v3.PeerTypeGlobalPeer, State: "Active"}, {Address: "fd00::2", Type: v3.PeerTypeNodeMesh, State: "Established"},
	}}
	routes := []status.BGPRoute{
		{Prefix: "10.244.0.0/26", Origin: "Local"},
		{Prefix: "10.244.1.0/26", Origin: "Learned", Peer: "172.31.1.2", NextHops: []string{"172.31.1.2"}},
		{Prefix: "198.51.100.0/24", Origin: "Learned", Peer: "172.31.1.254", NextHops: []string{"172.31.1.254"}, Installed: true},
		{Prefix: "fd10::/122", Origin: "Local"},
	}
	r := &reporter{self: "n1", version: "v", peers: func(context.Context) status.BGPPeers { return doc }, routes: func(context.Context) status.BGPRoutes { return status.BGPRoutes{Routes: routes} }}
	st := r.fill(t.Context(), []string{v3.StatusAgent, v3.StatusBGP, v3.StatusRoutes})
	if a := st.Agent.BIRDV4; a.State != "Ready" || a.RouterID != "172.31.1.1" || st.Agent.BIRDV6 != a || st.LastUpdated == nil {
		t.Errorf("agent: %+v", st.Agent)
	}
	b := st.BGP
	if b.NumberEstablishedV4 != 1 || b.NumberNotEstablishedV4 != 1 || b.NumberEstablishedV6 != 1 || b.NumberNotEstablishedV6 != 0 ||
		len(b.PeersV4) != 2 || len(b.PeersV6) != 1 || b.PeersV4[0].Since != "2023-11-14T22:13:20Z" || b.PeersV4[1].Since != "" {
		t.Errorf("sessions: %+v", b)
	}
	var got []string
	for _, x := range append(st.Routes.RoutesV4, st.Routes.RoutesV6...) {
		got = append(got, fmt.Sprint(x.Type, " ", x.Destination, " ", x.Gateway, " ", x.LearnedFrom.SourceType, " ", x.LearnedFrom.PeerIP))
	}
	want := "RIB 10.244.0.0/26  Static \nRIB 10.244.1.0/26 172.31.1.2 NodeMesh 172.31.1.2\nFIB 198.51.100.0/24 172.31.1.254 BGPPeer 172.31.1.254\nRIB fd10::/122  Static "
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("routes:\n%s\nwant\n%s", text, want)
	}
	if st := r.fill(t.Context(), []string{v3.StatusAgent}); len(st.BGP.PeersV4)+len(st.Routes.RoutesV4) > 0 {
		t.Errorf("what nobody asked for is answered: %+v", st)
	}
	for range maxReported {
		routes = append(routes, routes[0])
	}
	if n := len(r.fill(t.Context(), []string{v3.StatusRoutes}).Routes.RoutesV4); n > maxReported || n < maxReported-4 {
		t.Errorf("%d routes in one report, want at most %d", n, maxReported)
	}
	doc.On = false
	if st := r.fill(t.Context(), []string{v3.StatusAgent}); st.Agent.BIRDV4.State != "NotReady" {
		t.Errorf("a node that speaks no BGP: %+v", st.Agent)
	}
}

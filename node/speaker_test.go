package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/node/datastore"
	"weft/node/status"
	"weft/routing"
	"weft/routing/bgp"
	daemon "weft/routing/bgp/speaker"
)

// heldSpeaker is a BGP speaker that does nothing, and says of its sessions what a test puts there.
type heldSpeaker struct {
	plan   routing.Speaker
	states []bgp.Peer
	err    error // of Peers and Apply
	news   chan struct{}

	unsettled bool
	lost      bgp.Lost // of Without
	asked     int      // how often Without was
	looks     int      // how often Learned was
}

func (s *heldSpeaker) Apply(_ context.Context, p routing.Speaker) (reconcile.Result, error) {
	s.plan = p
	return reconcile.Result{}, s.err
}
func (s *heldSpeaker) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return ctx.Err() }
func (s *heldSpeaker) Invalidate()                               {}
func (s *heldSpeaker) News() <-chan struct{}                     { return s.news }
func (s *heldSpeaker) Learned() ([]routing.Learned, bool) {
	s.looks++
	return nil, !s.unsettled
}
func (s *heldSpeaker) Settled() bool                             { return !s.unsettled }
func (s *heldSpeaker) Pending() bool                             { return false }
func (s *heldSpeaker) States() []bgp.Peer                        { return s.states }
func (s *heldSpeaker) Peers(context.Context) ([]bgp.Peer, error) { return s.states, s.err }
func (s *heldSpeaker) Without(context.Context, bgp.Without) (bgp.Lost, error) {
	s.asked++
	return s.lost, s.err
}
func (s *heldSpeaker) Close() {}

// speakerOfTest is the speaker of node n1, which has node n2 and the router 172.31.1.254 as peers, and announces a
// range of service addresses.
func speakerOfTest(t *testing.T) (*speaker, *heldSpeaker) {
	t.Helper()
	c := inSync()
	for i, name := range []string{"n1", "n2"} {
		o := &v3.Node{}
		o.Name = name
		o.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: []string{"172.31.1.1/24", "172.31.1.2/24"}[i]}
		c.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: v3.KindNode, Name: name}, Object: o}})
	}
	held := &heldSpeaker{news: make(chan struct{})}
	s := newSpeaker("n1", held, false, c, slog.New(slog.DiscardHandler), reconcile.NewRunner(nil, reconcile.RunnerOptions{}), func() {}, time.Hour)
	feedSpeaker(t, s, `
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {serviceClusterIPs: [{cidr: 10.96.0.0/16}], ignoredInterfaces: [eth7]}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 172.31.1.254, asNumber: 64513, nodeSelector: all()}
`)
	if err := s.run(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	return s, held
}

// inSync is the cluster of node n1 once all is read.
func inSync() *cluster {
	c := newTestCluster()
	c.OnState(datastore.StateInSync, nil)
	return c
}

func feedSpeaker(t *testing.T, s *speaker, text string) {
	t.Helper()
	docs, err := v3.Decode([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range docs {
		v3.Default(o)
		kind, _ := v3.KindOf(o)
		s.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: kind, Name: o.GetName()}, Object: o}})
	}
}

func peerState(a string, s daemon.PeerState, since time.Time, change func(*bgp.Peer)) bgp.Peer {
	p := bgp.Peer{Address: netip.MustParseAddr(a), State: s, Since: since}
	if change != nil {
		change(&p)
	}
	return p
}

// TestSpeakerSaysWhatIsDown: of a session that is down the node says why; one that may be on its way is no problem, one
// that takes too long is.
func TestSpeakerSaysWhatIsDown(t *testing.T) {
	s, held := speakerOfTest(t)
	now := time.Now()
	const wrong = "172.31.1.254 says that its AS is another than 64513"
	for _, c := range []struct {
		name        string
		state       bgp.Peer
		established int
		problem     string
	}{
		{"established", peerState("172.31.1.254", daemon.Established, now, nil), 2, ""},
		{"established after an error", peerState("172.31.1.254", daemon.Established, now, func(p *bgp.Peer) { p.LastError = wrong }), 2, ""},
		{"on its way", peerState("172.31.1.254", daemon.Active, now, nil), 1, ""},
		{"for too long", peerState("172.31.1.254", daemon.Active, now.Add(-2*slow), nil), 1, "BGP session with BGPPeer tor (172.31.1.254, AS 64513) is not established since"},
		{"refused", peerState("172.31.1.254", daemon.Active, now, func(p *bgp.Peer) { p.LastError = wrong }), 1, "BGP session with BGPPeer tor (172.31.1.254, AS 64513) is down: " + wrong},
	} {
		held.states = []bgp.Peer{peerState("172.31.1.2", daemon.Established, now, nil), c.state}
		b := s.describe()
		if !b.On || b.Sessions != 2 || b.Established != c.established {
			t.Errorf("%s: %+v", c.name, b)
		}
		if text := strings.Join(b.Problems, "\n"); (text == "") != (c.problem == "") || !strings.HasPrefix(text, c.problem) {
			t.Errorf("%s: problems %q, want %q", c.name, text, c.problem)
		}
	}
	held.states, held.err = nil, errors.New("the process does not answer")
	if err := s.run(t.Context(), false); err == nil {
		t.Error("an error of applying is lost")
	}
	if b := s.describe(); !slices.Contains(b.Problems, "the process does not answer") {
		t.Errorf("it is not said: %q", b.Problems)
	}
	doc := s.peers(t.Context())
	if doc.Error == "" || len(doc.Peers) != 2 || doc.Peers[0].State != string(daemon.Idle) {
		t.Errorf("sessions, when nobody answers: %+v", doc)
	}
}

// TestSpeakerAnnounced: what is announced of services is not known before the first run, and then that; a node that
// speaks no BGP announces nothing, which is known.
func TestSpeakerAnnounced(t *testing.T) {
	fresh := newSpeaker("n1", &heldSpeaker{}, false, inSync(), slog.New(slog.DiscardHandler), reconcile.NewRunner(nil, reconcile.RunnerOptions{}), func() {}, time.Hour)
	if said, known := fresh.announced(); known || len(said) > 0 {
		t.Errorf("before the first run: %v, %v", said, known)
	}
	off := newSpeaker("n1", &heldSpeaker{}, true, inSync(), slog.New(slog.DiscardHandler), reconcile.NewRunner(nil, reconcile.RunnerOptions{}), func() {}, time.Hour)
	if said, known := off.announced(); !known || len(said) > 0 {
		t.Errorf("without BGP: %v, %v", said, known)
	}
	s, _ := speakerOfTest(t)
	kicks := 0
	s.learned = func() { kicks++ }
	if said, known := s.announced(); !known || !slices.Equal(said, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}) {
		t.Errorf("announced: %v, %v", said, known)
	}
	if err := s.run(t.Context(), false); err != nil || kicks > 0 {
		t.Errorf("nothing changed: %v, and the routes are asked for %d times", err, kicks)
	}
	feedSpeaker(t, s, "{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {}}")
	if err := s.run(t.Context(), false); err != nil || kicks == 0 {
		t.Errorf("nothing is announced any more: %v, and the routes are not asked for", err)
	}
	s.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: v3.KindBGPPeer, Name: "tor"}}})
	feedSpeaker(t, s, "{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {nodeToNodeMeshEnabled: false}}")
	if err := s.run(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if b := s.describe(); b.On || !strings.HasPrefix(b.Why, "nodeToNodeMeshEnabled is false") {
		t.Errorf("without the mesh and a peer: %+v", b)
	}
	if said, known := s.announced(); !known || len(said) > 0 {
		t.Errorf("after the end: %v, %v", said, known)
	}
}

// TestBGPRows: who asks for a session, and what is counted of it, is in its row and in the metrics.
func TestBGPRows(t *testing.T) {
	s, held := speakerOfTest(t)
	since := time.Unix(1_700_000_000, 0)
	held.states = []bgp.Peer{peerState("172.31.1.2", daemon.Established, since, nil), peerState("172.31.1.254", daemon.Active, since, func(p *bgp.Peer) {
		p.Malformed, p.Flaps, p.Received, p.Accepted, p.Sent, p.LastError, p.BFD = 7, 3, 5, 4, 2, "why", "Down"
	})}
	want := []status.BGPPeer{
		{Node: "n1", Address: "172.31.1.2", Peer: "n2", Type: v3.PeerTypeNodeMesh, From: "n2", ASN: 64512, State: "Established", Since: since},
		{Node: "n1", Address: "172.31.1.254", Type: v3.PeerTypeNodePeer, From: "BGPPeer tor", ASN: 64513, State: "Active", Since: since,
			BFD: "Down", Received: 5, Accepted: 4, Sent: 2, Flaps: 3, Malformed: 7, LastError: "why"},
	}
	if d := cmp.Diff(want, s.peers(t.Context()).Peers, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&bgpCollector{s})
	lines := []string{
		`weft_bgp_malformed_messages_total{172.31.1.2 n2} 0`, `weft_bgp_malformed_messages_total{172.31.1.254 BGPPeer tor} 7`,
		`weft_bgp_routes{in} 0`, `weft_bgp_routes{out} 1`,
		`weft_bgp_session_flaps_total{172.31.1.2 n2} 0`, `weft_bgp_session_flaps_total{172.31.1.254 BGPPeer tor} 3`,
		`weft_bgp_session_state_since_seconds{172.31.1.2 n2} 1.7e+09`, `weft_bgp_session_state_since_seconds{172.31.1.254 BGPPeer tor} 1.7e+09`,
		`weft_bgp_session_up{172.31.1.2 n2} 1`, `weft_bgp_session_up{172.31.1.254 BGPPeer tor} 0`,
		`weft_bgp_sessions{Active} 1`, `weft_bgp_sessions{Established} 1`,
	}
	if d := cmp.Diff(lines, gathered(t, registry)); d != "" {
		t.Errorf("metrics (-want +got):\n%s", d)
	}
	s.plan = routing.Speaker{}
	if lines := gathered(t, registry); len(lines) > 0 {
		t.Errorf("metrics of a node without sessions: %q", lines)
	}
}

// gathered prints metrics with the values of their labels.
func gathered(t *testing.T, r *prometheus.Registry) (lines []string) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			lines = append(lines, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, " "), m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	return lines
}

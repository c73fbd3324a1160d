package node

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	v3 "weft/api/v3"
	"weft/internal/reconcile"
	"weft/model"
	"weft/node/datastore"
	"weft/routing/bgp"
	daemon "weft/routing/bgp/speaker"
)

// handoverLab is node n1's side of BGP beside node n2, with a clock that stands.
type handoverLab struct {
	*testing.T
	*speaker
	held  *heldSpeaker
	clock time.Time
}

// newHandoverLab begins with a record of n1 that says what it relies on, nil for nothing.
func newHandoverLab(t *testing.T, says *v3.NodeBGPStatus) *handoverLab {
	c := inSync()
	l := &handoverLab{T: t, held: &heldSpeaker{news: make(chan struct{})}, clock: time.Unix(1_700_000_000, 0)}
	l.speaker = newSpeaker("n1", l.held, false, c, slog.New(slog.DiscardHandler), reconcile.NewRunner(nil, reconcile.RunnerOptions{}), func() {}, time.Hour)
	l.handover.now = func() time.Time { return l.clock }
	l.record("n2", nil)
	l.record("n1", says)
	return l
}

// record makes the store tell what a node's record says of BGP, and the speaker run by it.
func (l *handoverLab) record(name string, says *v3.NodeBGPStatus) {
	l.Helper()
	o := &v3.Node{}
	o.Name = name
	o.Spec.BGP = &v3.NodeBGPSpec{IPv4Address: map[string]string{"n1": "172.31.1.1/24", "n2": "172.31.1.2/24"}[name]}
	o.Status.BGP = says
	l.cluster.OnChanges([]datastore.Change{{Key: datastore.Key{Kind: v3.KindNode, Name: name}, Object: o}})
	l.pass()
}

func (l *handoverLab) pass() {
	l.Helper()
	if err := l.run(l.Context(), false); err != nil {
		l.Fatal(err)
	}
}

// says tries a handover after some time, and wants the record to be to say that n1 relies on the mesh, or not.
func (l *handoverLab) says(what string, after time.Duration, want bool) {
	l.Helper()
	l.clock = l.clock.Add(after)
	l.handover.try(l.Context())
	if say, ok := l.handover.take(); ok != want || ok && !say.Equal(model.Reliance{Mesh: true}) {
		l.Errorf("%s: the record is to say %v, %v, want the mesh: %v", what, say, ok, want)
	}
}

// TestHandoverSaidUntilTold: what a node relies on is written until the store tells it back, whether a write of it
// failed, or the store dropped it; that it does not, is said.
func TestHandoverSaidUntilTold(t *testing.T) {
	l := newHandoverLab(t, nil)
	l.says("first", 0, true) // and that write fails
	l.pass()
	l.says("after a run", time.Second, true)
	l.pass()
	l.clock = l.clock.Add(stale)
	if say, ok := l.handover.take(); ok {
		t.Errorf("a decision of %v ago is to be written: %v", stale+time.Second, say)
	}
	l.says("decided anew", 0, true)
	if text := l.handover.problem(); text != "" {
		t.Errorf("a problem already: %s", text)
	}
	for range int(slow / handoverInterval) { // nobody asks what to write
		l.clock = l.clock.Add(handoverInterval)
		l.handover.try(t.Context())
	}
	if text := l.handover.problem(); !strings.Contains(text, "come by the mesh since") || !strings.Contains(text, "still says by nobody") {
		t.Errorf("after %v: problem %q", slow, text)
	}
	l.record("n1", &v3.NodeBGPStatus{ReliesOnMesh: true})
	if text := l.handover.problem(); text != "" {
		t.Errorf("told back: problem %q", text)
	}
	l.says("told back", time.Second, false)
}

// TestHandoverDecidedSeldom: a store that never tells back what was written is not written to all the time.
func TestHandoverDecidedSeldom(t *testing.T) {
	l := newHandoverLab(t, nil)
	published := 0
	const ticks = int(time.Hour / handoverInterval)
	l.handover.publish = func() { published++ }
	for range ticks {
		l.clock = l.clock.Add(handoverInterval)
		l.handover.try(t.Context())
	}
	if published < 12 || published > 20 {
		t.Errorf("decided %d times in an hour of %d looks, want once in %v in the end", published, ticks, againMost)
	}
	l.says("right after", handoverInterval, false)
	l.says("the publisher came by itself", handoverInterval, true)
}

// TestHandoverBackSettled: a node goes back to the mesh only with a speaker that knows what there is, which it asks
// without taking over what it learned.
func TestHandoverBackSettled(t *testing.T) {
	l := newHandoverLab(t, &v3.NodeBGPStatus{ReliesOnReflectors: []string{"n2"}})
	l.held.unsettled = true
	looks := l.held.looks
	l.says("a speaker that has just begun", time.Second, false)
	l.clock = l.clock.Add(2 * slow)
	if text := l.handover.problem(); !strings.Contains(text, "not every peer has told all that it has") {
		t.Errorf("problem %q", text)
	}
	l.held.unsettled, l.held.lost = false, bgp.Lost{Count: 1, First: netip.MustParsePrefix("10.9.0.0/16")}
	l.says("something would be lost", time.Second, false)
	l.held.lost = bgp.Lost{}
	l.says("nothing would be", time.Second, true)
	if l.held.looks != looks {
		t.Errorf("what was learned was taken over %d times", l.held.looks-looks)
	}
}

// TestHandoverAsksSeldom: while the answer stays the same, the speaker is asked less and less often what would be lost,
// until another peer has told all.
func TestHandoverAsksSeldom(t *testing.T) {
	l := newHandoverLab(t, &v3.NodeBGPStatus{ReliesOnReflectors: []string{"n2"}})
	l.held.lost = bgp.Lost{Count: 1, First: netip.MustParsePrefix("10.9.0.0/16")}
	tick := func(n int) (asked int) {
		before := l.held.asked
		for range n {
			l.says("something would be lost", handoverInterval, false)
		}
		return l.held.asked - before
	}
	const each = int(handoverMost / handoverInterval)
	if first, then := tick(each), tick(20*each); first < 5 || first > 7 || then < 19 || then > 21 {
		t.Errorf("asked %d times in the first %v, and %d times in twenty times that, want 6 and 20", first, handoverMost, then)
	}
	l.held.states = []bgp.Peer{peerState("172.31.1.2", daemon.Established, l.clock, func(p *bgp.Peer) { p.EndOfRIB = true })}
	if n := tick(1); n != 1 {
		t.Errorf("asked %d times when a peer had told all, want once", n)
	}
	l.held.lost.Count = 2
	if n := tick(4); n != 3 {
		t.Errorf("asked %d times in 2 s with another answer, want 3", n)
	}
}

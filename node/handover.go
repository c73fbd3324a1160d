package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"time"

	v3 "weft/api/v3"
	"weft/model"
	"weft/routing"
	"weft/routing/bgp"
	daemon "weft/routing/bgp/speaker"
)

const (
	// reflectOn is how long a node goes on to reflect after nobody needs it to, as far as it knows: far longer
	// than the store takes to tell everybody what changed.
	reflectOn = time.Minute
	// handoverInterval is between two looks at whether a handover can be made.
	handoverInterval = 500 * time.Millisecond
	// handoverMost is how long at most the speaker is not asked what would be lost, while its answer stays the same.
	handoverMost = 30 * time.Second
	// stale is when a decision that was not written is to be made again: reflectors went on for it only so long.
	stale = 10 * time.Second
	// againMost is how long at most nothing is decided after a decision that the store does not tell back: at first
	// it is stale, and twice that each time.
	againMost = 5 * time.Minute
)

// handoverDriver is what the BGP speaker is asked before a handover.
type handoverDriver interface {
	States() []bgp.Peer
	// Settled tells whether the speaker knows what it is going to know.
	Settled() bool
	Without(context.Context, bgp.Without) (bgp.Lost, error)
}

// handover decides whom this node relies on for the routes of other nodes, and passes it to the publisher, which
// writes it into the node's record. See routing.NextHandover for the rules.
type handover struct {
	off     bool
	log     *slog.Logger
	driver  handoverDriver
	publish func() // asks the publisher to look
	again   func() // asks for another run of the speaker
	now     func() time.Time

	mu      sync.Mutex
	record  model.Reliance      // as the store told it to the last run
	alone   bool                // the speaker speaks with nobody, so that nothing can be lost
	next    routing.Handover    // that is to be made
	pending bool                // there is one
	since   time.Time           // when it was wanted first
	say     *model.Reliance     // what the record is to say; nil: that is not decided
	decided time.Time           // when say was
	taken   *model.Reliance     // what was taken to be written, and the store has not told back
	told    time.Time           // when that was first
	needed  time.Time           // when this node was last known to have to reflect
	timer   *time.Timer         // for the end of reflecting
	why     string              // why the handover is not made yet
	up      map[netip.Addr]bool // who had told all when the speaker was last asked what would be lost; nil: it was not
	look    time.Time           // it is not asked again before then, while these are the same
	pause   time.Duration       // between the two
	repeat  time.Duration       // between the last decision, and the next where the store does not tell it back
}

// restrict makes the input of a run what it is for this node: what was taken to be said counts at once, and what the
// record says until the store tells otherwise.
func (h *handover) restrict(in *routing.SpeakerInput) {
	h.mu.Lock()
	defer h.mu.Unlock()
	self := in.Nodes[in.Self]
	h.record = self.BGP.Relies
	if h.taken != nil && h.record.Equal(*h.taken) {
		h.taken, h.repeat = nil, 0 // the store has told it back
	}
	if h.taken != nil {
		n := *self
		n.BGP.Relies = n.BGP.Relies.And(*h.taken)
		in.Nodes = maps.Clone(in.Nodes)
		in.Nodes[in.Self] = &n
	}
	switch left := reflectOn - h.now().Sub(h.needed); {
	case routing.Reflects(*in):
		h.needed = h.now()
	case left > 0:
		in.Reflects = true
		if h.timer != nil {
			h.timer.Stop()
		}
		h.timer = time.AfterFunc(left, h.again)
	}
}

// ran notes that the speaker does what was compiled of in. A handover is pending until the store says that the record
// says so: what was taken to be said may have been written or not.
func (h *handover) ran(in routing.SpeakerInput, sessions int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := []model.Reliance{h.record}
	if h.taken != nil {
		said = append(said, *h.taken)
	}
	next, pending := routing.NextHandover(in, said...)
	if !pending || !h.pending || !next.To.Equal(h.next.To) {
		h.since, h.why, h.say = h.now(), "", nil
		h.up, h.look, h.pause, h.repeat = nil, time.Time{}, 0, 0
	}
	h.next, h.pending, h.alone = next, pending, sessions == 0 && len(next.Hear) == 0
}

// run makes handovers until ctx ends.
func (h *handover) run(ctx context.Context) {
	tick := time.NewTicker(handoverInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.try(ctx)
		}
	}
}

// try makes the handover that is to be made, if nothing is lost by it.
func (h *handover) try(ctx context.Context) {
	h.mu.Lock()
	h.forget()
	next, alone, wanted := h.next, h.alone, h.pending && h.say == nil && h.now().Sub(h.decided) >= h.repeat
	h.mu.Unlock()
	if !wanted {
		return
	}
	up := map[netip.Addr]bool{}
	for _, p := range h.driver.States() {
		if p.State == daemon.Established && p.EndOfRIB {
			up[p.Address] = true
		}
	}
	why := h.unheard(&next, up)
	if why == "" && !alone && (len(next.Leaves) > 0 || next.Reflected) {
		if !h.due(up) {
			return
		}
		why = h.lost(ctx, &next)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.pending || !next.To.Equal(h.next.To) {
		return // it is another by now
	}
	if why != h.why {
		h.pause, h.look = handoverInterval, h.now().Add(handoverInterval)
	}
	if h.why = why; why == "" {
		h.decide(&next)
	}
}

// decide is called with mu held.
func (h *handover) decide(next *routing.Handover) {
	h.say, h.decided = &next.To, h.now()
	if h.repeat = min(2*h.repeat, againMost); h.repeat == 0 {
		h.repeat = stale
	}
	if h.taken == nil || !h.taken.Equal(next.To) {
		h.log.Info("BGP routes of other nodes come another way from now on", "by", next.To.String(), "before", next.From.String(), "after", h.now().Sub(h.since).Round(time.Millisecond))
	}
	h.publish()
}

// forget forgets a decision that was not written for too long. It is called with mu held.
func (h *handover) forget() {
	if h.say != nil && h.now().Sub(h.decided) > stale {
		h.say = nil
	}
}

// unheard says who has not told all that it has, and has to; "" where nobody. up are the peers that have.
func (h *handover) unheard(next *routing.Handover, up map[netip.Addr]bool) string {
	switch {
	case next.From.IsZero() && next.To.Mesh:
		return "" // nothing was relied on, and all of the mesh is there
	case !h.driver.Settled():
		return "not every peer has told all that it has"
	case !next.Ready(up):
		return "too few of them have told all that they have"
	}
	return ""
}

// due tells whether the speaker is to be asked what would be lost: there are other peers with sessions than when it
// was asked last, or that is long enough ago. It costs the speaker a walk through all its routes.
func (h *handover) due(up map[netip.Addr]bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if !maps.Equal(up, h.up) {
		h.up, h.pause = up, 0
	} else if now.Before(h.look) {
		return false
	}
	h.pause = max(handoverInterval, min(2*h.pause, handoverMost))
	h.look = now.Add(h.pause)
	return true
}

// lost says what would be lost; "" where nothing.
func (h *handover) lost(ctx context.Context, next *routing.Handover) string {
	lost, err := h.driver.Without(ctx, bgp.Without{Peers: next.Leaves, Reflected: next.Reflected})
	switch {
	case err != nil:
		return err.Error()
	case lost.Count > 0:
		return fmt.Sprintf("%d prefixes, %v among them, do not come that way yet", lost.Count, lost.First)
	}
	return ""
}

// take returns what the record is to say from now on; ok is false when that is not known yet, or as it is.
func (h *handover) take() (say model.Reliance, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return model.Reliance{}, true
	}
	if h.forget(); h.say == nil {
		h.repeat = 0 // the record is looked at for another reason: the store may be back
		return model.Reliance{}, false
	}
	if h.taken == nil || !h.taken.Equal(*h.say) {
		h.taken, h.told = h.say, h.now()
		h.again() // the record may say it already
	}
	return *h.say, true
}

// problem says of a handover that takes long why; "" where there is none.
func (h *handover) problem() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch now := h.now(); {
	case h.taken != nil && now.Sub(h.told) >= slow:
		return fmt.Sprintf("BGP routes of other nodes come by %s since %v, and the store still says by %s: other nodes may end sessions that this one needs. Look at what keeps this node's record from being written, and whether the CustomResourceDefinition of Node has status.bgp", *h.taken, h.told.Format(time.TimeOnly), h.record)
	case !h.pending || h.why == "" || now.Sub(h.since) < slow:
		return ""
	}
	return fmt.Sprintf("BGP routes of other nodes are to come by %s, and come by %s since %v: %s", h.next.To, h.record, h.since.Format(time.TimeOnly), h.why)
}

func reliesTo(r model.Reliance) *v3.NodeBGPStatus {
	if r.IsZero() {
		return nil
	}
	out := &v3.NodeBGPStatus{ReliesOnMesh: r.Mesh}
	for _, n := range r.Reflectors {
		out.ReliesOnReflectors = append(out.ReliesOnReflectors, string(n))
	}
	return out
}

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
	// stale is when a decision that was not written is to be made again: reflectors went on for it only so long.
	stale = 10 * time.Second
)

// handover decides whom this node relies on for the routes of other nodes, and passes it to the publisher, which
// writes it into the node's record. See routing.NextHandover for the rules.
type handover struct {
	off     bool
	log     *slog.Logger
	driver  bgpDriver
	publish func() // asks the publisher to look
	again   func() // asks for another run of the speaker
	now     func() time.Time

	mu      sync.Mutex
	known   bool             // there was a run
	record  model.Reliance   // as the last run read it
	next    routing.Handover // that is to be made
	pending bool             // there is one
	since   time.Time        // when it was wanted first
	decided time.Time        // when say was
	say     *model.Reliance  // what the record is to say
	taken   *model.Reliance  // what was taken to be written
	needed  time.Time        // when this node was last known to have to reflect
	timer   *time.Timer      // for the end of reflecting
	why     string           // why the handover is not made yet
}

// restrict makes the input of a run what it is for this node: what was taken to be said counts at once, and what the
// record says until the store tells otherwise.
func (h *handover) restrict(in *routing.SpeakerInput) {
	h.mu.Lock()
	defer h.mu.Unlock()
	self := in.Nodes[in.Self]
	if h.taken != nil && self != nil && self.BGP.Relies.Equal(*h.taken) {
		h.taken = nil // the store has told it back
	}
	if h.taken != nil && self != nil {
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

// ran notes that the speaker does what was compiled of in.
func (h *handover) ran(in routing.SpeakerInput) {
	next, pending := routing.NextHandover(in)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.known, h.record = true, in.Nodes[in.Self].BGP.Relies
	if !pending || !h.pending || !next.To.Equal(h.next.To) {
		h.since, h.why, h.say = h.now(), "", nil
	}
	h.next, h.pending = next, pending
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
	next, wanted := h.next, h.pending && h.say == nil
	h.mu.Unlock()
	if !wanted {
		return
	}
	why := h.obstacle(ctx, &next)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.pending || !next.To.Equal(h.next.To) {
		return // it is another by now
	}
	if h.why = why; why != "" {
		return
	}
	h.say, h.decided = &next.To, h.now()
	h.log.Info("BGP routes of other nodes come another way from now on", "by", next.To.String(), "before", h.record.String(), "after", h.now().Sub(h.since).Round(time.Millisecond))
	h.publish()
}

// obstacle says why the handover cannot be made; "" where it can.
func (h *handover) obstacle(ctx context.Context, next *routing.Handover) string {
	if len(next.Hear) > 0 {
		up := map[netip.Addr]bool{}
		for _, p := range h.driver.States() {
			up[p.Address] = p.State == daemon.Established && p.EndOfRIB
		}
		if !next.Ready(up) {
			return "too few of them have told all that they have"
		}
		if _, settled := h.driver.Learned(); !settled {
			return "not every peer has told all that it has"
		}
	}
	if len(next.Leaves) == 0 && !next.Reflected {
		return ""
	}
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
	switch {
	case h.off:
		return model.Reliance{}, true
	case h.say == nil:
		return model.Reliance{}, false
	case h.now().Sub(h.decided) > stale:
		h.say = nil
		return model.Reliance{}, false
	}
	h.taken = h.say
	return *h.say, true
}

// problem says of a handover that takes long why; "" where there is none.
func (h *handover) problem() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.pending || h.why == "" || h.now().Sub(h.since) < slow {
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

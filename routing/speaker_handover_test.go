package routing

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
)

// bgpWorld is a cluster in which every node sees the store late, decides, and writes its record at moments of
// its own. Each node has one IPv4 block, which stands for all that there is to be had of it by BGP.
type bgpWorld struct {
	history []SpeakerInput // states of the store
	hosts   map[model.NodeName]*bgpHost
	names   []model.NodeName
	ignore  bool // nobody waits: a control
	trace   []string
}

type bgpHost struct {
	name    model.NodeName
	seen    int // index into history
	dead    bool
	speaker Speaker
	peers   map[model.NodeName]*Session
	next    *Handover
	say     *model.Reliance
	taken   *model.Reliance
	basis   model.Reliance // what the record said when it was taken
	writing bool
	wrote   int // index into history
	needed  int // as far as it had seen the store when it was last to reflect; -1: never
}

func newBGPWorld(n int, ignore bool) *bgpWorld {
	in := speakerCluster(n, 2)
	for name := range in.Nodes {
		withNode(in, name, func(n *model.Node) {
			n.Addresses = n.Addresses[:1]
			n.BGP.Relies.Mesh = true
		})
	}
	maps.DeleteFunc(in.Blocks, func(p netip.Prefix, _ *model.Block) bool { return p.Addr().Is6() })
	w := &bgpWorld{history: []SpeakerInput{in}, hosts: map[model.NodeName]*bgpHost{}, names: slices.Sorted(maps.Keys(in.Nodes)), ignore: ignore}
	for _, name := range w.names {
		w.hosts[name] = &bgpHost{name: name, needed: -1}
		w.apply(w.hosts[name])
	}
	return w
}

func (w *bgpWorld) last() *SpeakerInput { return &w.history[len(w.history)-1] }

func (w *bgpWorld) write(what string, change func(*SpeakerInput)) {
	s := *w.last()
	s.Nodes = maps.Clone(s.Nodes)
	change(&s)
	w.history = append(w.history, s)
	w.note("%d: %s", len(w.history)-1, what)
}

func (w *bgpWorld) note(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// apply makes a host's speaker what it is to be by what the host has seen.
func (w *bgpWorld) apply(h *bgpHost) {
	in := w.history[h.seen]
	in.Self, in.Nodes = h.name, maps.Clone(in.Nodes)
	if h.taken != nil {
		if in.Nodes[h.name].BGP.Relies.Equal(*h.taken) {
			h.taken = nil
		} else {
			rely(in, h.name, in.Nodes[h.name].BGP.Relies.And(*h.taken))
		}
	}
	if Reflects(in) {
		h.needed = h.seen
	} else {
		in.Reflects = h.needed >= 0 && w.late(h.needed)
	}
	h.speaker, _ = CompileSpeaker(in)
	h.peers = map[model.NodeName]*Session{}
	for i := range h.speaker.Sessions {
		h.peers[model.NodeName(h.speaker.Sessions[i].Node)] = &h.speaker.Sessions[i]
	}
	next, ok := NextHandover(in)
	if h.next = nil; ok {
		h.next = &next
	}
	h.say = nil
}

// late tells whether some host has not seen what came after a state of the store: a minute is longer than that takes.
func (w *bgpWorld) late(state int) bool {
	for _, h := range w.hosts {
		if !h.dead && h.seen <= state {
			return true
		}
	}
	return false
}

// up tells whether two hosts have a session.
func (w *bgpWorld) up(x, y model.NodeName) bool {
	a, b := w.hosts[x], w.hosts[y]
	return !a.dead && !b.dead && a.peers[y] != nil && b.peers[x] != nil
}

// has returns who has the block of a node, without way of one of them.
func (w *bgpWorld) has(from, without model.NodeName) map[model.NodeName]bool {
	had, queue := map[model.NodeName]bool{from: true}, []model.NodeName{from}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, to := range w.names {
			if to != without && !had[to] && w.tells(at, to, from) {
				had[to] = true
				queue = append(queue, to)
			}
		}
	}
	return had
}

// tells tells whether at, if it has the block of a node, has to have it, too.
func (w *bgpWorld) tells(at, to, from model.NodeName) bool {
	if !w.up(at, to) {
		return false
	}
	a, b := w.hosts[at], w.hosts[to]
	p := w.block(from)
	out, _ := a.speaker.Decide(a.peers[to], a.peers[to].Export, Announced{Prefix: p, Learned: at != from, Internal: true})
	in, _ := b.speaker.Decide(b.peers[at], b.peers[at].Import, Announced{Prefix: p, Learned: true, Internal: true})
	return out && in && (at == from || a.peers[to].ReflectorClient)
}

func (w *bgpWorld) block(n model.NodeName) netip.Prefix {
	for p, b := range w.history[0].Blocks {
		if b.Node == n {
			return p
		}
	}
	panic("no block")
}

// ways returns the peers that a host has the block of a node from.
func (w *bgpWorld) ways(to, from model.NodeName) (peers []model.NodeName) {
	had := w.has(from, to)
	for _, at := range w.names {
		if had[at] && w.tells(at, to, from) {
			peers = append(peers, at)
		}
	}
	return peers
}

// try makes the host's handover, if nothing is lost by it.
func (w *bgpWorld) try(h *bgpHost) {
	if h.next == nil || h.say != nil {
		return
	}
	up, leaves := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, a := range h.next.Leaves {
		leaves[a] = true
	}
	for n, s := range h.peers {
		up[s.Peer] = w.up(h.name, n)
	}
	ready := h.next.Ready(up)
	for _, from := range w.names {
		ways := w.ways(h.name, from)
		if from == h.name || len(ways) == 0 {
			continue
		}
		ready = ready && slices.ContainsFunc(ways, func(at model.NodeName) bool {
			return !leaves[h.peers[at].Peer] && !(h.next.Reflected && at != from)
		})
	}
	if ready || w.ignore {
		h.say = &h.next.To
		w.note("%s would say %v", h.name, *h.say)
	}
}

// publish makes one step of writing the record: taking what to say, once the watch has brought back what was
// written before, then the write.
func (w *bgpWorld) publish(h *bgpHost) {
	switch {
	case h.writing:
		h.writing = false
		say := *h.taken
		w.write(fmt.Sprintf("%s relies on %v", h.name, say), func(s *SpeakerInput) { rely(*s, h.name, say) })
		h.wrote = len(w.history) - 1
	case h.say != nil && h.seen >= h.wrote:
		h.taken, h.writing = h.say, true
		w.apply(h)
	}
}

// pairs returns the ordered pairs of living hosts of which the second has the first one's block.
func (w *bgpWorld) pairs() map[[2]model.NodeName]bool {
	all := map[[2]model.NodeName]bool{}
	for _, from := range w.names {
		for to := range w.has(from, "") {
			if to != from && !w.hosts[to].dead {
				all[[2]model.NodeName{from, to}] = true
			}
		}
	}
	return all
}

// step does one thing; it tells whether somebody died by it.
func (w *bgpWorld) step(t *rapid.T) (died bool) {
	h := w.hosts[rapid.SampledFrom(w.names).Draw(t, "host")]
	switch what := rapid.IntRange(0, 19).Draw(t, "what"); {
	case what == 0:
		n := rapid.SampledFrom([]int{2, 3, 100}).Draw(t, "threshold")
		w.write(fmt.Sprintf("threshold %d", n), func(s *SpeakerInput) { s.BGP.Config.ReflectorThreshold = n })
	case what == 1:
		label := rapid.SampledFrom([]string{"true", "false", ""}).Draw(t, "label")
		w.write(fmt.Sprintf("%s has label %q", h.name, label), func(s *SpeakerInput) {
			withNode(*s, h.name, func(n *model.Node) { n.Labels[ReflectorLabel] = label })
		})
	case what == 2 && !h.dead && !slices.ContainsFunc(w.names, func(n model.NodeName) bool { return w.hosts[n].dead }):
		w.note("%s dies", h.name)
		h.dead, h.taken, h.say, h.next, h.writing = true, nil, nil, nil, false
		return true
	case what == 3 && h.dead:
		w.note("%s is back", h.name)
		h.dead, h.seen, h.needed = false, len(w.history)-1, -1
		w.apply(h)
	case h.dead:
	case what < 12:
		if h.seen < len(w.history)-1 {
			h.seen++
			w.apply(h)
			w.note("%s has seen %d", h.name, h.seen)
		}
	case what < 16:
		w.try(h)
	default:
		w.publish(h)
	}
	return false
}

// settle lets all that live see and do everything.
func (w *bgpWorld) settle(check func()) {
	for range 40 {
		for _, n := range w.names {
			if h := w.hosts[n]; !h.dead {
				h.seen = len(w.history) - 1
				w.apply(h)
				check()
				w.try(h)
				w.publish(h)
				w.publish(h)
				check()
			}
		}
	}
}

// Whatever the order in which nodes see, decide and write, a node that has what another announces has it as long as
// both live: while reflectors take over from the mesh, the mesh from them, and reflectors from each other. In the
// end all is as the threshold says, one node being dead or not. Control: where nobody waits, something is lost.
func TestHandoversLoseNothing(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		lost, checks, handovers, runs := 0, 0, 0, 0
		rapid.Check(t, func(t *rapid.T) {
			w := newBGPWorld(6, ignore)
			before := w.pairs()
			runs++
			check := func() {
				now := w.pairs()
				for p := range before {
					checks++
					if !now[p] {
						if lost++; !ignore {
							t.Fatalf("%s has lost what %s announces:\n%v", p[1], p[0], w.trace)
						}
					}
				}
				before = now
			}
			for range rapid.IntRange(0, 150).Draw(t, "steps") {
				if w.step(t) {
					before = w.pairs()
				} else {
					check()
				}
			}
			w.settle(check)
			handovers += len(w.history)
			if !ignore {
				w.settled(t)
			}
		})
		t.Logf("nobody waits: %v: %d of %d checks lost something, in %d runs with %d writes", ignore, lost, checks, runs, handovers)
		if (lost > 0) != ignore || checks < 10_000 {
			t.Errorf("nobody waits: %v: %d of %d lost", ignore, lost, checks)
		}
	}
}

// settled wants all to be as the threshold says.
func (w *bgpWorld) settled(t *rapid.T) {
	in := *w.last()
	in.Self = w.names[0]
	c := newSpeakerCompiler(&in)
	alive := 0
	for n := range c.auto.chosen[model.IPv4] {
		if !w.hosts[n].dead {
			alive++
		}
	}
	for _, n := range w.names {
		h := w.hosts[n]
		if h.dead {
			continue
		}
		want := model.Reliance{Mesh: true}
		if c.auto.wanted && !c.auto.chosen[model.IPv4][n] && len(c.auto.chosen[model.IPv4]) > 0 {
			want = model.Reliance{Reflectors: slices.Sorted(maps.Keys(c.auto.chosen[model.IPv4]))}
		}
		if got := in.Nodes[n].BGP.Relies; !got.Equal(want) && alive >= min(enough, len(c.auto.chosen[model.IPv4])) {
			t.Fatalf("in the end %s relies on %v, want %v:\n%v", n, got, want, w.trace)
		}
	}
	for p := range w.pairs() {
		if _, there := w.hosts[p[0]].peers[p[1]]; there != (w.hosts[p[1]].peers[p[0]] != nil) {
			t.Fatalf("in the end %s and %s do not agree about their session", p[0], p[1])
		}
	}
	living := 0
	for _, h := range w.hosts {
		if !h.dead {
			living++
		}
	}
	if got := len(w.pairs()); got != living*(living-1) && alive >= min(enough, len(c.auto.chosen[model.IPv4])) {
		t.Fatalf("in the end %d pairs have each other's routes, want %d:\n%v", got, living*(living-1), w.trace)
	}
}

package routing

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"weft/model"
)

// bgpWorld is a cluster in which every node sees the store late, decides, and writes its record at moments of
// its own. Each node has one IPv4 block, which stands for all that there is to be had of it by BGP.
type bgpWorld struct {
	history []SpeakerInput // states of the store
	hosts   map[model.NodeName]*bgpHost
	names   []model.NodeName
	met     map[[2]model.NodeName]bool // who have a session, each pair in the order of names
	ignore  bool                       // nobody waits: a control
	failed  int                        // writes
	trace   []string
}

type bgpHost struct {
	name    model.NodeName
	seen    int // index into history
	dead    bool
	slow    bool
	speaker Speaker
	peers   map[model.NodeName]*Session
	next    *Handover
	say     *model.Reliance
	taken   *model.Reliance
	writing *model.Reliance
	wrote   int // index into history
	needed  int // as far as it had seen the store when it was last to reflect; -1: never
	clear   int // since when it need not go on; -1: it has to
}

// bgpWorldRuns are few here: thousands were, without a loss.
const bgpWorldRuns = 100

func newBGPWorld(n int, ignore bool) *bgpWorld {
	in := speakerCluster(n, 2)
	for name := range in.Nodes {
		withNode(in, name, func(n *model.Node) {
			n.Addresses = n.Addresses[:1]
			if n.Labels[ReflectorLabel] = "false"; name == "n1" || name == "n4" {
				n.Labels[ReflectorLabel] = ""
			}
			n.BGP.Relies.Mesh = true
		})
	}
	maps.DeleteFunc(in.Blocks, func(p netip.Prefix, _ *model.Block) bool { return p.Addr().Is6() })
	w := &bgpWorld{history: []SpeakerInput{in}, hosts: map[model.NodeName]*bgpHost{}, met: map[[2]model.NodeName]bool{}, names: slices.Sorted(maps.Keys(in.Nodes)), ignore: ignore}
	for _, name := range w.names {
		w.hosts[name] = &bgpHost{name: name, needed: -1}
	}
	for _, name := range w.names {
		w.apply(w.hosts[name])
	}
	w.meet(func() bool { return true })
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
		h.needed, h.clear = h.seen, -1
	} else {
		in.Reflects = h.needed >= 0 && (h.clear < 0 || h.seen < h.clear)
	}
	h.speaker, _ = CompileSpeaker(in)
	h.peers = map[model.NodeName]*Session{}
	for i := range h.speaker.Sessions {
		h.peers[model.NodeName(h.speaker.Sessions[i].Node)] = &h.speaker.Sessions[i]
	}
	said := []model.Reliance{w.history[h.seen].Nodes[h.name].BGP.Relies}
	if h.taken != nil {
		said = append(said, *h.taken)
	}
	next, ok := NextHandover(in, said...)
	if h.next = nil; ok {
		h.next = &next
	}
	h.say = nil
	w.meet(func() bool { return false })
}

// clear notes of hosts from when on nobody can rely on their reflecting any more who does not say so: when all have seen
// more of the store than they had when they were last to reflect, and have written what they had decided before. A
// minute is longer than that takes, and than it takes to see what was written.
func (w *bgpWorld) clear() {
	for _, h := range w.hosts {
		if h.clear < 0 && !slices.ContainsFunc(w.names, func(n model.NodeName) bool {
			o := w.hosts[n]
			return !o.dead && (o.writing != nil || o.seen <= h.needed)
		}) {
			h.clear = len(w.history) - 1
		}
	}
}

// meet lets hosts connect that have a session configured, and ends what is not.
func (w *bgpWorld) meet(now func() bool) {
	for i, x := range w.names {
		for _, y := range w.names[i+1:] {
			a, b, pair := w.hosts[x], w.hosts[y], [2]model.NodeName{x, y}
			if a.dead || b.dead || a.peers[y] == nil || b.peers[x] == nil {
				delete(w.met, pair)
			} else if !w.met[pair] && now() {
				w.met[pair] = true
			}
		}
	}
}

// up tells whether two hosts have a session.
func (w *bgpWorld) up(x, y model.NodeName) bool {
	return w.met[[2]model.NodeName{min(x, y), max(x, y)}]
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
// written before, then the write, which may fail.
func (w *bgpWorld) publish(h *bgpHost, fails bool) {
	switch {
	case h.writing != nil && fails:
		w.note("%s fails to write %v", h.name, *h.writing)
		h.writing = nil
		w.failed++
	case h.writing != nil:
		say := *h.writing
		h.writing = nil
		w.write(fmt.Sprintf("%s relies on %v", h.name, say), func(s *SpeakerInput) { rely(*s, h.name, say) })
		h.wrote = len(w.history) - 1
	case h.say != nil && h.seen >= h.wrote:
		h.taken, h.writing = h.say, h.say
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
func (w *bgpWorld) step(rnd *rand.Rand) (died bool) {
	if rnd.IntN(60) == 0 { // others are slow now
		for _, n := range w.names {
			w.hosts[n].slow = rnd.IntN(3) == 0
		}
	}
	h := w.hosts[w.names[rnd.IntN(len(w.names))]]
	w.clear()
	if rnd.IntN(10) == 0 {
		w.meet(func() bool { return rnd.IntN(5) == 0 })
	}
	if h.slow && rnd.IntN(50) > 0 {
		return false
	}
	switch what := rnd.IntN(100); {
	case what < 2:
		n := []int{2, 100}[rnd.IntN(2)]
		w.write(fmt.Sprintf("threshold %d", n), func(s *SpeakerInput) { s.BGP.Config.ReflectorThreshold = n })
	case what < 4:
		label := []string{"true", "", "false", "false", "false", "false", "false"}[rnd.IntN(7)]
		w.write(fmt.Sprintf("%s has label %q", h.name, label), func(s *SpeakerInput) {
			withNode(*s, h.name, func(n *model.Node) { n.Labels[ReflectorLabel] = label })
		})
	case what < 5 && w.mayDie(h):
		w.note("%s dies", h.name)
		h.dead, h.taken, h.say, h.next, h.writing = true, nil, nil, nil, nil
		w.meet(func() bool { return false })
		return true
	case what < 15 && h.dead:
		w.note("%s is back", h.name)
		h.dead, h.seen, h.needed = false, len(w.history)-1, -1
		w.apply(h)
		w.meet(func() bool { return true }) // what it lost by dying comes back before anything else changes
	case h.dead:
	case what < 50:
		if h.seen < len(w.history)-1 {
			h.seen += 1 + rnd.IntN(len(w.history)-1-h.seen)
			w.apply(h)
			w.note("%s has seen %d", h.name, h.seen)
		}
	case what < 75:
		w.try(h)
	default:
		w.publish(h, rnd.IntN(4) == 0)
	}
	return false
}

// mayDie tells whether a host may die without routes being lost that nobody else carries: one at a time, and none that
// reflects, or is to.
func (w *bgpWorld) mayDie(h *bgpHost) bool {
	if reflecting(&h.speaker) || w.last().Nodes[h.name].Labels[ReflectorLabel] != "false" {
		return false
	}
	for _, n := range w.names {
		if r := w.last().Nodes[n].BGP.Relies.Reflectors; w.hosts[n].dead || slices.Contains(r, h.name) {
			return false
		}
	}
	return true
}

// settle lets all that live see and do everything.
func (w *bgpWorld) settle(check func()) {
	for range 15 {
		for _, n := range w.names {
			if h := w.hosts[n]; !h.dead {
				w.clear()
				h.seen = len(w.history) - 1
				w.apply(h)
				check()
				w.meet(func() bool { return true })
				w.try(h)
				w.publish(h, false)
				w.publish(h, false)
				check()
			}
		}
	}
}

// Whatever the order in which nodes see, decide and write, and whichever writes fail, a node that has what another announces has it as long as
// both live: while reflectors take over from the mesh, the mesh from them, and reflectors from each other. In the
// end all is as the threshold says, one node being dead or not. Control: where nobody waits, something is lost.
func TestHandoversLoseNothing(t *testing.T) {
	for _, ignore := range []bool{false, true} {
		lost, checks, writes, failed, reflecting := 0, 0, 0, 0, 0
		runs, steps := bgpWorldRuns, 400
		for seed := range uint64(runs) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			w := newBGPWorld(6, ignore)
			before := w.pairs()
			check := func() {
				now := w.pairs()
				for p := range before {
					checks++
					if !now[p] {
						if lost++; !ignore {
							t.Fatalf("seed %d: %s has lost what %s announces:\n%s", seed, p[1], p[0], w.tail())
						}
					}
				}
				before = now
			}
			for range steps {
				if w.step(rnd) {
					before = w.pairs()
				} else {
					check()
				}
			}
			w.settle(check)
			writes, failed = writes+len(w.history), failed+w.failed
			for i := range w.history {
				if slices.ContainsFunc(w.names, func(n model.NodeName) bool { return len(w.history[i].Nodes[n].BGP.Relies.Reflectors) > 0 }) {
					reflecting++
				}
			}
			if !ignore {
				w.settled(t)
			}
		}
		t.Logf("nobody waits: %v: %d of %d checks lost something, in %d runs with %d states of the store, %d with nodes that rely on reflectors; %d writes failed", ignore, lost, checks, runs, writes, reflecting, failed)
		if (lost > 0) != ignore || checks < 1_000_000 || reflecting < writes/4 || failed < runs/4 {
			t.Errorf("nobody waits: %v: %d of %d lost, reflectors in %d of %d states", ignore, lost, checks, reflecting, writes)
		}
	}
}

// tail is what happened last.
func (w *bgpWorld) tail() string { return strings.Join(w.trace[max(0, len(w.trace)-60):], "\n") }

// settled wants all to be as the threshold says.
func (w *bgpWorld) settled(t *testing.T) {
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
			t.Fatalf("in the end %s relies on %v, want %v:\n%s", n, got, want, w.tail())
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
		t.Fatalf("in the end %d pairs have each other's routes, want %d:\n%s", got, living*(living-1), w.tail())
	}
}

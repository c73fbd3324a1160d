package speaker

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"weft/routing"
)

// batch is how many routes one event carries at most.
const batch = 2000

// hub has what is known, and tells those who watch what changed. It keeps for each of them only which
// prefixes and peers are news, so that a slow one costs no more than there are.
type hub struct {
	mu      sync.Mutex
	routes  map[netip.Prefix]*routing.Way
	peers   map[netip.Addr]Peer
	settled bool
	all     map[*watcher]bool
	down    atomic.Bool // some peer is not established
}

// watcher is one who watches.
type watcher struct {
	h       *hub
	wake    chan struct{}         // of capacity 1
	queue   []netip.Prefix        // that are news, in the order in which they became so
	routes  map[netip.Prefix]bool // what is in queue
	peers   map[netip.Addr]bool
	synced  bool
	settled bool
}

func newHub() *hub {
	return &hub{routes: map[netip.Prefix]*routing.Way{}, peers: map[netip.Addr]Peer{}, all: map[*watcher]bool{}}
}

// watch returns a watcher to whom everything is news.
func (h *hub) watch() *watcher {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &watcher{h: h, wake: make(chan struct{}, 1), routes: map[netip.Prefix]bool{}, peers: map[netip.Addr]bool{}}
	for p := range h.routes {
		w.add(p)
	}
	for a := range h.peers {
		w.peers[a] = true
	}
	h.all[w] = true
	w.poke()
	return w
}

// add is called with hub.mu held.
func (w *watcher) add(p netip.Prefix) {
	if !w.routes[p] {
		w.routes[p] = true
		w.queue = append(w.queue, p)
	}
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) close() {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	delete(w.h.all, w)
}

// next returns the next event; false when there is no news.
func (w *watcher) next() (Event, bool) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	var e Event
	for a := range w.peers {
		if p, ok := w.h.peers[a]; ok {
			e.Peers = append(e.Peers, p)
		} else {
			e.Gone = append(e.Gone, a)
		}
	}
	clear(w.peers)
	now := w.queue[:min(batch, len(w.queue))]
	if w.queue = w.queue[len(now):]; len(w.queue) == 0 {
		w.queue = nil
	}
	for _, p := range now {
		delete(w.routes, p)
		if way := w.h.routes[p]; way != nil {
			e.add(p, way)
		} else {
			e.Withdrawn = append(e.Withdrawn, p)
		}
	}
	news := len(e.Peers)+len(e.Gone)+len(e.Routes)+len(e.Withdrawn) > 0
	if len(w.queue) == 0 {
		if !w.synced {
			w.synced, e.Synced, news = true, true, true
		}
		// After the routes: what comes before it is all that there is.
		if w.h.settled && !w.settled {
			w.settled, e.Settled, news = true, true, true
		}
	}
	return e, news
}

// add adds a route to those by the same way; neighbours in time mostly go by one.
func (e *Event) add(p netip.Prefix, w *routing.Way) {
	if n := len(e.Routes); n == 0 || !e.Routes[n-1].Equal(w) {
		e.Routes = append(e.Routes, Routes{Way: *w})
	}
	last := &e.Routes[len(e.Routes)-1]
	last.Prefixes = append(last.Prefixes, p)
}

// setRoute notes the best way to a prefix; nil: there is none.
func (h *hub) setRoute(p netip.Prefix, way *routing.Way) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch old := h.routes[p]; {
	case old.Equal(way):
		return
	case way != nil:
		h.routes[p] = way
	default:
		delete(h.routes, p)
	}
	for w := range h.all {
		w.add(p)
		w.poke()
	}
}

// clearRoutes notes that there are none.
func (h *hub) clearRoutes() {
	h.mu.Lock()
	gone := slices.Collect(maps.Keys(h.routes))
	h.mu.Unlock()
	for _, p := range gone {
		h.setRoute(p, nil)
	}
}

// changePeer changes what is known of a peer that is configured.
func (h *hub) changePeer(a netip.Addr, change func(*Peer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, ok := h.peers[a]
	if !ok {
		return
	}
	before := p
	change(&p)
	if p == before {
		return
	}
	h.peers[a] = p
	h.news(a)
}

// putPeer notes a peer that is configured.
func (h *hub) putPeer(p Peer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.peers[p.Address] = p
	h.news(p.Address)
}

func (h *hub) deletePeer(a netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.peers, a)
	h.news(a)
}

// news is called with mu held.
func (h *hub) news(a netip.Addr) {
	down := false
	for _, p := range h.peers {
		down = down || p.State != Established
	}
	h.down.Store(down)
	for w := range h.all {
		w.peers[a] = true
		w.poke()
	}
}

// snapshot returns the peers by address.
func (h *hub) snapshot() []Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(h.peers), func(a, b Peer) int { return a.Address.Compare(b.Address) })
}

func (h *hub) state(a netip.Addr) PeerState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.peers[a].State
}

func (h *hub) isSettled() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.settled
}

func (h *hub) settle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settled = true
	for w := range h.all {
		w.poke()
	}
}

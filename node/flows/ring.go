package flows

import "sync"

const (
	// Kept is how many flows a node remembers.
	Kept = 4096
	// behind is how many flows a reader may lag before it misses some.
	behind = 1024
)

// ring keeps the last flows, and passes new ones on.
type ring struct {
	mu      sync.Mutex
	flows   [Kept]Flow
	next    uint64 // flows so far
	lost    uint64 // that the kernel dropped since we did not read fast enough
	strange uint64 // packets whose prefix is no tag of ours
	readers map[*reader]struct{}
}

// reader is one that follows.
type reader struct {
	flows  chan Flow
	missed uint64 // since it was last told; guarded by the ring's mutex
}

func (r *ring) add(f Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	f.Seq = r.next
	r.flows[(r.next-1)%Kept] = f
	for one := range r.readers {
		select {
		case one.flows <- f:
		default:
			one.missed++
		}
	}
}

func (r *ring) lose(n uint64) {
	r.mu.Lock()
	r.lost += n
	r.mu.Unlock()
}

func (r *ring) ignore() {
	r.mu.Lock()
	r.strange++
	r.mu.Unlock()
}

// last returns what is kept, oldest first, and when follow a reader of what comes after.
func (r *ring) last(follow bool) ([]Flow, *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.next, Kept)
	flows := make([]Flow, 0, n)
	for i := r.next - n; i < r.next; i++ {
		flows = append(flows, r.flows[i%Kept])
	}
	if !follow {
		return flows, nil
	}
	if r.readers == nil {
		r.readers = map[*reader]struct{}{}
	}
	one := &reader{flows: make(chan Flow, behind)}
	r.readers[one] = struct{}{}
	return flows, one
}

func (r *ring) leave(one *reader) {
	r.mu.Lock()
	delete(r.readers, one)
	r.mu.Unlock()
}

// losses returns how many packets the kernel dropped and how many were strange so far, and how many
// flows a reader missed since the last call.
func (r *ring) losses(one *reader) (lost, strange, missed uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one != nil {
		missed, one.missed = one.missed, 0
	}
	return r.lost, r.strange, missed
}

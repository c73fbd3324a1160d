package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/tunnel"
)

// Endpoint is where tunnel packets come in. VXLAN and IPIP make one.
type Endpoint struct {
	Protocol  int // of IP: unix.IPPROTO_UDP or unix.IPPROTO_IPIP
	Port, VNI int // of VXLAN
}

// VXLAN is UDP to this port with this network identifier (RFC 7348).
func VXLAN(port, vni int) Endpoint { return Endpoint{unix.IPPROTO_UDP, port, vni} }

// IPIP is IP protocol 4 (RFC 2003), IPv4 in IPv4.
func IPIP() Endpoint { return Endpoint{Protocol: unix.IPPROTO_IPIP} }

// Guard keeps the rules of one tunnel driver. Apply is called by one goroutine, the others by any.
type Guard struct {
	name  string
	owner *nft.Owner

	mu      sync.Mutex
	program program // what was asked for last
}

// New returns the guard of the tunnel driver of this name, in the network namespace of h. What it has
// in the table begins with "tunnel-NAME-". It touches nothing yet.
func New(h *kernel.Handle, name string) *Guard {
	g := &Guard{name: name}
	var legacy func(string) bool
	if name == tunnel.VXLAN {
		legacy = legacyName
	}
	g.owner = nft.New(h, "tunnel-"+name+"-", legacy)
	g.program.names = namesOf(g.owner)
	return g
}

// Close releases the sockets and leaves the kernel as it is.
func (g *Guard) Close() { g.owner.Close() }

// Apply lets in, through the endpoints, what the sources allow, and nothing else. Without endpoints there
// is no guard. The endpoints of one guard are of one protocol.
func (g *Guard) Apply(ctx context.Context, endpoints []Endpoint, sources []tunnel.Source) (reconcile.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, e := range endpoints {
		if e.Protocol != endpoints[0].Protocol {
			return reconcile.Result{}, fmt.Errorf("guard tunnel %s: endpoints of IP protocols %d and %d: each needs a guard of its own",
				g.name, endpoints[0].Protocol, e.Protocol)
		}
	}
	d := g.program.revise(endpoints, sources)
	var update func(*nft.Tx) error
	if !d.none() {
		update = func(tx *nft.Tx) error { return g.program.update(tx, d) }
	}
	res, err := g.owner.Apply(ctx, g.program.whole(), update)
	if err != nil {
		err = fmt.Errorf("guard tunnel %s: %w", g.name, err)
	}
	return res, err
}

// Watch calls kick when somebody else changed the guard, until ctx ends, whose error it returns. The
// next Apply then repairs it.
func (g *Guard) Watch(ctx context.Context, kick func()) error { return g.owner.Watch(ctx, kick) }

// Invalidate makes the next Apply look at what is there; see nft.Owner.
func (g *Guard) Invalidate() { g.owner.Invalidate() }

// Dropped counts packets that the guard refused since it was first programmed.
type Dropped struct {
	// Unknown came from no known node, or had an inner source that its node may not use.
	Unknown uint64
	// FromPods were tunnel packets sent by pods.
	FromPods uint64
}

// Dropped reads the counters.
func (g *Guard) Dropped(ctx context.Context) (Dropped, error) {
	unknown, err1 := g.owner.Counter(ctx, g.program.names.unknown)
	pods, err2 := g.owner.Counter(ctx, g.program.names.pods)
	return Dropped{unknown, pods}, errors.Join(err1, err2)
}

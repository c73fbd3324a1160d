// Package guard keeps packets between pods of encrypted pools from leaving or entering this host in clear,
// whatever the routes say: topology.Guard as rules in the project's nftables table. It goes by ranges, so
// that an address nobody has told of is guarded, too.
package guard

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"weft/internal/kernel"
	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/model"
	"weft/model/topology"
)

// prefix begins the names of what the guard owns in the table kernel.NFTable.
const (
	prefix     = "encryption-"
	counterOut = prefix + "clear-out"
	counterIn  = prefix + "clear-in"
)

// Guard keeps the rules. Its methods may be called by any goroutine.
type Guard struct {
	owner *nft.Owner

	mu   sync.Mutex
	last *topology.Guard // of the last Apply; nil when it failed
}

// New returns a Guard that works in h's network namespace. It touches nothing yet.
func New(h *kernel.Handle) *Guard { return &Guard{owner: nft.New(h, prefix, nil)} }

// Close releases the sockets and leaves the kernel as it is.
func (g *Guard) Close() { g.owner.Close() }

// Apply makes the rules say what want says, as one transaction; the zero value removes them.
func (g *Guard) Apply(ctx context.Context, want topology.Guard) (res reconcile.Result, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := program(want)
	if g.last != nil && slices.Equal(g.last.Pools, want.Pools) && slices.Equal(g.last.Clear, want.Clear) {
		res, err = g.owner.Apply(ctx, p, nil)
	} else {
		res, err = g.owner.Sync(ctx, p)
	}
	if g.last = &want; err != nil {
		g.last = nil
		return res, fmt.Errorf("guard against clear text: %w", err)
	}
	return res, nil
}

// Observe tells whether the event undoes something of the guard's. None does: nftables has events of its own,
// see Watch.
func (g *Guard) Observe(kernel.Event) bool { return false }

// Invalidate makes the next Apply look at what is there.
func (g *Guard) Invalidate() { g.owner.Invalidate() }

// Watch calls kick when somebody else changed the rules, until ctx ends, whose error it returns. The next
// Apply then repairs them.
func (g *Guard) Watch(ctx context.Context, kick func()) error { return g.owner.Watch(ctx, kick) }

// Dropped counts packets that were in clear and must not be, since the guard was first there.
type Dropped struct{ Out, In uint64 }

// Dropped reads the counters.
func (g *Guard) Dropped(ctx context.Context) (Dropped, error) {
	out, err1 := g.owner.Counter(ctx, counterOut)
	in, err2 := g.owner.Counter(ctx, counterIn)
	return Dropped{out, in}, errors.Join(err1, err2)
}

// program writes want down. Whoever sends something to a pod from here sends it through a device: also this host
// itself, whose errors quote what they are about. From elsewhere, who is no pod may reach pods. Packets that pods of this host send to one another, and what comes out of or goes
// into an encrypting device, is not on the underlay.
func program(want topology.Guard) nft.Program {
	if len(want.Pools) == 0 {
		return nft.Program{}
	}
	p := nft.Program{Counters: []string{counterOut, counterIn}}
	// Outwards before the address may be translated, inwards before anything else sees the packet.
	out := nft.Chain{Name: prefix + "out", Rules: exempt(nft.OutputInterface()),
		Base: &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityMangle}}
	in := nft.Chain{Name: prefix + "in", Rules: exempt(nft.InputInterface()),
		Base: &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityRaw - 1}}
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		pools, clear := of(want.Pools, f), of(want.Clear, f)
		if len(pools) == 0 {
			continue
		}
		poolSet, clearSet := ranges(fmt.Sprintf("pools%d", f), f, pools), ranges(fmt.Sprintf("clear%d", f), f, clear)
		p.Sets = append(p.Sets, poolSet, clearSet)
		to := nft.Rule(nft.Family(f), nft.In(poolSet.Spec.Name, nft.DestAddr(f)))
		out.Rules = append(out.Rules, nft.Rule(to, nft.NotIn(clearSet.Spec.Name, nft.DestAddr(f)), nft.Count(counterOut), nft.Drop()))
		in.Rules = append(in.Rules, nft.Rule(to, nft.In(poolSet.Spec.Name, nft.SourceAddr(f)), nft.NotIn(clearSet.Spec.Name, nft.SourceAddr(f)),
			nft.Count(counterIn), nft.Drop()))
	}
	p.Chains = []nft.Chain{out, in}
	return p
}

// exempt accepts what does not pass the underlay: pods' links, encrypting devices, the host itself.
func exempt(device nft.Field) [][]expr.Any {
	return [][]expr.Any{
		nft.Rule(device.Is([]byte("lo\x00")...), nft.Accept()),
		nft.Rule(device.Is([]byte(kernel.WireGuardDevice)...), nft.Accept()),
		nft.Rule(device.Is([]byte(kernel.PodLinkPrefix)...), device.IsNot([]byte(kernel.PodLinkPrefix+"-")...), nft.Accept()),
	}
}

func of(all []netip.Prefix, f model.Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return model.FamilyOf(p.Addr()) != f })
}

// ranges is an interval set of prefixes; one that another holds is left out.
func ranges(name string, f model.Family, prefixes []netip.Prefix) nft.Set {
	return nft.Set{
		Spec: nftables.Set{Name: prefix + name, KeyType: nft.AddrType(f), Interval: true},
		Elements: func() []nftables.SetElement {
			var e []nftables.SetElement
			var last netip.Prefix
			for _, p := range prefixes { // sorted: whoever holds another comes before it
				if last.IsValid() && last.Overlaps(p) {
					continue
				}
				last = p
				e = append(e, nft.Range(p))
			}
			return e
		},
	}
}

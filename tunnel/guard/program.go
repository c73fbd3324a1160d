package guard

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"

	"weft/internal/nft"
	"weft/internal/reconcile"
	"weft/model"
	"weft/tunnel"
)

// names of what a guard owns in the table.
type names struct {
	prefix  string
	input   string // base chain, hook input
	forward string // base chain, hook forward
	unknown string // counter: packets from nobody we know, or with a foreign inner source
	pods    string // counter: tunnel packets of pods
}

func namesOf(o *nft.Owner) names {
	return names{o.Name(""), o.Name("input"), o.Name("forward"), o.Name("unknown"), o.Name("from-pods")}
}

// legacyName tells whether something in the table belonged to the guard of VXLAN while it was the only
// guard: an upgrade removes it. To be dropped once nobody upgrades from there any more.
func legacyName(name string) bool {
	return slices.Contains([]string{"tunnel-input", "tunnel-forward", "tunnel-peers", "tunnel-unknown", "tunnel-from-pods"}, name) ||
		strings.HasPrefix(name, "tunnel-ip4-in-") || strings.HasPrefix(name, "tunnel-ip6-in-")
}

// shape is what the sources that one rule lets in have in common. Within a shape the inner source,
// cut to the prefix length, is a plain key: so a lookup is one hash, however many peers there are,
// and a new peer is one more element.
type shape struct {
	outer, inner model.Family
	bits         int // prefix length of the inner source
}

// set is the name of the shape's set, behind the prefix.
func (s shape) set() string { return fmt.Sprintf("ip%d-in-ip%d-%d", s.inner, s.outer, s.bits) }

// element is what a set holds: who may deliver from which inner prefix of the set's length.
type element struct{ outer, inner netip.Addr }

// program is what the guard lets in. The zero program is "no guard".
type program struct {
	names     names
	sources   []tunnel.Source           // what it was compiled from
	endpoints []Endpoint                // sorted
	shapes    []shape                   // sorted, short prefixes first: blocks before single addresses
	elements  map[shape]map[element]int // how many sources ask for each
}

// delta is how one program differs from the one before.
type delta struct {
	rules bool // endpoints or shapes differ
	sets  map[shape]*setDelta
}

func (d delta) none() bool { return !d.rules && len(d.sets) == 0 }

// setDelta is how one set differs. A set that comes or goes does so with all its elements.
type setDelta struct {
	comes, goes bool
	add, del    []nftables.SetElement
}

// canonical sorts the endpoints, each once.
func canonical(endpoints []Endpoint) []Endpoint {
	e := slices.SortedFunc(slices.Values(endpoints), func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port), cmp.Compare(a.VNI, b.VNI))
	})
	return slices.Compact(e)
}

// revise makes p say what may come in through the endpoints, and tells what that changes. Its cost is
// that of the difference.
func (p *program) revise(endpoints []Endpoint, sources []tunnel.Source) delta {
	endpoints = canonical(endpoints)
	if len(endpoints) == 0 {
		sources = nil
	}
	gone, come := reconcile.Diff(p.sources, sources, tunnel.CompareSources)
	counts := map[shape]map[element]int{} // what is asked for more, or less
	count := func(sources []tunnel.Source, n int) {
		for _, s := range sources {
			sh, e := elementOf(s)
			if counts[sh] == nil {
				counts[sh] = make(map[element]int, len(sources))
			}
			counts[sh][e] += n
		}
	}
	count(come, 1)
	count(gone, -1)
	d := delta{rules: !slices.Equal(p.endpoints, endpoints), sets: make(map[shape]*setDelta, len(counts))}
	for sh, counts := range counts {
		if sd := p.count(sh, counts); sd.comes != sd.goes || len(sd.add)+len(sd.del) > 0 {
			d.sets[sh] = sd
			d.rules = d.rules || sd.comes || sd.goes
		}
	}
	p.endpoints, p.sources = endpoints, sources
	p.shapes = slices.SortedFunc(maps.Keys(p.elements), func(a, b shape) int {
		return cmp.Or(cmp.Compare(a.outer, b.outer), cmp.Compare(a.inner, b.inner), cmp.Compare(a.bits, b.bits))
	})
	return d
}

// count adds to what the sources ask for of one shape.
func (p *program) count(sh shape, counts map[element]int) *setDelta {
	have := p.elements[sh]
	d := &setDelta{comes: have == nil}
	if d.comes {
		have = make(map[element]int, len(counts))
	}
	for e, n := range counts {
		switch was := have[e]; {
		case was+n <= 0:
			delete(have, e)
			if was > 0 {
				d.del = append(d.del, e.set())
			}
		default:
			have[e] = was + n
			if was == 0 {
				d.add = append(d.add, e.set())
			}
		}
	}
	if d.goes = len(have) == 0; d.goes {
		delete(p.elements, sh)
		return d
	}
	if p.elements == nil {
		p.elements = map[shape]map[element]int{}
	}
	p.elements[sh] = have
	return d
}

func elementOf(s tunnel.Source) (shape, element) {
	return shape{model.FamilyOf(s.Outer), model.FamilyOf(s.Inner.Addr()), s.Inner.Bits()}, element{s.Outer, s.Inner.Masked().Addr()}
}

// set returns the element in the form that nftables has.
func (e element) set() nftables.SetElement {
	return nftables.SetElement{Key: append(e.outer.AsSlice(), e.inner.AsSlice()...)}
}

// empty tells whether there is nothing to guard.
func (p *program) empty() bool { return len(p.endpoints) == 0 }

// whole is all of the program.
func (p *program) whole() nft.Program {
	if p.empty() {
		return nft.Program{}
	}
	w := nft.Program{Counters: []string{p.names.unknown, p.names.pods}, Chains: p.chains()}
	for _, s := range p.shapes {
		w.Sets = append(w.Sets, nft.Set{Spec: s.spec(p.names), Elements: func() []nftables.SetElement {
			e := make([]nftables.SetElement, 0, len(p.elements[s]))
			for el := range p.elements[s] {
				e = append(e, el.set())
			}
			return e
		}})
	}
	return w
}

// update turns the program that is in place into p, which differs by d.
func (p *program) update(tx *nft.Tx, d delta) error {
	chains := p.chains()
	if d.rules {
		for _, c := range chains {
			tx.FlushChain(c.Name)
		}
	}
	whole := p.whole()
	for i, s := range p.shapes {
		sd := d.sets[s]
		if sd == nil {
			continue
		}
		if sd.comes {
			if err := tx.AddSet(whole.Sets[i]); err != nil {
				return err
			}
			continue
		}
		if err := tx.DelElements(s.spec(p.names), sd.del); err != nil {
			return err
		}
		if err := tx.AddElements(s.spec(p.names), sd.add); err != nil {
			return err
		}
	}
	if d.rules {
		for _, c := range chains {
			tx.AddRules(c)
		}
	}
	for s, sd := range d.sets {
		if sd.goes && !sd.comes {
			tx.DelSet(s.spec(p.names).Name)
		}
	}
	return nil
}

// format prints the program, for tests and debug logs.
func (p *program) format() string {
	var b strings.Builder
	for _, e := range p.endpoints {
		fmt.Fprintf(&b, "protocol %d port %d vni %d\n", e.Protocol, e.Port, e.VNI)
	}
	for _, s := range p.shapes {
		fmt.Fprintf(&b, "set %s: %d elements\n", s.set(), len(p.elements[s]))
	}
	return b.String()
}

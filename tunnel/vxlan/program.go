package vxlan

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/internal/reconcile"
	"weft/model"
	"weft/tunnel"
)

// Names of what the guard owns in the table kernel.NFTable, which it shares with others.
const (
	guardPrefix    = "tunnel-"
	chainInput     = guardPrefix + "input"     // base chain, hook input
	chainForward   = guardPrefix + "forward"   // base chain, hook forward
	chainPeers     = guardPrefix + "peers"     // who may send what
	counterUnknown = guardPrefix + "unknown"   // packets from nobody we know, or with a foreign inner source
	counterPods    = guardPrefix + "from-pods" // packets of pods to the tunnel's port
)

// Offsets into a VXLAN packet over UDP, in bytes from the UDP header (RFC 7348 section 5): UDP 8,
// VXLAN 8, inner Ethernet 14, inner IP.
const (
	offsetVNI       = 8 + 4
	offsetEtherType = 8 + 8 + 12
	offsetInnerIP   = 8 + 8 + 14
)

// endpoint is where tunnel packets come in.
type endpoint struct{ port, vni int }

// shape is what the sources that one rule lets in have in common. Within a shape the inner source,
// cut to the prefix length, is a plain key: so a lookup is one hash, however many peers there are,
// and a new peer is one more element.
type shape struct {
	outer, inner model.Family
	bits         int // prefix length of the inner source
}

func (s shape) set() string {
	return fmt.Sprintf("%sip%d-in-ip%d-%d", guardPrefix, s.inner, s.outer, s.bits)
}

// element is what a set holds: who may deliver from which inner prefix of the set's length.
type element struct{ outer, inner netip.Addr }

// program is what the guard lets in. The zero program is "no guard".
type program struct {
	sources   []tunnel.Source           // what it was compiled from
	endpoints []endpoint                // sorted
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
func canonical(endpoints []endpoint) []endpoint {
	e := slices.SortedFunc(slices.Values(endpoints), func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.vni, b.vni))
	})
	return slices.Compact(e)
}

// compileGuard says what may come in through the endpoints.
func compileGuard(endpoints []endpoint, sources []tunnel.Source) *program {
	p := &program{}
	p.revise(endpoints, sources)
	return p
}

// revise makes p what compileGuard returns, and tells what that changes. Its cost is that of the
// difference.
func (p *program) revise(endpoints []endpoint, sources []tunnel.Source) delta {
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

// all is the delta from nothing to p.
func (p *program) all() delta {
	d := delta{rules: true, sets: make(map[shape]*setDelta, len(p.elements))}
	for sh, elements := range p.elements {
		sd := &setDelta{comes: true, add: make([]nftables.SetElement, 0, len(elements))}
		for e := range elements {
			sd.add = append(sd.add, e.set())
		}
		d.sets[sh] = sd
	}
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

// ruleset is one rule of one of our chains.
type rule struct {
	chain string
	exprs []expr.Any
}

// rules returns the rules in order. Every packet to a tunnel port ends in accept or drop.
func (p *program) rules() []rule {
	var rules []rule
	ports := p.endpoints
	for i, e := range ports {
		if i > 0 && ports[i-1].port == e.port {
			continue
		}
		to := toPort(e.port)
		// A pod is never a VTEP. Its packets may carry a node's address after masquerading, so
		// that only the node it runs on can tell. Tunnels in tunnels to a node end here too.
		rules = append(rules,
			rule{chainInput, slices.Concat(fromWeftLink(), to, counted(counterPods), drop())},
			rule{chainForward, slices.Concat(fromWeftLink(), to, counted(counterPods), drop())},
			rule{chainInput, append(to, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainPeers})})
	}
	var vnis []int
	for _, e := range p.endpoints {
		vnis = append(vnis, e.vni)
	}
	slices.Sort(vnis)
	for _, vni := range slices.Compact(vnis) {
		for _, s := range p.shapes {
			rules = append(rules, rule{chainPeers, s.match(vni)})
		}
	}
	return append(rules, rule{chainPeers, append(counted(counterUnknown), drop()...)})
}

// Registers: an address of either family fits what lies between these.
const (
	regScratch = 1                 // NFT_REG_1, before the key is loaded
	regKey     = unix.NFT_REG32_00 // the key is loaded here, 4 bytes a register
)

// match accepts a packet of the VNI whose outer and inner sources are an element.
func (s shape) match(vni int) []expr.Any {
	outerOffset, outerLen := addressAt(s.outer)
	innerOffset, innerLen := addressAt(s.inner)
	inner := uint32(regKey + outerLen/4)
	e := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regScratch},
		equal([]byte{nfproto(s.outer)}),
		load(expr.PayloadBaseTransportHeader, offsetEtherType, 2, regScratch),
		equal(etherType(s.inner)),
		load(expr.PayloadBaseTransportHeader, offsetVNI, 3, regScratch),
		equal([]byte{byte(vni >> 16), byte(vni >> 8), byte(vni)}),
		load(expr.PayloadBaseNetworkHeader, outerOffset, outerLen, regKey),
		load(expr.PayloadBaseTransportHeader, offsetInnerIP+innerOffset, innerLen, inner),
	}
	if mask := maskOf(s); mask != nil {
		e = append(e, &expr.Bitwise{SourceRegister: inner, DestRegister: inner, Len: innerLen, Mask: mask, Xor: make([]byte, innerLen)})
	}
	return append(e,
		&expr.Lookup{SourceRegister: regKey, SetName: s.set()},
		&expr.Verdict{Kind: expr.VerdictAccept})
}

// addressAt returns where the source address stands in an IP header, and its length.
func addressAt(f model.Family) (offset, length uint32) {
	if f == model.IPv4 {
		return 12, 4
	}
	return 8, 16
}

func maskOf(s shape) []byte {
	_, n := addressAt(s.inner)
	if s.bits == int(n)*8 {
		return nil
	}
	m := make([]byte, n)
	for i := range s.bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

func nfproto(f model.Family) byte {
	if f == model.IPv4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

func etherType(f model.Family) []byte {
	if f == model.IPv4 {
		return []byte{0x08, 0x00}
	}
	return []byte{0x86, 0xdd}
}

// toPort matches UDP to a port. A fragment that is not the first has no port; the first one is
// judged here, and without it the others come to nothing.
func toPort(port int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regScratch},
		equal([]byte{unix.IPPROTO_UDP}),
		load(expr.PayloadBaseTransportHeader, 2, 2, regScratch),
		equal([]byte{byte(port >> 8), byte(port)}),
	}
}

// fromWeftLink matches what comes in by a pod's link or by one of our tunnels.
func fromWeftLink() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regScratch},
		equal([]byte(kernel.PodLinkPrefix)),
	}
}

func load(base expr.PayloadBase, offset, length, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

func equal(b []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: regScratch, Data: b}
}

func counted(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}
}

func drop() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// nftSet returns the set of a shape. id is unique within a transaction.
func (s shape) nftSet(t *nftables.Table, id uint32) *nftables.Set {
	addr := func(f model.Family) nftables.SetDatatype {
		if f == model.IPv4 {
			return nftables.TypeIPAddr
		}
		return nftables.TypeIP6Addr
	}
	return &nftables.Set{Table: t, ID: id, Name: s.set(), KeyByteOrder: binaryutil.BigEndian,
		KeyType: nftables.MustConcatSetType(addr(s.outer), addr(s.inner))}
}

// format prints the program, for tests and debug logs.
func (p *program) format() string {
	var b strings.Builder
	for _, e := range p.endpoints {
		fmt.Fprintf(&b, "port %d vni %d\n", e.port, e.vni)
	}
	for _, s := range p.shapes {
		fmt.Fprintf(&b, "set %s: %d elements\n", s.set(), len(p.elements[s]))
	}
	return b.String()
}

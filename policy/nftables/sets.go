package nftables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	lib "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"

	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// A set with prefixes of more than one address is one of ranges while it is small: one lookup, whatever
// the lengths of its prefixes. The kernel rewrites such a set as a whole when one range of it changes. From
// so many members on it is cut into hashes, one for each length of prefix, unless there are too many of these.
const (
	manyMembers = 4096
	mostHashes  = 20
)

// layout is how the kernel keeps a set.
type layout uint8

const (
	hashed layout = iota // single addresses, or addresses with ports
	ranged               // ranges of addresses that do not overlap
	cut                  // hashes by length of prefix
)

// setState is a set of the Program as the kernel has it.
type setState struct {
	id     policy.SetID
	layout layout
	counts map[int]int // members by length of their prefix
	// cover is of a ranged set, and widest are its ranges.
	cover  *policy.Cover
	widest map[netip.Prefix]struct{}
}

// table is one of the kernel's sets that a set consists of: one, or when cut one for each length.
type table struct {
	name string
	bits int // the address is cut to so many bits; -1: it is not
}

func (t *setState) tables() []table {
	switch {
	case t.layout == cut:
		var list []table
		for _, bits := range slices.Sorted(maps.Keys(t.counts)) {
			list = append(list, table{digest("cut", t.id.String(), fmt.Sprint(bits)), bits})
		}
		return list
	case t.layout == ranged:
		return []table{{digest("nets", t.id.String()), -1}}
	}
	return []table{{hashName(t.id), -1}}
}

func hashName(id policy.SetID) string {
	if id.HasPorts() {
		return digest("port", id.String())
	}
	return digest("addr", id.String())
}

// from is how many members a set is cut from on: one that is cut stays so for a while, so that a member that
// comes and goes does not have all of it written.
func (t *setState) from(cutFrom int) int {
	if t.layout == cut {
		return cutFrom - cutFrom/4
	}
	return cutFrom
}

// best returns the layout for the members that are counted.
func (t *setState) best(cutFrom int) layout {
	members := 0
	for _, n := range t.counts {
		members += n
	}
	longest := 32
	if t.id.Family == model.IPv6 {
		longest = 128
	}
	_, single := t.counts[longest]
	switch {
	case t.id.HasPorts(), len(t.counts) == 0, len(t.counts) == 1 && single:
		return hashed
	case members >= t.from(cutFrom) && len(t.counts) <= mostHashes:
		return cut
	}
	return ranged
}

func (t *setState) spec(n table) lib.Set {
	spec := lib.Set{Name: n.name, KeyType: nft.AddrType(t.id.Family), KeyByteOrder: binaryutil.BigEndian,
		Interval: t.layout == ranged, Comment: nft.Comment(t.id.String())}
	if n.bits >= 0 {
		spec.Comment = nft.Comment(fmt.Sprintf("/%d of %s", n.bits, t.id))
	}
	if t.id.HasPorts() {
		spec.KeyType = lib.MustConcatSetType(spec.KeyType, lib.TypeInetProto, lib.TypeInetService)
		spec.Concatenation = true
	}
	return spec
}

// kernelSets are the tables with their elements.
func (s *state) kernelSets(t *setState) []nft.Set {
	var list []nft.Set
	for _, n := range t.tables() {
		spec := t.spec(n)
		size := func() int {
			switch {
			case t.layout == ranged:
				return len(t.widest)
			case n.bits >= 0:
				return t.counts[n.bits]
			}
			return s.program.Sets[t.id].Len()
		}
		list = append(list, nft.Set{Spec: spec, Size: size, Elements: func() []lib.SetElement {
			e := make([]lib.SetElement, 0, size())
			if t.layout == ranged {
				for p := range t.widest {
					e = append(e, nft.Range(p))
				}
				return e
			}
			members := s.program.Sets[t.id]
			keys := make([]byte, 0, size()*int(spec.KeyType.Bytes))
			for m := range members.All() {
				if n.bits < 0 || m.Prefix.Bits() == n.bits {
					from := len(keys)
					keys = appendKey(keys, m)
					e = append(e, lib.SetElement{Key: keys[from:len(keys):len(keys)]})
				}
			}
			return e
		}})
	}
	return list
}

// memberElement is the element of an address, or of a prefix of its table's length, with or without a port.
func memberElement(m policy.Member) lib.SetElement { return lib.SetElement{Key: appendKey(nil, m)} }

func appendKey(key []byte, m policy.Member) []byte {
	if a := m.Prefix.Addr(); a.Is4() {
		four := a.As4()
		key = append(key, four[:]...)
	} else {
		sixteen := a.As16()
		key = append(key, sixteen[:]...)
	}
	if m.Protocol != 0 {
		key = append(key, byte(m.Protocol), 0, 0, 0, byte(m.Port>>8), byte(m.Port), 0, 0)
	}
	return key
}

// addSet begins a set as the Program has it.
func (s *state) addSet(id policy.SetID) {
	if id.Staged || s.refused.sets[id] != nil {
		return
	}
	t := &setState{id: id, counts: map[int]int{}}
	s.sets[id] = t
	for m := range s.program.Sets[id].All() {
		t.counts[m.Prefix.Bits()]++
	}
	s.lay(t)
	s.todo.sets = append(s.todo.sets, s.kernelSets(t)...)
}

// lay gives a set the layout for its members.
func (s *state) lay(t *setState) {
	t.cover, t.widest = nil, nil
	if t.layout = t.best(s.cutFrom); t.layout != ranged {
		return
	}
	members := s.program.Sets[t.id]
	t.cover, t.widest = &policy.Cover{}, make(map[netip.Prefix]struct{}, members.Len())
	for m := range members.All() {
		t.note(t.cover.Insert(m.Prefix))
	}
}

func (s *state) removeSet(id policy.SetID) {
	delete(s.refused.sets, id)
	t := s.sets[id]
	if t == nil {
		return
	}
	for _, n := range t.tables() {
		s.todo.setsGone = append(s.todo.setsGone, n.name)
	}
	delete(s.sets, id)
}

func (t *setState) note(added, removed []netip.Prefix) {
	for _, p := range removed {
		delete(t.widest, p)
	}
	for _, p := range added {
		t.widest[p] = struct{}{}
	}
}

// changeMembers follows a change of members, and tells whether rules must refer to the set in another way.
func (s *state) changeMembers(d *policy.MemberDelta) (moved bool) {
	t := s.sets[d.Set]
	if t == nil && s.refused.sets[d.Set] != nil { // with other members the kernel may take it
		delete(s.refused.sets, d.Set)
		s.addSet(d.Set)
		return true
	}
	if t == nil {
		return false // staged
	}
	before := t.tables()
	for _, m := range d.Added {
		t.counts[m.Prefix.Bits()]++
	}
	for _, m := range d.Removed {
		if t.counts[m.Prefix.Bits()]--; t.counts[m.Prefix.Bits()] == 0 {
			delete(t.counts, m.Prefix.Bits())
		}
	}
	if t.best(s.cutFrom) != t.layout {
		for _, n := range before {
			s.todo.setsGone = append(s.todo.setsGone, n.name)
		}
		s.lay(t)
		s.todo.sets = append(s.todo.sets, s.kernelSets(t)...)
		return true
	}
	if t.layout == ranged {
		e := elements{set: t.spec(before[0])}
		if e.del, e.add = t.disjoint(d); len(e.del)+len(e.add) > 0 {
			s.todo.elements = append(s.todo.elements, e)
		}
		return false
	}
	now := t.tables()
	for _, n := range before {
		if !slices.Contains(now, n) {
			s.todo.setsGone = append(s.todo.setsGone, n.name)
			moved = true
		}
	}
	for i, n := range now {
		if !slices.Contains(before, n) {
			s.todo.sets = append(s.todo.sets, s.kernelSets(t)[i])
			moved = true
			continue
		}
		of := func(list []policy.Member) (e []lib.SetElement) {
			for _, m := range list {
				if n.bits < 0 || m.Prefix.Bits() == n.bits {
					e = append(e, memberElement(m))
				}
			}
			return e
		}
		if e := (elements{t.spec(n), of(d.Removed), of(d.Added)}); len(e.del)+len(e.add) > 0 {
			s.todo.elements = append(s.todo.elements, e)
		}
	}
	return moved
}

// disjoint makes of members that come and go ranges that come and go.
func (t *setState) disjoint(d *policy.MemberDelta) (del, add []lib.SetElement) {
	net := map[netip.Prefix]int{}
	step := func(added, removed []netip.Prefix) {
		t.note(added, removed)
		for _, p := range added {
			net[p]++
		}
		for _, p := range removed {
			net[p]--
		}
	}
	for _, m := range d.Removed {
		step(t.cover.Delete(m.Prefix))
	}
	for _, m := range d.Added {
		step(t.cover.Insert(m.Prefix))
	}
	for p, n := range net {
		switch {
		case n < 0:
			del = append(del, nft.Range(p))
		case n > 0:
			add = append(add, nft.Range(p))
		}
	}
	return del, add
}

// addresses is a set with a fixed list of prefixes.
func (s *state) addresses(f model.Family, nets []netip.Prefix) *object {
	text := make([]string, len(nets))
	wide := false
	for i, n := range nets {
		text[i] = n.String()
		wide = wide || !n.IsSingleIP()
	}
	return s.object(digest("list", text...), func(o *object) {
		o.set = &nft.Set{
			Spec: lib.Set{Name: o.name, KeyType: nft.AddrType(f), KeyByteOrder: binaryutil.BigEndian, Interval: wide},
			Elements: func() []lib.SetElement {
				e := make([]lib.SetElement, len(nets))
				for i, n := range nets {
					if e[i] = nft.Range(n); !wide {
						e[i].KeyEnd = nil
					}
				}
				return e
			}}
	})
}

// list is a set with fixed elements; text tells which.
func (s *state) list(text string, spec lib.Set, e []lib.SetElement) *object {
	return s.object(digest("list", spec.KeyType.Name, text), func(o *object) {
		spec.Name, spec.KeyByteOrder = o.name, binaryutil.BigEndian
		o.set = &nft.Set{Spec: spec, Elements: func() []lib.SetElement { return e }}
	})
}

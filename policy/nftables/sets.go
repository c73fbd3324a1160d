package nftables

import (
	"net/netip"

	lib "github.com/google/nftables"
	"github.com/google/nftables/binaryutil"

	"weft/internal/nft"
	"weft/model"
	"weft/policy"
)

// setState is a set of the Program as the kernel has it.
type setState struct {
	id   policy.SetID
	wide int // members that are more than one address
	// cover is of a set with wide members, whose ranges must not overlap; widest are its ranges.
	cover  *policy.Cover
	widest map[netip.Prefix]struct{}
}

// setName is a set's name by what its kind of elements is: a hash of addresses, ranges of addresses,
// or a hash of addresses with ports.
func setName(id policy.SetID, ranges bool) string {
	switch {
	case id.HasPorts():
		return digest("port", id.String())
	case ranges:
		return digest("nets", id.String())
	}
	return digest("addr", id.String())
}

func (t *setState) name() string { return setName(t.id, t.cover != nil) }

func (t *setState) spec() lib.Set {
	spec := lib.Set{Name: t.name(), KeyType: nft.AddrType(t.id.Family), KeyByteOrder: binaryutil.BigEndian,
		Interval: t.cover != nil, Comment: nft.Comment(t.id.String())}
	if t.id.HasPorts() {
		spec.KeyType = lib.MustConcatSetType(spec.KeyType, lib.TypeInetProto, lib.TypeInetService)
		spec.Concatenation = true
	}
	return spec
}

func (s *state) kernelSet(t *setState) nft.Set {
	return nft.Set{Spec: t.spec(), Elements: func() []lib.SetElement {
		if t.cover != nil {
			e := make([]lib.SetElement, 0, len(t.widest))
			for p := range t.widest {
				e = append(e, nft.Range(p))
			}
			return e
		}
		members := s.program.Sets[t.id]
		e := make([]lib.SetElement, 0, members.Len())
		for m := range members.All() {
			e = append(e, memberElement(m))
		}
		return e
	}}
}

// memberElement is the element of a single address, with or without its port.
func memberElement(m policy.Member) lib.SetElement {
	key := m.Prefix.Addr().AsSlice()
	if m.Protocol != 0 {
		key = append(key, byte(m.Protocol), 0, 0, 0, byte(m.Port>>8), byte(m.Port), 0, 0)
	}
	return lib.SetElement{Key: key}
}

func isWide(m policy.Member) bool { return !m.Prefix.IsSingleIP() }

// addSet begins a set as the Program has it.
func (s *state) addSet(id policy.SetID) {
	if id.Staged {
		return
	}
	t := &setState{id: id}
	s.sets[id] = t
	for m := range s.program.Sets[id].All() {
		if isWide(m) {
			t.wide++
		}
	}
	if t.wide > 0 {
		t.widen(s.program.Sets[id])
	}
	s.todo.sets = append(s.todo.sets, s.kernelSet(t))
}

func (s *state) removeSet(id policy.SetID) {
	if t := s.sets[id]; t != nil {
		s.todo.setsGone = append(s.todo.setsGone, t.name())
		delete(s.sets, id)
	}
}

// widen makes t a set of ranges.
func (t *setState) widen(members *policy.Set) {
	t.cover, t.widest = &policy.Cover{}, make(map[netip.Prefix]struct{}, members.Len())
	for m := range members.All() {
		t.note(t.cover.Insert(m.Prefix))
	}
}

func (t *setState) note(added, removed []netip.Prefix) {
	for _, p := range removed {
		delete(t.widest, p)
	}
	for _, p := range added {
		t.widest[p] = struct{}{}
	}
}

// changeMembers follows a change of members, and tells whether the set has another kind and name for it.
func (s *state) changeMembers(d *policy.MemberDelta) (renamed bool) {
	t := s.sets[d.Set]
	if t == nil {
		return false // staged
	}
	for _, m := range d.Added {
		if isWide(m) {
			t.wide++
		}
	}
	for _, m := range d.Removed {
		if isWide(m) {
			t.wide--
		}
	}
	if ranges := t.wide > 0; ranges != (t.cover != nil) {
		s.todo.setsGone = append(s.todo.setsGone, t.name())
		t.cover, t.widest = nil, nil
		if ranges {
			t.widen(s.program.Sets[d.Set])
		}
		s.todo.sets = append(s.todo.sets, s.kernelSet(t))
		return true
	}
	e := elements{set: t.spec()}
	if t.cover == nil {
		for _, m := range d.Removed {
			e.del = append(e.del, memberElement(m))
		}
		for _, m := range d.Added {
			e.add = append(e.add, memberElement(m))
		}
	} else {
		e.del, e.add = t.cut(d)
	}
	if len(e.del)+len(e.add) > 0 {
		s.todo.elements = append(s.todo.elements, e)
	}
	return false
}

// cut makes of members that come and go ranges that come and go.
func (t *setState) cut(d *policy.MemberDelta) (del, add []lib.SetElement) {
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

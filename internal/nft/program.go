package nft

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
)

// Program is all that an owner wants in the table. The zero Program is "nothing". All names begin
// with the owner's prefix. An Owner keeps the Program that it was given: it must not be changed later.
type Program struct {
	Counters   []string
	Sets       []Set
	FlowTables []FlowTable
	Chains     []Chain
}

// Chain is a chain with its rules.
type Chain struct {
	Name     string
	Base     *Base // nil: reached by jumps only
	Rules    [][]expr.Any
	Comments []string // of the rules, as many as there are, or fewer; what is longer than 127 bytes is cut
}

// comment returns a rule's comment as nft(8) stores it; nil when there is none.
func (c *Chain) comment(rule int) []byte {
	if rule >= len(c.Comments) || c.Comments[rule] == "" {
		return nil
	}
	return userdata.AppendString(nil, userdata.TypeComment, Comment(c.Comments[rule]))
}

// Comment cuts a comment to what nft(8) can print.
func Comment(s string) string {
	const longest = 127
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest-3], "") + "..."
}

// Base says where a base chain hangs. Its policy is accept.
type Base struct {
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority nftables.ChainPriority
	Device   string // of hook ingress
	Drop     bool   // the policy is drop, instead
}

func (b *Base) policy() nftables.ChainPolicy {
	if b.Drop {
		return nftables.ChainPolicyDrop
	}
	return nftables.ChainPolicyAccept
}

// Set is a set or map. Name, KeyType, DataType and the flags of Spec are the caller's, ID and Table
// are not.
type Set struct {
	Spec nftables.Set
	// Elements returns the content. It is called when the set is written as a whole, and by Sync.
	// In an interval set that is no concatenation, KeyEnd is the last key of a range, Key the first.
	Elements func() []nftables.SetElement
	// Size, which may be nil, returns how many elements Elements would.
	Size func() int
}

// Empty tells whether nothing is wanted.
func (p Program) Empty() bool {
	return len(p.Counters)+len(p.Sets)+len(p.FlowTables)+len(p.Chains) == 0
}

// Len returns how many elements the set has, without making them where Size is there.
func (s Set) Len() int {
	if s.Size != nil {
		return s.Size()
	}
	return len(s.elements())
}

func (s Set) elements() []nftables.SetElement {
	if s.Elements == nil {
		return nil
	}
	return s.Elements()
}

// fixed returns p with its elements read once.
func (p Program) fixed() Program {
	p.Sets = slices.Clone(p.Sets)
	for i := range p.Sets {
		e := p.Sets[i].elements()
		p.Sets[i].Elements = func() []nftables.SetElement { return e }
	}
	return p
}

func (p Program) chain(name string) *Chain {
	if i := slices.IndexFunc(p.Chains, func(c Chain) bool { return c.Name == name }); i >= 0 {
		return &p.Chains[i]
	}
	return nil
}

func (p Program) set(name string) *Set {
	if i := slices.IndexFunc(p.Sets, func(s Set) bool { return s.Spec.Name == name }); i >= 0 {
		return &p.Sets[i]
	}
	return nil
}

// named finds chains and sets by name.
type named struct {
	chains map[string]*Chain
	sets   map[string]*Set
}

func (p Program) names() named {
	n := named{make(map[string]*Chain, len(p.Chains)), make(map[string]*Set, len(p.Sets))}
	for i := range p.Chains {
		n.chains[p.Chains[i].Name] = &p.Chains[i]
	}
	for i := range p.Sets {
		n.sets[p.Sets[i].Spec.Name] = &p.Sets[i]
	}
	return n
}

// changes is how one program differs from another. Chains and sets whose kind changed go and come.
type changes struct {
	countersCome, countersGo []string
	setsCome                 []Set
	setsGo                   []string
	elements                 []elementsChange
	flowTables               []FlowTable // with the devices that come only
	chainsCome               []Chain     // without their rules
	chainsGo                 []string
	rules                    []Chain // whose rules are written anew
}

type elementsChange struct {
	set      nftables.Set
	add, del []nftables.SetElement
}

func (c changes) none() bool {
	return len(c.countersCome)+len(c.countersGo)+len(c.setsCome)+len(c.setsGo)+len(c.elements)+
		len(c.flowTables)+len(c.chainsCome)+len(c.chainsGo)+len(c.rules) == 0
}

// diff tells how want differs from have; ok is false when only writing all anew leads there, since
// something changed its kind under its name.
func diff(have, want Program) (d changes, ok bool) {
	for _, c := range want.Chains {
		old := have.chain(c.Name)
		switch {
		case old == nil:
			d.chainsCome, d.rules = append(d.chainsCome, c), append(d.rules, c)
		case !reflect.DeepEqual(old.Base, c.Base):
			return d, false
		case !reflect.DeepEqual(old.Rules, c.Rules), !slices.Equal(old.Comments, c.Comments):
			d.rules = append(d.rules, c)
		}
	}
	for _, c := range have.Chains {
		if want.chain(c.Name) == nil {
			d.chainsGo = append(d.chainsGo, c.Name)
		}
	}
	come, ok := diffFlowTables(have.FlowTables, want.FlowTables)
	if !ok {
		return d, false
	}
	d.flowTables = come
	for _, s := range want.Sets {
		old := have.set(s.Spec.Name)
		switch {
		case old == nil:
			d.setsCome = append(d.setsCome, s)
		case !reflect.DeepEqual(old.Spec, s.Spec):
			return d, false
		default:
			if add, del := diffElements(old.elements(), s.elements()); len(add)+len(del) > 0 {
				d.elements = append(d.elements, elementsChange{s.Spec, add, del})
			}
		}
	}
	for _, s := range have.Sets {
		if want.set(s.Spec.Name) == nil {
			d.setsGo = append(d.setsGo, s.Spec.Name)
		}
	}
	for _, c := range want.Counters {
		if !slices.Contains(have.Counters, c) {
			d.countersCome = append(d.countersCome, c)
		}
	}
	for _, c := range have.Counters {
		if !slices.Contains(want.Counters, c) {
			d.countersGo = append(d.countersGo, c)
		}
	}
	return d, true
}

// diffElements compares by key first: an element of a map whose value changed goes and comes.
func diffElements(have, want []nftables.SetElement) (add, del []nftables.SetElement) {
	sorted := func(e []nftables.SetElement) []nftables.SetElement {
		if slices.IsSortedFunc(e, compareElements) {
			return e
		}
		e = slices.Clone(e)
		slices.SortFunc(e, compareElements)
		return e
	}
	have, want = sorted(have), sorted(want)
	for len(have) > 0 || len(want) > 0 {
		order := 0
		switch {
		case len(have) == 0:
			order = 1
		case len(want) == 0:
			order = -1
		default:
			order = compareElements(have[0], want[0])
		}
		switch {
		case order < 0:
			del, have = append(del, have[0]), have[1:]
		case order > 0:
			add, want = append(add, want[0]), want[1:]
		default:
			if !reflect.DeepEqual(have[0], want[0]) {
				del, add = append(del, have[0]), append(add, want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	return add, del
}

func compareElements(a, b nftables.SetElement) int {
	return cmp.Or(slices.Compare(a.Key, b.Key), slices.Compare(a.KeyEnd, b.KeyEnd))
}

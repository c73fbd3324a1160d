package nft

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"

	"weft/internal/reconcile"
)

const (
	// A message holds at most so many elements, or so many bytes of them: its attribute's length
	// field can tell 64 KiB, and more is lost without an error.
	elementsPerMessage = 500
	bytesPerMessage    = 40 << 10
)

// Tx is one transaction: its methods collect messages, which the kernel takes as a whole, in order,
// or not at all. What a rule refers to must come before it; what goes must not be referred to any more.
type Tx struct {
	nft          *nftables.Conn
	owner        *Owner
	table        *nftables.Table
	ids          uint32
	mayDropTable bool
	err          error
	res          reconcile.Result
	origins      []origin // of the messages, in order
}

// own records an error when the name is not the owner's.
func (tx *Tx) own(name string) {
	if tx.err == nil && !strings.HasPrefix(name, tx.owner.prefix) {
		tx.err = fmt.Errorf("nftables: %q does not begin with %q", name, tx.owner.prefix)
	}
}

// AddChain adds the chain, without its rules; one that is there already is left as it is.
func (tx *Tx) AddChain(c Chain) {
	tx.own(c.Name)
	tx.about(Refusal{Chain: c.Name, Rule: -1})
	n := &nftables.Chain{Table: tx.table, Name: c.Name}
	if c.Base != nil {
		policy := c.Base.policy()
		n.Hooknum, n.Priority, n.Type, n.Policy, n.Device = c.Base.Hook, &c.Base.Priority, c.Base.Type, &policy, c.Base.Device
	}
	tx.nft.AddChain(n)
}

// FlushChain removes the rules of a chain.
func (tx *Tx) FlushChain(name string) {
	tx.own(name)
	tx.about(Refusal{Chain: name, Rule: -1})
	tx.nft.FlushChain(&nftables.Chain{Table: tx.table, Name: name})
}

// DelChain removes a chain that has no rules.
func (tx *Tx) DelChain(name string) {
	tx.own(name)
	tx.about(Refusal{Chain: name, Rule: -1})
	tx.nft.DelChain(&nftables.Chain{Table: tx.table, Name: name})
	tx.res.Removed++
}

// AddRules appends the chain's rules to it.
func (tx *Tx) AddRules(c Chain) {
	tx.own(c.Name)
	chain := &nftables.Chain{Table: tx.table, Name: c.Name}
	for i, r := range c.Rules {
		tx.about(Refusal{Chain: c.Name, Rule: i})
		tx.nft.AddRule(&nftables.Rule{Table: tx.table, Chain: chain, Exprs: r, UserData: c.comment(i)})
		if hasMasqueradeTo(r) && tx.err == nil {
			tx.err = renameLast(tx.nft)
		}
	}
	tx.res.Changed++
}

// AddCounter adds a named counter; one that is there counts on.
func (tx *Tx) AddCounter(name string) {
	tx.own(name)
	tx.about(Refusal{Rule: -1})
	tx.nft.AddObj(&nftables.CounterObj{Table: tx.table, Name: name})
}

// DelCounter removes a named counter that no rule uses.
func (tx *Tx) DelCounter(name string) {
	tx.own(name)
	tx.about(Refusal{Rule: -1})
	tx.nft.DeleteObject(&nftables.CounterObj{Table: tx.table, Name: name})
	tx.res.Removed++
}

// AddSet adds the set with its elements. One of the same kind that is there already is emptied first.
func (tx *Tx) AddSet(s Set) error {
	tx.own(s.Spec.Name)
	tx.about(Refusal{Set: s.Spec.Name, Rule: -1})
	spec := tx.spec(s.Spec)
	if err := tx.nft.AddSet(spec, nil); err != nil {
		return fmt.Errorf("add nftables set %s: %w", spec.Name, err)
	}
	tx.nft.FlushSet(spec)
	return tx.AddElements(s.Spec, s.elements())
}

// DelSet removes a set that no rule uses.
func (tx *Tx) DelSet(name string) {
	tx.own(name)
	tx.about(Refusal{Set: name, Rule: -1})
	tx.nft.DelSet(&nftables.Set{Table: tx.table, Name: name})
	tx.res.Removed++
}

// AddElements adds elements to a set that is there, or was added in this transaction.
func (tx *Tx) AddElements(spec nftables.Set, e []nftables.SetElement) error {
	tx.res.Added += len(e)
	return tx.elements(spec, e, "add elements to", tx.addElements)
}

// DelElements removes elements, each of which must be in the set.
func (tx *Tx) DelElements(spec nftables.Set, e []nftables.SetElement) error {
	tx.res.Removed += len(e)
	return tx.elements(spec, e, "remove elements from", tx.nft.SetDeleteElements)
}

func (tx *Tx) elements(spec nftables.Set, e []nftables.SetElement, what string, send func(*nftables.Set, []nftables.SetElement) error) error {
	tx.own(spec.Name)
	tx.about(Refusal{Set: spec.Name, Rule: -1})
	set := tx.spec(spec)
	if spec.Interval && !spec.Concatenation {
		e = bounds(e)
	}
	for len(e) > 0 {
		n := chunk(e)
		if err := send(set, e[:n]); err != nil {
			return fmt.Errorf("%s nftables set %s: %w", what, spec.Name, err)
		}
		e = e[n:]
	}
	return nil
}

func (tx *Tx) spec(s nftables.Set) *nftables.Set {
	tx.ids++
	s.Table, s.ID = tx.table, tx.ids
	return &s
}

// chunk returns how many of the elements one message takes; at least one.
func chunk(e []nftables.SetElement) int {
	const overhead = 64 // of one element's attributes
	size := 0
	for i := range e {
		size += len(e[i].Key) + len(e[i].KeyEnd) + len(e[i].Val) + len(e[i].Comment) + overhead
		if i > 0 && (size > bytesPerMessage || i == elementsPerMessage) {
			return i
		}
	}
	return len(e)
}

// bounds turns ranges into what an interval set holds: the first key, and the first key that no longer
// belongs to it, unless the range has no end.
func bounds(ranges []nftables.SetElement) []nftables.SetElement {
	e := make([]nftables.SetElement, 0, 2*len(ranges))
	for _, r := range ranges {
		last := r.KeyEnd
		if last == nil {
			last = r.Key
		}
		r.KeyEnd = nil
		e = append(e, r)
		if end, ok := after(last); ok {
			e = append(e, nftables.SetElement{Key: end, IntervalEnd: true})
		}
	}
	return e
}

// after returns the key behind this one; ok is false behind the last.
func after(key []byte) (next []byte, ok bool) {
	next = bytes.Clone(key)
	for i := len(next) - 1; i >= 0; i-- {
		if next[i]++; next[i] != 0 {
			return next, true
		}
	}
	return nil, false
}

// change makes a program that is in place another one.
func (tx *Tx) change(d changes) error {
	for _, c := range d.countersCome {
		tx.AddCounter(c)
	}
	for _, c := range d.chainsCome {
		tx.AddChain(c) // before what may send packets there: elements of maps, rules
	}
	for _, s := range d.setsCome {
		if err := tx.AddSet(s); err != nil {
			return err
		}
	}
	for _, e := range d.elements {
		// First what goes: ranges must not overlap, and a map's key has one value.
		if err := tx.DelElements(e.set, e.del); err != nil {
			return err
		}
		if err := tx.AddElements(e.set, e.add); err != nil {
			return err
		}
	}
	for _, f := range d.flowTables {
		tx.AddFlowTable(f)
	}
	for _, c := range d.rules {
		tx.FlushChain(c.Name)
	}
	for _, c := range d.chainsGo {
		tx.FlushChain(c)
	}
	for _, c := range d.rules {
		tx.AddRules(c)
	}
	for _, s := range d.setsGo {
		tx.DelSet(s)
	}
	for _, c := range d.chainsGo {
		tx.DelChain(c)
	}
	for _, c := range d.countersGo {
		tx.DelCounter(c)
	}
	return nil
}

// Replace puts the program in the place of whatever the kernel has under the owner's names; when it
// is empty and nobody else has anything in the table, the table goes too.
func (tx *Tx) Replace(want Program) error {
	there, err := tx.read()
	if err != nil {
		return err
	}
	if want.Empty() && !there.table {
		return nil
	}
	tx.nft.AddTable(tx.table) // also wakes a table that was made dormant
	for _, c := range there.chains {
		tx.nft.FlushChain(c)
	}
	wanted := want.names()
	for _, s := range there.sets { // first: elements of maps may be what refers to a chain
		tx.nft.DelSet(s)
		if wanted.sets[s.Name] == nil {
			tx.res.Removed++
		}
	}
	for _, c := range there.chains {
		if w := wanted.chains[c.Name]; w == nil || !sound(c, *w) {
			tx.nft.DelChain(c)
			tx.res.Removed++
		}
	}
	for _, f := range there.flowTables { // also one that is wanted: what it holds was let in by rules that may not be ours
		tx.nft.DelFlowtable(f)
	}
	for _, c := range there.counters {
		if !slices.Contains(want.Counters, c.Name) {
			tx.nft.DeleteObject(c)
			tx.res.Removed++
		}
	}
	tx.mayDropTable = want.Empty()
	return tx.write(want)
}

// write adds all of the program.
func (tx *Tx) write(want Program) error {
	for _, c := range want.Counters {
		tx.AddCounter(c)
	}
	for _, c := range want.Chains {
		tx.AddChain(c)
		// A chain that came between reading and writing, or that an interrupted dump left out, may
		// have rules.
		tx.FlushChain(c.Name)
	}
	for _, s := range want.Sets {
		if err := tx.AddSet(s); err != nil {
			return err
		}
	}
	for _, f := range want.FlowTables {
		tx.AddFlowTable(f)
	}
	for _, c := range want.Chains {
		tx.AddRules(c)
	}
	return nil
}

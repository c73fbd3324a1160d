// Package selector is the label selector language of the v3 resources: parse, print, evaluate.
// It owns the grammar and its meaning on one set of labels, and an Index that keeps track of which
// of many selectors match which of many labelled things. It does not know where labels come from
// (pods, namespaces, nodes, network sets).
//
// The grammar, lowest precedence first; white space is free between tokens:
//
//	selector = [ or ]                                   empty is all()
//	or       = and { "||" and }
//	and      = unary { "&&" unary }
//	unary    = { "!" } term
//	term     = "(" or ")" | "all()" | "global()" | "has(" label ")"
//	         | label "==" string | label "!=" string
//	         | label "in" set    | label "not in" set
//	         | label "contains" string | label "starts with" string | label "ends with" string
//	set      = "{" [ string { "," string } ] "}"
//	label    = 1 to 512 of A-Z a-z 0-9 _ . / -
//	string   = '…' without ' | "…" without "            there are no escapes
//
// global() must stand alone. "!=" and "not in" match when the label is absent; every other
// comparison does not.
package selector

import (
	"slices"
	"strings"
)

// Bounds of what Parse accepts. They keep a hostile selector from costing a node its stack or
// its time; no manifest comes near.
const (
	MaxLength      = 64 << 10 // bytes of a whole selector
	MaxLabelLength = 512      // bytes of a label name
	MaxDepth       = 64       // nested parentheses
)

// NamespaceLabel is the label that a namespaced object carries beside its own labels when it is
// matched; global() means its absence.
const NamespaceLabel = "projectcalico.org/namespace"

// Selector is a parsed selector: immutable, safe for concurrent use. Its zero value is all().
type Selector struct {
	root node
}

type op int

const (
	opAll op = iota
	opGlobal
	opHas
	opEqual
	opNotEqual
	opIn
	opNotIn
	opContains
	opStartsWith
	opEndsWith
	opNot // one child
	opAnd // two children or more, none of them opAnd
	opOr  // two children or more, none of them opOr
)

// node is one operator. Which fields count follows from op.
type node struct {
	op     op
	label  string
	value  string
	values []string // sorted, without duplicates: opIn, opNotIn
	kids   []node   // opNot, opAnd, opOr
}

// Matches tells whether the selector selects an object with these labels.
func (s *Selector) Matches(labels map[string]string) bool { return s.root.matches(labelMap(labels)) }

// labels are one object's labels.
type labels interface {
	get(name string) (value string, present bool)
}

type labelMap map[string]string

func (m labelMap) get(name string) (string, bool) {
	v, present := m[name]
	return v, present
}

// Global tells whether the selector is global(): the objects that are in no namespace.
func (s *Selector) Global() bool { return s.root.op == opGlobal }

// All tells whether the selector is written as all(), or empty.
func (s *Selector) All() bool { return s.root.op == opAll }

// String prints the selector canonically: one spelling for all selectors that differ in white
// space, quotes, needless parentheses, double negation, or in order or repetition within a set.
// Parsing it gives a selector that prints the same and selects the same.
func (s *Selector) String() string {
	var b strings.Builder
	s.root.print(&b, opOr)
	return b.String()
}

func (n *node) matches(l labels) bool {
	switch n.op {
	case opAll:
		return true
	case opNot:
		return !n.kids[0].matches(l)
	case opAnd:
		for i := range n.kids {
			if !n.kids[i].matches(l) {
				return false
			}
		}
		return true
	case opOr:
		for i := range n.kids {
			if n.kids[i].matches(l) {
				return true
			}
		}
		return false
	case opGlobal:
		_, namespaced := l.get(NamespaceLabel)
		return !namespaced
	}
	v, present := l.get(n.label)
	return n.matchesValue(v, present)
}

// matchesValue evaluates a comparison with the value of its label.
func (n *node) matchesValue(v string, present bool) bool {
	switch n.op {
	case opNotEqual:
		return !present || v != n.value
	case opNotIn:
		return !present || !n.holds(v)
	}
	if !present {
		return false
	}
	switch n.op {
	case opHas:
		return true
	case opEqual:
		return v == n.value
	case opIn:
		return n.holds(v)
	case opContains:
		return strings.Contains(v, n.value)
	case opStartsWith:
		return strings.HasPrefix(v, n.value)
	case opEndsWith:
		return strings.HasSuffix(v, n.value)
	}
	return false
}

// comparison tells whether n compares a label's value.
func (n *node) comparison() bool { return n.op >= opEqual && n.op <= opEndsWith }

func (n *node) holds(v string) bool {
	_, found := slices.BinarySearch(n.values, v)
	return found
}

// print writes n as the operand of an operator: only an operand of lower precedence needs
// parentheses.
func (n *node) print(b *strings.Builder, outer op) {
	switch n.op {
	case opAll:
		b.WriteString("all()")
	case opGlobal:
		b.WriteString("global()")
	case opHas:
		b.WriteString("has(" + n.label + ")")
	case opNot:
		b.WriteByte('!')
		n.kids[0].print(b, opNot)
	case opAnd, opOr:
		n.printKids(b, outer)
	default:
		if outer == opNot { // "!a == 'b'" is right, but reads wrong
			b.WriteByte('(')
			defer b.WriteByte(')')
		}
		b.WriteString(n.label + comparisonText[n.op])
		if n.op == opIn || n.op == opNotIn {
			b.WriteString("{" + quoteAll(n.values) + "}")
		} else {
			b.WriteString(quote(n.value))
		}
	}
}

func (n *node) printKids(b *strings.Builder, outer op) {
	if outer == opNot || n.op == opOr && outer == opAnd {
		b.WriteByte('(')
		defer b.WriteByte(')')
	}
	between := " && "
	if n.op == opOr {
		between = " || "
	}
	for i := range n.kids {
		if i > 0 {
			b.WriteString(between)
		}
		n.kids[i].print(b, n.op)
	}
}

var comparisonText = [...]string{
	opEqual: " == ", opNotEqual: " != ", opIn: " in ", opNotIn: " not in ",
	opContains: " contains ", opStartsWith: " starts with ", opEndsWith: " ends with ",
}

// quote prefers single quotes. A value cannot hold both kinds, since there are no escapes.
func quote(s string) string {
	if strings.Contains(s, "'") {
		return `"` + s + `"`
	}
	return "'" + s + "'"
}

func quoteAll(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	return strings.Join(quoted, ", ")
}

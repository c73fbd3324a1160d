package selector

// atom is a condition on one label: that it is there, or also that it has this value.
type atom struct {
	label, value string
	any          bool
}

// cover returns atoms such that whatever n matches (or does not match, when negated) fulfils at
// least one of them. It is false when there are none such: then everything may match. Of several
// covers it takes the one of the least cost.
func (n *node) cover(negated bool, cost func(atom) int) ([]atom, bool) {
	switch n.op {
	case opAll:
		return nil, negated
	case opGlobal:
		return []atom{{label: NamespaceLabel, any: true}}, negated
	case opNot:
		return n.kids[0].cover(!negated, cost)
	case opAnd, opOr:
		if (n.op == opAnd) != negated {
			return n.coverOfOne(negated, cost)
		}
		return n.coverOfAll(negated, cost)
	case opEqual, opNotEqual:
		return []atom{{label: n.label, value: n.value}}, (n.op == opEqual) != negated
	case opIn, opNotIn:
		atoms := make([]atom, len(n.values))
		for i, v := range n.values {
			atoms[i] = atom{label: n.label, value: v}
		}
		return atoms, (n.op == opIn) != negated
	}
	return []atom{{label: n.label, any: true}}, !negated
}

// coverOfOne is for kids that must all hold: the cheapest of their covers.
func (n *node) coverOfOne(negated bool, cost func(atom) int) (best []atom, ok bool) {
	least := 0
	for i := range n.kids {
		c, found := n.kids[i].cover(negated, cost)
		if !found {
			continue
		}
		sum := 0
		for _, a := range c {
			sum += cost(a)
		}
		if !ok || sum < least {
			best, ok, least = c, true, sum
		}
	}
	return best, ok
}

// coverOfAll is for kids of which one must hold: all of their covers.
func (n *node) coverOfAll(negated bool, cost func(atom) int) (all []atom, ok bool) {
	for i := range n.kids {
		c, found := n.kids[i].cover(negated, cost)
		if !found {
			return nil, false
		}
		all = append(all, c...)
	}
	return all, true
}

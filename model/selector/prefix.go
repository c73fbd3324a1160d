package selector

// Prefixed returns the selector as it is asked of things that carry the labels of their group beside
// their own: every label of s has the prefix, and all() and global() ask whether the label member,
// which all things in a group have and no others, is there. That is how selectors of namespaces and
// service accounts are put to pods. s stays as it is.
func (s *Selector) Prefixed(prefix, member string) *Selector {
	return &Selector{root: s.root.prefixed(prefix, member)}
}

func (n *node) prefixed(prefix, member string) node {
	out := *n
	switch n.op {
	case opAll:
		return node{op: opHas, label: member}
	case opGlobal:
		return node{op: opNot, kids: []node{{op: opHas, label: member}}}
	case opNot, opAnd, opOr:
		out.kids = make([]node, len(n.kids))
		for i := range n.kids {
			out.kids[i] = n.kids[i].prefixed(prefix, member)
		}
	default:
		out.label = prefix + n.label
	}
	return out
}

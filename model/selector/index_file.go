package selector

import (
	"iter"
	"maps"
	"slices"
)

// How the Index files labels, parents and selectors, and drops what nothing refers to any more.

// values returns the entries of labels, made where they are not there.
func (x *Index[I, S]) values(labels map[string]string) []*value[I, S] {
	if len(labels) == 0 {
		return nil
	}
	vs := make([]*value[I, S], 0, len(labels))
	for name, v := range labels {
		at := x.value(name, v)
		at.label.holders++
		vs = append(vs, at)
	}
	return vs
}

func (x *Index[I, S]) value(name, v string) *value[I, S] {
	l := x.label(name)
	at := l.values[v]
	if at == nil {
		at = &value[I, S]{label: l, value: v}
		l.values[v] = at
	}
	return at
}

func (x *Index[I, S]) label(name string) *label[I, S] {
	l := x.labels[name]
	if l == nil {
		l = &label[I, S]{name: name, values: map[string]*value[I, S]{}}
		x.labels[name] = l
	}
	return l
}

// put adds to a set that may not be made yet: most values are of items only.
func put[K comparable](set *map[K]struct{}, k K) {
	if *set == nil {
		*set = map[K]struct{}{}
	}
	(*set)[k] = struct{}{}
}

// release is for values that somebody held: it drops those that nobody has any use for.
func (x *Index[I, S]) release(values []*value[I, S]) {
	for _, v := range values {
		v.label.holders--
		x.drop(v)
	}
}

func (x *Index[I, S]) drop(v *value[I, S]) {
	if len(v.items)+len(v.parents)+len(v.entries) > 0 {
		return
	}
	delete(v.label.values, v.value)
	x.dropLabel(v.label)
}

func (x *Index[I, S]) dropLabel(l *label[I, S]) {
	if len(l.values)+len(l.entries) == 0 {
		delete(x.labels, l.name)
	}
}

// holds tells whether values are just the labels.
func holds[I, S comparable](values []*value[I, S], labels map[string]string) bool {
	if len(values) != len(labels) {
		return false
	}
	for _, v := range values {
		if l, there := labels[v.label.name]; !there || l != v.value {
			return false
		}
	}
	return true
}

func (x *Index[I, S]) parent(name string) *parent[I, S] {
	p := x.parents[name]
	if p == nil {
		p = &parent[I, S]{name: name, items: map[*item[I, S]]struct{}{}}
		x.parents[name] = p
	}
	return p
}

func (it *item[I, S]) inherits(parents []string) bool {
	if len(it.parents) != len(parents) {
		return false
	}
	for i, p := range it.parents {
		if p.name != parents[i] {
			return false
		}
	}
	return true
}

func (x *Index[I, S]) inherit(it *item[I, S], parents []string) {
	for _, p := range it.parents {
		delete(p.items, it)
	}
	it.parents = make([]*parent[I, S], len(parents))
	for i, name := range parents {
		it.parents[i] = x.parent(name)
		it.parents[i].items[it] = struct{}{}
	}
}

// abandon drops parents without labels and items.
func (x *Index[I, S]) abandon(parents []*parent[I, S]) {
	for _, p := range parents {
		if len(p.own)+len(p.items) == 0 {
			delete(x.parents, p.name)
		}
	}
}

// file puts a selector where items that it may match are found by it and find it.
func (x *Index[I, S]) file(e *entry[I, S]) {
	atoms, ok := e.sel.root.cover(false, x.cost)
	e.filed = atoms
	if !ok {
		e.filed = nil
		x.unfiled[e] = struct{}{}
	}
	for _, a := range e.filed {
		if a.any {
			l := x.label(a.label)
			l.entries = append(l.entries, e)
		} else {
			v := x.value(a.label, a.value)
			v.entries = append(v.entries, e)
		}
	}
}

func (x *Index[I, S]) unfile(e *entry[I, S]) {
	delete(x.unfiled, e)
	for _, a := range e.filed {
		if a.any {
			if l := x.labels[a.label]; l != nil {
				l.entries = without(l.entries, e)
				x.dropLabel(l)
			}
		} else if v := x.known(a.label, a.value); v != nil {
			v.entries = without(v.entries, e)
			x.drop(v)
		}
	}
}

func (x *Index[I, S]) known(name, v string) *value[I, S] {
	l := x.labels[name]
	if l == nil {
		return nil
	}
	return l.values[v]
}

// cost estimates how many items an atom leads to, and after that how many selectors are there
// already.
func (x *Index[I, S]) cost(a atom) int {
	const weight = 16
	l := x.labels[a.label]
	if l == nil {
		return 1
	}
	if a.any {
		return 1 + weight*l.holders + len(l.entries)
	}
	v := l.values[a.value]
	if v == nil {
		return 1
	}
	n := len(v.items)
	for p := range v.parents {
		n += len(p.items)
	}
	return 1 + weight*n + len(v.entries)
}

// candidates yields the items that a filed selector may match, some of them more than once.
func (x *Index[I, S]) candidates(e *entry[I, S]) iter.Seq[*item[I, S]] {
	if _, all := x.unfiled[e]; all {
		return maps.Values(x.items)
	}
	return func(yield func(*item[I, S]) bool) {
		for _, a := range e.filed {
			if !a.any {
				if v := x.known(a.label, a.value); v != nil && !v.each(yield) {
					return
				}
				continue
			}
			for _, v := range x.labels[a.label].values {
				if !v.each(yield) {
					return
				}
			}
		}
	}
}

// each calls f for the items that have the value or inherit it, until f is false.
func (v *value[I, S]) each(f func(*item[I, S]) bool) bool {
	for it := range v.items {
		if !f(it) {
			return false
		}
	}
	for p := range v.parents {
		for it := range p.items {
			if !f(it) {
				return false
			}
		}
	}
	return true
}

// without removes e from a list whose order does not matter: the last fills its place.
func without[T comparable](list []T, e T) []T {
	i := slices.Index(list, e)
	if i < 0 {
		return list
	}
	last := len(list) - 1
	list[i] = list[last]
	clear(list[last:])
	return list[:last]
}

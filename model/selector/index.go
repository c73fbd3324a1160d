package selector

import (
	"iter"
	"slices"
)

// Index keeps track of which selectors match which items, as both come, change and go. An item has
// labels of its own and inherits those of its parents: its own come first, then those of the first
// parent that has the label. I and S are what the user knows items and selectors by.
//
// A change of an item costs as much as there are selectors that its labels' values lead to, a new
// selector as much as there are items that it leads to: each selector is filed under labels or
// values of which one must be there for it to match. Only selectors without such, for example
// "!has(a)", are tried on every item.
//
// Not for concurrent use. The callbacks must not change the Index.
type Index[I, S comparable] struct {
	started, stopped func(S, I)

	labels    map[string]*label[I, S]
	items     map[I]*item[I, S]
	parents   map[string]*parent[I, S]
	selectors map[S]*entry[I, S]
	unfiled   map[*entry[I, S]]struct{}
	visit     uint64
}

// NewIndex returns an empty Index. It calls started when a selector begins to match an item, and
// stopped when it no longer does, also because one of them is deleted.
func NewIndex[I, S comparable](started, stopped func(S, I)) *Index[I, S] {
	return &Index[I, S]{
		started: started, stopped: stopped,
		labels: map[string]*label[I, S]{}, items: map[I]*item[I, S]{}, parents: map[string]*parent[I, S]{},
		selectors: map[S]*entry[I, S]{}, unfiled: map[*entry[I, S]]struct{}{},
	}
}

// label is what is known of one label name.
type label[I, S comparable] struct {
	name    string
	values  map[string]*value[I, S]
	entries []*entry[I, S] // filed under the label, whatever its value
	holders int            // items and parents that have it
}

// value is what is known of one label with one value. Items and parents refer to their labels by it.
type value[I, S comparable] struct {
	label   *label[I, S]
	value   string
	items   map[*item[I, S]]struct{}
	parents map[*parent[I, S]]struct{}
	entries []*entry[I, S] // filed under this value
}

type item[I, S comparable] struct {
	id      I
	own     []*value[I, S]
	parents []*parent[I, S]
	matched []*entry[I, S]
}

type parent[I, S comparable] struct {
	name  string
	own   []*value[I, S]
	items map[*item[I, S]]struct{}
}

type entry[I, S comparable] struct {
	id      S
	sel     *Selector
	filed   []atom
	matched map[*item[I, S]]struct{}
	visit   uint64
}

// SetItem adds an item, or gives it other labels or parents. A parent that is not set has no labels.
func (x *Index[I, S]) SetItem(id I, labels map[string]string, parents []string) {
	it := x.items[id]
	isNew := it == nil
	if isNew {
		it = &item[I, S]{id: id}
		x.items[id] = it
	}
	sameLabels, sameParents := holds(it.own, labels), it.inherits(parents)
	if !isNew && sameLabels && sameParents {
		return
	}
	oldParents, oldOwn := it.parents, it.own
	if !sameLabels {
		it.own = x.values(labels)
		for _, v := range oldOwn {
			if !slices.Contains(it.own, v) {
				delete(v.items, it)
			}
		}
		for _, v := range it.own {
			if !slices.Contains(oldOwn, v) {
				put(&v.items, it)
			}
		}
	}
	if !sameParents {
		x.inherit(it, parents)
	}
	x.review(it)
	if !sameLabels {
		x.release(oldOwn)
	}
	x.abandon(oldParents)
}

// DeleteItem removes an item. One that is not there is fine.
func (x *Index[I, S]) DeleteItem(id I) {
	it := x.items[id]
	if it == nil {
		return
	}
	for len(it.matched) > 0 {
		x.stop(it.matched[len(it.matched)-1], it)
	}
	for _, v := range it.own {
		delete(v.items, it)
	}
	for _, p := range it.parents {
		delete(p.items, it)
	}
	x.release(it.own)
	x.abandon(it.parents)
	delete(x.items, id)
}

// SetParent gives a parent labels; none is the same as deleting it.
func (x *Index[I, S]) SetParent(name string, labels map[string]string) {
	p := x.parent(name)
	if !holds(p.own, labels) {
		old := p.own
		for _, v := range old {
			delete(v.parents, p)
		}
		p.own = x.values(labels)
		for _, v := range p.own {
			put(&v.parents, p)
		}
		for it := range p.items {
			x.review(it)
		}
		x.release(old)
	}
	x.abandon([]*parent[I, S]{p})
}

// SetSelector adds a selector, or makes it another one.
func (x *Index[I, S]) SetSelector(id S, sel *Selector) {
	e := x.selectors[id]
	if e == nil {
		e = &entry[I, S]{id: id, matched: map[*item[I, S]]struct{}{}}
		x.selectors[id] = e
	} else {
		x.unfile(e)
	}
	e.sel = sel
	for it := range e.matched {
		if !sel.root.matches(it) {
			x.stop(e, it)
		}
	}
	x.file(e)
	for it := range x.candidates(e) {
		if _, already := e.matched[it]; !already && sel.root.matches(it) {
			x.start(e, it)
		}
	}
}

// DeleteSelector removes a selector. One that is not there is fine.
func (x *Index[I, S]) DeleteSelector(id S) {
	e := x.selectors[id]
	if e == nil {
		return
	}
	for it := range e.matched {
		x.stop(e, it)
	}
	x.unfile(e)
	delete(x.selectors, id)
}

// Items yields the items that a selector matches, in no order.
func (x *Index[I, S]) Items(id S) iter.Seq[I] {
	return func(yield func(I) bool) {
		if e := x.selectors[id]; e != nil {
			for it := range e.matched {
				if !yield(it.id) {
					return
				}
			}
		}
	}
}

// Selectors yields the selectors that match an item, in no order.
func (x *Index[I, S]) Selectors(id I) iter.Seq[S] {
	return func(yield func(S) bool) {
		if it := x.items[id]; it != nil {
			for _, e := range it.matched {
				if !yield(e.id) {
					return
				}
			}
		}
	}
}

// get is the meaning of inheritance.
func (it *item[I, S]) get(name string) (string, bool) {
	for _, v := range it.own {
		if v.label.name == name {
			return v.value, true
		}
	}
	for _, p := range it.parents {
		for _, v := range p.own {
			if v.label.name == name {
				return v.value, true
			}
		}
	}
	return "", false
}

// review finds out anew which selectors match an item.
func (x *Index[I, S]) review(it *item[I, S]) {
	for i := len(it.matched) - 1; i >= 0; i-- { // from the end, since stop fills the gap with the last
		if e := it.matched[i]; !e.sel.root.matches(it) {
			x.stop(e, it)
		}
	}
	x.visit++
	for _, e := range it.matched {
		e.visit = x.visit
	}
	for e := range x.unfiled {
		x.try(e, it)
	}
	x.tryAll(it.own, it)
	for _, p := range it.parents {
		x.tryAll(p.own, it)
	}
}

func (x *Index[I, S]) tryAll(values []*value[I, S], it *item[I, S]) {
	for _, v := range values {
		for _, e := range v.entries {
			x.try(e, it)
		}
		for _, e := range v.label.entries {
			x.try(e, it)
		}
	}
}

// try sees once in a visit whether a selector that did not match an item does now.
func (x *Index[I, S]) try(e *entry[I, S], it *item[I, S]) {
	if e.visit == x.visit {
		return
	}
	e.visit = x.visit
	if e.sel.root.matches(it) {
		x.start(e, it)
	}
}

func (x *Index[I, S]) start(e *entry[I, S], it *item[I, S]) {
	e.matched[it] = struct{}{}
	it.matched = append(it.matched, e)
	x.started(e.id, it.id)
}

func (x *Index[I, S]) stop(e *entry[I, S], it *item[I, S]) {
	delete(e.matched, it)
	it.matched = without(it.matched, e)
	x.stopped(e.id, it.id)
}

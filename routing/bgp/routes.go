package bgp

import (
	"net/netip"
	"slices"

	"weft/routing"
	"weft/routing/bgp/speaker"
)

// routes are those that streams of events told of. A list of them costs what changed since the one before, and a copy.
// The zero value is ready, and has none.
type routes struct {
	all   map[netip.Prefix]known
	list  []routing.Learned // of the last call of sorted: others have it, too
	fresh []netip.Prefix    // that may differ in list
}

// known is the way to a prefix, which others may share, and the stream that told of it last.
type known struct {
	*routing.Way
	stream uint64
}

// take takes an event of a stream, and tells whether sorted returns something else than before.
func (r *routes) take(stream uint64, e *speaker.Event) (changed bool) {
	if r.all == nil {
		r.all = map[netip.Prefix]known{}
	}
	for _, b := range e.Routes {
		way := b.Way // not all of b
		for _, p := range b.Prefixes {
			r.all[p] = known{&way, stream}
		}
		r.fresh = append(r.fresh, b.Prefixes...)
	}
	for _, p := range e.Withdrawn {
		r.drop(p)
	}
	if e.Settled {
		for p, k := range r.all {
			if k.stream != stream {
				r.drop(p)
			}
		}
	}
	return len(r.fresh) > 0
}

func (r *routes) drop(p netip.Prefix) {
	if _, there := r.all[p]; there {
		delete(r.all, p)
		r.fresh = append(r.fresh, p)
	}
}

// clear forgets all, and tells whether there was any.
func (r *routes) clear() bool {
	had := len(r.all) > 0
	*r = routes{}
	return had
}

// sorted returns the routes by prefix, with at most so many changes since the call before; more tells that there are
// others. What it returns may not be changed.
func (r *routes) sorted(most int) (list []routing.Learned, more bool) {
	if len(r.fresh) == 0 {
		return r.list, false
	}
	slices.SortFunc(r.fresh, netip.Prefix.Compare)
	r.fresh = slices.Compact(r.fresh)
	now := r.fresh[:min(most, len(r.fresh))]
	out, rest := make([]routing.Learned, 0, len(r.list)+len(now)), r.list
	for _, p := range now {
		at, there := slices.BinarySearchFunc(rest, p, func(l routing.Learned, p netip.Prefix) int { return l.Prefix.Compare(p) })
		out = append(out, rest[:at]...)
		if there {
			at++
		}
		rest = rest[at:]
		if k, is := r.all[p]; is {
			out = append(out, routing.Learned{Prefix: p, Way: k.Way})
		}
	}
	r.list, r.fresh = append(out, rest...), r.fresh[len(now):]
	if len(r.fresh) == 0 {
		r.fresh = nil
	}
	return r.list, r.fresh != nil
}

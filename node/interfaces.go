package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	v3 "weft/api/v3"
	"weft/model"
)

// An interface that is not in this node's record has no host endpoint, and may be open for as long: what comes is published
// at once, and what goes is held back. Only where interfaces or addresses come and go all the time does a change wait: it must
// not be as many writes for all who watch nodes.
const (
	interfacesKept  = time.Minute      // how long an address that is gone stays in the record
	interfacesPause = 10 * time.Second // between two changes of the record, after a burst
	interfacesBurst = 6
)

// interfacesHold slows down changes of the interfaces in this node's record.
type interfacesHold struct {
	limit *rate.Limiter // of changes written; nil before the first
	gone  map[goneAddress]time.Time
	asked time.Time // until when another pass is asked for
	left  unpublished
}

// goneAddress is an address that an interface has in the record, and no longer in the kernel.
type goneAddress struct {
	name string
	addr netip.Addr
}

// unpublished counts what has no room in the record.
type unpublished struct{ interfaces, addresses int }

// setInterfaces writes this host's interfaces into want, or leaves those of have there for now. own are the node's
// addresses.
func (p *publisher) setInterfaces(have, want *v3.Node, u model.Underlay, own []netip.Prefix) {
	now := time.Now()
	var was []v3.NodeInterface
	if have != nil {
		was = have.Spec.Interfaces
	}
	links := hostLinks(u)
	held, due := p.interfaces.hold(links, was, now)
	is, left := publishedInterfaces(links, own, was, held)
	same := sameInterfaces(was, is)
	if wait := p.interfaces.wait(now); have != nil && !same && wait > 0 {
		is, left = was, p.interfaces.left
		due = earlier(due, now.Add(wait))
	} else if same {
		is = was
	}
	want.Spec.Interfaces = is
	if !due.IsZero() && p.again != nil && p.interfaces.asked != due {
		p.interfaces.asked = due
		p.again(due.Sub(now))
	}
	p.mu.Lock()
	p.interfaces.left = left
	p.mu.Unlock()
}

// hold returns the addresses by interface that stay in the record although they are gone, and when the first of them is to go.
// What another interface has does not stay, and nothing of an interface that is gone.
func (h *interfacesHold) hold(links []model.Link, was []v3.NodeInterface, now time.Time) (held map[string][]netip.Addr, due time.Time) {
	names, there := map[string]bool{}, map[netip.Addr]bool{}
	for _, l := range links {
		names[l.Name] = true
		for _, a := range l.Addresses {
			there[a.Addr()] = true
		}
	}
	held = map[string][]netip.Addr{}
	gone := map[goneAddress]time.Time{}
	for _, i := range was {
		for _, s := range i.Addresses {
			s, _, _ = strings.Cut(s, "/")
			a, err := netip.ParseAddr(s)
			if err != nil || there[a] || !names[i.Name] {
				continue
			}
			k := goneAddress{i.Name, a}
			since, known := h.gone[k]
			if !known {
				since = now
			}
			gone[k] = since
			if end := since.Add(interfacesKept); now.Before(end) {
				held[i.Name] = append(held[i.Name], a)
				due = earlier(due, end)
			}
		}
	}
	h.gone = gone
	return held, due
}

// earlier returns the earlier of two times, of which the first may be none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// wait returns how long the next change has to wait.
func (h *interfacesHold) wait(now time.Time) time.Duration {
	if h.limit == nil {
		return 0
	}
	tokens := h.limit.TokensAt(now)
	if tokens >= 1 {
		return 0
	}
	return time.Duration((1-tokens)*float64(interfacesPause)) + time.Millisecond
}

// written counts a change that the store has taken.
func (h *interfacesHold) written() {
	if h.limit == nil {
		h.limit = rate.NewLimiter(rate.Every(interfacesPause), interfacesBurst)
	}
	h.limit.Allow()
}

func sameInterfaces(a, b []v3.NodeInterface) bool {
	return slices.EqualFunc(a, b, func(x, y v3.NodeInterface) bool { return x.Name == y.Name && slices.Equal(x.Addresses, y.Addresses) })
}

// hostLinks returns the interfaces that a node's record may say: without those that bring pods, containers and virtual machines
// their network, by their names, and those whose names no resource can say.
func hostLinks(u model.Underlay) []model.Link {
	return slices.DeleteFunc(slices.Clone(u.Links), func(l model.Link) bool { return skipped.MatchString(l.Name) || !v3.IsInterfaceName(l.Name) })
}

// publishedInterfaces returns what this node's record says of links, sorted by name, and what has no room there: first come the
// interfaces that have one of own, the node's addresses, then others with addresses, and of these the ones that are there
// (was). One without addresses is told too, since a host endpoint may go by its name. Held addresses come last.
func publishedInterfaces(links []model.Link, own []netip.Prefix, was []v3.NodeInterface, held map[string][]netip.Addr) (out []v3.NodeInterface, left unpublished) {
	known := map[string]bool{}
	for _, i := range was {
		known[i.Name] = true
	}
	rank := func(l model.Link) int {
		switch {
		case slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return slices.Contains(own, p) }):
			return 0
		case len(l.Addresses)+len(held[l.Name]) > 0 && known[l.Name]:
			return 1
		case len(l.Addresses) > 0:
			return 2
		case known[l.Name]:
			return 3
		}
		return 4
	}
	links = slices.SortedFunc(slices.Values(links), func(a, b model.Link) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name)) })
	told := links[:min(len(links), v3.MaxHostInterfaces)]
	left.interfaces = len(links) - len(told)
	room := v3.MaxHostAddresses
	addrs := map[string][]netip.Addr{}
	for i, l := range links {
		most := room
		if i >= len(told) {
			most = 0
		}
		for _, a := range l.Addresses[:min(len(l.Addresses), most)] {
			addrs[l.Name] = append(addrs[l.Name], a.Addr())
			room--
		}
		left.addresses += len(l.Addresses) - len(addrs[l.Name])
	}
	for _, l := range told {
		more := held[l.Name][:min(len(held[l.Name]), room)]
		room -= len(more)
		i := v3.NodeInterface{Name: l.Name}
		for _, a := range slices.SortedFunc(slices.Values(slices.Concat(addrs[l.Name], more)), netip.Addr.Compare) {
			i.Addresses = append(i.Addresses, a.String())
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b v3.NodeInterface) int { return cmp.Compare(a.Name, b.Name) })
	return out, left
}

// unsaid is a sentence about what has no room in the record; empty: all has.
func (h *interfacesHold) unsaid() string {
	if h.left == (unpublished{}) {
		return ""
	}
	return fmt.Sprintf("%d addresses and %d interfaces of this host are not in its Node record, which has room for %d and %d: no host endpoint that is made of the record has these addresses, but for the node's own, and there is none for these interfaces",
		h.left.addresses, h.left.interfaces, v3.MaxHostAddresses, v3.MaxHostInterfaces)
}

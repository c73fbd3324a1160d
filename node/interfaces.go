package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	v3 "weft/api/v3"
	"weft/model"
)

// interfacesPause is how long the interfaces in this node's record stand at least: an address that comes and goes all the
// time must not be as many writes for all who watch nodes.
const interfacesPause = 10 * time.Second

// interfacesHold slows down changes of the interfaces in this node's record.
type interfacesHold struct {
	since time.Time // of the last change
	asked time.Time // until when another pass is asked for
	left  int       // addresses that have no room in the record
}

// setInterfaces writes this host's interfaces into want, or leaves those of have there for now. own are the node's
// addresses.
func (p *publisher) setInterfaces(have, want *v3.Node, u model.Underlay, own []netip.Prefix) {
	now := time.Now()
	is, left := publishedInterfaces(u, own)
	if have != nil && sameInterfaces(have.Spec.Interfaces, is) {
		want.Spec.Interfaces = have.Spec.Interfaces
	} else if due := p.interfaces.since.Add(interfacesPause); have != nil && now.Before(due) {
		want.Spec.Interfaces = have.Spec.Interfaces
		if p.again != nil && p.interfaces.asked != due {
			p.interfaces.asked = due
			p.again(due.Sub(now))
		}
		return
	} else {
		want.Spec.Interfaces, p.interfaces.since = is, now
	}
	p.mu.Lock()
	p.interfaces.left = left
	p.mu.Unlock()
}

func sameInterfaces(a, b []v3.NodeInterface) bool {
	return slices.EqualFunc(a, b, func(x, y v3.NodeInterface) bool { return x.Name == y.Name && slices.Equal(x.Addresses, y.Addresses) })
}

// publishedInterfaces returns what this node's record says of this host's interfaces, sorted by name, addresses as the kernel
// has them, and how many addresses have no room there: first come the interfaces that have one of own, the node's addresses.
// Left out are those without addresses, those that bring pods, containers and virtual machines their network, and names
// that no resource can say.
func publishedInterfaces(u model.Underlay, own []netip.Prefix) (out []v3.NodeInterface, left int) {
	links := slices.DeleteFunc(slices.Clone(u.Links), func(l model.Link) bool {
		return len(l.Addresses) == 0 || skipped.MatchString(l.Name) || !v3.IsInterfaceName(l.Name)
	})
	other := func(l model.Link) int {
		if slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return slices.Contains(own, p) }) {
			return 0
		}
		return 1
	}
	byName := func(a, b v3.NodeInterface) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(links, func(a, b model.Link) int { return cmp.Or(cmp.Compare(other(a), other(b)), cmp.Compare(a.Name, b.Name)) })
	room := v3.MaxHostAddresses
	for _, l := range links {
		i := v3.NodeInterface{Name: l.Name}
		for _, a := range l.Addresses[:min(len(l.Addresses), room)] {
			i.Addresses = append(i.Addresses, a.Addr().String())
		}
		room -= len(i.Addresses)
		left += len(l.Addresses) - len(i.Addresses)
		if len(i.Addresses) > 0 {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, byName)
	return out, left
}

// unsaid is a sentence about addresses that have no room in the record; empty: all have.
func (h *interfacesHold) unsaid() string {
	if h.left == 0 {
		return ""
	}
	return fmt.Sprintf("%d addresses of this host are not in its Node record, which has room for %d: host endpoints that go by interfaces do not have them", h.left, v3.MaxHostAddresses)
}

package model

import (
	"cmp"
	"net/netip"
	"slices"
)

// Hop is a next hop on a device.
type Hop struct {
	Via    netip.Addr
	Device string
}

// Hops are the next hops of one route, all of the same weight: a value that == compares, like the rest of
// a route. The zero value is none.
type Hops struct{ packed string }

// HopsOf returns the hops in an order of their own, each once. Devices have up to 255 bytes, addresses no
// zone.
func HopsOf(all []Hop) Hops {
	all = slices.SortedFunc(slices.Values(all), func(a, b Hop) int { return cmp.Or(a.Via.Compare(b.Via), cmp.Compare(a.Device, b.Device)) })
	var b []byte
	for _, h := range slices.Compact(all) {
		via := h.Via.AsSlice()
		b = append(append(b, byte(len(via))), via...)
		b = append(append(b, byte(len(h.Device))), h.Device...)
	}
	return Hops{string(b)}
}

// IsZero tells whether there are none.
func (h Hops) IsZero() bool { return h.packed == "" }

// All returns the hops, sorted.
func (h Hops) All() []Hop {
	var all []Hop
	for s := h.packed; s != ""; {
		via, rest := s[1:1+s[0]], s[1+s[0]:]
		a, _ := netip.AddrFromSlice([]byte(via))
		all = append(all, Hop{a, rest[1 : 1+rest[0]]})
		s = rest[1+rest[0]:]
	}
	return all
}

// On tells whether one of the hops is on the device.
func (h Hops) On(device string) bool {
	return !h.IsZero() && slices.ContainsFunc(h.All(), func(o Hop) bool { return o.Device == device })
}

// String prints the hops in the words of ip(8).
func (h Hops) String() string {
	s := ""
	for i, o := range h.All() {
		if i > 0 {
			s += " "
		}
		s += "nexthop via " + o.Via.String() + " dev " + o.Device
	}
	return s
}

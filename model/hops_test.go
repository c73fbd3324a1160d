package model

import (
	"net/netip"
	"slices"
	"testing"
)

func TestHops(t *testing.T) {
	a, b, c := Hop{netip.MustParseAddr("192.0.2.1"), "eth0"}, Hop{netip.MustParseAddr("192.0.2.1"), "eth1"}, Hop{netip.MustParseAddr("fe80::1"), ""}
	h := HopsOf([]Hop{c, b, a, b})
	if h != HopsOf([]Hop{a, b, c}) || h == HopsOf([]Hop{a, b}) {
		t.Error("order or repetition makes a difference, or a hop does not")
	}
	if got := h.All(); !slices.Equal(got, []Hop{a, b, c}) {
		t.Errorf("got %v", got)
	}
	if !h.On("eth1") || h.On("eth2") || (Hops{}).On("") || !(Hops{}).IsZero() || !HopsOf(nil).IsZero() {
		t.Error("On or IsZero is wrong")
	}
	if got := HopsOf([]Hop{b, a}).String(); got != "nexthop via 192.0.2.1 dev eth0 nexthop via 192.0.2.1 dev eth1" {
		t.Errorf("got %q", got)
	}
}

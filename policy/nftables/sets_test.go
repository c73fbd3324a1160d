package nftables

import (
	"testing"

	"weft/model"
	"weft/policy"
)

// TestLayoutStays: at the border a set is written anew once, not with each member.
func TestLayoutStays(t *testing.T) {
	s := &setState{id: policy.SetID{Kind: policy.Selected, Family: model.IPv4}}
	writes := 0
	for _, members := range []int{50, 99, 100, 99, 100, 80, 75, 100, 74, 75, 99, 100} {
		s.counts = map[int]int{24: members - 10, 16: 10}
		if now := s.best(100); now != s.layout {
			s.layout = now
			writes++
		}
	}
	if writes != 4 || s.layout != cut { // ranged, cut at 100, ranged at 74, cut at 100
		t.Errorf("%d layouts, the last %v; want 4, the last %v", writes, s.layout, cut)
	}
}

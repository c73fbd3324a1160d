package model

import (
	"math"
	"slices"
	"testing"
)

// TestOrder: lower first, none given last, whatever the numbers; no overflow, no NaN.
func TestOrder(t *testing.T) {
	numbers := []float64{math.Inf(-1), -math.MaxFloat64, math.MinInt64, -1, -math.SmallestNonzeroFloat64, 0, math.SmallestNonzeroFloat64,
		1, 1 << 53, 1<<53 + 2, math.MaxInt64, math.MaxUint64, math.MaxFloat64, math.Inf(1)}
	var orders []Order
	for _, n := range numbers {
		o, err := OrderOf(n)
		if err != nil {
			t.Fatalf("OrderOf(%v): %v", n, err)
		}
		orders = append(orders, o)
	}
	for i, a := range orders {
		for j, b := range orders {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got := a.Compare(b); got != want {
				t.Errorf("%v against %v: got %d, want %d", numbers[i], numbers[j], got, want)
			}
		}
	}
	if last := orders[len(orders)-1]; last != (Order{}) || last.String() != "last" {
		t.Errorf("+Inf is %v, want none given", last)
	}
	zero, _ := OrderOf(0)
	if minus, _ := OrderOf(math.Copysign(0, -1)); minus.Compare(zero) != 0 || minus != zero {
		t.Errorf("0 and -0 differ")
	}
	if o, err := OrderOf(math.NaN()); err == nil {
		t.Errorf("NaN is %v, want an error", o)
	}
}

// TestPolicyIDCompare: name, kind, namespace, and equal only when the same.
func TestPolicyIDCompare(t *testing.T) {
	sorted := []PolicyID{
		{KindGlobalNetworkPolicy, "", "a"}, {KindKubernetesNetworkPolicy, "x", "a"}, {KindNetworkPolicy, "a", "a"},
		{KindNetworkPolicy, "b", "a"}, {KindStagedNetworkPolicy, "a", "a"}, {KindGlobalNetworkPolicy, "", "b"},
	}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := a.Compare(b); got != min(1, max(-1, i-j)) {
				t.Errorf("%s against %s: got %d", a, b, got)
			}
		}
	}
}

func TestBuiltinTiers(t *testing.T) {
	var tiers []Tier
	for _, name := range []string{"kube-baseline", "default", "kube-admin"} {
		tier, there := BuiltinTier(name)
		if !there {
			t.Fatalf("no tier %s", name)
		}
		tiers = append(tiers, tier)
	}
	slices.SortFunc(tiers, func(a, b Tier) int { return a.Order.Compare(b.Order) })
	for i, want := range []Tier{{"kube-admin", Order{1000, true}, Pass}, {"default", Order{1e6, true}, Deny}, {"kube-baseline", Order{1e7, true}, Pass}} {
		if tiers[i] != want {
			t.Errorf("tier %d: got %+v, want %+v", i, tiers[i], want)
		}
	}
	if tier, there := BuiltinTier("other"); there {
		t.Errorf("other is %+v", tier)
	}
}

func TestPacketString(t *testing.T) {
	for _, tc := range []struct {
		p    Packet
		want string
	}{
		{Packet{In: "eth0", Protocol: TCP, SrcPort: 1, DstPort: 2}, "eth0 -> host: invalid IP > invalid IP tcp 1 > 2"},
		{Packet{Out: "weft1", Protocol: ICMPv6, ICMPType: 128}, "host -> weft1: invalid IP > invalid IP icmpv6 type 128 code 0"},
		{Packet{In: "a", Out: "b", Protocol: 47}, "a -> b: invalid IP > invalid IP 47"},
	} {
		if got := tc.p.String(); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
}

package guard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"
	"pgregory.net/rapid"

	"weft/internal/nft"
	"weft/tunnel"
)

func source(outer, inner string) tunnel.Source {
	return tunnel.Source{Device: "weft-vxlan", Outer: netip.MustParseAddr(outer), Inner: netip.MustParsePrefix(inner)}
}

func TestCompileGuard(t *testing.T) {
	sources := []tunnel.Source{
		source("172.31.1.2", "10.244.9.7/32"), source("172.31.1.2", "10.244.1.0/26"), source("172.31.1.3", "10.244.2.0/26"),
		source("fd00::2", "fd00:10::/122"), source("172.31.1.3", "10.244.2.9/26"), // the last is 10.244.2.0/26 again
	}
	p := compile([]Endpoint{VXLAN(8472, 77), VXLAN(4789, 4096), VXLAN(4789, 4096)}, sources)
	want := "protocol 17 port 4789 vni 4096\nprotocol 17 port 8472 vni 77\n" +
		"set ip4-in-ip4-26: 2 elements\nset ip4-in-ip4-32: 1 elements\nset ip6-in-ip6-122: 1 elements\n"
	if d := cmp.Diff(want, p.format()); d != "" {
		t.Errorf("program (-want +got):\n%s", d)
	}
	// Two ports: of each, pods refused at both hooks, three shapes, and the drop at the end.
	checkRules(t, p, 2*(2+3+1))
	if p := compile(nil, sources); !p.empty() || len(p.elements) > 0 || !p.whole().Empty() {
		t.Errorf("without endpoints there is a guard: %s", p.format())
	}
	// IPIP: IPv4 in IPv4 only, whatever else the sources have.
	p = compile([]Endpoint{IPIP()}, sources)
	checkRules(t, p, 2+2+1)
}

func compile(endpoints []Endpoint, sources []tunnel.Source) *program {
	p := &program{names: testNames}
	p.revise(endpoints, sources)
	return p
}

var testNames = names{"t-", "t-input", "t-forward", "t-unknown", "t-from-pods"}

func checkRules(t *testing.T, p *program, want int) {
	t.Helper()
	got := 0
	for _, c := range p.chains() {
		got += len(c.Rules)
		if c.Name != testNames.input {
			continue
		}
		last := c.Rules[len(c.Rules)-1]
		if v, ok := last[len(last)-1].(*expr.Verdict); !ok || v.Kind != expr.VerdictDrop {
			t.Errorf("the last rule of %s is not drop", c.Name)
		}
	}
	if got != want {
		t.Errorf("%d rules, want %d", got, want)
	}
}

// TestGuardKeys has the kernel's arithmetic done here: a packet's key, its inner source cut by the
// rule's mask, is an element exactly when a source allows it.
func TestGuardKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v4 := func(label string) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 1).Draw(t, label)), byte(rapid.IntRange(0, 255).Draw(t, label))})
		}
		var sources []tunnel.Source
		for range rapid.IntRange(1, 8).Draw(t, "n") {
			sources = append(sources, tunnel.Source{Outer: v4("outer"), Inner: netip.PrefixFrom(v4("inner"), rapid.SampledFrom([]int{24, 26, 29, 32}).Draw(t, "bits"))})
		}
		p := compile([]Endpoint{VXLAN(4789, 1)}, sources)
		outer := rapid.OneOf(rapid.Just(sources[0].Outer), rapid.Just(v4("foreign"))).Draw(t, "from")
		inner := v4("packet")
		want := false
		for _, s := range sources {
			want = want || s.Outer == outer && s.Inner.Contains(inner)
		}
		got := false
		for _, s := range p.shapes {
			b := inner.AsSlice()
			for i, m := range nft.PrefixMask(s.inner, s.bits) {
				b[i] &= m
			}
			cut, _ := netip.AddrFromSlice(b)
			_, ok := p.elements[s][element{outer, cut}]
			got = got || ok
		}
		if got != want {
			t.Fatalf("%s through %s: guard says %v, sources say %v\n%v", inner, outer, got, want, sources)
		}
	})
}

// TestReviseProperty: over any sequence of plans, what revise tells to add and take away leads from
// one program's sets to those of the next, and revising gives what compiling anew gives.
func TestReviseProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &program{names: testNames}
		sets := map[string]map[string]bool{} // as the kernel would have them
		for range rapid.IntRange(1, 6).Draw(t, "plans") {
			var sources []tunnel.Source
			for range rapid.IntRange(0, 8).Draw(t, "n") {
				s := source(rapid.SampledFrom([]string{"172.31.1.2", "172.31.1.3", "fd00::2"}).Draw(t, "outer"),
					rapid.SampledFrom([]string{"10.0.0.0/26", "10.0.0.9/26", "10.0.0.64/26", "10.0.0.1/32", "fd10::/122"}).Draw(t, "inner"))
				s.Device = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "device")
				sources = append(sources, s)
			}
			if rapid.Bool().Draw(t, "sorted") {
				slices.SortFunc(sources, tunnel.CompareSources)
			}
			ends := []Endpoint{VXLAN(4789, 1), VXLAN(4789, 2)}[:rapid.IntRange(0, 2).Draw(t, "endpoints")]
			before := slices.Clone(p.endpoints)
			shapes := slices.Clone(p.shapes)
			d := p.revise(ends, sources)
			for sh, sd := range d.sets {
				name := sh.set()
				if sd.comes != (sets[name] == nil) {
					t.Fatalf("%s comes: %v, is there: %v", name, sd.comes, sets[name] != nil)
				}
				if sd.comes {
					sets[name] = map[string]bool{}
				}
				for _, e := range sd.add {
					if sets[name][string(e.Key)] {
						t.Fatalf("%s has %x already", name, e.Key)
					}
					sets[name][string(e.Key)] = true
				}
				for _, e := range sd.del {
					if !sets[name][string(e.Key)] {
						t.Fatalf("%s does not have %x", name, e.Key)
					}
					delete(sets[name], string(e.Key))
				}
				if sd.goes {
					if len(sets[name]) > 0 {
						t.Fatalf("%s goes with %d elements untold", name, len(sets[name]))
					}
					delete(sets, name)
				}
			}
			want := compile(ends, sources)
			wantSets := map[string]map[string]bool{}
			for _, set := range want.whole().Sets {
				name := strings.TrimPrefix(set.Spec.Name, testNames.prefix)
				wantSets[name] = map[string]bool{}
				for _, e := range set.Elements() {
					wantSets[name][string(e.Key)] = true
				}
			}
			if d := cmp.Diff(wantSets, sets); d != "" {
				t.Fatalf("sets (-want +got):\n%s", d)
			}
			if !slices.Equal(want.shapes, p.shapes) || !slices.Equal(want.endpoints, p.endpoints) {
				t.Fatalf("got %s, want %s", p.format(), want.format())
			}
			if same := slices.Equal(before, p.endpoints) && slices.Equal(shapes, p.shapes); same == d.rules {
				t.Fatalf("same rules: %v, delta says rules differ: %v", same, d.rules)
			}
		}
	})
}

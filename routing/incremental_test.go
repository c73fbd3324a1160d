package routing

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
	"weft/model/topology"
)

// TestCompilerProperty: over any sequence of paths and endpoints a Compiler gives the plans and
// errors of Compile.
func TestCompilerProperty(t *testing.T) {
	blocks := []string{"10.244.0.0/26", "10.244.1.0/26", "10.244.2.0/26", "10.244.0.5/32", "10.244.0.6/32", "fd10::/122", "fd10::5/128", "0.0.0.0/0"}
	path := rapid.Custom(func(t *rapid.T) topology.Path {
		node := model.NodeName(rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node"))
		dst := rapid.SampledFrom(blocks).Draw(t, "dst")
		via := "172.31.1.2"
		if prefix(dst).Addr().Is6() {
			via = "fe80::2"
		}
		p := vxlan(dst, node, via)
		p.Source, p.MTU = topology.Path{}.Source, rapid.SampledFrom([]int{1450, 1350, 1450, 1450, 1450, 1450, -1}).Draw(t, "mtu")
		p.Reach = rapid.SampledFrom([]topology.Reach{topology.VXLAN, topology.Direct, topology.Local, topology.Unreachable, topology.IPIP}).Draw(t, "reach")
		p.Foreign = rapid.IntRange(0, 9).Draw(t, "foreign") == 0
		return p
	})
	pod := rapid.Custom(func(t *rapid.T) model.Endpoint {
		e := endpoint("", rapid.SampledFrom([]string{"weft1", "weft2", "weft3", "weft4", "weft5", ""}).Draw(t, "device"))
		for _, a := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.2.7", "fd10::5", "fd10::6"}), 0, 2, rapid.ID).Draw(t, "addrs") {
			e.Addresses = append(e.Addresses, addr(a))
		}
		return e
	})
	rapid.Check(t, func(t *rapid.T) {
		var c Compiler
		view, eps := &topology.View{}, map[model.EndpointID]model.Endpoint{}
		t.Repeat(map[string]func(*rapid.T){
			"paths": func(t *rapid.T) { view = &topology.View{Paths: rapid.SliceOfN(path, 0, 8).Draw(t, "paths")} },
			"sorted paths": func(t *rapid.T) {
				view = &topology.View{Paths: rapid.SliceOfN(path, 0, 8).Draw(t, "paths")}
				slices.SortStableFunc(view.Paths, comparePaths)
			},
			"one path": func(t *rapid.T) {
				view = &topology.View{Paths: append(slices.Clone(view.Paths), path.Draw(t, "path"))}
				slices.SortStableFunc(view.Paths, comparePaths)
			},
			"one path less": func(t *rapid.T) {
				if n := len(view.Paths); n > 0 {
					i := rapid.IntRange(0, n-1).Draw(t, "i")
					view = &topology.View{Paths: slices.Delete(slices.Clone(view.Paths), i, i+1)}
				}
			},
			"pod": func(t *rapid.T) {
				e := pod.Draw(t, "pod")
				e.ID.Pod = fmt.Sprint("p", rapid.IntRange(0, 5).Draw(t, "name"))
				eps = maps.Clone(eps)
				eps[e.ID] = e
			},
			"no pod": func(t *rapid.T) {
				eps = maps.Clone(eps)
				maps.DeleteFunc(eps, func(id model.EndpointID, _ model.Endpoint) bool {
					return rapid.Bool().Draw(t, "gone "+id.Pod)
				})
			},
			"": func(t *rapid.T) {
				old, before := c.plan, Plan{Routes: slices.Clone(c.plan.Routes), Pods: slices.Clone(c.plan.Pods)}
				got, gotErr := c.Compile(view, eps)
				want, wantErr := Compile(view, slices.Collect(maps.Values(eps)))
				if !same(got, want) {
					t.Fatalf("got\n%swant\n%s", got.Format(), want.Format())
				}
				if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
					t.Fatalf("got error %v, want %v", gotErr, wantErr)
				}
				if !same(before, old) {
					t.Fatal("the plan before was changed")
				}
			},
		})
	})
}

func same(a, b Plan) bool { return slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Pods, b.Pods) }

func BenchmarkCompilerOnePod(b *testing.B) {
	view := &topology.View{}
	for i := range 10000 {
		view.Paths = append(view.Paths, vxlan(fmt.Sprintf("10.%d.%d.%d/26", i>>10, i>>2&255, i&3<<6), "n2", "172.31.1.2"))
	}
	eps := map[model.EndpointID]model.Endpoint{}
	for i := range 100 {
		e := endpoint(fmt.Sprint("p", i), fmt.Sprint("weft", i), fmt.Sprintf("10.200.0.%d", i))
		eps[e.ID] = e
	}
	more := maps.Clone(eps)
	e := endpoint("more", "weftmore", "10.200.1.1")
	more[e.ID] = e
	var c Compiler
	b.Run("incremental", func(b *testing.B) {
		for i := range b.N {
			if _, err := c.Compile(view, []map[model.EndpointID]model.Endpoint{eps, more}[i%2]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("whole", func(b *testing.B) {
		for i := range b.N {
			if _, err := Compile(view, slices.Collect(maps.Values([]map[model.EndpointID]model.Endpoint{eps, more}[i%2]))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

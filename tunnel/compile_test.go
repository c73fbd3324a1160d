package tunnel

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/model"
	"weft/model/topology"
)

var update = flag.Bool("update", false, "write the golden files")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func vxlanTunnel() topology.Tunnel {
	return topology.Tunnel{Driver: VXLAN, Device: "weft-vxlan", Family: model.IPv4, Local: addr("172.31.1.1"),
		Parent: "eth0", Addresses: []netip.Addr{addr("10.244.0.1")}, MAC: VTEPMAC("n1"), MTU: 1450, VNI: 4096, Port: 4789}
}

func threeNodes() *topology.View {
	return &topology.View{
		Self: "n1",
		Peers: []topology.Peer{
			{Node: "n2", Address: addr("172.31.1.2"), MAC: VTEPMAC("n2"), Prefixes: prefixes("10.244.1.0/26", "10.244.9.7/32")},
			{Node: "n2", Address: addr("fd00::2"), MAC: VTEPMAC("n2"), Prefixes: prefixes("fd00:10::/122")},
			{Node: "n3", Address: addr("172.31.2.1"), Prefixes: prefixes("10.244.2.0/26")},
		},
		Tunnels: []topology.Tunnel{vxlanTunnel()},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("differs from %s (-want +got):\n%s", file, d)
	}
}

func TestCompileGolden(t *testing.T) {
	for name, change := range map[string]func(*topology.View){
		"vxlan": func(*topology.View) {},
		"vxlan-ipip": func(v *topology.View) {
			v.Tunnels = append(v.Tunnels, topology.Tunnel{Driver: IPIP, Device: "weft-ipip", Family: model.IPv4,
				Local: addr("172.31.1.1"), Parent: "eth0", MTU: 1480})
		},
		"vxlan-ipv6": func(v *topology.View) {
			v.Tunnels[0].Family, v.Tunnels[0].Local, v.Tunnels[0].MTU = model.IPv6, addr("fd00::1"), 1430
			v.Tunnels[0].Addresses = []netip.Addr{addr("fd00:10::1")}
		},
		"none": func(v *topology.View) { v.Tunnels = nil },
	} {
		t.Run(name, func(t *testing.T) {
			v := threeNodes()
			change(v)
			p, err := Compile(v)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, p.Format())
		})
	}
}

func TestCompileClashes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*topology.View)
		want   []string // in the error
		gone   string   // not in the plan
	}{
		{"two nodes with one address", func(v *topology.View) { v.Peers[2].Address = v.Peers[0].Address }, []string{"n2 and n3", "172.31.1.2"}, "172.31.1.2"},
		{"two nodes with one MAC", func(v *topology.View) { v.Peers[2].MAC = v.Peers[0].MAC }, []string{"n2 and n3", VTEPMAC("n2").String()}, VTEPMAC("n2").String()},
		{"a peer with our address", func(v *topology.View) { v.Peers[2].Address = addr("172.31.1.1") }, []string{"n1 and n3"}, "10.244.2.0"},
		{"a peer with our MAC", func(v *topology.View) { v.Peers[2].MAC = VTEPMAC("n1") }, []string{"n1 and n3"}, "10.244.2.0"},
		{"a multicast MAC", func(v *topology.View) { v.Peers[2].MAC = model.MAC{1, 2, 3, 4, 5, 6} }, []string{"n3", "multicast"}, "10.244.2.0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := threeNodes()
			v.Peers = append(v.Peers, topology.Peer{Node: "n4", Address: addr("172.31.2.9"), Prefixes: prefixes("10.244.3.0/26")})
			c.change(v)
			p, err := Compile(v)
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %v does not name %q", err, w)
				}
			}
			if err != nil && strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("more than one error entry: %v", err)
			}
			text := p.Format()
			if i := strings.Index(text, "neighbour"); strings.Contains(text[i:], c.gone) {
				t.Errorf("the plan still has %s:\n%s", c.gone, text)
			}
			if !strings.Contains(text, "fdb "+VTEPMAC("n4").String()+" dev weft-vxlan dst 172.31.2.9") || !strings.Contains(text, "source 10.244.3.0/26 from 172.31.2.9") {
				t.Errorf("n4, which shares nothing, is missing:\n%s", text)
			}
		})
	}
}

func TestCompileBadTunnels(t *testing.T) {
	v := threeNodes()
	second := vxlanTunnel()
	second.Family = model.IPv6
	v.Tunnels = append(v.Tunnels, second, topology.Tunnel{Driver: "gre", Device: "gre0"})
	p, err := Compile(v)
	if err == nil || !strings.Contains(err.Error(), "twice") || !strings.Contains(err.Error(), `"gre"`) {
		t.Errorf("got error %v, want both bad devices named", err)
	}
	if len(p.Links) != 1 || len(p.Neighbours) != 2 {
		t.Errorf("got %d links, %d neighbours, want the good device only", len(p.Links), len(p.Neighbours))
	}
}

func TestPlanFor(t *testing.T) {
	v := threeNodes()
	v.Tunnels = append(v.Tunnels, topology.Tunnel{Driver: IPIP, Device: "weft-ipip", Family: model.IPv4, Local: addr("172.31.1.1"), Parent: "eth0", MTU: 1480})
	p, err := Compile(v)
	if err != nil {
		t.Fatal(err)
	}
	both := strings.Split(p.For(VXLAN).Format()+p.For(IPIP).Format(), "\n")
	all := strings.Split(p.Format(), "\n")
	slices.Sort(both)
	slices.Sort(all)
	if d := cmp.Diff(slices.Compact(all), slices.Compact(both)); d != "" {
		t.Errorf("the parts are not the whole (-whole +parts):\n%s", d)
	}
	if s := p.For("none").Format(); s != "" {
		t.Errorf("a driver without devices has %q", s)
	}
}

func TestDrivers(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Drivers() {
		if seen[d.Name] || d.Name == "" || d.Outer == "" || d.Needs == "" || d.SelectedBy == "" || len(d.Families) == 0 {
			t.Errorf("row %q is incomplete or twice: %+v", d.Name, d)
		}
		seen[d.Name] = true
		if (d.Device == "") != (d.Name == CrossSubnet) {
			t.Errorf("row %s has device %q", d.Name, d.Device)
		}
		d.Overhead[model.IPv4] = 999
	}
	for _, d := range Drivers() {
		if d.Overhead[model.IPv4] == 999 {
			t.Errorf("row %s is shared between callers", d.Name)
		}
	}
}

func TestVTEPMAC(t *testing.T) {
	// From: printf n2 | sha1sum
	if got, want := VTEPMAC("n2").String(), "66:40:24:34:76:fc"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestCompileIsDeterministic shuffles the view: the plan must not change.
func TestCompileIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &topology.View{Self: "n0", Tunnels: []topology.Tunnel{vxlanTunnel(),
			{Driver: IPIP, Device: "weft-ipip", Family: model.IPv4, Local: addr("172.31.1.1"), Parent: "eth0", MTU: 1480}}}
		for i := range rapid.IntRange(0, 30).Draw(t, "peers") {
			// A small range of addresses and MACs, so that clashes occur.
			p := topology.Peer{Node: model.NodeName(fmt.Sprintf("p%02d", i)), Address: netip.AddrFrom4([4]byte{172, 31, 2, byte(rapid.IntRange(1, 40).Draw(t, "addr"))})}
			if rapid.Bool().Draw(t, "published") {
				p.MAC = model.MAC{0x66, 0, 0, 0, 0, byte(rapid.IntRange(1, 40).Draw(t, "mac"))}
			}
			for range rapid.IntRange(0, 3).Draw(t, "prefixes") {
				p.Prefixes = append(p.Prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 255).Draw(t, "block")), 0}), 26))
			}
			v.Peers = append(v.Peers, p)
		}
		want, wantErr := Compile(v)
		v.Peers = rapid.Permutation(v.Peers).Draw(t, "order")
		v.Tunnels = rapid.Permutation(v.Tunnels).Draw(t, "devices")
		for i := range v.Peers {
			v.Peers[i].Prefixes = rapid.Permutation(v.Peers[i].Prefixes).Draw(t, "inner")
		}
		got, gotErr := Compile(v)
		if d := cmp.Diff(want.Format(), got.Format()); d != "" {
			t.Fatalf("the order of the input changes the plan:\n%s", d)
		}
		if fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
			t.Fatalf("the order of the input changes the error:\n%v\n%v", wantErr, gotErr)
		}
		ips, macs := map[netip.Addr]bool{}, map[model.MAC]bool{}
		for _, n := range got.Neighbours {
			if ips[n.IP] || macs[n.MAC] {
				t.Fatalf("two neighbours share an address or MAC:\n%s", got.Format())
			}
			ips[n.IP], macs[n.MAC] = true, true
		}
	})
}

// TestCompilerProperty: with its memory a Compiler gives what Compile gives without, over any
// sequence of views.
func TestCompilerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Compiler
		peers := map[string]topology.Peer{}
		tunnels := []topology.Tunnel{vxlanTunnel(), {Driver: IPIP, Device: "weft-ipip", Family: model.IPv4, Local: addr("172.31.1.1"), Parent: "eth0", MTU: 1480}}
		six := vxlanTunnel()
		six.Device, six.Family, six.Local = "weft-vxlan-v6", model.IPv6, addr("fd00::1")
		tunnels = append(tunnels, six)
		v := &topology.View{Self: "n0", Tunnels: tunnels[:1]}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				name := fmt.Sprintf("p%d", rapid.IntRange(0, 9).Draw(t, "peer"))
				n := byte(rapid.IntRange(1, 20).Draw(t, "addr")) // clashes occur
				p := topology.Peer{Node: model.NodeName(name), Address: netip.AddrFrom4([4]byte{172, 31, 2, n})}
				if rapid.Bool().Draw(t, "six") {
					p.Address, name = netip.AddrFrom16([16]byte{0xfd, 15: n}), name+"/6"
				}
				if rapid.Bool().Draw(t, "published") {
					p.MAC = model.MAC{byte(rapid.IntRange(0x65, 0x66).Draw(t, "multicast")), 0, 0, 0, 0, byte(rapid.IntRange(1, 20).Draw(t, "mac"))}
				}
				for range rapid.IntRange(0, 3).Draw(t, "prefixes") {
					p.Prefixes = append(p.Prefixes, rapid.SampledFrom(prefixes("10.0.1.0/26", "10.0.1.7/26", "10.0.0.9/32", "fd10::/122")).Draw(t, "prefix"))
				}
				if peers[name] = p; rapid.IntRange(0, 3).Draw(t, "gone") == 0 {
					delete(peers, name)
				}
			}
			v = &topology.View{Self: v.Self, Tunnels: v.Tunnels, Peers: v.Peers}
			if rapid.IntRange(0, 5).Draw(t, "same peers") > 0 {
				v.Peers = slices.SortedFunc(maps.Values(peers), comparePeers)
			}
			if rapid.IntRange(0, 4).Draw(t, "other tunnels") == 0 {
				v.Tunnels = tunnels[:rapid.IntRange(0, 3).Draw(t, "tunnels")]
			}
			want, wantErr := Compile(v)
			got, gotErr := c.Compile(v)
			if d := cmp.Diff(want.Format(), got.Format()); d != "" {
				t.Fatalf("plan (-without +with memory):\n%s", d)
			}
			if fmt.Sprint(wantErr) != fmt.Sprint(gotErr) {
				t.Fatalf("error without memory:\n%v\nwith:\n%v", wantErr, gotErr)
			}
			if !slices.IsSortedFunc(got.Neighbours, CompareNeighbours) || !slices.IsSortedFunc(got.FDB, CompareFDB) || !slices.IsSortedFunc(got.Sources, CompareSources) {
				t.Fatalf("not in the order that it says:\n%s", got.Format())
			}
		}
	})
}

func peers5000(n int) *topology.View {
	v := &topology.View{Self: "n0", Tunnels: []topology.Tunnel{vxlanTunnel()}}
	for i := range n {
		v.Peers = append(v.Peers, topology.Peer{Node: model.NodeName(fmt.Sprintf("node-%04d", i)),
			Address:  netip.AddrFrom4([4]byte{172, 20, byte(i / 250), byte(i%250 + 1)}),
			Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i / 1024), byte(i / 4), byte(i % 4 * 64)}), 26)}})
	}
	return v
}

func BenchmarkCompile5000(b *testing.B) {
	v := peers5000(5000)
	b.ReportAllocs()
	for b.Loop() {
		p, err := Compile(v)
		if err != nil || len(p.FDB) != 5000 {
			b.Fatal(err, len(p.FDB))
		}
	}
}

// BenchmarkCompileOneMore5000 is one peer that comes or goes among 5,000.
func BenchmarkCompileOneMore5000(b *testing.B) {
	views := []*topology.View{peers5000(5000), peers5000(5000)}
	for i := range views[1].Peers {
		views[1].Peers[i].Prefixes = views[0].Peers[i].Prefixes // as the topology's Compiler does
	}
	views[1].Peers = slices.Delete(views[1].Peers, 2500, 2501)
	var c Compiler
	b.ReportAllocs()
	for i := range b.N {
		if _, err := c.Compile(views[i%2]); err != nil {
			b.Fatal(err)
		}
	}
}

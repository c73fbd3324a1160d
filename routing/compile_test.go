package routing

import (
	"flag"
	"fmt"
	"math/rand/v2"
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

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func endpoint(name, device string, addrs ...string) model.Endpoint {
	e := model.Endpoint{ID: model.EndpointID{Namespace: "default", Pod: name, Interface: "eth0"}, Device: device}
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, addr(a))
	}
	return e
}

func vxlan(dst string, node model.NodeName, via string) topology.Path {
	return topology.Path{Dst: prefix(dst), Node: node, Reach: topology.VXLAN, Via: addr(via), Device: "weft-vxlan",
		Source: addr("10.244.0.1"), MTU: 1450, DeviceMTU: 1450, Why: "pool default has vxlanMode Always"}
}

func direct(dst string, node model.NodeName, via string) topology.Path {
	return topology.Path{Dst: prefix(dst), Node: node, Reach: topology.Direct, Via: addr(via), Device: "eth0",
		MTU: 1500, DeviceMTU: 1500, Why: "the peer is on link on eth0"}
}

func local(dst string) topology.Path {
	return topology.Path{Dst: prefix(dst), Node: "n1", Reach: topology.Local, Why: "a block of this node"}
}

type input struct {
	paths     []topology.Path
	endpoints []model.Endpoint
}

func inputs() map[string]input {
	narrow := vxlan("10.244.3.0/26", "n4", "172.31.4.1")
	narrow.MTU = 1350
	six := vxlan("fd10:244:1::/122", "n2", "fe80::2")
	six.Source = addr("fd10:244::1")
	return map[string]input{
		"empty": {},
		"cluster": {
			paths: []topology.Path{
				six, narrow, local("fd10:244::/122"), local("10.244.0.0/26"),
				direct("10.244.1.0/26", "n2", "172.31.1.2"), vxlan("10.244.2.0/26", "n3", "172.31.2.1"),
				direct("10.244.0.9/32", "n2", "172.31.1.2"), // borrowed from our block
				{Dst: prefix("10.244.5.0/26"), Node: "n6", Reach: topology.Unreachable, Why: "no Node record"},
				local("10.244.7.7/32"),
				// Outside every pool: nothing is made of it, whoever claims it.
				{Dst: prefix("192.0.2.0/26"), Node: "n6", Reach: topology.Unreachable, Foreign: true},
				{Dst: prefix("198.51.100.0/26"), Node: "n1", Reach: topology.Local, Foreign: true},
			},
			endpoints: []model.Endpoint{
				endpoint("web", "weft0123456789a", "10.244.0.5", "fd10:244::5"),
				endpoint("db", "weftba987654321", "10.244.0.6"),
				endpoint("borrower", "weftcccccccccc1", "10.244.2.7"),
			},
		},
		"preference": {
			paths: []topology.Path{
				vxlan("10.244.1.0/26", "n2", "172.31.1.2"), direct("10.244.1.0/26", "n3", "172.31.1.3"),
				local("10.244.2.0/26"), vxlan("10.244.2.0/26", "n4", "172.31.1.4"),
				direct("10.244.0.5/32", "n5", "172.31.1.5"),
				vxlan("10.244.6.0/26", "n7", "172.31.1.7"), vxlan("10.244.6.0/26", "n6", "172.31.1.6"),
			},
			endpoints: []model.Endpoint{endpoint("web", "weft0123456789a", "10.244.0.5")},
		},
	}
}

func TestCompileGolden(t *testing.T) {
	for name, in := range inputs() {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(&topology.View{Self: "n1", Paths: in.paths}, in.endpoints)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, p.Format())
		})
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
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", file, diff)
	}
}

// TestCompileDeterministic: the order of the input decides nothing.
func TestCompileDeterministic(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for name, in := range inputs() {
		want, _ := Compile(&topology.View{Paths: in.paths}, in.endpoints)
		for range 50 {
			paths, eps := slices.Clone(in.paths), slices.Clone(in.endpoints)
			rnd.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
			rnd.Shuffle(len(eps), func(i, j int) { eps[i], eps[j] = eps[j], eps[i] })
			got, _ := Compile(&topology.View{Paths: paths}, eps)
			if got.Format() != want.Format() {
				t.Fatalf("%s: got\n%swant\n%s", name, got.Format(), want.Format())
			}
		}
	}
}

// TestCompileImpossible: what cannot be is an error that names it, and costs nothing else.
func TestCompileImpossible(t *testing.T) {
	change := func(f func(*topology.Path)) topology.Path {
		p := vxlan("10.244.1.0/26", "bad", "172.31.1.2")
		f(&p)
		return p
	}
	cases := map[string]topology.Path{
		"node bad: the prefix is not valid":                 change(func(p *topology.Path) { p.Dst = netip.Prefix{} }),
		"10.244.1.7/26 of node bad: the prefix has host":    change(func(p *topology.Path) { p.Dst = prefix("10.244.1.7/26") }),
		"node bad: VXLAN without a next hop":                change(func(p *topology.Path) { p.Via = netip.Addr{} }),
		"is IPv4 and the prefix is IPv6":                    change(func(p *topology.Path) { p.Dst = prefix("fd10::/122") }),
		"source fd00::1 is of another family":               change(func(p *topology.Path) { p.Source = addr("fd00::1") }),
		`node bad: device ""`:                               change(func(p *topology.Path) { p.Device = "" }),
		`device "sixteen-bytes-xx"`:                         change(func(p *topology.Path) { p.Device = "sixteen-bytes-xx" }),
		"node bad: reach 42 is not known":                   change(func(p *topology.Path) { p.Reach = 42 }),
		"node bad: MTU -1":                                  change(func(p *topology.Path) { p.MTU = -1 }),
		"next hop 224.0.0.1 is no unicast address":          change(func(p *topology.Path) { p.Via = addr("224.0.0.1") }),
		"next hop ::ffff:172.31.1.2 is no unicast address":  change(func(p *topology.Path) { p.Via = addr("::ffff:172.31.1.2") }),
		"::ffff:10.0.0.0/122 of node bad: the prefix is an": change(func(p *topology.Path) { p.Dst = netip.PrefixFrom(addr("::ffff:10.0.0.0"), 122) }),
	}
	good := vxlan("10.244.9.0/26", "n9", "172.31.1.9")
	for want, bad := range cases {
		p, err := Compile(&topology.View{Paths: []topology.Path{bad, good}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one that says %q", err, want)
		}
		if len(p.Routes) != 1 || p.Routes[0].Dst != good.Dst {
			t.Errorf("%s: got plan\n%s", want, p.Format())
		}
	}
}

func TestCompileEndpointErrors(t *testing.T) {
	nobody := endpoint("nobody", "")
	bad := endpoint("bad", "weft1")
	bad.Addresses = []netip.Addr{{}, addr("::ffff:10.0.0.1"), addr("0.0.0.0"), addr("10.244.0.1")}
	p, err := Compile(&topology.View{}, []model.Endpoint{
		endpoint("b", "weft000000000b1", "10.244.0.5"), endpoint("a", "weft000000000a1", "10.244.0.5"), nobody, bad,
		endpoint("twice", "weft000000000c1", "10.244.0.7", "10.244.0.7"),
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`endpoint default/nobody/eth0: device ""`,
		"endpoint default/bad/eth0: address invalid IP", "address ::ffff:10.0.0.1", "address 0.0.0.0",
		"endpoint default/b/eth0: address 10.244.0.5 belongs to endpoint default/a/eth0 on weft000000000a1 already",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q: %v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 5 {
		t.Errorf("%d errors, want 5: %v", n, err)
	}
	const want = `route 10.244.0.1/32 dev weft1  # endpoint default/bad/eth0
route 10.244.0.5/32 dev weft000000000a1  # endpoint default/a/eth0
route 10.244.0.7/32 dev weft000000000c1  # endpoint default/twice/eth0
`
	if diff := cmp.Diff(want, p.Format()); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

// TestCompileProperty: of all that claims a prefix the best has it, as sorting all claims tells.
func TestCompileProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &topology.View{}
		for range rapid.IntRange(0, 20).Draw(t, "paths") {
			n := model.NodeName(rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node"))
			dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 7).Draw(t, "dst"))}), rapid.SampledFrom([]int{29, 32}).Draw(t, "bits")).Masked()
			p := rapid.SampledFrom([]topology.Path{local("10.0.0.0/29"), direct("10.0.0.0/29", n, "172.31.1.2"), vxlan("10.0.0.0/29", n, "172.31.1.3"),
				{Node: n, Reach: topology.Unreachable}}).Draw(t, "path")
			p.Dst = dst
			v.Paths = append(v.Paths, p)
		}
		var endpoints []model.Endpoint
		for i := range rapid.IntRange(0, 4).Draw(t, "pods") {
			endpoints = append(endpoints, endpoint(fmt.Sprint("pod", i), fmt.Sprint("weft", i), fmt.Sprint("10.0.0.", i*2)))
		}
		var c compiler
		var claims []claim
		for i := range v.Paths {
			if cl, ok := c.path(&v.Paths[i]); ok {
				claims = append(claims, cl)
			}
		}
		c.pods = map[netip.Addr]claim{}
		for _, e := range endpoints {
			c.endpoint(e)
		}
		for _, cl := range c.pods {
			claims = append(claims, cl)
		}
		slices.SortFunc(claims, compareClaims)
		var want Plan
		for i, cl := range claims {
			if i == 0 || claims[i-1].route.Dst != cl.route.Dst {
				want.Routes = append(want.Routes, cl.route)
			}
		}
		got, err := Compile(v, endpoints)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.Format(), got.Format()); d != "" {
			t.Fatalf("(-want +got):\n%s", d)
		}
	})
}

func BenchmarkCompile5000(b *testing.B) {
	v := &topology.View{}
	for i := range 5000 {
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 10), byte(i >> 2), byte(i << 6)}), 26)
		v.Paths = append(v.Paths, topology.Path{Dst: dst, Node: "n", Reach: topology.VXLAN, Device: "weft-vxlan",
			Via: netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)}), MTU: 1450, DeviceMTU: 1450})
	}
	for b.Loop() {
		if p, err := Compile(v, nil); err != nil || len(p.Routes) != 5000 {
			b.Fatal(len(p.Routes), err)
		}
	}
}

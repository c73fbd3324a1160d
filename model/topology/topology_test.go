package topology

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weft/internal/testkit/figures"
	"weft/model"
)

var update = flag.Bool("update", false, "write the golden files")

func testDrivers() []Driver {
	both := []model.Family{model.IPv4, model.IPv6}
	return []Driver{
		{Name: "vxlan", Reach: VXLAN, Encap: model.EncapVXLAN, Device: "weft-vxlan",
			Overhead: map[model.Family]int{model.IPv4: 50, model.IPv6: 70}, Families: both},
		{Name: "ipip", Reach: IPIP, Encap: model.EncapIPIP, Device: "weft-ipip",
			Overhead: map[model.Family]int{model.IPv4: 20}, Families: both[:1]},
		{Name: "wireguard", Reach: WireGuard, Encap: model.EncapWireGuard, Device: "weft-wg",
			Overhead: map[model.Family]int{model.IPv4: 60, model.IPv6: 80}, Families: both},
	}
}

func node(name string, addrs ...string) *model.Node {
	n := &model.Node{Name: model.NodeName(name)}
	for _, a := range addrs {
		n.Addresses = append(n.Addresses, netip.MustParsePrefix(a))
	}
	return n
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// rackSnapshot is n1 and n2 in one rack, n3 behind a router; each has one block, and n3 has
// borrowed an address of n2's.
func rackSnapshot(pool model.Pool) *model.Snapshot {
	n1, n2, n3 := node("n1", "172.31.1.1/24"), node("n2", "172.31.1.2/24"), node("n3", "172.31.2.1/24")
	n1.TunnelAddresses = []netip.Addr{netip.MustParseAddr("10.244.0.1")}
	n1.IPIP, n2.IPIP, n3.IPIP = true, true, true
	n1.VXLANMAC, n2.VXLANMAC, n3.VXLANMAC = model.MAC{0x66, 1}, model.MAC{0x66, 2}, model.MAC{0x66, 3}
	pool.Name, pool.CIDR = "default", prefix("10.244.0.0/16")
	return &model.Snapshot{
		Self:  "n1",
		Nodes: map[model.NodeName]*model.Node{"n1": n1, "n2": n2, "n3": n3},
		Pools: []model.Pool{pool},
		Blocks: map[netip.Prefix]*model.Block{
			prefix("10.244.0.0/26"): {CIDR: prefix("10.244.0.0/26"), Node: "n1"},
			prefix("10.244.1.0/26"): {CIDR: prefix("10.244.1.0/26"), Node: "n2",
				Borrowed: map[netip.Addr]model.NodeName{netip.MustParseAddr("10.244.1.9"): "n3"}},
			prefix("10.244.2.0/26"): {CIDR: prefix("10.244.2.0/26"), Node: "n3"},
			prefix("10.99.0.0/26"):  {CIDR: prefix("10.99.0.0/26"), Node: "n2"},
			prefix("10.244.3.0/26"): {CIDR: prefix("10.244.3.0/26"), Node: "gone"},
		},
		Underlay: model.Underlay{
			Links: []model.Link{{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{prefix("172.31.1.1/24")}}},
			Routes: []model.UnderlayRoute{
				{Dst: prefix("172.31.1.0/24"), Device: "eth0"},
				{Dst: prefix("172.31.2.0/24"), Device: "eth0", Via: netip.MustParseAddr("172.31.1.254"), MTU: 1400},
			},
		},
		VXLAN: model.VXLANConfig{VNI: 4096, Port: 4789},
	}
}

func TestComputeGolden(t *testing.T) {
	for name, pool := range map[string]model.Pool{
		"vxlan-always":      {Encap: model.EncapVXLAN},
		"vxlan-crosssubnet": {Encap: model.EncapVXLAN, CrossSubnet: true},
		"never":             {},
		"ipip-crosssubnet":  {Encap: model.EncapIPIP, CrossSubnet: true},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := Compute(rackSnapshot(pool), testDrivers())
			if err != nil {
				t.Fatal(err)
			}
			got, file := v.Format(), filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("view differs from %s (-want +got):\n%s", file, d)
			}
		})
	}
}

func TestComputeWithoutDriver(t *testing.T) {
	v, err := Compute(rackSnapshot(model.Pool{Encap: model.EncapIPIP}), testDrivers()[:1])
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range v.Paths {
		if p.Node == "n3" && p.Reach != Unreachable {
			t.Errorf("path %s: got %s, want Unreachable without an IPIP driver", p.Dst, p.Reach)
		}
	}
	if !strings.Contains(strings.Join(v.Problems, "\n"), "no driver") {
		t.Errorf("problems do not name the missing driver: %q", v.Problems)
	}
}

func TestPoolsOfOneRange(t *testing.T) {
	for name, order := range map[string][2]model.Pool{
		"enabled first": {{Name: "a", Encap: model.EncapVXLAN}, {Name: "b", Disabled: true}},
		"enabled last":  {{Name: "a", Disabled: true}, {Name: "b", Encap: model.EncapVXLAN}},
	} {
		s := rackSnapshot(model.Pool{})
		s.Pools = order[:]
		for i := range s.Pools {
			s.Pools[i].CIDR = prefix("10.244.0.0/16")
		}
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range v.Paths {
			if p.Dst == prefix("10.244.1.0/26") && p.Reach != VXLAN {
				t.Errorf("%s: %s (%s), want the enabled pool to decide", name, p.Reach, p.Why)
			}
		}
	}
}

// TestVXLANMTUOfEachFamily: each setting is of one device, and is not the other's.
func TestVXLANMTUOfEachFamily(t *testing.T) {
	s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN})
	s.Pools = append(s.Pools, model.Pool{Name: "six", CIDR: prefix("fd00:10::/64"), Encap: model.EncapVXLAN})
	s.Nodes["n1"].Addresses = append(s.Nodes["n1"].Addresses, prefix("fd00::1/64"))
	s.Underlay.Links[0].Addresses = append(s.Underlay.Links[0].Addresses, prefix("fd00::1/64"))
	for _, tc := range []struct{ four, six, want4, want6 int }{{0, 0, 1450, 1430}, {1400, 0, 1400, 1430}, {0, 1300, 1450, 1300}} {
		s.MTU.VXLAN, s.MTU.VXLAN6 = tc.four, tc.six
		v, err := Compute(s, testDrivers())
		if err != nil || len(v.Tunnels) != 2 {
			t.Fatalf("tunnels %v, %v", v.Tunnels, err)
		}
		if got4, got6 := v.Tunnels[0].MTU, v.Tunnels[1].MTU; got4 != tc.want4 || got6 != tc.want6 {
			t.Errorf("vxlanMTU %d, vxlanMTUV6 %d: devices have %d and %d, want %d and %d", tc.four, tc.six, got4, got6, tc.want4, tc.want6)
		}
	}
}

func TestComputeWithoutSelf(t *testing.T) {
	s := rackSnapshot(model.Pool{})
	delete(s.Nodes, "n1")
	if _, err := Compute(s, testDrivers()); err == nil || !strings.Contains(err.Error(), "n1") {
		t.Errorf("got %v, want an error that names the node", err)
	}
}

func TestUplinkDown(t *testing.T) {
	s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN})
	s.Underlay.Links[0].Up = false
	v, err := Compute(s, testDrivers())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range v.Paths {
		if p.Reach != Local && p.Reach != Unreachable {
			t.Errorf("%s is %s over an interface that is down", p.Dst, p.Reach)
		}
	}
}

// TestCrossSubnetIsSymmetric draws two nodes with arbitrary addresses, masks and host routes. Each
// end decides from its own kernel routes and from what the other published: both must agree.
func TestCrossSubnetIsSymmetric(t *testing.T) {
	direct, tunnelled := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawHost(t, "a", 1), drawHost(t, "b", 2)
		a.node.OnLink, b.node.OnLink = PublishedOnLink(a.under, a.node.Addresses), PublishedOnLink(b.under, b.node.Addresses)
		ra, rb := reachOf(t, a, b), reachOf(t, b, a)
		if ra == Unreachable || rb == Unreachable {
			return
		}
		if ra != rb {
			t.Fatalf("a reaches b %s, b reaches a %s\na: %v %v\nb: %v %v", ra, rb, a.under.Routes, a.node.OnLink, b.under.Routes, b.node.OnLink)
		}
		if ra == Direct {
			direct++
		} else {
			tunnelled++
		}
	})
	if direct == 0 || tunnelled == 0 {
		t.Errorf("%d direct, %d tunnelled: the property was not exercised", direct, tunnelled)
	}
	t.Logf("%d pairs direct, %d tunnelled, 0 disagree", direct, tunnelled)
}

type host struct {
	node  *model.Node
	under model.Underlay
}

func drawHost(t *rapid.T, name string, last int) host {
	addr := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 1).Draw(t, name+"-third")), byte(last)})
	p := netip.PrefixFrom(addr, rapid.SampledFrom([]int{8, 16, 23, 24, 31, 32}).Draw(t, name+"-bits"))
	gw := netip.MustParseAddr("10.0.0.254")
	h := host{node: &model.Node{Name: model.NodeName(name), Addresses: []netip.Prefix{p}}}
	h.under.Links = []model.Link{
		{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{p}},
		{Name: "eth1", MTU: 1500, Up: true}, // a second link, which does not carry the node's address
	}
	h.under.Routes = []model.UnderlayRoute{{Dst: prefix("0.0.0.0/0"), Via: gw, Device: "eth0"}}
	if rapid.IntRange(0, 9).Draw(t, name+"-connected") > 0 { // else noprefixroute
		h.under.Routes = append(h.under.Routes, model.UnderlayRoute{Dst: p.Masked(), Device: "eth0"})
	}
	for i := range rapid.IntRange(0, 3).Draw(t, name+"-routes") {
		r := model.UnderlayRoute{Device: rapid.SampledFrom([]string{"eth0", "eth1"}).Draw(t, fmt.Sprint(name, i, "d"))}
		a := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 1).Draw(t, fmt.Sprint(name, i, "t"))), byte(rapid.IntRange(0, 3).Draw(t, fmt.Sprint(name, i, "f")))})
		r.Dst = netip.PrefixFrom(a, rapid.SampledFrom([]int{16, 24, 30, 32}).Draw(t, fmt.Sprint(name, i, "b"))).Masked()
		if rapid.Bool().Draw(t, fmt.Sprint(name, i, "gw")) {
			r.Via = gw
		}
		h.under.Routes = append(h.under.Routes, r)
	}
	return h
}

func reachOf(t *rapid.T, from, to host) Reach {
	dst := prefix("192.168.0.0/26")
	v, err := Compute(&model.Snapshot{
		Self:     from.node.Name,
		Nodes:    map[model.NodeName]*model.Node{from.node.Name: from.node, to.node.Name: to.node},
		Pools:    []model.Pool{{Name: "p", CIDR: prefix("192.168.0.0/16"), Encap: model.EncapVXLAN, CrossSubnet: true}},
		Blocks:   map[netip.Prefix]*model.Block{dst: {CIDR: dst, Node: to.node.Name}},
		Underlay: from.under,
	}, testDrivers())
	if err != nil {
		t.Fatal(err)
	}
	return v.Paths[0].Reach
}

// TestComputeIsDeterministic shuffles what comes in slices; maps shuffle themselves.
func TestComputeIsDeterministic(t *testing.T) {
	want := ""
	for i := range 50 {
		s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN, CrossSubnet: true})
		if i%2 == 1 {
			r := s.Underlay.Routes
			r[0], r[1] = r[1], r[0]
		}
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = v.Format()
		}
		if d := cmp.Diff(want, v.Format()); d != "" {
			t.Fatalf("run %d differs:\n%s", i, d)
		}
	}
}

// manyNodes is the design point: nodes with a block each, beyond a gateway.
func manyNodes(count int) *model.Snapshot {
	s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN, CrossSubnet: true})
	s.Pools[0].CIDR = prefix("10.0.0.0/8")
	s.Underlay.Routes = append(s.Underlay.Routes, model.UnderlayRoute{Dst: prefix("172.16.0.0/12"), Device: "eth0", Via: netip.MustParseAddr("172.31.1.254")})
	for i := range count {
		n := node(fmt.Sprintf("node-%04d", i), fmt.Sprintf("172.20.%d.%d/24", i/250, i%250+1))
		n.OnLink = []model.OnLink{{Prefix: n.Addresses[0].Masked()}}
		s.Nodes[n.Name] = n
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i/1024), byte(i / 4), byte(i % 4 * 64)}), 26)
		s.Blocks[p] = &model.Block{CIDR: p, Node: n.Name}
	}
	return s
}

// BenchmarkCompute5000 computes everything.
func BenchmarkCompute5000(b *testing.B) {
	s := manyNodes(5000)
	b.ReportAllocs()
	for b.Loop() {
		v, err := Compute(s, testDrivers())
		if err != nil || len(v.Paths) < 5000 {
			b.Fatal(err, len(v.Paths))
		}
	}
	figures.Write(b, "topology", figures.Seconds("computed", "5000 nodes", b.Elapsed()/time.Duration(b.N))...)
}

// A pool over the nodes' own network would lead them away from each other.
func TestPoolOverTheUnderlay(t *testing.T) {
	s := rackSnapshot(model.Pool{Encap: model.EncapVXLAN})
	s.Pools = append(s.Pools, model.Pool{Name: "wrong", CIDR: prefix("172.31.0.0/16"), Encap: model.EncapVXLAN})
	s.Blocks[prefix("172.31.1.128/26")] = &model.Block{CIDR: prefix("172.31.1.128/26"), Node: "n2"}
	v, err := Compute(s, testDrivers())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range v.Paths {
		if p.Dst == prefix("172.31.1.128/26") && (!p.Foreign || p.Reach != Unreachable) {
			t.Errorf("%+v", p)
		}
	}
	if !slices.ContainsFunc(v.Problems, func(s string) bool { return strings.Contains(s, "IPPool wrong (172.31.0.0/16) overlaps 172.31.1.0/24") }) {
		t.Errorf("problems %q", v.Problems)
	}
}

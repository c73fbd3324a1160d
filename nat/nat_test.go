package nat

import (
	"flag"
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

func pool(cidr string, outgoing bool) model.Pool {
	return model.Pool{Name: cidr, CIDR: prefix(cidr), NATOutgoing: outgoing}
}

// nodes reads "n1/172.31.1.1/24": a name and an address.
func nodes(addrs ...string) map[model.NodeName]*model.Node {
	m := map[model.NodeName]*model.Node{}
	for _, a := range addrs {
		name, a, _ := strings.Cut(a, "/")
		n := m[model.NodeName(name)]
		if n == nil {
			n = &model.Node{Name: model.NodeName(name)}
			m[n.Name] = n
		}
		n.Addresses = append(n.Addresses, prefix(a))
	}
	return m
}

type input struct {
	cfg     model.NATConfig
	pools   []model.Pool
	nodes   map[model.NodeName]*model.Node
	tunnels []topology.Tunnel
}

func inputs() map[string]input {
	disabled := pool("10.9.0.0/16", false)
	disabled.Disabled = true
	vxlan := topology.Tunnel{Device: "weft-vxlan", Port: 4789, Addresses: []netip.Addr{addr("10.244.1.0")}}
	old, six := vxlan, vxlan
	old.Device, old.Port = "weft-vxlan-old", 8472
	six.Device, six.Addresses = "weft-vxlan-v6", []netip.Addr{addr("fd10:244::")}
	both := []model.Pool{pool("10.244.0.0/16", true), disabled, pool("10.245.0.0/16", true), pool("fd10:244::/64", true), pool("fd10:245::/64", false)}
	return map[string]input{
		"empty":      {},
		"nothing":    {pools: []model.Pool{pool("10.244.0.0/16", false), pool("fd10:244::/64", false)}},
		"masquerade": {pools: both},
		"tunnels": {pools: []model.Pool{pool("10.244.0.0/16", true)},
			tunnels: []topology.Tunnel{six, old, vxlan, {Device: "weft-ipip", Addresses: []netip.Addr{addr("10.244.1.0")}}}},
		"encrypted": {pools: []model.Pool{pool("10.244.0.0/16", true), pool("10.245.0.0/16", false), pool("fd10:244::/64", true)},
			tunnels: []topology.Tunnel{vxlan, {Device: "weft-wg", Port: 51820, End: model.TunnelEnd{Encap: model.EncapWireGuard},
				Addresses: []netip.Addr{addr("10.244.1.0"), addr("fd10:244::")}}}},
		"all": {pools: both, tunnels: []topology.Tunnel{vxlan},
			cfg:   model.NATConfig{SpareHosts: true, Ports: model.PortRange{First: 4000, Last: 30000}, Address: addr("192.0.2.7"), Interface: "eth+"},
			nodes: nodes("n2/172.31.1.2/24", "n1/172.31.1.1/24", "n1/2001:db8::1/64", "n3/172.31.1.3/24")},
	}
}

func TestCompileGolden(t *testing.T) {
	for name, in := range inputs() {
		p, err := Compile(in.cfg, in.pools, in.nodes, in.tunnels)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(p.Format()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), p.Format()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		// The order of what comes in does not matter.
		for range 5 {
			for _, shuffle := range []func(){
				func() { rand.Shuffle(len(in.pools), swap(in.pools)) },
				func() { rand.Shuffle(len(in.tunnels), swap(in.tunnels)) },
			} {
				shuffle()
			}
			again, _ := Compile(in.cfg, in.pools, in.nodes, in.tunnels)
			if d := cmp.Diff(p.Format(), again.Format()); d != "" {
				t.Errorf("%s in another order (-first +again):\n%s", name, d)
			}
		}
	}
	if p, _ := Compile(model.NATConfig{}, nil, nil, nil); !p.IsZero() {
		t.Errorf("of nothing there is a plan: %s", p.Format())
	}
}

func swap[T any](s []T) func(i, j int) { return func(i, j int) { s[i], s[j] = s[j], s[i] } }

func TestCompileErrors(t *testing.T) {
	pools := []model.Pool{pool("10.244.0.0/16", true)}
	tunnels := []topology.Tunnel{{Device: "weft-vxlan", Port: 4789}, {Device: "weft-vxlan-old", Port: 4790}}
	cases := []struct {
		name string
		cfg  model.NATConfig
		want []string
		udp  model.PortRange
	}{
		{"all ports are tunnels'", model.NATConfig{Ports: model.PortRange{First: 4789, Last: 4790}}, []string{"natPortRange 4789-4790", "4791-65535", "vxlanPort"}, model.PortRange{First: 4791, Last: 65535}},
		{"IPv6 address", model.NATConfig{Address: addr("2001:db8::7")}, []string{"natOutgoingAddress 2001:db8::7", "IPv4"}, model.PortRange{First: 4791, Last: 65535}},
	}
	for _, c := range cases {
		p, err := Compile(c.cfg, pools, nil, tunnels)
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v does not say %q", c.name, err, w)
			}
		}
		if len(p.Outgoing) != 1 || p.Outgoing[0].UDPPorts != c.udp || p.Outgoing[0].To.IsValid() {
			t.Errorf("%s: the rest of the plan is not good:\n%s", c.name, p.Format())
		}
	}
}

func TestUDPPortsAvoidTunnels(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.IntRange(0, 30).Draw(t, "first")
		asked := model.PortRange{First: uint16(first), Last: uint16(rapid.IntRange(first, 30).Draw(t, "last"))}
		var tunnels []topology.Tunnel
		taken := map[int]bool{}
		for _, p := range rapid.SliceOfN(rapid.IntRange(0, 32), 0, 6).Draw(t, "ports") {
			tunnels = append(tunnels, topology.Tunnel{Port: p})
			taken[p] = p > 0
		}
		got, err := udpPorts(asked, tunnels)
		// The oracle: try every run.
		longest := 0
		for from := max(1, int(asked.First)); from <= int(asked.Last); from++ {
			for to := from; to <= int(asked.Last) && !taken[to]; to++ {
				longest = max(longest, to-from+1)
			}
		}
		switch {
		case asked.Last == 0:
			if err != nil || !got.IsZero() && got.First < firstPort {
				t.Fatalf("nothing asked: got %v, %v", got, err)
			}
		case longest == 0:
			if err == nil || got.First < firstPort {
				t.Fatalf("no port left: got %v, %v", got, err)
			}
		default:
			if err != nil || int(got.Last)-int(got.First)+1 != longest || got.First < asked.First || got.First < 1 || got.Last > asked.Last {
				t.Fatalf("got %v, %v, want a run of %d in %v", got, err, longest, asked)
			}
			for p := range taken {
				if taken[p] && int(got.First) <= p && p <= int(got.Last) {
					t.Fatalf("%v has tunnel port %d", got, p)
				}
			}
		}
	})
}

// TestMergeHoldsTheSameAddresses compares Merge with a look at every address of a small world that
// has both families and both ends of each.
func TestMergeHoldsTheSameAddresses(t *testing.T) {
	bases := []netip.Addr{addr("0.0.0.0"), addr("10.0.0.0"), addr("255.255.255.0"), addr("::"), addr("fd00::"), addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00")}
	checked := 0
	rapid.Check(t, func(t *rapid.T) {
		prefixes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			base := rapid.SampledFrom(bases).Draw(t, "base").AsSlice()
			base[len(base)-1] = byte(rapid.IntRange(0, 255).Draw(t, "offset"))
			a, _ := netip.AddrFromSlice(base)
			return netip.PrefixFrom(a, a.BitLen()-rapid.IntRange(0, 8).Draw(t, "host bits"))
		}), 0, 12).Draw(t, "prefixes")
		prefixes = append(prefixes, rapid.SampledFrom([][]netip.Prefix{nil, {{}}, {prefix("0.0.0.0/0")}, {prefix("::/0")}}).Draw(t, "extra")...)
		ranges := Merge(prefixes)
		canonical(t, ranges)
		for _, base := range bases {
			b := base.AsSlice()
			for i := range 256 {
				b[len(b)-1] = byte(i)
				a, _ := netip.AddrFromSlice(b)
				want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
				got := slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(a) })
				if got != want {
					t.Fatalf("%v: %s is in the ranges %v: %v, want %v", prefixes, a, ranges, got, want)
				}
				checked++
			}
		}
	})
	t.Logf("%d addresses compared", checked)
}

type fataler interface{ Fatalf(string, ...any) }

// canonical fails if ranges overlap, touch, or are not in order.
func canonical(t fataler, ranges []Range) {
	for i, r := range ranges {
		if !r.First.IsValid() || r.First.BitLen() != r.Last.BitLen() || r.Last.Less(r.First) {
			t.Fatalf("range %v makes no sense", r)
		}
		if i == 0 {
			continue
		}
		if before := ranges[i-1]; !before.Last.Less(r.First) || before.Last.Next() == r.First {
			t.Fatalf("ranges %v and %v overlap, touch or are out of order", before, r)
		}
	}
}

func FuzzMerge(f *testing.F) {
	f.Add("10.0.0.0/24 10.0.1.0/24 10.0.0.7/32 ::/0")
	f.Add("255.255.255.255/32 ::/128 0.0.0.0/0")
	f.Fuzz(func(t *testing.T, s string) {
		var prefixes []netip.Prefix
		for w := range strings.FieldsSeq(s) {
			if p, err := netip.ParsePrefix(w); err == nil {
				prefixes = append(prefixes, p)
			}
		}
		ranges := Merge(prefixes)
		canonical(t, ranges)
		for _, p := range prefixes {
			p = p.Masked()
			if !slices.ContainsFunc(ranges, func(r Range) bool { return r.Contains(p.Addr()) && r.Contains(last(p)) }) {
				t.Fatalf("%v is not in %v", p, ranges)
			}
		}
		// The ends of each range are in a prefix: nothing was added there.
		for _, r := range ranges {
			for _, a := range []netip.Addr{r.First, r.Last} {
				if !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) }) {
					t.Fatalf("%s of %v is in none of %v", a, r, prefixes)
				}
			}
		}
	})
}

func TestRangeString(t *testing.T) {
	for want, in := range map[string][]string{
		"10.0.0.0/23":         {"10.0.0.0/24", "10.0.1.0/24"},
		"10.0.1.0-10.0.2.255": {"10.0.1.0/24", "10.0.2.0/24"},
		"0.0.0.0/0":           {"0.0.0.0/1", "128.0.0.0/1"},
		"fd00::/128":          {"fd00::/128"},
	} {
		var ps []netip.Prefix
		for _, s := range in {
			ps = append(ps, prefix(s))
		}
		got := Merge(ps)
		if len(got) != 1 || got[0].String() != want {
			t.Errorf("%v: got %v, want %s", in, got, want)
		}
	}
}

package lab

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const twoRacks = `
name: lab
mtu: 1500
subnets:                     # a router namespace joins them
  - {name: rack1, cidr: 172.31.1.0/24, cidr6: "fd00:31:1::/64"}
  - {name: rack2, cidr: 172.31.2.0/24, cidr6: "fd00:31:2::/64"}
nodes:
  - {name: n1, subnet: rack1}
  - {name: n2, subnet: rack1}
  - {name: n3, subnet: rack2}
`

var byValue = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestParseIsTheDefaultLab(t *testing.T) {
	c, err := Parse([]byte(twoRacks))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(DefaultConfig(), c, byValue); d != "" {
		t.Errorf("the documented lab.yaml is not the default lab (-default +parsed):\n%s", d)
	}
	want := []string{"172.31.1.1 fd00:31:1::1", "172.31.1.2 fd00:31:1::2", "172.31.2.1 fd00:31:2::1"}
	for i, n := range c.Nodes {
		if got := fmt.Sprint(n.IP, " ", n.IP6); got != want[i] {
			t.Errorf("node %s: got %s, want %s", n.Name, got, want[i])
		}
	}
}

func TestParseNamesTheField(t *testing.T) {
	head := "subnets: [{name: a, cidr: 10.1.0.0/24}]\n"
	nodes := "nodes: [{name: n1, subnet: a}]\n"
	tests := []struct{ name, yaml, want string }{
		{"unknown field", head + nodes + "colour: red\n", `unknown field "colour"`},
		{"unknown field below", head + "nodes: [{name: n1, subnet: a, ipp: 1.2.3.4}]", `unknown field "nodes[0].ipp"`},
		{"doubled key", head + nodes + "mtu: 1500\nmtu: 1400\n", `"mtu" already set`},
		{"no yaml", "{", "lab.yaml:"},
		{"wrong type", head + nodes + "mtu: big\n", "mtu"},
		{"case matters", head + nodes + "MTU: 1500\n", `unknown field "MTU"`},
		{"name", head + nodes + "name: ../etc\n", `name: name "../etc"`},
		{"name too long", head + nodes + "name: " + strings.Repeat("a", 33) + "\n", "want 1 to 32"},
		{"mtu", head + nodes + "mtu: 1279\n", "mtu: 1279: want 1280 to 65535"},
		{"mtu zero", head + nodes + "mtu: 0\n", "mtu: 0: want"},
		{"mtu of a subnet", "subnets: [{name: a, cidr: 10.1.0.0/24, mtu: 70000}]\n" + nodes, "subnets[0].mtu: 70000: want 1280 to 65535"},
		{"no subnets", nodes, "subnets: want at least one"},
		{"no nodes", head, "nodes: want at least one"},
		{"subnet name twice", "subnets: [{name: a, cidr: 10.1.0.0/24}, {name: a, cidr: 10.2.0.0/24}]\n" + nodes, `subnets[1].name: "a" is also`},
		{"overlap", "subnets: [{name: a, cidr: 10.1.0.0/16}, {name: b, cidr: 10.1.2.0/24}]\n" + nodes, "subnets[1]: 10.1.2.0/24 overlaps 10.1.0.0/16"},
		{"host bits", "subnets: [{name: a, cidr: 10.1.0.7/24}]\n" + nodes, "want 10.1.0.0/24"},
		{"wrong family", "subnets: [{name: a, cidr: 'fd00::/64'}]\n" + nodes, "want an IPv4 prefix"},
		{"mapped", "subnets: [{name: a, cidr6: '::ffff:10.0.0.0/112'}]\n" + nodes, "want an IPv6 prefix"},
		{"too small", "subnets: [{name: a, cidr: 10.1.0.0/30}]\n" + nodes, "prefix length of 8 to 29"},
		{"no prefix", "subnets: [{name: a}]\n" + nodes, "subnets[0]: want cidr, cidr6 or both"},
		{"loopback", "subnets: [{name: a, cidr: 127.0.0.0/8}]\n" + nodes, "unicast"},
		{"node name", head + "nodes: [{name: N1, subnet: a}]", `nodes[0].name: name "N1"`},
		{"node name dot", head + "nodes: [{name: n.1, subnet: a}]", `nodes[0].name`},
		{"node name twice", head + "nodes: [{name: n1, subnet: a}, {name: n1, subnet: a}]", `nodes[1].name: "n1" is also`},
		{"node name reserved", head + "nodes: [{name: router, subnet: a}]", `"router" is taken by the lab`},
		{"subnet unknown", head + "nodes: [{name: n1, subnet: b}]", `nodes[0].subnet: "b" is not one of`},
		{"ip elsewhere", head + "nodes: [{name: n1, subnet: a, ip: 10.2.0.1}]", "nodes[0].ip: 10.2.0.1 is not a host address of 10.1.0.0/24"},
		{"ip broadcast", head + "nodes: [{name: n1, subnet: a, ip: 10.1.0.255}]", "not a host address"},
		{"ip of the router", head + "nodes: [{name: n1, subnet: a, ip: 10.1.0.254}]", "taken by the router"},
		{"ip twice", head + "nodes: [{name: n1, subnet: a}, {name: n2, subnet: a, ip: 10.1.0.1}]", "10.1.0.1 is taken by node n1"},
		{"ip of a family that is not there", head + "nodes: [{name: n1, subnet: a, ip6: 'fd00::1'}]", "no prefix of this family"},
		{"own flag", head + "nodes: [{name: n1, subnet: a, args: [--node-name=x]}]", "set by the lab itself"},
		{"env", head + "nodes: [{name: n1, subnet: a, env: {'A B': c}}]", "nodes[0].env"},
		{"subnet full", "subnets: [{name: a, cidr: 10.1.0.0/29}]\n" + manyNodes(6), "nodes[5].ip: 10.1.0.6 is taken by the router"},
		{"too many", "subnets: [{name: a, cidr: 10.1.0.0/16}]\n" + manyNodes(251), `"a" has more than 250 nodes`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.yaml))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestSubnetMTU(t *testing.T) {
	c, err := Parse([]byte("mtu: 9000\nsubnets: [{name: a, cidr: 10.1.0.0/24}, {name: b, cidr: 10.2.0.0/24, mtu: 1500}]\nnodes: [{name: n1, subnet: a}, {name: n2, subnet: b}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range Compile(c, "/x").Wires {
		want := 9000
		if w.Bridge == "br-b" {
			want = 1500
		}
		if w.MTU != want {
			t.Errorf("%s on %s: MTU %d, want %d", w.Name, w.Bridge, w.MTU, want)
		}
	}
}

func manyNodes(n int) string {
	var b strings.Builder
	b.WriteString("nodes:\n")
	for i := range n {
		fmt.Fprintf(&b, "- {name: n%d, subnet: a}\n", i+1)
	}
	return b.String()
}

func TestParseTooLong(t *testing.T) {
	if _, err := Parse(make([]byte, maxConfigBytes+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("got %v, want an error about the size", err)
	}
}

func TestPlanGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/plan/*.yaml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse(data)
			if err != nil {
				t.Fatal(err)
			}
			got := Compile(c, filepath.Join(DefaultRoot, c.Name)).Format()
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("plan differs (-want +got):\n%s", d)
			}
		})
	}
}

func FuzzLabYAML(f *testing.F) {
	f.Add([]byte(twoRacks))
	f.Add([]byte("subnets: [{name: a, cidr6: 'fd00::/112'}]\nnodes: [{name: x, subnet: a, ip6: 'fd00::5', args: [--log-level=debug], env: {A: b}}]"))
	f.Add([]byte("{"))
	f.Add([]byte("nodes: [{}]\nsubnets: [{}]"))
	f.Add([]byte("mtu: 99999999999999999999"))
	f.Add([]byte("subnets: [{name: a, cidr: 0.0.0.0/0}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		p := Compile(c, filepath.Join(DefaultRoot, c.Name))
		seen := map[string]bool{}
		for _, n := range p.Namespaces {
			if seen[n.Name] || strings.ContainsAny(n.Name, "/ \x00") {
				t.Errorf("namespace %q is doubled or not a safe name", n.Name)
			}
			seen[n.Name] = true
		}
		links := map[string]bool{}
		addresses := map[netip.Addr]bool{}
		for _, b := range p.Bridges {
			checkLink(t, links, b.Name)
		}
		for _, w := range p.Wires {
			checkLink(t, links, w.Name)
			checkAddresses(t, addresses, w.Addresses)
			if len(w.Addresses) == 0 {
				t.Errorf("wire %s has no address", w.Name)
			}
		}
		for _, r := range p.Routes {
			if r.Dst.Bits() == 0 || !addresses[r.Via] || r.Dst.Contains(r.Via) {
				t.Errorf("route %v via %v: a default route, or not by the router of the own subnet", r.Dst, r.Via)
			}
		}
	})
}

func checkLink(t *testing.T, seen map[string]bool, name string) {
	if seen[name] || len(name) > 15 || name == "" {
		t.Errorf("link name %q is doubled or not one", name)
	}
	seen[name] = true
}

func checkAddresses(t *testing.T, seen map[netip.Addr]bool, ps []netip.Prefix) {
	for _, p := range ps {
		if seen[p.Addr()] || p.Masked().Addr() == p.Addr() {
			t.Errorf("address %v is doubled or the subnet's own", p)
		}
		seen[p.Addr()] = true
	}
}

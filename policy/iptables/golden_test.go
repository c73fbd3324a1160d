package iptables

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"weft/internal/kernel"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
)

var update = flag.Bool("update", false, "write the golden files")

// town is a node with two pods, a client elsewhere and a network set.
func town() *model.Snapshot {
	pod := func(n int, app, port string, number uint16) model.Endpoint {
		return model.Endpoint{ID: model.EndpointID{Namespace: "shop", Pod: app, Interface: "eth0"}, Device: fmt.Sprintf("weft%011x", 0xabc0+n),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", n))},
			MAC:       model.MAC{2, 0, 0, 0, 0, byte(n)}, Labels: map[string]string{"app": app}, Profiles: []string{"kns.shop"},
			Ports: []model.EndpointPort{{Name: port, Protocol: model.TCP, Port: number}}}
	}
	s := &model.Snapshot{Self: "n1", Endpoints: map[model.EndpointID]model.Endpoint{}, Policy: model.PolicyView{
		Profiles: map[string]*model.Profile{"kns.shop": {Name: "kns.shop", Ingress: []model.Rule{{Action: model.Allow}}, Egress: []model.Rule{{Action: model.Allow}}}},
		Remote:   map[model.RemoteID]*model.RemoteEndpoint{}, Services: map[model.ServiceID][]model.ServiceEndpoint{{Namespace: "shop", Name: "db"}: {
			{Address: netip.MustParseAddr("10.244.0.2"), Protocol: model.TCP, Port: 5432}}},
		NetworkSets: map[model.NetworkSetID]*model.NetworkSet{{Name: "world"}: {ID: model.NetworkSetID{Name: "world"}, Labels: map[string]string{"role": "world"},
			Nets: prefixes("0.0.0.0/0", "0.0.0.0/1", "198.51.100.0/24", "198.51.100.7/32", "::/0")}},
		Policies: map[model.PolicyID]*model.Policy{}, Tiers: map[string]*model.Tier{}, HostEndpoints: map[string]*model.HostEndpoint{},
	}}
	for _, e := range []model.Endpoint{pod(1, "web", "http", 8080), pod(2, "db", "sql", 5432)} {
		s.Endpoints[e.ID] = e
	}
	id := model.RemoteID{Node: "n2", EndpointID: model.EndpointID{Namespace: "shop", Pod: "client", Interface: "eth0"}}
	s.Policy.Remote[id] = &model.RemoteEndpoint{ID: id, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.9")}, Labels: map[string]string{"app": "client"},
		Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 80}}}
	return s
}

func prefixes(s ...string) []netip.Prefix {
	list := []netip.Prefix{}
	for _, p := range s {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func ports(first uint16, more ...uint16) []model.Port {
	var list []model.Port
	for _, p := range append([]uint16{first}, more...) {
		list = append(list, model.Port{Range: model.PortRange{First: p, Last: p}})
	}
	return list
}

func web(s *model.Snapshot, p model.Policy) {
	if p.ID.Name == "" {
		p.ID = model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}
	}
	if p.Selector == "" {
		p.Selector = "app == 'web'"
	}
	s.Policy.Policies[p.ID] = &p
}

func uplink(s *model.Snapshot, iface string) {
	s.Policy.HostEndpoints["n1-"+iface] = &model.HostEndpoint{Name: "n1-" + iface, Node: "n1", Interface: iface, Labels: map[string]string{"host": "n1"}}
	s.Policy.Config = model.PolicyConfig{FailsafeIn: []model.Failsafe{{Protocol: model.TCP, Port: 22}, {Protocol: model.UDP, Port: 68, Net: netip.MustParsePrefix("10.0.0.0/8")}},
		FailsafeOut: []model.Failsafe{{Protocol: model.UDP, Port: 53}}, PodsToHost: true}
}

func client() *string { s := "app == 'client'"; return &s }

var goldenCases = []struct {
	name string
	fill func(s *model.Snapshot)
}{ // those of a name with "nets" or "icmp" show IPv6 too
	{"deny-all", func(s *model.Snapshot) { web(s, model.Policy{Types: model.Types{Ingress: true, Egress: true}}) }},
	{"from-selector-to-ports", func(s *model.Snapshot) {
		web(s, model.Policy{Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Selector: client()},
			Destination: model.EntityMatch{Ports: append(ports(80, 443), model.Port{Range: model.PortRange{First: 8000, Last: 8999}})}}}})
	}},
	{"many-ports", func(s *model.Snapshot) {
		list := ports(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
		web(s, model.Policy{Ingress: []model.Rule{{Action: model.Deny, Protocol: model.UDP, Destination: model.EntityMatch{Ports: list}},
			{Action: model.Allow, Protocol: model.UDP, Destination: model.EntityMatch{NotPorts: list}}}})
	}},
	{"named-ports", func(s *model.Snapshot) {
		web(s, model.Policy{Egress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: append(ports(53), model.Port{Name: "http"})}}}})
	}},
	{"nets-except", func(s *model.Snapshot) {
		web(s, model.Policy{Egress: []model.Rule{
			{Action: model.Allow, Destination: model.EntityMatch{Nets: prefixes("10.0.0.0/8"), NotNets: prefixes("10.1.0.0/16", "10.2.0.0/16")}},
			{Action: model.Allow, Destination: model.EntityMatch{Nets: prefixes("fd00::/8", "fe00::/8"), NotNets: prefixes("fd01::/16")}},
			{Action: model.Deny, Destination: model.EntityMatch{NotNets: prefixes("192.0.2.0/24")}},
			{Action: model.Allow, Destination: model.EntityMatch{NotNets: prefixes("0.0.0.0/0")}}}})
	}},
	{"everywhere-in-a-set", func(s *model.Snapshot) {
		sel := "role == 'world'"
		web(s, model.Policy{Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{NotSelector: &sel}}, {Action: model.Allow, Source: model.EntityMatch{Selector: &sel}}}})
	}},
	{"icmp", func(s *model.Snapshot) {
		web(s, model.Policy{Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.ICMP, ICMP: &model.ICMPMatch{Type: 3}, NotICMP: &model.ICMPMatch{Type: 3, Code: 4, HasCode: true}},
			{Action: model.Allow, Protocol: model.ICMPv6, ICMP: &model.ICMPMatch{Type: 128}},
			{Action: model.Allow, Protocol: model.ICMP, ICMP: &model.ICMPMatch{Type: 255}},
			{Action: model.Deny, NotProtocol: model.SCTP}}})
	}},
	{"log-and-pass-and-tiers", func(s *model.Snapshot) {
		one, _ := model.OrderOf(1)
		s.Policy.Tiers["security"] = &model.Tier{Name: "security", Order: one, DefaultAction: model.Pass}
		id := func(n string) model.PolicyID { return model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: n} }
		web(s, model.Policy{ID: id("security.a"), Tier: "security", Ingress: []model.Rule{{Action: model.Log}, {Action: model.Pass, Protocol: model.TCP}}})
		web(s, model.Policy{ID: id("security.b"), Tier: "security", Ingress: []model.Rule{{Action: model.Deny, Protocol: model.UDP}}})
		web(s, model.Policy{ID: id("z"), Ingress: []model.Rule{{Action: model.Allow}}})
	}},
	{"service", func(s *model.Snapshot) {
		web(s, model.Policy{Egress: []model.Rule{{Action: model.Allow, Destination: model.EntityMatch{Service: &model.ServiceID{Namespace: "shop", Name: "db"}}}}})
	}},
	{"strange-names", func(s *model.Snapshot) {
		web(s, model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "x\" -j ACCEPT\nCOMMIT --"}, Ingress: []model.Rule{{Action: model.Allow}}})
	}},
	{"host-endpoint", func(s *model.Snapshot) {
		uplink(s, "eth0")
		web(s, model.Policy{Selector: "host == 'n1'", Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(443)}}}})
	}},
	{"host-endpoint-carriers", func(s *model.Snapshot) {
		uplink(s, "eth0")
		s.Policy.Overlay = model.Overlay{Peers: []netip.Addr{netip.MustParseAddr("172.31.1.12"), netip.MustParseAddr("fd00:31:1::12")}, Carriers: []model.Carrier{
			{Family: model.IPv4, Protocol: model.IPIP}, {Family: model.IPv4, Protocol: model.UDP, Port: 4789}, {Family: model.IPv6, Protocol: model.UDP, Port: 51821}}}
	}},
	{"host-endpoint-forward", func(s *model.Snapshot) {
		uplink(s, "*")
		web(s, model.Policy{Selector: "host == 'n1'", ApplyOnForward: true, Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP}}})
	}},
	{"host-endpoint-early", func(s *model.Snapshot) {
		uplink(s, "eth0")
		id := func(n string) model.PolicyID { return model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: n} }
		web(s, model.Policy{ID: id("untracked"), Selector: "host == 'n1'", DoNotTrack: true, ApplyOnForward: true, Ingress: []model.Rule{{Action: model.Allow, Protocol: model.UDP}}})
		web(s, model.Policy{ID: id("predecided"), Selector: "host == 'n1'", PreDNAT: true, ApplyOnForward: true, Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{Nets: prefixes("203.0.113.0/24")}}}})
	}},
}

func compile(t *testing.T, s *model.Snapshot) *policy.Program {
	t.Helper()
	p, err := policy.Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestGolden compares what the programs are fed: for a node without policies all of it, for each other
// case what differs from that.
func TestGolden(t *testing.T) {
	base := compile(t, town())
	r := render(base)
	archive := &txtar.Archive{Comment: []byte("What the cases in golden_test.go become: without-policy whole, the others as what differs from it.\nWritten by go test -update.\n\n")}
	archive.Files = append(archive.Files, txtar.File{Name: "without-policy", Data: []byte(Format(base))})
	for _, c := range goldenCases {
		s := town()
		c.fill(s)
		p := compile(t, s)
		now := render(base)
		now.take()
		now.become(render(p))
		text := formatChange(now, p, listSets(r), now.take(), hookChanges(hookedIn(r), hookedIn(now)))
		if !strings.Contains(c.name, "nets") && !strings.Contains(c.name, "icmp") {
			text, _, _ = strings.Cut(text, "# ip6tables-restore")
		}
		if text != strings.ToValidUTF8(text, "") {
			t.Errorf("%s: not text", c.name)
		}
		archive.Files = append(archive.Files, txtar.File{Name: c.name, Data: []byte(text)})
	}
	got := string(txtar.Format(archive))
	const file = "testdata/restore.txtar"
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
		t.Errorf("%s (-want +got), go test -update writes it:\n%s", file, d)
	}
}

// TestTree: of many devices each is led to its own chain, whatever others are there, by few rules.
func TestTree(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	longest := 0
	for n := range 200 {
		devices := map[string]bool{"weft1": true, "weft12": true}
		for range n {
			name := fmt.Sprintf("weft%011x", random.Uint64()&0xfffffffffff)
			if random.IntN(2) == 0 {
				name = fmt.Sprintf("weft%011d", random.IntN(3000))
			}
			devices[name] = true
		}
		list := sortedKeys(devices)
		c := tree(list, "-i", chainFrom, "-g unknown", func(d string) string { return "pod-" + d })
		for name := range c {
			if len(name) > maxChainName {
				t.Fatalf("chain %s is too long", name)
			}
		}
		for _, d := range append(list, "weft2", "weft99999999999", "weft00000000000") {
			want := "pod-" + d
			if !devices[d] {
				want = "unknown"
			}
			got, met := walk(c, d)
			if got != want {
				t.Fatalf("of %d devices %s is led to %s, want %s", len(list), d, got, want)
			}
			longest = max(longest, met)
		}
	}
	t.Logf("at most %d rules for one of 202 devices", longest)
	if longest > 60 {
		t.Error("that is no tree")
	}
}

// walk follows a device through the tree as the kernel does, and counts rules.
func walk(c map[string][]string, device string) (target string, met int) {
	at := chainFrom
next:
	for {
		for _, rule := range c[at] {
			met++
			w := strings.Fields(rule)
			if len(w) == 4 {
				name, wild := strings.CutSuffix(w[1], "+")
				if device != name && (!wild || !strings.HasPrefix(device, name)) {
					continue
				}
			}
			target = w[len(w)-1]
			if c[target] == nil {
				return target, met
			}
			at = target
			continue next
		}
		return "", met
	}
}

// TestNames: no name is too long for the kernel, nor two of a kind the same.
func TestNames(t *testing.T) {
	seen := map[string]string{}
	check := func(name, of string, limit int) {
		if len(name) > limit || seen[name] != "" && seen[name] != of {
			t.Errorf("%s of %s: %d bytes, want at most %d; also of %q", name, of, len(name), limit, seen[name])
		}
		seen[name] = of
	}
	count, tags := 0, 0
	for seed := range uint64(100) {
		p := compile(t, policytest.Full(seed, true).Snapshot)
		for id := range p.Chains {
			check(chainName(id), string(id), maxChainName)
			count++
		}
		for id := range p.Sets {
			if !id.Staged {
				check(setName(id), id.String(), maxSetName)
				count++
			}
		}
		for k := range render(p).chains {
			if len(k.chain) > maxChainName {
				t.Errorf("chain %s is longer than %d", k.chain, maxChainName)
			}
		}
		names := policy.TagNames(p)
		for _, l := range strings.Split(Format(p), "\n") {
			_, tag, logs := strings.Cut(l, `--nflog-prefix "`)
			if !logs {
				continue
			}
			tag, _, _ = strings.Cut(tag, `"`)
			parsed, err := policy.ParseTag(tag)
			if err != nil || len(tag) > maxLogPrefix || parsed.Cause == policy.ByRule && names[parsed.Name] == "" {
				t.Errorf("the tag of %s: %v, %d bytes; want one that names a chain in at most %d", l, err, len(tag), maxLogPrefix)
			}
			tags++
		}
	}
	for _, iface := range []string{"*", "any", "eth0", "eth0.100", "a\"b", "ü", kernel.VXLANDevice} {
		check(hostChain("hi", iface), iface, maxChainName)
	}
	t.Logf("%d names of chains and sets, %d tags", count, tags)
}

// TestFollowIsRender changes random worlds: what follows the differences is what the whole becomes,
// and text that is sent twice is the same.
func TestFollowIsRender(t *testing.T) {
	flushes, chains, wholes := 0, 0, 0
	for seed := range uint64(12) {
		w := policytest.New(seed, seed%2 == 0)
		c := policy.NewCompiler(policytest.Self)
		r := render(c.Flush().Program)
		for range 100 {
			w.Step(c)
			u := c.Flush()
			if u.Delta.Empty() {
				continue
			}
			flushes++
			r.take()
			if !r.follow(&u) {
				wholes++
				r.become(render(u.Program))
			}
			chains += len(r.take())
			want := render(u.Program)
			if d := cmp.Diff(want.chains, r.chains, cmp.AllowUnexported(key{})); d != "" {
				t.Fatalf("seed %d (-whole +followed):\n%s", seed, d)
			}
			if d := cmp.Diff(listNames(want), listNames(r)); d != "" {
				t.Fatalf("seed %d, lists (-whole +followed):\n%s", seed, d)
			}
		}
	}
	t.Logf("0 differences after each of %d changes, of which %d were rendered whole; %d chains written", flushes, wholes, chains)
}

func listNames(r *rules) []string { return sortedKeys(listSets(r)) }

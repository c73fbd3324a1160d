package nftables

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
)

var update = flag.Bool("update", false, "write the golden files")

// shop is a web and a db pod here, a client elsewhere, a network set and a service.
func shop() *model.Snapshot {
	s := &model.Snapshot{Self: "n1", Endpoints: map[model.EndpointID]model.Endpoint{}, Policy: model.PolicyView{
		Profiles: map[string]*model.Profile{"kns.shop": {Name: "kns.shop", Ingress: []model.Rule{{Action: model.Allow}}, Egress: []model.Rule{{Action: model.Allow}}}},
		NetworkSets: map[model.NetworkSetID]*model.NetworkSet{{Name: "office"}: {ID: model.NetworkSetID{Name: "office"}, Labels: map[string]string{"role": "office"},
			Nets: prefixes("198.51.100.0/24", "198.51.100.7/32", "203.0.113.9/32")}},
		Services: map[model.ServiceID][]model.ServiceEndpoint{{Namespace: "shop", Name: "db"}: {{Address: netip.MustParseAddr("10.244.0.2"), Protocol: model.TCP, Port: 5432}}},
		Remote:   map[model.RemoteID]*model.RemoteEndpoint{}, Policies: map[model.PolicyID]*model.Policy{}, Tiers: map[string]*model.Tier{}, HostEndpoints: map[string]*model.HostEndpoint{},
	}}
	for n, app := range []string{"web", "db"} {
		e := model.Endpoint{ID: model.EndpointID{Namespace: "shop", Pod: app, Interface: "eth0"}, Device: fmt.Sprintf("weft%011d", n+1), MAC: model.MAC{2, 0, 0, 0, 0, byte(n + 1)},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(n + 1)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", n+1))},
			Labels:    map[string]string{"app": app}, Profiles: []string{"kns.shop"}, Ports: []model.EndpointPort{{Name: "main", Protocol: model.TCP, Port: 8080}}}
		s.Endpoints[e.ID] = e
	}
	id := model.RemoteID{Node: "n2", EndpointID: model.EndpointID{Namespace: "shop", Pod: "client", Interface: "eth0"}}
	s.Policy.Remote[id] = &model.RemoteEndpoint{ID: id, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.9")}, Labels: map[string]string{"app": "client"}}
	return s
}

func prefixes(list ...string) []netip.Prefix {
	var nets []netip.Prefix
	for _, p := range list {
		nets = append(nets, netip.MustParsePrefix(p))
	}
	return nets
}

func ports(numbers ...uint16) []model.Port {
	var list []model.Port
	for _, n := range numbers {
		list = append(list, model.Port{Range: model.PortRange{First: n, Last: n}})
	}
	return list
}

func selects(s string) model.EntityMatch { return model.EntityMatch{Selector: &s} }

// set adds a policy about the web pod.
func set(s *model.Snapshot, p model.Policy) {
	if p.ID.Name == "" {
		p.ID.Name = "p"
	}
	p.ID.Kind = model.KindGlobalNetworkPolicy
	if p.Selector == "" {
		p.Selector = "app == 'web'"
	}
	s.Policy.Policies[p.ID] = &p
}

func ingress(rules ...model.Rule) model.Policy {
	return model.Policy{Ingress: rules, Types: model.Types{Ingress: true}}
}

var goldenCases = []struct {
	name string
	fill func(s *model.Snapshot)
}{
	{"two-pods", func(*model.Snapshot) {}},
	{"default-deny", func(s *model.Snapshot) { set(s, model.Policy{Types: model.Types{Ingress: true, Egress: true}}) }},
	{"selector-and-ports", func(s *model.Snapshot) {
		e := selects("app == 'client'")
		set(s, ingress(model.Rule{Action: model.Allow, Protocol: model.TCP, Source: e,
			Destination: model.EntityMatch{Ports: append(ports(443, 80), model.Port{Range: model.PortRange{First: 8000, Last: 8999}})}}))
	}},
	{"named-port", func(s *model.Snapshot) {
		set(s, ingress(model.Rule{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: append(ports(53), model.Port{Name: "main"})}}))
	}},
	{"nets-except", func(s *model.Snapshot) {
		set(s, model.Policy{Egress: []model.Rule{
			{Action: model.Allow, Destination: model.EntityMatch{Nets: prefixes("10.0.0.0/8", "192.0.2.0/24"), NotNets: prefixes("10.9.0.0/16")}},
			{Action: model.Deny, Destination: model.EntityMatch{Nets: prefixes("fd00::/8")}}}})
	}},
	{"network-set-not", func(s *model.Snapshot) {
		e := model.EntityMatch{NotSelector: selects("role == 'office'").Selector}
		set(s, ingress(model.Rule{Action: model.Deny, Source: e}, model.Rule{Action: model.Allow}))
	}},
	{"icmp", func(s *model.Snapshot) {
		set(s, ingress(model.Rule{Action: model.Allow, Protocol: model.ICMP, ICMP: &model.ICMPMatch{Type: 8}},
			model.Rule{Action: model.Deny, Protocol: model.ICMPv6, NotICMP: &model.ICMPMatch{Type: 1, Code: 4, HasCode: true}}))
	}},
	{"services", func(s *model.Snapshot) {
		db := &model.ServiceID{Namespace: "shop", Name: "db"}
		set(s, model.Policy{Ingress: []model.Rule{{Action: model.Allow, Source: model.EntityMatch{Service: db}}},
			Egress: []model.Rule{{Action: model.Allow, Destination: model.EntityMatch{Service: db}}}})
	}},
	{"tiers-and-pass", func(s *model.Snapshot) {
		first, _ := model.OrderOf(1)
		s.Policy.Tiers["first"] = &model.Tier{Name: "first", Order: first, DefaultAction: model.Deny}
		p := ingress(model.Rule{Action: model.Pass, Protocol: model.TCP})
		p.ID.Name, p.Tier = "pass", "first"
		set(s, p)
		set(s, ingress(model.Rule{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: ports(80)}}))
	}},
	{"log", func(s *model.Snapshot) {
		set(s, ingress(model.Rule{Action: model.Log, Protocol: model.SCTP}, model.Rule{Action: model.Deny, NotProtocol: model.TCP}))
	}},
	{"folded", func(s *model.Snapshot) {
		set(s, ingress(
			model.Rule{Action: model.Allow, Protocol: model.TCP, Source: selects("app == 'client'"), Destination: model.EntityMatch{Ports: ports(80, 443)}},
			model.Rule{Action: model.Allow, Protocol: model.UDP, Source: selects("app == 'client'"), Destination: model.EntityMatch{Ports: ports(443)}},
			model.Rule{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Nets: prefixes("192.0.2.1/32")}},
			model.Rule{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Nets: prefixes("192.0.2.2/32", "192.0.2.3/32")}},
			model.Rule{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Nets: prefixes("192.0.2.128/25")}}))
	}},
	{"spoofing", func(s *model.Snapshot) {
		id := model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}
		e := s.Endpoints[id]
		e.Sources = prefixes("192.0.2.0/24")
		s.Endpoints[id] = e
	}},
	{"host-endpoints", func(s *model.Snapshot) {
		for _, h := range []model.HostEndpoint{
			{Name: "uplink", Node: "n1", Interface: "eth0", Labels: map[string]string{"host": "yes"}},
			{Name: "rest", Node: "n1", Interface: "*", Profiles: []string{"kns.shop"}},
		} {
			s.Policy.HostEndpoints[h.Name] = &h
		}
		s.Policy.Config = model.PolicyConfig{PodsToHost: true, FailsafeIn: []model.Failsafe{{Protocol: model.TCP, Port: 22, Net: netip.MustParsePrefix("172.31.0.0/16")}},
			FailsafeOut: []model.Failsafe{{Protocol: model.UDP, Port: 53}}}
		allow := []model.Rule{{Action: model.Allow, Protocol: model.UDP}}
		for _, p := range []model.Policy{{DoNotTrack: true, ApplyOnForward: true, Ingress: allow, Egress: allow}, {PreDNAT: true, ApplyOnForward: true, Ingress: allow},
			{ApplyOnForward: true, Ingress: allow}, {Egress: allow}} {
			p.ID.Name, p.Selector = fmt.Sprint("p", len(s.Policy.Policies)), "has(host)"
			set(s, p)
		}
	}},
	{"tunnels-past-a-host-endpoint", func(s *model.Snapshot) {
		s.Policy.HostEndpoints["uplink"] = &model.HostEndpoint{Name: "uplink", Node: "n1", Interface: "eth0"}
		s.Policy.Overlay = model.Overlay{Peers: []netip.Addr{netip.MustParseAddr("172.31.1.12"), netip.MustParseAddr("fd00:31:1::12")}, Carriers: []model.Carrier{
			{Family: model.IPv4, Protocol: model.IPIP}, {Family: model.IPv4, Protocol: model.UDP, Port: 4789}, {Family: model.IPv6, Protocol: model.UDP, Port: 51821}}}
	}},
	{"tunnels-not-tracked", func(s *model.Snapshot) { s.Policy.Overlay = untracked() }},
	{"tunnels-not-tracked-past-a-host-endpoint", func(s *model.Snapshot) {
		s.Policy.HostEndpoints["uplink"] = &model.HostEndpoint{Name: "uplink", Node: "n1", Interface: "eth0"}
		s.Policy.Overlay = untracked()
	}},
}

// untracked has tunnels over both families.
func untracked() model.Overlay {
	return model.Overlay{Peers: []netip.Addr{netip.MustParseAddr("172.31.1.12"), netip.MustParseAddr("fd00:31:1::12")},
		Local: []netip.Addr{netip.MustParseAddr("172.31.1.11"), netip.MustParseAddr("fd00:31:1::11")}, Carriers: []model.Carrier{
			{Family: model.IPv4, Protocol: model.IPIP}, {Family: model.IPv4, Protocol: model.UDP, Port: 4789}, {Family: model.IPv6, Protocol: model.UDP, Port: 51821}}}
}

// TestGolden prints what nft(8) shows of each case; testdata/rulesets.txtar has it to read. The first is
// what there is without any pod, the second what two pods add, the others what they have besides.
func TestGolden(t *testing.T) {
	const file = "testdata/rulesets.txtar"
	ns := testkit.NewNetns(t)
	d := newDriver(t, ns)
	apply(t, d, policy.Update{Program: &policy.Program{}})
	got := &txtar.Archive{Comment: []byte("What `nft --stateless list table inet weft` prints of the cases in golden_kernel_test.go, sorted. The first is\n" +
		"all that there is without a pod, two-pods what pods add to that, the others what they have besides. Written by go test -update.\n\n")}
	bare := strings.Split(ruleset(t, ns), "\n\n")
	add := func(name string, parts []string) {
		got.Files = append(got.Files, txtar.File{Name: name, Data: []byte(strings.Join(parts, "\n\n") + "\n")})
	}
	add("no-pod", bare)
	for i, tc := range goldenCases {
		s := shop()
		tc.fill(s)
		p, err := policy.Compile(s)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		apply(t, d, policy.Update{Program: p, Generation: uint64(i)})
		parts := strings.Split(ruleset(t, ns), "\n\n")
		add(tc.name, slices.DeleteFunc(slices.Clone(parts), func(s string) bool { return slices.Contains(bare, s) }))
		if i == 0 {
			bare = append(bare, parts...)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(txtar.Format(want)), string(txtar.Format(got))); diff != "" {
		t.Errorf("rulesets (-want +got):\n%s", diff)
	}
	if len(want.Files) < 12 {
		t.Errorf("%d cases only", len(want.Files))
	}
}

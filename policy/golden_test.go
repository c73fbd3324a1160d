package policy

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"weft/model"
)

var update = flag.Bool("update", false, "write the golden files")

// town is a small cluster to apply policies to: a web and a db pod here, a client elsewhere, a
// network set, a service, and this node's uplink.
func town() *model.Snapshot {
	labels := func(app string) map[string]string {
		return map[string]string{"app": app, "projectcalico.org/namespace": "shop", "projectcalico.org/orchestrator": "k8s"}
	}
	pod := func(n int, app string, port model.EndpointPort) model.Endpoint {
		return model.Endpoint{
			ID: model.EndpointID{Namespace: "shop", Pod: app, Interface: "eth0"}, Device: fmt.Sprintf("weft%011d", n),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), netip.MustParseAddr(fmt.Sprintf("fd00::%d", n))},
			MAC:       model.MAC{2, 0, 0, 0, 0, byte(n)}, Labels: labels(app), Profiles: []string{"kns.shop"}, Ports: []model.EndpointPort{port}}
	}
	s := &model.Snapshot{Self: "n1", Endpoints: map[model.EndpointID]model.Endpoint{}, Policy: model.PolicyView{
		Profiles: map[string]*model.Profile{"kns.shop": {Name: "kns.shop", Labels: map[string]string{"pcns.team": "blue"},
			Ingress: []model.Rule{{Action: model.Allow}}, Egress: []model.Rule{{Action: model.Allow}}}},
		Remote: map[model.RemoteID]*model.RemoteEndpoint{}, NetworkSets: map[model.NetworkSetID]*model.NetworkSet{
			{Name: "office"}: {ID: model.NetworkSetID{Name: "office"}, Labels: map[string]string{"role": "office"},
				Nets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.7/32")}}},
		Services: map[model.ServiceID][]model.ServiceEndpoint{{Namespace: "shop", Name: "db"}: {
			{Address: netip.MustParseAddr("10.244.0.2"), Protocol: model.TCP, Port: 5432}}},
		Policies: map[model.PolicyID]*model.Policy{}, Tiers: map[string]*model.Tier{}, HostEndpoints: map[string]*model.HostEndpoint{},
	}}
	for _, e := range []model.Endpoint{pod(1, "web", model.EndpointPort{Name: "http", Protocol: model.TCP, Port: 8080}),
		pod(2, "db", model.EndpointPort{Name: "sql", Protocol: model.TCP, Port: 5432})} {
		s.Endpoints[e.ID] = e
	}
	id := model.RemoteID{Node: "n2", EndpointID: model.EndpointID{Namespace: "shop", Pod: "client", Interface: "eth0"}}
	s.Policy.Remote[id] = &model.RemoteEndpoint{ID: id, Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.9")}, Labels: labels("client"),
		Profiles: []string{"kns.shop"}, Ports: []model.EndpointPort{{Name: "http", Protocol: model.TCP, Port: 80}}}
	return s
}

func orderOf(v float64) model.Order {
	o, err := model.OrderOf(v)
	if err != nil {
		panic(err)
	}
	return o
}

func text(s string) *string { return &s }

func numbers(ports ...uint16) []model.Port {
	var list []model.Port
	for _, p := range ports {
		list = append(list, model.Port{Range: model.PortRange{First: p, Last: p}})
	}
	return list
}

func nets(s ...string) []netip.Prefix {
	list := []netip.Prefix{}
	for _, p := range s {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

const shop = "projectcalico.org/namespace == 'shop' && "

// set adds policies to a snapshot; those without a name are GlobalNetworkPolicy p.
func set(s *model.Snapshot, policies ...model.Policy) {
	for _, p := range policies {
		if p.ID == (model.PolicyID{}) {
			p.ID = model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "p"}
		}
		s.Policy.Policies[p.ID] = &p
	}
}

func global(name string) model.PolicyID {
	return model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: name}
}

var goldenCases = []struct {
	name string
	fill func(s *model.Snapshot)
}{
	{"no-policy", func(*model.Snapshot) {}},
	{"default-deny", func(s *model.Snapshot) {
		set(s, model.Policy{ID: model.PolicyID{Kind: model.KindKubernetesNetworkPolicy, Namespace: "shop", Name: "default-deny"},
			Order: orderOf(1000), Selector: shop + "projectcalico.org/orchestrator == 'k8s'", Types: model.Types{Ingress: true, Egress: true}})
	}},
	{"selector-ports", func(s *model.Snapshot) {
		set(s, model.Policy{Selector: "app == 'web'", Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Selector: text("app == 'client'")},
				Destination: model.EntityMatch{Ports: append(numbers(443, 80, 81), model.Port{Range: model.PortRange{First: 8000, Last: 8999}})}}}})
	}},
	{"named-ports", func(s *model.Snapshot) {
		set(s, model.Policy{Selector: shop + "has(app)",
			Ingress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: []model.Port{{Name: "http"}, {Name: "sql"}}}}},
			Egress: []model.Rule{{Action: model.Allow, Protocol: model.TCP,
				Destination: model.EntityMatch{Selector: text("has(app)"), Ports: append(numbers(53), model.Port{Name: "http"})}}}})
	}},
	{"nets-except", func(s *model.Snapshot) {
		set(s, model.Policy{Selector: "app == 'web'", Egress: []model.Rule{
			{Action: model.Allow, Destination: model.EntityMatch{Nets: nets("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/24"), NotNets: nets("10.9.0.0/16")}},
			{Action: model.Deny, Destination: model.EntityMatch{NotNets: nets("fd00::/8")}},
			{Action: model.Allow, Destination: model.EntityMatch{Nets: nets()}}}})
	}},
	{"network-set-not", func(s *model.Snapshot) {
		set(s, model.Policy{Selector: "all()", Ingress: []model.Rule{
			{Action: model.Deny, Source: model.EntityMatch{NotSelector: text("role == 'office' || pcns.team == 'blue'")}}}})
	}},
	{"icmp", func(s *model.Snapshot) {
		set(s, model.Policy{Selector: "app == 'db'", Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.ICMP, ICMP: &model.ICMPMatch{Type: 8}},
			{Action: model.Deny, Protocol: model.ICMPv6, NotICMP: &model.ICMPMatch{Type: 1, Code: 4, HasCode: true}},
			{Action: model.Log, NotProtocol: model.SCTP}}})
	}},
	{"services", func(s *model.Snapshot) {
		db := &model.ServiceID{Namespace: "shop", Name: "db"}
		set(s, model.Policy{Selector: "app == 'web'",
			Ingress: []model.Rule{{Action: model.Allow, Source: model.EntityMatch{Service: db}}},
			Egress: []model.Rule{{Action: model.Allow, Destination: model.EntityMatch{Service: db}},
				{Action: model.Deny, Protocol: model.TCP, Destination: model.EntityMatch{Service: db, AnyPort: true, Ports: numbers(1)}}}})
	}},
	{"tiers", func(s *model.Snapshot) {
		s.Policy.Tiers["security"] = &model.Tier{Name: "security", Order: orderOf(10), DefaultAction: model.Pass}
		set(s, model.Policy{ID: global("last"), Selector: "app == 'web'", Ingress: []model.Rule{{Action: model.Allow}}},
			model.Policy{ID: global("nobody-defined-its-tier"), Tier: "x", Selector: "app == 'web'"},
			model.Policy{ID: global("first"), Order: orderOf(-1), Selector: "app == 'web'"},
			model.Policy{ID: global("b"), Order: orderOf(5), Selector: "app == 'web'"},
			model.Policy{ID: global("a"), Order: orderOf(5), Selector: "app == 'web'"},
			model.Policy{ID: model.PolicyID{Kind: model.KindClusterNetworkPolicy, Name: "admin"}, Tier: "kube-admin", Selector: "app == 'web'"},
			model.Policy{ID: global("not-here"), Selector: "app == 'client'"},
			model.Policy{ID: global("pass"), Tier: "security", Selector: "app == 'web'", Ingress: []model.Rule{{Action: model.Pass}}})
	}},
	{"staged", func(s *model.Snapshot) {
		staged := func(name string, order float64) model.Policy {
			return model.Policy{ID: model.PolicyID{Kind: model.KindStagedGlobalNetworkPolicy, Name: name}, Staged: true, Order: orderOf(order), Selector: "app == 'web'",
				Ingress: []model.Rule{{Action: model.Deny, Source: model.EntityMatch{Selector: text("app == 'client'")}}}}
		}
		set(s, staged("s1", 1), staged("s3", 3), model.Policy{Order: orderOf(2), Selector: "app == 'web'", Ingress: []model.Rule{
			{Action: model.Allow, Source: model.EntityMatch{Selector: text("app == 'client'")}}}},
			model.Policy{ID: model.PolicyID{Kind: model.KindStagedGlobalNetworkPolicy, Name: "alone"}, Tier: "kube-admin", Staged: true, Selector: "app == 'web'"})
	}},
	{"host-endpoints", func(s *model.Snapshot) {
		s.Underlay.Links = []model.Link{{Name: "eth0", Addresses: nets("172.31.1.1/24")}, {Name: "eth1", Addresses: nets("172.31.2.1/24")}}
		for _, h := range []model.HostEndpoint{
			{Name: "uplink", Node: "n1", Interface: "eth0", Labels: map[string]string{"host": "yes"}},
			{Name: "by-address", Node: "n1", ExpectedIPs: []netip.Addr{netip.MustParseAddr("172.31.2.1")}, Labels: map[string]string{"host": "yes"}},
			{Name: "shadowed", Node: "n1", ExpectedIPs: []netip.Addr{netip.MustParseAddr("172.31.1.1")}},
			{Name: "rest", Node: "n1", Interface: "*", Profiles: []string{"kns.shop"}},
			{Name: "elsewhere", Node: "n2", Interface: "eth0"},
		} {
			s.Policy.HostEndpoints[h.Name] = &h
		}
		s.Policy.Config = model.PolicyConfig{PodsToHost: true, FailsafeIn: []model.Failsafe{{Protocol: model.TCP, Port: 22, Net: netip.MustParsePrefix("172.31.0.0/16")}},
			FailsafeOut: []model.Failsafe{{Protocol: model.UDP, Port: 53}}}
		allow := []model.Rule{{Action: model.Allow}}
		set(s, model.Policy{ID: global("untracked"), Selector: "has(host)", DoNotTrack: true, ApplyOnForward: true, Ingress: allow, Egress: allow},
			model.Policy{ID: global("pre-dnat"), Selector: "has(host)", PreDNAT: true, ApplyOnForward: true, Ingress: allow},
			model.Policy{ID: global("forward"), Selector: "has(host)", ApplyOnForward: true, Ingress: []model.Rule{
				{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Ports: []model.Port{{Name: "http"}}}}}},
			model.Policy{ID: global("normal"), Selector: "has(host)", Egress: allow})
	}},
	{"spoofing", func(s *model.Snapshot) {
		id := model.EndpointID{Namespace: "shop", Pod: "web", Interface: "eth0"}
		e := s.Endpoints[id]
		e.Sources = nets("192.0.2.0/24", "10.244.0.0/28")
		s.Endpoints[id] = e
	}},
}

// TestGolden prints the Program of each case; testdata/programs.txtar has them to read.
func TestGolden(t *testing.T) {
	const file = "testdata/programs.txtar"
	got := &txtar.Archive{Comment: []byte("The Programs of the cases in golden_test.go. Written by go test -update.\n\n")}
	for _, tc := range goldenCases {
		s := town()
		tc.fill(s)
		p, err := Compile(s)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		got.Files = append(got.Files, txtar.File{Name: tc.name, Data: []byte(p.Format())})
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
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	if len(want.Files) < 12 {
		t.Errorf("%d cases only", len(want.Files))
	}
}

// TestRefused says what cannot be understood, and that what was known before stays in force.
func TestRefused(t *testing.T) {
	one := func(r model.Rule) model.Policy { return model.Policy{Ingress: []model.Rule{r}} }
	for _, tc := range []struct {
		name   string
		policy model.Policy
		want   string
	}{
		{"selector", model.Policy{Selector: "a = 'b'"}, `compile GlobalNetworkPolicy p: selector "a = 'b'": column 3: found "=", want ==, !=, in, not in, contains, starts with or ends with`},
		{"rule selector", one(model.Rule{Action: model.Deny, Source: model.EntityMatch{NotSelector: text("(")}}),
			`compile GlobalNetworkPolicy p: ingress[0]: source: selector "(": column 2: found the end, want a label name, has(label), all(), global(), ! or (`},
		{"action", one(model.Rule{}), "compile GlobalNetworkPolicy p: ingress[0]: action: action(0) is none of allow, deny, log and pass"},
		{"family", one(model.Rule{Action: model.Allow, Family: 5}), "compile GlobalNetworkPolicy p: ingress[0]: ipVersion: 5 is neither 4 nor 6"},
		{"icmp", one(model.Rule{Action: model.Allow, Protocol: model.TCP, ICMP: &model.ICMPMatch{}}), "compile GlobalNetworkPolicy p: ingress[0]: icmp: protocol is tcp, want icmp or icmpv6"},
		{"ports without protocol", one(model.Rule{Action: model.Allow, Destination: model.EntityMatch{NotPorts: numbers(80)}}),
			"compile GlobalNetworkPolicy p: ingress[0]: destination: ports: protocol is 0, want tcp, udp or sctp for port numbers"},
		{"ports", one(model.Rule{Action: model.Allow, Protocol: model.TCP, Source: model.EntityMatch{Ports: []model.Port{{Range: model.PortRange{First: 9, Last: 8}}}}}),
			"compile GlobalNetworkPolicy p: ingress[0]: source: ports: 9-8 ends before it begins"},
		{"nets", one(model.Rule{Action: model.Allow, Source: model.EntityMatch{Nets: []netip.Prefix{{}}}}),
			"compile GlobalNetworkPolicy p: ingress[0]: source: nets: invalid Prefix, want an IPv4 or IPv6 prefix"},
		{"service", one(model.Rule{Action: model.Allow, Destination: model.EntityMatch{Service: &model.ServiceID{Name: "x"}}}),
			"compile GlobalNetworkPolicy p: ingress[0]: destination: services: only an ingress rule's source and an egress rule's destination can be one"},
		{"service with ports", model.Policy{Egress: []model.Rule{{Action: model.Allow, Protocol: model.TCP, Destination: model.EntityMatch{Service: &model.ServiceID{Name: "x"}, Ports: numbers(1)}}}},
			"compile GlobalNetworkPolicy p: egress[0]: destination: ports beside a service: its own ports count, name no others"},
	} {
		tc.policy.ID = global("p")
		s := town()
		c := NewCompiler("n1")
		if err := c.Replace(s); err != nil {
			t.Fatal(err)
		}
		good := model.Policy{ID: global("p"), Selector: "app == 'web'", Ingress: []model.Rule{{Action: model.Deny}}}
		if err := c.SetPolicy(&good); err != nil {
			t.Fatal(err)
		}
		before := c.Flush().Program.Format()
		err := c.SetPolicy(&tc.policy)
		if want := tc.want + "; what was known of it before stays in force"; err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", tc.name, err, want)
		}
		if u := c.Flush(); !u.Delta.Empty() || u.Program.Format() != before {
			t.Errorf("%s: a refused policy changed the program: %+v", tc.name, u.Delta)
		}
		set(s, tc.policy)
		p, err := Compile(s)
		if err == nil || p.Chains[PolicyChain(global("p"), model.Ingress)] != nil || len(p.Endpoints) != 2 {
			t.Errorf("%s: Compile of the whole: error %v, %d pods, want an error and all but the policy", tc.name, err, len(p.Endpoints))
		}
	}
}

// TestRefusedAddresses is the same for addresses.
func TestRefusedAddresses(t *testing.T) {
	c := NewCompiler("n1")
	mapped, zoned := netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%eth0")
	for what, err := range map[string]error{
		"endpoint":      c.SetEndpoint(&model.Endpoint{Addresses: []netip.Addr{mapped}}),
		"remote":        c.SetRemote(&model.RemoteEndpoint{Addresses: []netip.Addr{{}}}),
		"host endpoint": c.SetHostEndpoint(&model.HostEndpoint{ExpectedIPs: []netip.Addr{zoned}}),
		"network set":   c.SetNetworkSet(&model.NetworkSet{Nets: []netip.Prefix{{}}}),
		"service":       c.SetService(model.ServiceID{}, []model.ServiceEndpoint{{}}),
	} {
		if err == nil {
			t.Errorf("%s with a bad address is taken", what)
		}
	}
	if u := c.Flush(); !u.Delta.Empty() {
		t.Errorf("refused objects changed the program: %+v", u.Delta)
	}
}

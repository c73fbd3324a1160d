package routing

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
)

// speakerCluster has n nodes in racks of size, dual-stack, each with one block of either family, the mesh
// on, and a service range.
func speakerCluster(n, size int) SpeakerInput {
	in := SpeakerInput{
		Self:  "n1",
		Nodes: map[model.NodeName]*model.Node{},
		Pools: []model.Pool{{Name: "four", CIDR: prefix("10.244.0.0/16")}, {Name: "six", CIDR: prefix("fd10:244::/48")}},
		BGP: model.BGP{DefaultPort: 179, Filters: map[string]*model.BGPFilter{}, Config: model.BGPConfig{
			Mesh: true, ASN: 64512, ListenPort: 179, MeshRestartSeconds: 120, ReflectorThreshold: 100,
			ClusterIPs: []netip.Prefix{prefix("10.96.0.0/12")},
		}},
		Blocks:    map[netip.Prefix]*model.Block{},
		Passwords: map[model.SecretRef]Password{},
	}
	for i := range n {
		rack, host := i/size+1, i%size+1
		name := model.NodeName(fmt.Sprintf("n%d", i+1))
		in.Nodes[name] = &model.Node{Name: name, Labels: map[string]string{"rack": fmt.Sprintf("r%d", rack)}, Addresses: []netip.Prefix{
			prefix(fmt.Sprintf("172.31.%d.%d/24", rack, host)), prefix(fmt.Sprintf("fd00:31:%x::%x/64", rack, host))}}
		for _, p := range []netip.Prefix{blockOf4(i), blockOf6(i)} {
			in.Blocks[p] = &model.Block{CIDR: p, Node: name}
		}
	}
	return in
}

func blockOf4(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 2), byte(i&3) << 6}), 26)
}

func blockOf6(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x10, 0x02, 0x44, 12: byte(i >> 10), 13: byte(i >> 2), 15: byte(i&3) << 6}), 122)
}

func withNode(in SpeakerInput, name model.NodeName, change func(*model.Node)) {
	n := *in.Nodes[name]
	n.Labels = maps.Clone(n.Labels)
	change(&n)
	in.Nodes[name] = &n
}

// peerOf is a BGPPeer with what the conversion fills in.
func peerOf(name string, change func(*model.BGPPeer)) model.BGPPeer {
	p := model.BGPPeer{Name: name, RestartSeconds: 120, KeepaliveSeconds: 60}
	change(&p)
	return p
}

func tor(name, addr string, asn uint32) model.BGPPeer {
	return peerOf(name, func(p *model.BGPPeer) {
		p.Peer, p.ASN = netip.AddrPortFrom(netip.MustParseAddr(addr), 0), asn
	})
}

// reflected has n1 and n2 as route reflectors by their records, and one BGPPeer for everybody.
func reflected() SpeakerInput {
	in := speakerCluster(4, 2)
	for _, n := range []model.NodeName{"n1", "n2"} {
		withNode(in, n, func(n *model.Node) {
			n.BGP.ClusterID = addr("244.0.0.1")
			n.Labels["reflector"] = "yes"
		})
	}
	in.BGP.Peers = []model.BGPPeer{peerOf("to-reflectors", func(p *model.BGPPeer) { p.PeerSelector = "has(reflector)" })}
	return in
}

func ptr[T any](v T) *T { return &v }

func filtered() SpeakerInput {
	in := speakerCluster(1, 1)
	in.BGP.Peers = []model.BGPPeer{tor("tor", "172.31.1.254", 65100)}
	in.BGP.Peers[0].Filters = []string{"first", "absent", "never-reached"}
	rules := []model.BGPFilterRule{
		{CIDR: prefix("192.168.0.0/16"), Match: model.BGPMatchIn, MinLength: ptr(20), MaxLength: ptr(24)},
		{CIDR: prefix("192.0.2.0/24"), Match: model.BGPMatchNotEqual, IBGP: true}, // not on this session
		{Accept: true, CIDR: prefix("192.0.2.0/24"), Match: model.BGPMatchEqual, EBGP: true, Operations: []model.BGPOperation{
			{AddCommunity: "65000:1"}, {PrependASPath: []uint32{65001, 65001}}, {SetPriority: 512}}},
		{CIDR: prefix("198.51.100.0/24"), Match: model.BGPMatchNotIn, RemotePeers: true, Interface: "eth*", Community: "65000:1:2",
			ASPath: []uint32{65100, 65200}, Priority: 1024},
		{CIDR: prefix("0.0.0.0/0"), Match: model.BGPMatchIn, MaxLength: ptr(0)},
		{CIDR: prefix("10.0.0.0/8"), Match: model.BGPMatchIn, MaxLength: ptr(0)}, // nothing is so short
		{Accept: true},
	}
	in.BGP.Filters["first"] = &model.BGPFilter{Name: "first", Import: map[model.Family][]model.BGPFilterRule{
		model.IPv4: rules, model.IPv6: {{}}}, Export: map[model.Family][]model.BGPFilterRule{model.IPv4: {{Community: "64512:666"}}}}
	return in
}

func services() SpeakerInput {
	in := speakerCluster(2, 2)
	cfg := &in.BGP.Config
	cfg.ExternalIPs = []netip.Prefix{prefix("10.244.9.0/24"), prefix("192.0.2.0/24"), prefix("198.51.100.7/32")} // the first is the pods'
	cfg.LoadBalancerIPs = []netip.Prefix{prefix("203.0.113.0/24"), prefix("2001:db8:1::/112")}
	all := map[model.Family][]model.NodeName{model.IPv4: {"n1", "n2"}, model.IPv6: {"n2"}}
	there := map[model.Family][]model.NodeName{model.IPv4: {"n2"}}
	addrs := func(s ...string) (out []netip.Addr) {
		for _, a := range s {
			out = append(out, addr(a))
		}
		return out
	}
	for _, s := range []model.BGPService{
		{ID: model.ServiceID{Name: "everywhere"}, ClusterIPs: addrs("10.96.0.1"), ExternalIPs: addrs("192.0.2.1", "198.51.100.7", "8.8.8.8"), LoadBalancerIPs: addrs("203.0.113.1", "2001:db8:1::1"), Ready: all},
		{ID: model.ServiceID{Name: "local"}, Local: true, ClusterIPs: addrs("10.96.0.2"), ExternalIPs: addrs("192.0.2.2", "10.244.9.9"), LoadBalancerIPs: addrs("203.0.113.2", "2001:db8:1::2"), Ready: all},
		{ID: model.ServiceID{Name: "local-elsewhere"}, Local: true, ClusterIPs: addrs("10.96.0.3"), LoadBalancerIPs: addrs("203.0.113.3"), Ready: there},
		{ID: model.ServiceID{Name: "elsewhere"}, LoadBalancerIPs: addrs("203.0.113.4"), Ready: there},
		{ID: model.ServiceID{Name: "without-endpoints"}, ExternalIPs: addrs("198.51.100.7"), LoadBalancerIPs: addrs("203.0.113.5")},
	} {
		s.ID.Namespace = "default"
		in.BGP.Services = append(in.BGP.Services, s)
	}
	return in
}

func speakerInputs() map[string]SpeakerInput {
	all := map[string]SpeakerInput{}
	all["mesh"] = speakerCluster(3, 2)
	borrowed := all["mesh"].Blocks[blockOf4(1)]
	borrowed.Borrowed = map[netip.Addr]model.NodeName{addr("10.244.0.70"): "n1", addr("10.244.0.71"): "n3"}
	all["reflector"] = reflected()
	client := reflected()
	client.Self = "n3"
	all["reflector-client"] = client

	racks := speakerCluster(4, 2)
	racks.BGP.Config.Mesh = false
	withNode(racks, "n1", func(n *model.Node) { n.BGP.ASN = 65001 })
	racks.BGP.Peers = []model.BGPPeer{tor("rack1", "172.31.1.254", 65100), tor("rack2", "172.31.2.254", 65100), tor("six", "fe80::1%eth0", 65100)}
	racks.BGP.Peers[0].NodeSelector, racks.BGP.Peers[1].NodeSelector = "rack == 'r1'", "rack == 'r2'"
	p := &racks.BGP.Peers[0]
	p.Password, p.TTLSecurityHops, p.AllowedLocalAS, p.LocalASN = model.SecretRef{Name: "bgp", Key: "rack1"}, 1, 2, 65009
	p.ReachableBy, p.NextHop, p.BFDIntervalMillis, p.BFDMultiplier = addr("172.31.1.253"), model.BGPNextHopSelf, 300, 3
	p.KeepaliveSeconds, p.RestartSeconds, p.MaxPrefixes = 10, 0, 5000
	racks.Passwords[p.Password] = "canary-secret"
	racks.BGP.Config.BindNodeIP = true
	all["tor"] = racks

	reverse := speakerCluster(3, 2)
	reverse.BGP.Config.Mesh = false
	reverse.BGP.ListenPorts = map[model.NodeName]uint16{"n3": 1179}
	withNode(reverse, "n3", func(n *model.Node) { n.BGP.ASN = 65003 })
	reverse.BGP.Peers = []model.BGPPeer{
		peerOf("b-from-n3", func(p *model.BGPPeer) { p.Node, p.PeerSelector, p.LocalASN = "n3", "rack == 'r1'", 65333 }),
		peerOf("c-by-hand", func(p *model.BGPPeer) { p.Node, p.PeerSelector, p.Manual = "n2", "all()", true }),
		peerOf("d-again", func(p *model.BGPPeer) { p.Node, p.PeerSelector = "n1", "all()" }),
		peerOf("e-third", func(p *model.BGPPeer) { p.Node, p.PeerSelector = "n1", "all()" }),
	}
	all["reverse"] = reverse
	reverse.Self = "n3"
	all["reverse-other-end"] = reverse

	plain := reverse
	plain.Self, plain.BGP.Peers = "n1", reverse.BGP.Peers[:1]
	all["reverse-alone"] = plain

	many := speakerCluster(150, 50)
	many.Self, many.BGP.Config.ReflectorThreshold = "n7", 149
	all["threshold"] = many

	twice := speakerCluster(3, 3) // one address for two nodes
	twice.Nodes["n3"].Addresses[0] = twice.Nodes["n2"].Addresses[0]
	all["one-address-twice"] = twice

	all["filters"], all["services"] = filtered(), services()
	each := services()
	each.BGP.Config.EachLoadBalancerIP = true
	all["services-each"] = each
	optedOut := services()
	withNode(optedOut, "n1", func(n *model.Node) { n.Labels[NoServicesLabel] = "" })
	all["services-opted-out"] = optedOut

	quiet := speakerCluster(2, 2)
	quiet.Pools = append(quiet.Pools, model.Pool{Name: "quiet", CIDR: prefix("10.244.0.0/25"), Unadvertised: true})
	quiet.Blocks[prefix("10.244.200.0/26")] = &model.Block{CIDR: prefix("10.244.200.0/26"), Node: "n1"}
	quiet.Blocks[prefix("192.0.2.0/26")] = &model.Block{CIDR: prefix("192.0.2.0/26"), Node: "n1"} // of no pool
	quiet.BGP.Config.Communities = []model.BGPCommunities{
		{CIDR: prefix("10.244.0.0/16"), Communities: []string{"64512:200", "64512:100"}},
		{CIDR: prefix("10.244.200.0/24"), Communities: []string{"1:2:3", "64512:100"}}, {CIDR: prefix("10.244.200.0/27"), Communities: []string{"9:9"}}}
	all["communities-unadvertised"] = quiet
	return all
}

func TestSpeakerGolden(t *testing.T) {
	for name, in := range speakerInputs() {
		t.Run(name, func(t *testing.T) {
			s, err := CompileSpeaker(in)
			got := s.Format()
			if err != nil {
				got += "error: " + strings.ReplaceAll(err.Error(), "\n", "\nerror: ") + "\n"
			}
			if strings.Contains(got, "canary") {
				t.Errorf("a password shows:\n%s", got)
			}
			file := filepath.Join("testdata", "speaker-"+name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Without a password that is wanted there is no session, and no session without one.
func TestSpeakerPassword(t *testing.T) {
	in := speakerCluster(3, 3)
	in.BGP.Config.MeshPassword = model.SecretRef{Name: "bgp", Key: "mesh"}
	if s, err := CompileSpeaker(in); len(s.Sessions) != 0 || err == nil || !strings.Contains(err.Error(), `no key "mesh" in Secret bgp`) {
		t.Errorf("without the Secret: %d sessions, %v", len(s.Sessions), err)
	}
	in.Passwords[in.BGP.Config.MeshPassword] = "canary"
	s, err := CompileSpeaker(in)
	if err != nil || len(s.Sessions) != 4 || slices.ContainsFunc(s.Sessions, func(n Session) bool { return n.Password != "canary" }) {
		t.Errorf("with the Secret: %v, %d sessions", err, len(s.Sessions))
	}
}

// reflecting tells whether a speaker passes on to nodes what it learned from others.
func reflecting(s *Speaker) bool {
	return slices.ContainsFunc(s.Sessions, func(n Session) bool {
		ok, _ := s.Decide(&n, n.Export, Announced{Prefix: prefix("10.96.0.0/12"), Learned: true, Internal: true})
		return ok && n.ReflectorClient
	})
}

// A node of the mesh with 150 nodes has sessions with the reflectors only, once these have told it all.
func TestThreshold(t *testing.T) {
	in := speakerCluster(150, 50)
	count := func(self model.NodeName) (sessions, clients int) {
		in.Self = self
		s, err := CompileSpeaker(in)
		if err != nil {
			t.Fatal(err)
		}
		if reflecting(&s) {
			clients = len(s.Sessions)
		}
		return len(s.Sessions), clients
	}
	in.BGP.Config.ReflectorThreshold = 150
	if n, clients := count("n7"); n != 298 || clients != 0 {
		t.Errorf("at the threshold: %d sessions, %d of clients, want 298, 0", n, clients)
	}
	in.BGP.Config.ReflectorThreshold = 149
	var reflectors, plain []model.NodeName
	racks := map[string]bool{}
	for name, n := range in.Nodes {
		if total, clients := count(name); clients > 0 {
			reflectors = append(reflectors, name)
			racks[n.Labels["rack"]] = true
			if total != 298 {
				t.Errorf("reflector %s has %d sessions, want 298", name, total)
			}
		} else if plain = append(plain, name); total > 6 {
			t.Errorf("%s has %d sessions, want 3 of each family", name, total)
		}
	}
	if len(racks) != 3 {
		t.Errorf("reflectors %v are in %d racks, want 3", reflectors, len(racks))
	}
	slices.Sort(plain)
	slices.Sort(reflectors)
	for n := range in.Nodes { // all were in the mesh before
		rely(in, n, model.Reliance{Mesh: true})
	}
	if n, _ := count(plain[0]); n != 298 {
		t.Errorf("before reflected routes are in: %d sessions, want the 298 of the mesh", n)
	}
	rely(in, plain[1], model.Reliance{Reflectors: reflectors})
	if n, _ := count(plain[0]); n != 298 {
		t.Errorf("while this end relies on the mesh: %d sessions, want 298", n)
	}
	rely(in, plain[0], model.Reliance{Reflectors: reflectors})
	if n, _ := count(plain[0]); n != 296 {
		t.Errorf("when both ends have the reflected routes: %d sessions, want 296", n)
	}
	in.BGP.Config.ReflectorThreshold = 150 // still above nine tenths of it
	if n, clients := count(plain[0]); n != 298 || clients != 0 {
		t.Errorf("one node fewer, while two of them rely on reflectors: %d sessions, %d of clients, want 298, 0", n, clients)
	}
	for _, n := range plain {
		rely(in, n, model.Reliance{Reflectors: reflectors})
	}
	if n, clients := count(plain[0]); n > 6 || clients != 0 {
		t.Errorf("one node fewer, while all of them do: %d sessions, %d of clients, want 3 of each family, 0", n, clients)
	}
	in.BGP.Config.ReflectorThreshold = 170
	if n, clients := count(reflectors[0]); n != 298 || clients == 0 {
		t.Errorf("back in the mesh, while nodes rely on reflectors: %d sessions, %d of clients", n, clients)
	}
	if n, clients := count(plain[0]); n != 298 || clients != 0 {
		t.Errorf("back in the mesh: %d sessions, %d of clients, want 298, 0", n, clients)
	}
	in.BGP.Config.ReflectorThreshold = 0
	if n, clients := count(reflectors[0]); n != 298 || clients == 0 {
		t.Errorf("without reflectors from now on, while nodes rely on them: %d sessions, %d of clients", n, clients)
	}
}

// A mesh of 95 nodes with a threshold of 100 stays one, whatever the record of a dead node says; where most nodes rely on
// reflectors, they stay, too.
func TestThresholdOfTheDead(t *testing.T) {
	in := speakerCluster(95, 50)
	in.BGP.Config.ReflectorThreshold = 100
	for _, c := range []struct {
		relying int
		want    bool
	}{{0, false}, {1, false}, {46, false}, {47, true}, {92, true}} {
		for i := 1; i <= 95; i++ {
			r := model.Reliance{Mesh: true}
			if i > 95-c.relying {
				r = model.Reliance{Reflectors: []model.NodeName{"n1", "n2", "n3"}}
			}
			rely(in, model.NodeName(fmt.Sprintf("n%d", i)), r)
		}
		if got := newSpeakerCompiler(&in).auto.wanted; got != c.want {
			t.Errorf("%d of 95 records rely on reflectors: these are wanted: %v, want %v", c.relying, got, c.want)
		}
	}
}

// Nodes that speak BGP are preferred once most records tell who does: until then, as in the middle of an upgrade, a
// record that says nothing says nothing of the node.
func TestReflectorsDuringUpgrade(t *testing.T) {
	in := speakerCluster(150, 50)
	chosen := func() map[model.NodeName]bool { return newSpeakerCompiler(&in).auto.chosen[model.IPv4] }
	before, said := chosen(), 0
	for n := range in.Nodes {
		if !before[n] && said < 75 {
			rely(in, n, model.Reliance{Mesh: true})
			said++
		}
	}
	if got := chosen(); len(before) != automaticReflectors || !maps.Equal(got, before) {
		t.Errorf("half of the records say something: chosen are %v, and were %v", got, before)
	}
	for n := range in.Nodes {
		if !before[n] {
			rely(in, n, model.Reliance{Mesh: true})
		}
	}
	for n := range chosen() {
		if before[n] {
			t.Errorf("%s is chosen, which as the only ones with %v says nothing", n, before)
		}
	}
}

// rely writes a node's record.
func rely(in SpeakerInput, n model.NodeName, r model.Reliance) {
	withNode(in, n, func(n *model.Node) { n.BGP.Relies = r })
}

// A node takes back its word only when the other way stands.
func TestHandover(t *testing.T) {
	in := speakerCluster(150, 50)
	for n := range in.Nodes {
		rely(in, n, model.Reliance{Mesh: true})
	}
	in.Self = "n5"
	in.BGP.Config.ReflectorThreshold = 149
	chosen := newSpeakerCompiler(&in).auto.chosen
	h, ok := NextHandover(in)
	if !ok || h.To.Mesh || len(h.To.Reflectors) != automaticReflectors || h.Reflected || len(h.Leaves) != 298-6 {
		t.Fatalf("one node too many: %+v, %v", h, ok)
	}
	up := map[netip.Addr]bool{}
	heard := map[model.Family]int{}
	for _, f := range families {
		for n := range chosen[f] {
			if heard[f] < 1+f4(f) {
				heard[f]++
				a, _ := in.Nodes[n].Address(f)
				up[a.Addr()] = true
			}
		}
	}
	if h.Ready(up) {
		t.Error("ready with two reflectors of IPv4 and one of IPv6")
	}
	for n := range chosen[model.IPv6] {
		a, _ := in.Nodes[n].Address(model.IPv6)
		up[a.Addr()] = true
	}
	if !h.Ready(up) {
		t.Error("not ready with two reflectors of IPv4 and three of IPv6")
	}
	in.Self = h.To.Reflectors[0]
	if own, ok := NextHandover(in); ok {
		t.Errorf("a reflector is to rely on %v", own.To)
	}
	in.Self = "n5"
	rely(in, "n5", h.To)
	if h, ok := NextHandover(in); ok {
		t.Errorf("it relies on reflectors, and is to rely on %v", h.To)
	}
	// Another reflector takes the place of one.
	old := h.To.Reflectors[0]
	withNode(in, old, func(n *model.Node) { n.Labels[ReflectorLabel] = "false" })
	h, ok = NextHandover(in)
	a, _ := in.Nodes[old].Address(model.IPv4)
	if !ok || h.To.Mesh || slices.Contains(h.To.Reflectors, old) || !slices.Contains(h.Leaves, a.Addr()) {
		t.Errorf("without reflector %s: %+v, %v", old, h, ok)
	}
	in.BGP.Config.ReflectorThreshold = 170
	if h, ok := NextHandover(in); !ok || !h.To.Equal(model.Reliance{Mesh: true}) || !h.Reflected || !h.Ready(nil) {
		t.Errorf("threshold raised: %+v, %v", h, ok)
	}
	in.BGP.Config.Mesh = false
	if h, ok := NextHandover(in); !ok || !h.To.IsZero() || h.Reflected || !h.Ready(nil) {
		t.Errorf("no mesh: %+v, %v", h, ok)
	}
}

func f4(f model.Family) int {
	if f == model.IPv4 {
		return 1
	}
	return 0
}

package node

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	v3 "weft/api/v3"
	"weft/model"
	"weft/node/datastore"
	"weft/routing"
)

// feedBGP takes manifests in and returns how many changed something.
func feedBGP(t *testing.T, r *bgpResources, manifests string) (changed int) {
	t.Helper()
	objects, err := v3.Decode([]byte(manifests))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		v3.Default(o)
		did, err := r.apply(datastore.Change{Key: datastore.KeyOf(o), Object: o})
		if err != nil {
			t.Fatal(err)
		}
		if did {
			changed++
		}
	}
	return changed
}

const bgpManifests = `
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec:
  asNumber: 64600
  listenPort: 1179
  serviceClusterIPs: [{cidr: 10.96.0.0/12}]
  serviceExternalIPs: [{cidr: 192.0.2.7}, {cidr: 192.0.2.0/24}]
  serviceLoadBalancerIPs: [{cidr: "2001:db8::/112"}]
  serviceLoadBalancerAggregation: Disabled
  communities: [{name: blue, value: "64600:0100"}]
  prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [blue, "1:2:3"]}]
  nodeMeshPassword: {secretKeyRef: {name: bgp, key: mesh}}
  nodeMeshMaxRestartTime: 90s
  routeReflectorThreshold: 7
  ipv6NormalRoutePriority: 512
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n1}
spec: {bindMode: NodeIP, listenPort: 2179, logSeverityScreen: Warning, ignoredInterfaces: [eth1, "docker*"]}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n2}
spec: {listenPort: 3179}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: node.n3}
spec: {listenPort: 1179}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec:
  nodeSelector: rack == 'a'
  peerIP: 172.31.1.254:1790
  asNumber: 65100
  localASNumber: 65001
  nextHopMode: Self
  password: {secretKeyRef: {name: bgp, key: tor}}
  sourceAddress: None
  maxRestartTime: 1500ms
  keepaliveTime: 10s
  numAllowedLocalASNumbers: 2
  ttlSecurity: 1
  reachableBy: 172.31.1.253
  filters: [one]
  bfd: {interval: 50ms}
  maxPrefixes: 1000
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: reflectors}
spec: {node: n1, peerSelector: has(reflector), keepOriginalNextHop: true, reversePeering: Manual}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: one}
spec:
  importV4:
  - {action: Reject, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 20}, source: RemotePeers, interface: "eth*", peerType: eBGP}
  - {action: Accept, communities: {values: ["1:02"]}, asPathPrefix: [65100], priority: 100, operations: [{addCommunity: {value: "1:2"}}, {prependASPath: {prefix: [1, 2]}}, {setPriority: {value: 9}}]}
  exportV6:
  - {action: Reject, cidr: "fd00::/8", matchOperator: NotIn, peerType: iBGP}
---
apiVersion: v1
kind: Secret
metadata: {name: bgp, namespace: kube-system}
data: {mesh: Y2FuYXJ5, tor: dG9y, other: b3RoZXI=}
---
apiVersion: v1
kind: Secret
metadata: {name: elsewhere, namespace: default}
data: {mesh: Y2FuYXJ5}
`

func TestBGPNouns(t *testing.T) {
	r := newBGPResources("n1", v3.BGPPasswordNamespace)
	feedBGP(t, r, bgpManifests)
	got, passwords, err := r.nouns()
	if err != nil {
		t.Fatal(err)
	}
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	length := 20
	want := model.BGP{
		DefaultPort: 1179, ListenPorts: map[model.NodeName]uint16{"n1": 2179, "n2": 3179},
		Config: model.BGPConfig{Mesh: true, ASN: 64600, MeshPassword: model.SecretRef{Name: "bgp", Key: "mesh"}, MeshRestartSeconds: 90, ReflectorThreshold: 7,
			ListenPort: 2179, BindNodeIP: true, LogLevel: model.LogWarning, IgnoredInterfaces: []string{"eth1", "docker*"}, ClusterIPs: []netip.Prefix{p("10.96.0.0/12")}, ExternalIPs: []netip.Prefix{p("192.0.2.0/24"), p("192.0.2.7/32")},
			LoadBalancerIPs: []netip.Prefix{p("2001:db8::/112")}, EachLoadBalancerIP: true,
			Communities: []model.BGPCommunities{{CIDR: p("10.244.0.0/16"), Communities: []string{"64600:100", "1:2:3"}}},
			Priority:    map[model.Family]uint32{model.IPv6: 512}},
		Peers: []model.BGPPeer{
			{Name: "reflectors", Node: "n1", PeerSelector: "has(reflector)", NextHop: model.BGPNextHopKeep, Manual: true, RestartSeconds: 120, KeepaliveSeconds: 60},
			{Name: "tor", NodeSelector: "rack == 'a'", Peer: netip.MustParseAddrPort("172.31.1.254:1790"), ASN: 65100, LocalASN: 65001, NextHop: model.BGPNextHopSelf,
				Password: model.SecretRef{Name: "bgp", Key: "tor"}, AnySource: true, RestartSeconds: 2, KeepaliveSeconds: 10, AllowedLocalAS: 2, TTLSecurityHops: 1,
				ReachableBy: a("172.31.1.253"), Filters: []string{"one"}, BFDIntervalMillis: 50, BFDMultiplier: 3, MaxPrefixes: 1000},
		},
		Filters: map[string]*model.BGPFilter{"one": {Name: "one",
			Import: map[model.Family][]model.BGPFilterRule{model.IPv4: {
				{CIDR: p("10.0.0.0/8"), Match: model.BGPMatchIn, MinLength: &length, RemotePeers: true, Interface: "eth*", EBGP: true},
				{Accept: true, Community: "1:2", ASPath: []uint32{65100}, Priority: 100,
					Operations: []model.BGPOperation{{AddCommunity: "1:2"}, {PrependASPath: []uint32{1, 2}}, {SetPriority: 9}}},
			}},
			Export: map[model.Family][]model.BGPFilterRule{model.IPv6: {{CIDR: p("fd00::/8"), Match: model.BGPMatchNotIn, IBGP: true}}},
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if string(passwords[model.SecretRef{Name: "bgp", Key: "mesh"}]) != "canary" || string(passwords[model.SecretRef{Name: "bgp", Key: "tor"}]) != "tor" || len(passwords) != 2 {
		t.Errorf("got %d passwords, want those of the mesh and the router only", len(passwords))
	}
	if s := fmt.Sprintf("%v %+v %#v", passwords, r, r.secrets); strings.Contains(s, "canary") {
		t.Error("a password shows")
	}
	if n := feedBGP(t, r, "{apiVersion: v1, kind: Secret, metadata: {name: bgp, namespace: kube-system}, stringData: {mesh: "+strings.Repeat("x", 81)+"}}"); n != 1 {
		t.Error("a changed Secret is no change")
	}
	if _, passwords, err = r.nouns(); err == nil || len(passwords) != 0 || !strings.Contains(err.Error(), "81 bytes") || strings.Contains(err.Error(), "xxx") {
		t.Errorf("too long a password: %v, %d passwords", err, len(passwords))
	}
}

// With no resource at all there are the built-in values.
func TestBGPDefaults(t *testing.T) {
	got, _, err := newBGPResources("n1", v3.BGPPasswordNamespace).nouns()
	want := model.BGP{DefaultPort: 179, ListenPorts: map[model.NodeName]uint16{}, Filters: map[string]*model.BGPFilter{}, Config: model.BGPConfig{
		Mesh: true, ASN: 64512, MeshRestartSeconds: 120, ReflectorThreshold: 100, ListenPort: 179, Priority: map[model.Family]uint32{}}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}

const serviceManifests = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, "fd96::7"]
  externalIPs: [192.0.2.9]
  externalTrafficPolicy: Local
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: Proxy}, {hostname: lb.example}]}}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: default}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere, namespace: default}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.244.0.1], nodeName: n2}
- {addresses: [10.244.0.2], nodeName: n2, conditions: {ready: true}}
- {addresses: [10.244.0.3], nodeName: n3, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.244.0.4], nodeName: n1}
- {addresses: [10.9.0.1]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
endpoints:
- {addresses: ["fd10::1"], nodeName: n3}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: nobodys, namespace: default}
addressType: IPv4
endpoints:
- {addresses: [10.244.0.9], nodeName: n9}
`

func TestBGPServices(t *testing.T) {
	r := newBGPResources("n1", v3.BGPPasswordNamespace)
	feedBGP(t, r, serviceManifests)
	if b, _, _ := r.nouns(); len(b.Services) != 0 {
		t.Errorf("nothing may be announced: got %v", b.Services)
	}
	feedBGP(t, r, "{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}}")
	a := netip.MustParseAddr
	check := func(when string, ready map[model.Family][]model.NodeName) {
		t.Helper()
		b, _, err := r.nouns()
		want := []model.BGPService{{ID: model.ServiceID{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{a("10.96.0.7"), a("fd96::7")},
			ExternalIPs: []netip.Addr{a("192.0.2.9")}, LoadBalancerIPs: []netip.Addr{a("203.0.113.1")}, Local: true, Ready: ready}}
		if diff := cmp.Diff(want, b.Services, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", when, err, diff)
		}
	}
	check("all slices", map[model.Family][]model.NodeName{model.IPv4: {"", "n1", "n2"}, model.IPv6: {"n3"}})

	slice := func(name, endpoints string) string {
		return "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: " + name + ", namespace: default, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: " + endpoints + "}"
	}
	if n := feedBGP(t, r, slice("web-1", "[{addresses: [10.244.0.77], nodeName: n2}]")); n != 0 {
		t.Error("another pod on a node that has one is a change")
	}
	if n := feedBGP(t, r, slice("web-1", "[]")); n != 1 {
		t.Error("the last endpoint of a node going is no change")
	}
	check("n2 has none", map[model.Family][]model.NodeName{model.IPv4: {"", "n1"}, model.IPv6: {"n3"}})
	gone := func(kind, name string) bool {
		did, err := r.apply(datastore.Change{Key: datastore.Key{Kind: kind, Namespace: "default", Name: name}})
		if err != nil {
			t.Error(err)
		}
		return did
	}
	if !gone(v3.KindEndpointSlice, "web-2") || gone(v3.KindEndpointSlice, "web-1") || gone(v3.KindEndpointSlice, "never") {
		t.Error("a deletion is a change where something was ready, and else none")
	}
	check("IPv4 has none", map[model.Family][]model.NodeName{model.IPv6: {"n3"}})
	if !gone(v3.KindService, "web") || gone(v3.KindService, "headless") {
		t.Error("the service's deletion is no change, or that of one without addresses is")
	}
}

// What cannot be understood leaves the last good one in force.
func TestBGPRejects(t *testing.T) {
	r := newBGPResources("n1", v3.BGPPasswordNamespace)
	feedBGP(t, r, bgpManifests)
	rule := func(change func(*v3.BGPFilterRule)) *v3.BGPFilter {
		f := &v3.BGPFilter{}
		f.Name = "one"
		f.Spec.ImportV4 = []v3.BGPFilterRule{{Action: v3.FilterAccept}}
		change(&f.Spec.ImportV4[0])
		return f
	}
	peer := func(change func(*v3.BGPPeerSpec)) *v3.BGPPeer {
		p := &v3.BGPPeer{}
		p.Name = "tor"
		change(&p.Spec)
		return p
	}
	before, _, _ := r.nouns()
	for want, o := range map[string]v3.Object{
		"spec.localWorkloadSelector":              peer(func(s *v3.BGPPeerSpec) { s.LocalWorkloadSelector = "all()" }),
		`spec.peerIP "x"`:                         peer(func(s *v3.BGPPeerSpec) { s.PeerIP = "x" }),
		`spec.reachableBy "y"`:                    peer(func(s *v3.BGPPeerSpec) { s.PeerIP, s.ReachableBy = "192.0.2.1", "y" }),
		`spec.importV4[0]: action ""`:             rule(func(r *v3.BGPFilterRule) { r.Action = "" }),
		`spec.importV4[0]: cidr "z"`:              rule(func(r *v3.BGPFilterRule) { r.CIDR = "z" }),
		`spec.importV4[0]: cidr "fd00::/8": want`: rule(func(r *v3.BGPFilterRule) { r.CIDR, r.MatchOperator = "fd00::/8", v3.MatchIn }),
		`spec.importV4[0]: matchOperator ""`:      rule(func(r *v3.BGPFilterRule) { r.CIDR = "10.0.0.0/8" }),
		`spec.importV4[0]: communities "1"`:       rule(func(r *v3.BGPFilterRule) { r.Communities = &v3.BGPFilterCommunities{Values: []string{"1"}} }),
	} {
		if _, err := r.apply(datastore.Change{Key: datastore.KeyOf(o), Object: o}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
	after, _, _ := r.nouns()
	if diff := cmp.Diff(before, after, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{})); diff != "" {
		t.Errorf("what was refused has changed something:\n%s", diff)
	}
	for _, kind := range bgpKinds() {
		if _, err := r.apply(datastore.Change{Key: datastore.Key{Kind: kind, Name: "absent", Namespace: "kube-system"}}); err != nil {
			t.Errorf("deletion of a %s that is not there: %v", kind, err)
		}
	}
}

// From records and resources to sessions.
func TestBGPNodeRecords(t *testing.T) {
	c := newTestCluster()
	feed(t, c, manifests)
	feed(t, c, `
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: n7, labels: {reflector: "yes"}}
spec: {bgp: {ipv4Address: 172.31.1.7/24, asNumber: 65007, routeReflectorClusterID: 244.0.0.7}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: quiet}
spec: {cidr: 10.99.0.0/16, disableBGPExport: true}
`)
	s := snapshotOf(t, c)
	if got := s.Nodes["n7"].BGP; got.ASN != 65007 || got.ClusterID != netip.MustParseAddr("244.0.0.7") {
		t.Errorf("got %+v", got)
	}
	quiet := 0
	for _, p := range s.Pools {
		if p.Unadvertised != (p.Name == "quiet") {
			t.Errorf("pool %s: unadvertised %v", p.Name, p.Unadvertised)
		}
		quiet++
	}
	if quiet < 2 {
		t.Errorf("%d pools", quiet)
	}
	r := newBGPResources("n1", v3.BGPPasswordNamespace)
	feedBGP(t, r, "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: p}, spec: {peerSelector: has(reflector)}}")
	b, passwords, err := r.nouns()
	if err != nil {
		t.Fatal(err)
	}
	sp, err := routing.CompileSpeaker(routing.SpeakerInput{Self: "n1", Nodes: s.Nodes, Pools: s.Pools, Blocks: s.Blocks, BGP: b, Passwords: passwords})
	if err != nil || !strings.Contains(sp.Format(), "session 172.31.1.7 port 179 as 65007 local-as 64512") {
		t.Errorf("%v\n%s", err, sp.Format())
	}
}

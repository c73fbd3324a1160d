package node

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft/encryption"
	"weft/encryption/wireguard"
	"weft/model"
	"weft/model/topology"
	"weft/node/status"
	"weft/tunnel"
)

func testKey(b byte) model.PublicKey { return model.PublicKey{b} }

// rotating is a node in the middle of a rotation, of a cluster in which hardly two nodes are in the same state.
func rotating() *plans {
	prefix := netip.MustParsePrefix
	ends := func(epoch, port int) model.TunnelEnd {
		return model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Epoch: epoch, Port: port}
	}
	nodes := map[model.NodeName]*model.Node{}
	for _, n := range []model.NodeName{"self", "moved", "waits", "keyless", "shy", "lost", "twice"} {
		nodes[n] = &model.Node{Name: n, Keys: []model.NodeKey{{Epoch: 1, Key: testKey(n[0])}}}
	}
	nodes["keyless"].Keys, nodes["shy"].Keys = nil, nil
	path := func(dst string, node model.NodeName, reach topology.Reach, device, why string) topology.Path {
		return topology.Path{Dst: prefix(dst), Node: node, Reach: reach, Device: device, Why: why}
	}
	peer := func(device string, node model.NodeName) encryption.Peer {
		return encryption.Peer{Device: device, Node: node, Key: testKey(node[0]), Endpoint: netip.MustParseAddrPort("192.0.2.9:51822"), AllowedIPs: []netip.Prefix{prefix("10.0.9.0/24")}}
	}
	return &plans{
		snapshot: &model.Snapshot{Self: "self", Nodes: nodes, Encryption: model.EncryptionConfig{Enabled4: true, Epoch: 1}},
		view: &topology.View{
			Tunnels: []topology.Tunnel{{Device: "weft-vxlan"}, {Device: "weft-wg", End: ends(0, 51820)}, {Device: "weft-wg2", End: ends(1, 51822)}},
			Paths: []topology.Path{
				path("10.0.0.0/24", "self", topology.Local, "", "a block of this node"),
				path("10.0.1.0/24", "moved", topology.WireGuard, "weft-wg2", "encrypted, key 1"),
				path("10.0.11.0/24", "moved", topology.WireGuard, "weft-wg2", "encrypted, key 1"),
				path("10.0.2.0/24", "waits", topology.VXLAN, "weft-vxlan", "not encrypted, since node waits has not answered"),
				path("10.0.3.0/24", "keyless", topology.Unreachable, "", "node keyless has published no public key"),
				path("10.0.5.0/24", "lost", topology.WireGuard, "weft-wg2", "encrypted, key 1"),
				path("10.0.6.0/24", "twice", topology.WireGuard, "weft-wg", "encrypted, key 0"),
				path("10.0.7.0/24", "twice", topology.Direct, "eth0", "not encrypted, since"),
				{Dst: prefix("10.0.8.0/24"), Node: "keyless", Foreign: true, Why: "no IPPool holds it"},
				path("fd00:1::/64", "moved", topology.VXLAN, "weft-vxlan", "IPv6 is not encrypted"),
			},
			Encrypted: map[model.NodeName]bool{"moved": true, "lost": true},
		},
		encryption: encryption.Plan{
			Devices: []encryption.Device{{Name: "weft-wg"}, {Name: "weft-wg2", Epoch: 1}},
			Peers:   []encryption.Peer{peer("weft-wg", "moved"), peer("weft-wg", "twice"), peer("weft-wg2", "moved"), peer("weft-wg2", "twice"), peer("weft-wg2", "waits")},
		},
	}
}

func TestPeersOf(t *testing.T) {
	met := time.Unix(1_800_000_000, 0)
	p := rotating()
	var have []wireguard.PeerStatus
	for _, q := range p.encryption.Peers {
		have = append(have, wireguard.PeerStatus{Device: q.Device, Node: q.Node, Key: q.Key, Endpoint: q.Endpoint, AllowedIPs: q.AllowedIPs})
	}
	have[0].LastHandshake, have[0].Rx, have[0].Tx = met, 10, 20
	have = append(have, wireguard.PeerStatus{Device: "weft-wg", Key: testKey('x')})

	short := func(rows []status.EncryptionPeer) string {
		var b strings.Builder
		for _, r := range rows {
			b.WriteString(strings.Join([]string{r.Node, r.Device, strings.Join(r.Reach, ","), strings.Join(r.Why, "; ")}, " | ") + "\n")
		}
		return b.String()
	}
	rows := peersOf(p, have, true)
	want := ` | weft-wg |  | another program added this peer: no node has this key
keyless |  | Unreachable | node keyless has published no public key
lost | weft-wg2 | WireGuard | the device does not have this peer, so nothing arrives there: see the errors in ` + "`weft status`" + `; encrypted, key 1
moved | weft-wg |  | what is sent to node moved does not go by this device
moved | weft-wg2 | WireGuard | encrypted, key 1
shy |  |  | node shy has no prefixes yet that are to be encrypted, and has published no public key
twice | weft-wg | WireGuard | encrypted, key 0
twice | weft-wg2 | Direct | not encrypted, since
waits | weft-wg2 | VXLAN | not encrypted, since node waits has not answered
`
	if d := cmp.Diff(want, short(rows)); d != "" {
		t.Errorf("peers (-want +got):\n%s", d)
	}
	wantRow := status.EncryptionPeer{Node: "moved", Device: "weft-wg", PublicKey: testKey('m').String(), Endpoint: "192.0.2.9:51822", LastHandshake: &met, Rx: 10, Tx: 20,
		AllowedIPs: []string{"10.0.9.0/24"}, Reach: []string{}, Why: []string{"what is sent to node moved does not go by this device"}}
	if d := cmp.Diff(wantRow, rows[3]); d != "" {
		t.Errorf("one of them (-want +got):\n%s", d)
	}
	if got := rows[4].KeyEpoch; got != 1 {
		t.Errorf("the device of the new key is of epoch %d, want 1", got)
	}

	// A device that cannot be read is told of by the plan.
	got := short(peersOf(p, nil, false))
	for _, want := range []string{"moved | weft-wg2 | WireGuard | what the device knows of this peer could not be read; encrypted, key 1\n",
		"waits | weft-wg2 | VXLAN | what the device knows of this peer could not be read; not encrypted, since"} {
		if !strings.Contains(got, want) {
			t.Errorf("with no device that answers: %q is missing in\n%s", want, got)
		}
	}
}

// Switched off, only what is still in use is shown.
func TestPeersOfOff(t *testing.T) {
	p := rotating()
	p.snapshot.Encryption.Enabled4 = false
	p.view.Paths = p.view.Paths[:2]
	p.encryption.Peers = []encryption.Peer{p.encryption.Peers[2], p.encryption.Peers[4]}
	var have []wireguard.PeerStatus
	for _, q := range p.encryption.Peers {
		have = append(have, wireguard.PeerStatus{Device: q.Device, Node: q.Node, Key: q.Key})
	}
	rows := peersOf(p, have, true)
	if len(rows) != 2 || rows[0].Node != "moved" || !slices.Equal(rows[1].Why, []string{"what is sent to node waits does not go by this device"}) {
		t.Errorf("got %v, want nodes moved and waits alone", rows)
	}
	if e := encryptionOf(p); e.On || e.OnForGood || e.Mode != "" || len(e.Encrypted) != 1 {
		t.Errorf("got %+v, want off with one encrypted node", e)
	}
}

func TestEncryptionOf(t *testing.T) {
	p := rotating()
	got := encryptionOf(p)
	want := &status.Encryption{On: true, Families: []string{"IPv4"}, Mode: "Required", KeyEpoch: 1, OtherEpochs: []int{0}, OnForGood: true, Nodes: 6, Ready: 2,
		Encrypted: []string{"lost", "moved"}, Clear: []string{"twice", "waits"}, Unreachable: []string{"keyless"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	p.snapshot.Encryption.Preferred, p.snapshot.Encryption.Enabled6 = true, true
	got = encryptionOf(p)
	want.Mode, want.OnForGood, want.Families = "Preferred", false, []string{"IPv4", "IPv6"}
	want.Encrypted, want.Clear = []string{"lost"}, []string{"moved", "twice", "waits"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("Preferred, of both families (-want +got):\n%s", d)
	}
}

func TestOuterOf(t *testing.T) {
	for want, tun := range map[string]topology.Tunnel{
		"UDP 51822, key epoch 1": {Driver: tunnel.WireGuard, Port: 51822, End: model.TunnelEnd{Encap: model.EncapWireGuard, Epoch: 1, Port: 51822}},
		"UDP 4789, VNI 4096":     {Driver: tunnel.VXLAN, Port: 4789, VNI: 4096, End: model.TunnelEnd{Encap: model.EncapVXLAN}},
		"IP protocol 4":          {Driver: tunnel.IPIP, End: model.TunnelEnd{Encap: model.EncapIPIP}},
	} {
		if got := outerOf(&tun, tunnel.Drivers()); got != want {
			t.Errorf("%s: got %q, want %q", tun.Driver, got, want)
		}
	}
}

// peersCollector collects what a scrape collects of devices and peers.
type peersCollector struct {
	devices []encryption.Device
	peers   []wireguard.PeerStatus
}

func (c peersCollector) Describe(chan<- *prometheus.Desc) {}

func (c peersCollector) Collect(ch chan<- prometheus.Metric) {
	newEncryptionDescs().collect(ch, "n1", c.devices, c.peers)
}

func TestPeerMetrics(t *testing.T) {
	private, err := encryption.NewPrivateKey([32]byte{7})
	if err != nil {
		t.Fatal(err)
	}
	public, err := private.Public()
	if err != nil {
		t.Fatal(err)
	}
	endpoint := netip.MustParseAddrPort("172.31.1.2:51820")
	c := peersCollector{[]encryption.Device{{Name: "weft-wg", Key: private, Port: 51820}}, []wireguard.PeerStatus{
		{Device: "weft-wg", Node: "n2", Key: testKey(2), Endpoint: endpoint, LastHandshake: time.Unix(1_800_000_000, 5), Rx: 124, Tx: 180},
		{Device: "weft-wg", Key: testKey(3)},                // another program's
		{Device: "weft-wg-v6", Node: "n2", Key: testKey(2)}, // the same key, at another device
	}}
	n2 := `hostname="n1",iface="weft-wg",peer_endpoint="172.31.1.2:51820",peer_key="` + testKey(2).String() + `",peer_node="n2",public_key="` + public.String() + `"`
	foreign := `hostname="n1",iface="weft-wg",peer_endpoint="",peer_key="` + testKey(3).String() + `",peer_node="",public_key="` + public.String() + `"`
	v6 := `hostname="n1",iface="weft-wg-v6",peer_endpoint="",peer_key="` + testKey(2).String() + `",peer_node="n2",public_key=""`
	want := `# HELP wireguard_bytes_rcvd Bytes received from a peer, with the protocol's own.
# TYPE wireguard_bytes_rcvd counter
wireguard_bytes_rcvd{` + foreign + `} 0
wireguard_bytes_rcvd{` + n2 + `} 124
wireguard_bytes_rcvd{` + v6 + `} 0
# HELP wireguard_bytes_sent Bytes sent to a peer, with the protocol's own.
# TYPE wireguard_bytes_sent counter
wireguard_bytes_sent{` + foreign + `} 0
wireguard_bytes_sent{` + n2 + `} 180
wireguard_bytes_sent{` + v6 + `} 0
# HELP wireguard_latest_handshake_seconds When keys were last agreed on with a peer, in Unix seconds; 0: never.
# TYPE wireguard_latest_handshake_seconds gauge
wireguard_latest_handshake_seconds{` + foreign + `} 0
wireguard_latest_handshake_seconds{` + n2 + `} 1.8e+09
wireguard_latest_handshake_seconds{` + v6 + `} 0
# HELP wireguard_meta 1 for each WireGuard device of this node.
# TYPE wireguard_meta gauge
wireguard_meta{hostname="n1",iface="weft-wg",listen_port="51820",public_key="` + public.String() + `"} 1
`
	if d := cmp.Diff(want, scrape(t, c)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("the scrape ends with %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// A scrape while encryption is off, or before the first run, asks nobody and tells nothing; the collector has no
// device and no guard here.
func TestNoMetricsWhileOff(t *testing.T) {
	s := &service{engine: &engine{}}
	for name, p := range map[string]*plans{"before the first run": nil, "off": {snapshot: &model.Snapshot{}, view: &topology.View{}}} {
		s.engine.plans = p
		if got := scrape(t, &encryptionCollector{s}); got != "" {
			t.Errorf("%s: got\n%s\nwant nothing", name, got)
		}
	}
}

func TestWireguardMetricsSwitch(t *testing.T) {
	c := newCluster("n1", slog.New(slog.DiscardHandler), func(bool) {})
	felix := func(name, spec string) {
		feed(t, c, "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: "+name+"}\nspec: "+spec+"\n")
	}
	for _, step := range []struct {
		name, spec string
		want       bool
	}{
		{"default", "{wireguardEnabled: true}", true},
		{"default", "{prometheusWireGuardMetricsEnabled: false}", false},
		{"node.n1", "{prometheusWireGuardMetricsEnabled: true}", true},
		{"node.n2", "{prometheusWireGuardMetricsEnabled: false}", true},
	} {
		felix(step.name, step.spec)
		if got := c.wireguardMetrics(); got != step.want {
			t.Errorf("after %s %s: got %v, want %v", step.name, step.spec, got, step.want)
		}
	}
}

package encryption

import (
	"net/netip"
	"strings"
	"testing"

	"weft/model"
	"weft/model/topology"
)

func testKey(t *testing.T, b byte) (PrivateKey, model.PublicKey) {
	t.Helper()
	k, err := NewPrivateKey([32]byte{b, b})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	return k, p
}

func testView(t *testing.T) (*topology.View, map[int]PrivateKey) {
	own, _ := testKey(t, 1)
	_, two := testKey(t, 2)
	_, three := testKey(t, 3)
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	end := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820}
	return &topology.View{
		Self: "n1",
		Tunnels: []topology.Tunnel{
			{Driver: "vxlan", Device: "weft-vxlan", Family: model.IPv4, End: model.TunnelEnd{Encap: model.EncapVXLAN}},
			{Driver: "wireguard", Device: "weft-wg", Family: model.IPv4, MTU: 1440, End: end, Addresses: []netip.Addr{a("10.244.0.1")}},
		},
		Peers: []topology.Peer{
			{Node: "n2", Address: a("172.31.1.2"), Prefixes: []netip.Prefix{p("10.244.1.0/26"), p("172.31.1.2/32")}, Other: []netip.Prefix{p("fd00:244::/122")},
				Keys: []model.NodeKey{{Epoch: 0, Key: two}}},
			{Node: "n2", Address: a("fd00:31::2"), Prefixes: []netip.Prefix{p("fd00:244::/122")}, Keys: []model.NodeKey{{Epoch: 0, Key: two}}},
			{Node: "n3", Address: a("172.31.2.1"), Prefixes: []netip.Prefix{p("10.244.2.0/26")}, Keys: []model.NodeKey{{Epoch: 0, Key: three}, {Epoch: 1, Key: two}},
				Outside: a("198.51.100.7"), BehindNAT: true},
			{Node: "n4", Address: a("172.31.2.4"), Prefixes: []netip.Prefix{p("10.244.4.0/26")}}, // no key
		},
	}, map[int]PrivateKey{0: own}
}

func TestCompile(t *testing.T) {
	v, keys := testView(t)
	cfg := model.EncryptionConfig{Port4: 51820, Port6: 51821}
	p, err := Compile(v, cfg, keys)
	if err != nil {
		t.Fatal(err)
	}
	_, own := testKey(t, 1)
	_, two := testKey(t, 2)
	_, three := testKey(t, 3)
	want := "device weft-wg epoch 0 public " + own.String() + " udp 51820 mtu 1440 address 10.244.0.1\n" +
		"  peer n2 public " + two.String() + " at 172.31.1.2:51820 10.244.1.0/26 172.31.1.2/32 fd00:244::/122\n" +
		"  peer n3 public " + three.String() + " at 198.51.100.7:51820 keepalive 25s 10.244.2.0/26\n"
	if got := p.Format(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*topology.View, map[int]PrivateKey)
		want   string
		peers  int
	}{
		"no key": {func(_ *topology.View, k map[int]PrivateKey) { delete(k, 0) }, "no private key of epoch 0", 0},
		"the same key": {func(v *topology.View, _ map[int]PrivateKey) { v.Peers[2].Keys[0].Key = v.Peers[0].Keys[0].Key },
			"node n2 and node n3 have one public key", 0},
		"this node's key": {func(v *topology.View, _ map[int]PrivateKey) { _, v.Peers[2].Keys[0].Key = testKey(t, 1) },
			"this node and node n3 have one public key", 1},
		"the same addresses": {func(v *topology.View, _ map[int]PrivateKey) {
			v.Peers[2].Prefixes = append(v.Peers[2].Prefixes, v.Peers[0].Prefixes[0])
		}, "10.244.1.0/26 is said to be behind node n2 and node n3", 0},
		"a zero key": {func(v *topology.View, _ map[int]PrivateKey) { v.Peers[2].Keys[0].Key = model.PublicKey{} }, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			v, keys := testView(t)
			c.change(v, keys)
			p, err := Compile(v, model.EncryptionConfig{Port4: 51820}, keys)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if len(p.Peers) != c.peers {
				t.Errorf("%d peers, want %d:\n%s", len(p.Peers), c.peers, p.Format())
			}
		})
	}
}

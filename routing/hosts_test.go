package routing

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
	"weft/model/topology"
)

func TestCompileHosts(t *testing.T) {
	cfg := HostConfig{Priority: 99, Table: 8787, Main: 254, Mark: 0x10000000, Store: []uint16{2379, 2380}}
	pre, addr := netip.MustParsePrefix, netip.MustParseAddr
	wg := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4}
	v := &topology.View{
		Tunnels: []topology.Tunnel{
			{Device: "weft-ipip", Family: model.IPv4, End: model.TunnelEnd{Encap: model.EncapIPIP, Family: model.IPv4}},
			{Device: "weft-vxlan", Family: model.IPv4, Port: 4789, End: model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv4}},
			{Device: "weft-vxlan-v6", Family: model.IPv6, Port: 4790, End: model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv6}},
			{Device: "weft-wg", Family: model.IPv4, Port: 51820, End: wg},
		},
		Hosts: []topology.Path{
			{Dst: pre("172.31.1.2/32"), Node: "n2", Reach: topology.WireGuard, Device: "weft-wg", Source: addr("172.31.1.1"), MTU: 1340, DeviceMTU: 1440, Why: "encrypted"},
			{Dst: pre("172.31.1.3/32"), Node: "n3", Reach: topology.WireGuard, Device: "weft-wg", Source: addr("172.31.1.1"), MTU: 1440, DeviceMTU: 1440, Why: "encrypted"},
			{Dst: pre("172.31.1.4/32"), Node: "n4", Reach: topology.Direct, Device: "eth0", Why: "not encrypted"},
			{Dst: pre("172.31.1.5/32"), Node: "n5", Why: "was encrypted"},
			{Dst: pre("fd00:31:1::4/128"), Node: "n4", Reach: topology.Direct, Device: "eth0", Why: "not encrypted"},
		},
	}
	want := `rule IPv4 pref 98 ipproto 4 lookup 254  # packets of weft-ipip
rule IPv4 pref 98 ipproto tcp sport 179 lookup 254  # BGP (RFC 4271) tells of the underlay's own state
rule IPv4 pref 98 ipproto tcp sport 2379 lookup 254  # the store: nodes learn from it how to encrypt
rule IPv4 pref 98 ipproto tcp sport 2380 lookup 254  # the store: nodes learn from it how to encrypt
rule IPv4 pref 98 ipproto tcp sport 6443 lookup 254  # the Kubernetes API: what starts a node service may have to ask it first
rule IPv4 pref 98 ipproto tcp dport 179 lookup 254  # BGP (RFC 4271) tells of the underlay's own state
rule IPv4 pref 98 ipproto tcp dport 2379 lookup 254  # the store: nodes learn from it how to encrypt
rule IPv4 pref 98 ipproto tcp dport 2380 lookup 254  # the store: nodes learn from it how to encrypt
rule IPv4 pref 98 ipproto tcp dport 6443 lookup 254  # the Kubernetes API: what starts a node service may have to ask it first
rule IPv4 pref 98 ipproto udp sport 51820 lookup 254  # packets of weft-wg
rule IPv4 pref 98 ipproto udp dport 3784 lookup 254  # BFD (RFC 5881) asks about the underlay's links
rule IPv4 pref 98 ipproto udp dport 4784 lookup 254  # BFD over several hops (RFC 5883), the same
rule IPv4 pref 98 ipproto udp dport 4789 lookup 254  # packets of weft-vxlan
rule IPv4 pref 98 ipproto udp dport 51820 lookup 254  # packets of weft-wg
rule IPv4 pref 99 not fwmark 0x10000000/0x10000000 lookup 8787  # other nodes' own addresses are encrypted, but not what the encrypting devices send
route 172.31.1.2/32 dev weft-wg src 172.31.1.1 mtu 1340 table 8787  # node n2: encrypted
route 172.31.1.3/32 dev weft-wg src 172.31.1.1 table 8787  # node n3: encrypted
route unreachable 172.31.1.5/32 table 8787  # node n5: was encrypted
`
	h := CompileHosts(v, cfg)
	if d := cmp.Diff(want, h.Format()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for i := 1; i < len(h.Rules); i++ {
		if CompareRules(h.Rules[i-1], h.Rules[i]) >= 0 {
			t.Errorf("%v comes before %v", h.Rules[i-1], h.Rules[i])
		}
	}
	// Rules are there for a family that has routes only.
	v.Hosts = v.Hosts[2:3]
	if h := CompileHosts(v, cfg); len(h.Rules)+len(h.Routes) > 0 {
		t.Errorf("with no address that is encrypted:\n%s", h.Format())
	}
	v.Hosts = []topology.Path{{Dst: pre("fd00:31:1::2/128"), Node: "n2", Reach: topology.WireGuard, Device: "weft-wg", Source: addr("fd00:31:1::1")}}
	for _, r := range CompileHosts(v, cfg).Rules {
		if r.Family != model.IPv6 || r.Protocol == model.IPIP || r.DestPort == 4789 {
			t.Errorf("IPv6 alone: %v", r)
		}
	}
}

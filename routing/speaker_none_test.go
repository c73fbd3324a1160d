package routing

import (
	"net/netip"
	"strings"
	"testing"

	"weft/model"
)

// TestNoSessions: of a node that speaks with nobody there is one reason, and a peer that is the node itself is said to be.
func TestNoSessions(t *testing.T) {
	router := func(name, peer string, node model.NodeName) func(*SpeakerInput) {
		return func(in *SpeakerInput) {
			in.BGP.Config.Mesh = false
			in.BGP.Peers = append(in.BGP.Peers, peerOf(name, func(p *model.BGPPeer) {
				p.Node, p.NodeSelector, p.Peer, p.ASN = node, "", netip.AddrPortFrom(addr(peer), 0), 64513
			}))
		}
	}
	for name, c := range map[string]struct {
		nodes    int
		change   func(*SpeakerInput)
		why      string
		problems string
	}{
		"alone":      {1, func(*SpeakerInput) {}, "there is no other node", ""},
		"mesh off":   {3, func(in *SpeakerInput) { in.BGP.Config.Mesh = false }, "nodeToNodeMeshEnabled is false", ""},
		"for others": {3, router("tor", "192.0.2.1", "n2"), "nodeToNodeMeshEnabled is false", ""},
		"reflector": {3, func(in *SpeakerInput) {
			withNode(*in, "n1", func(n *model.Node) { n.BGP.ClusterID = addr("224.0.0.1") })
		}, "this node has a routeReflectorClusterID", ""},
		"no password": {3, func(in *SpeakerInput) { in.BGP.Config.MeshPassword = model.SecretRef{Name: "bgp", Key: "mesh"} },
			"the password of the mesh is not there", `no key "mesh"`},
		"no family": {3, func(in *SpeakerInput) {
			withNode(*in, "n1", func(n *model.Node) { n.Addresses = n.Addresses[:1] })
			router("six", "2001:db8::1", "n1")(in)
		}, "the peers that BGPPeers name", "has no IPv6 address to speak with 2001:db8::1"},
		"itself":          {3, router("self", "172.31.1.1", "n1"), "nodeToNodeMeshEnabled is false", "BGPPeer self: peer address 172.31.1.1 is that of node n1 itself"},
		"loopback":        {3, router("lo", "127.0.0.1", "n1"), "nodeToNodeMeshEnabled is false", "BGPPeer lo: peer address 127.0.0.1 is node n1 itself"},
		"loopback, v6":    {3, router("lo", "::1", ""), "nodeToNodeMeshEnabled is false", "BGPPeer lo: peer address ::1 is node n1 itself"},
		"another's peer":  {3, router("self", "172.31.1.2", "n2"), "nodeToNodeMeshEnabled is false", ""},
		"alone, its peer": {1, router("self", "172.31.1.1", ""), "there is no other node", "is that of node n1 itself"},
	} {
		in := speakerCluster(c.nodes, 3)
		c.change(&in)
		s, err := CompileSpeaker(in)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if len(s.Sessions) > 0 || (text == "") != (c.problems == "") || !strings.Contains(text, c.problems) {
			t.Errorf("%s: %d sessions, problems %q, want %q", name, len(s.Sessions), text, c.problems)
		}
		if why := WhyNoSessions(in); !strings.HasPrefix(why, c.why) {
			t.Errorf("%s: %q, want %q", name, why, c.why)
		}
	}
	// A BGPPeer for all nodes whose peer is one of them is a reflector's: no problem on that one.
	in := speakerCluster(3, 3)
	router("rr", "172.31.1.1", "")(&in)
	if s, err := CompileSpeaker(in); err != nil || len(s.Sessions) != 2 {
		t.Errorf("the reflector: %d sessions, want 2 of one family; %v", len(s.Sessions), err)
	}
}

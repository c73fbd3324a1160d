package cli

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/status"
)

// listed is a store of which only lists are asked.
type listed struct {
	datastore.Store
	all []v3.Object
}

func (l listed) List(_ context.Context, kinds ...string) (*datastore.List, error) {
	out := &datastore.List{}
	for _, o := range l.all {
		if k, _ := v3.KindOf(o); slices.Contains(kinds, k) {
			out.Items = append(out.Items, o)
		}
	}
	return out, nil
}

// TestKnownPeers: the other ends of sessions have the names and AS numbers that resources give their addresses.
func TestKnownPeers(t *testing.T) {
	all, err := v3.Decode([]byte(`
{apiVersion: projectcalico.org/v3, kind: BGPConfiguration, metadata: {name: default}, spec: {asNumber: 64600}}
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1}, spec: {bgp: {ipv4Address: 172.31.1.1/24, ipv6Address: "fd00:31:1::1/64"}}}
---
{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n2}, spec: {bgp: {ipv4Address: 172.31.1.2/24, asNumber: 64700}}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: tor}, spec: {peerIP: "192.0.2.1:1179", asNumber: 64513}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: own}, spec: {peerIP: 192.0.2.2}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: a}, spec: {peerIP: 192.0.2.3, asNumber: 1, node: n1}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: b}, spec: {peerIP: 192.0.2.3, asNumber: 2, node: n2}}
`))
	if err != nil {
		t.Fatal(err)
	}
	store := listed{all: all}
	nodes, _ := store.List(t.Context(), v3.KindNode)
	k, err := readKnown(t.Context(), store, nodes.Items)
	if err != nil {
		t.Fatal(err)
	}
	var rows []status.BGPPeer
	for _, a := range []string{"fd00:31:1::1", "172.31.1.2", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"} {
		rows = append(rows, status.BGPPeer{Node: "n2", Address: a})
	}
	k.fill(rows)
	want := []status.BGPPeer{
		{Node: "n2", Address: "fd00:31:1::1", Peer: "n1", ASN: 64600},
		{Node: "n2", Address: "172.31.1.2", Peer: "n2", ASN: 64700},
		{Node: "n2", Address: "192.0.2.1", From: "BGPPeer tor", ASN: 64513},
		{Node: "n2", Address: "192.0.2.2", From: "BGPPeer own", ASN: 64700},
		{Node: "n2", Address: "192.0.2.3", From: "BGPPeer a, BGPPeer b"},
		{Node: "n2", Address: "192.0.2.4"},
	}
	if d := cmp.Diff(want, rows); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

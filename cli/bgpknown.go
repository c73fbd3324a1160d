package cli

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/node/datastore"
	"weft/node/status"
)

// peersKnown is what the resources say of the other ends of sessions: a CalicoNodeStatus tells of them the address only.
type peersKnown struct {
	nodes map[netip.Addr]string // whose address it is
	asn   map[string]uint32     // of nodes
	peers map[netip.Addr][]*v3.BGPPeer
}

// readKnown reads the resources; nodes are the cluster's.
func readKnown(ctx context.Context, store datastore.Store, nodes []v3.Object) (peersKnown, error) {
	k := peersKnown{map[netip.Addr]string{}, map[string]uint32{}, map[netip.Addr][]*v3.BGPPeer{}}
	configs, err := store.List(ctx, v3.KindBGPConfiguration)
	if err != nil {
		return k, err
	}
	peers, err := store.List(ctx, v3.KindBGPPeer)
	if err != nil {
		return k, err
	}
	cluster := v3.DefaultASNumber
	for _, o := range configs.Items {
		if c, ok := o.(*v3.BGPConfiguration); ok && c.Name == "default" && c.Spec.ASNumber != nil {
			cluster = *c.Spec.ASNumber
		}
	}
	for _, o := range nodes {
		n, ok := o.(*v3.Node)
		if !ok || n.Spec.BGP == nil {
			continue
		}
		k.asn[n.Name] = uint32(cluster)
		if own := n.Spec.BGP.ASNumber; own != nil {
			k.asn[n.Name] = uint32(*own)
		}
		for _, text := range []string{n.Spec.BGP.IPv4Address, n.Spec.BGP.IPv6Address} {
			bare, _, _ := strings.Cut(text, "/")
			if a, err := netip.ParseAddr(bare); err == nil {
				k.nodes[a] = n.Name
			}
		}
	}
	for _, o := range peers.Items {
		if p, ok := o.(*v3.BGPPeer); ok {
			if a, _, err := v3.ParsePeerIP(p.Spec.PeerIP); err == nil {
				k.peers[a] = append(k.peers[a], p)
			}
		}
	}
	return k, nil
}

// fill adds to rows who the other ends are: the node, or the BGPPeers of that address, and their AS number where all of those say
// the same.
func (k peersKnown) fill(rows []status.BGPPeer) {
	for i := range rows {
		r := &rows[i]
		a, err := netip.ParseAddr(r.Address)
		if err != nil {
			continue
		}
		if r.Peer = k.nodes[a]; r.Peer != "" {
			r.ASN = k.asn[r.Peer]
			continue
		}
		var names []string
		var asns []uint32
		for _, p := range k.peers[a] {
			names = append(names, "BGPPeer "+p.Name)
			asns = append(asns, cmp.Or(uint32(p.Spec.ASNumber), k.asn[r.Node]))
		}
		slices.Sort(names)
		slices.Sort(asns)
		r.From = strings.Join(names, ", ")
		if asns = slices.Compact(asns); len(asns) == 1 {
			r.ASN = asns[0]
		}
	}
}

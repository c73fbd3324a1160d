package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"weft/model"
	"weft/node/ipam"
)

// nodeTunnel gives the node's tunnel devices their addresses from the allocator.
type nodeTunnel struct {
	alloc *ipam.Allocator
	node  string
}

func (n *nodeTunnel) handle(f model.Family) string {
	if f == model.IPv6 {
		return "vxlan-v6-tunnel-addr-" + n.node
	}
	return "vxlan-tunnel-addr-" + n.node
}

func (n *nodeTunnel) assign(ctx context.Context, f model.Family, pools []string) (netip.Addr, error) {
	got, err := n.alloc.Assign(ctx, ipam.Request{HandleID: n.handle(f), Families: []model.Family{f},
		Pools: map[model.Family][]string{f: pools}, Use: ipam.UseTunnel,
		Attributes: map[string]string{ipam.AttrType: "vxlanTunnelAddress"}})
	if err != nil {
		return netip.Addr{}, err
	}
	if len(got.Addresses) != 1 {
		return netip.Addr{}, fmt.Errorf("handle %s: got %d addresses, want 1", n.handle(f), len(got.Addresses))
	}
	return got.Addresses[0].Addr, nil
}

func (n *nodeTunnel) keep(ctx context.Context, f model.Family, a netip.Addr) (bool, error) {
	_, err := n.alloc.Retake(ctx, ipam.Request{HandleID: n.handle(f), Addresses: []netip.Addr{a}, Use: ipam.UseTunnel,
		Attributes: map[string]string{ipam.AttrType: "vxlanTunnelAddress"}})
	var taken *ipam.TakenError
	if errors.As(err, &taken) {
		return false, nil
	}
	return err == nil, err
}

func (n *nodeTunnel) release(ctx context.Context, f model.Family) error {
	_, err := n.alloc.Release(ctx, n.handle(f))
	return err
}

// ipamView is what IPAM decides from, out of the watch: no reads of the store on the way of a pod.
func (c *cluster) ipamView(context.Context) (*ipam.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.everSynced {
		return nil, fmt.Errorf("the store has not been read yet (%s)", c.state)
	}
	v := &ipam.Cluster{Config: c.ipamConfig}
	for _, p := range c.pools {
		v.Pools = append(v.Pools, p)
	}
	for _, r := range c.reservations {
		v.Reservations = append(v.Reservations, r)
	}
	if n := c.nodes[c.self]; n != nil {
		v.NodeLabels = n.Labels
	}
	return v, nil
}

// namespace returns what the store says of a namespace, with the two labels that users expect on
// every one; a cluster of bare hosts need not have a record of it.
func (c *cluster) namespace(name string) (labels, annotations map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.namespaces[name]
	labels = map[string]string{"kubernetes.io/metadata.name": name, "projectcalico.org/name": name}
	maps.Copy(labels, n.labels)
	return labels, n.annotations
}

// inUse tells IPAM that a pod of this host, or its tunnel device, has the address, whatever the
// store says of its block. It is asked about every free address of a block.
func (s *service) inUse(a netip.Addr) bool {
	return s.registry.InUse(a) || s.cluster.isTunnelAddress(a)
}

// isTunnelAddress tells whether this node's record names a as the address of its tunnel device.
func (c *cluster) isTunnelAddress(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[c.self]
	return n != nil && slices.Contains(n.TunnelAddresses, a)
}

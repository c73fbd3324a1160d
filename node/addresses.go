package node

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"weft/model"
	"weft/node/cni"
	"weft/node/ipam"
)

// podAddresses gives CNI its addresses from the allocator.
type podAddresses struct {
	alloc   *ipam.Allocator
	cluster *cluster
}

// Assign implements cni.IPAM.
func (p *podAddresses) Assign(ctx context.Context, r cni.AddressRequest) ([]netip.Addr, error) {
	namespace := r.Attributes[ipam.AttrNamespace]
	req := ipam.Request{
		HandleID: r.Handle, Namespace: namespace, Pod: r.Attributes[ipam.AttrPod], PodUID: r.Attributes[ipam.AttrPodUID],
		NamespaceLabels: p.cluster.namespaceLabels(namespace), Attributes: r.Attributes,
		Pools: map[model.Family][]string{model.IPv4: r.IPv4Pools, model.IPv6: r.IPv6Pools},
	}
	for family, want := range map[model.Family]*bool{model.IPv4: r.IPv4, model.IPv6: r.IPv6} {
		if want != nil && *want {
			req.Families = append(req.Families, family)
		}
	}
	got, err := p.alloc.Assign(ctx, req)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(got.Addresses))
	for _, a := range got.Addresses {
		addrs = append(addrs, a.Addr)
	}
	return addrs, nil
}

// Release implements cni.IPAM.
func (p *podAddresses) Release(ctx context.Context, handle string) error {
	_, err := p.alloc.Release(ctx, handle)
	return err
}

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

// namespaceLabels returns a namespace's labels with the two that Kubernetes and Calico users expect
// on every namespace; a bare-host cluster need not have a record of it.
func (c *cluster) namespaceLabels(name string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	labels := map[string]string{"kubernetes.io/metadata.name": name, "projectcalico.org/name": name}
	maps.Copy(labels, c.namespaces[name])
	return labels
}

// inUse tells IPAM that a pod of this host has the address, whatever the store says.
func (s *service) inUse(a netip.Addr) bool {
	for _, ep := range s.registry.Endpoints() {
		for _, have := range ep.Addresses {
			if have == a {
				return true
			}
		}
	}
	return false
}

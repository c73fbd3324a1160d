package cni

import (
	"context"
	"net/netip"

	"weft/model"
	"weft/node/ipam"
)

// FromAllocator makes an IPAM of the node's allocator.
func FromAllocator(a *ipam.Allocator) IPAM { return &fromAllocator{a} }

type fromAllocator struct{ alloc *ipam.Allocator }

// Assign implements IPAM.
func (f *fromAllocator) Assign(ctx context.Context, r AddressRequest) ([]netip.Addr, error) {
	req := ipam.Request{
		HandleID: r.Handle, Namespace: r.Attributes[ipam.AttrNamespace], Pod: r.Attributes[ipam.AttrPod],
		PodUID: r.Attributes[ipam.AttrPodUID], NamespaceLabels: r.NamespaceLabels, Addresses: r.Addresses,
		Pools: map[model.Family][]string{}, Use: ipam.UseWorkload,
	}
	for _, x := range []struct {
		family model.Family
		want   *bool
		pools  []string
	}{{model.IPv4, r.IPv4, r.IPv4Pools}, {model.IPv6, r.IPv6, r.IPv6Pools}} {
		if x.want != nil && *x.want {
			req.Families = append(req.Families, x.family)
		}
		if len(x.pools) > 0 {
			req.Pools[x.family] = x.pools
		}
	}
	got, err := f.alloc.Assign(ctx, req)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(got.Addresses))
	for _, a := range got.Addresses {
		addrs = append(addrs, a.Addr)
	}
	return addrs, nil
}

// Keep implements IPAM.
func (f *fromAllocator) Keep(ctx context.Context, r AddressRequest) ([]netip.Addr, error) {
	return f.alloc.Retake(ctx, ipam.Request{
		HandleID: r.Handle, Namespace: r.Attributes[ipam.AttrNamespace], Pod: r.Attributes[ipam.AttrPod],
		PodUID: r.Attributes[ipam.AttrPodUID], Addresses: r.Addresses, Use: ipam.UseWorkload})
}

// Release implements IPAM.
func (f *fromAllocator) Release(ctx context.Context, handle string) error {
	_, err := f.alloc.Release(ctx, handle)
	return err
}

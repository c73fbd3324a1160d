package cni

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"weft/internal/kernel"
	"weft/model"
)

// result is what ADD answers, in the version that the configuration asks for: the host side and
// the pod side of the link, the addresses, and the default routes.
func (c *netConf) result(a *attachment) ([]byte, error) {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: a.Device, Mac: kernel.PodHostMAC().String(), Mtu: a.MTU},
			{Name: a.IfName, Mac: a.MAC, Mtu: a.MTU, Sandbox: a.Netns},
		},
	}
	for _, ip := range a.Addresses {
		gw := kernel.PodGateway(model.FamilyOf(ip))
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: types100.Int(1), Address: ipNet(model.HostPrefix(ip)), Gateway: gw.AsSlice()})
		anywhere := netip.PrefixFrom(gw, 0).Masked()
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(anywhere), GW: gw.AsSlice()})
	}
	old, err := r.GetAsVersion(c.CNIVersion)
	if err != nil {
		return nil, fmt.Errorf("convert the result to CNI %s: %w", c.CNIVersion, err)
	}
	var b bytes.Buffer
	if err := old.PrintTo(&b); err != nil {
		return nil, fmt.Errorf("encode the result: %w", err)
	}
	return b.Bytes(), nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

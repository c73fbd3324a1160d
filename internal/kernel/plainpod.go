package kernel

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddPlainPod makes a pod's link, address and routes and nothing else, for who measures what the kernel takes for that: the
// host's end in h's namespace, eth0 in ns, which path leads to; addr is of IPv4.
func (h *Handle) AddPlainPod(ns *os.File, path, device string, addr netip.Addr) error {
	if err := h.addPlainPod(ns, path, device, addr); err != nil {
		return fmt.Errorf("make plain pod link %s: %w", device, err)
	}
	return nil
}

func (h *Handle) addPlainPod(ns *os.File, path, device string, addr netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = device
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	if err := h.nl.LinkAdd(veth); err != nil {
		return err
	}
	pod, err := OpenAt(path)
	if err != nil {
		return err
	}
	defer pod.Close()
	eth, err := pod.nl.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := pod.nl.AddrAdd(eth, &netlink.Addr{IPNet: netlink.NewIPNet(addr.AsSlice())}); err != nil {
		return err
	}
	if err := pod.nl.LinkSetUp(eth); err != nil {
		return err
	}
	gateway := podGateway4
	for _, r := range []*netlink.Route{
		{Dst: netlink.NewIPNet(gateway.AsSlice()), Scope: netlink.SCOPE_LINK},
		{Gw: gateway.AsSlice()},
	} {
		r.LinkIndex = eth.Attrs().Index
		if err := pod.nl.RouteAdd(r); err != nil {
			return err
		}
	}
	host, err := h.nl.LinkByName(device)
	if err != nil {
		return err
	}
	if err := h.nl.LinkSetUp(host); err != nil {
		return err
	}
	return h.nl.RouteReplace(&netlink.Route{LinkIndex: host.Attrs().Index, Dst: netlink.NewIPNet(addr.AsSlice()),
		Scope: netlink.SCOPE_LINK, Protocol: unix.RTPROT_STATIC})
}

package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// This file makes the links of a simulated underlay: bridges, and veth pairs whose two ends are
// born in two named network namespaces, so that neither ever appears in the caller's own.

// WireEnd is one end of a veth pair.
type WireEnd struct {
	Namespace string // of /run/netns
	Name      string
	Bridge    string // the bridge of Namespace that the end joins; may be empty
}

// AddWire makes a veth pair between two namespaces and sets both ends up. mtu is in bytes. An end
// that exists already is an error that wraps unix.EEXIST.
func AddWire(a, b WireEnd, mtu int) error {
	err := addVeth(a, b, mtu)
	for _, end := range []WireEnd{a, b} {
		if err == nil {
			err = raiseEnd(end)
		}
	}
	if err != nil {
		return fmt.Errorf("make wire %s in %s to %s in %s: %w", a.Name, a.Namespace, b.Name, b.Namespace, err)
	}
	return nil
}

func addVeth(a, b WireEnd, mtu int) error {
	peer, err := os.Open(NetnsPath(b.Namespace))
	if err != nil {
		return err
	}
	defer peer.Close()
	h, err := OpenAt(NetnsPath(a.Namespace))
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Name, mtu
	return h.nl.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: b.Name, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(peer.Fd())),
	})
}

func raiseEnd(e WireEnd) error {
	h, err := OpenAt(NetnsPath(e.Namespace))
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.nl.LinkByName(e.Name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", e.Name, err)
	}
	if e.Bridge != "" {
		br, err := h.nl.LinkByName(e.Bridge)
		if err != nil {
			return fmt.Errorf("find bridge %s: %w", e.Bridge, err)
		}
		if err := h.nl.LinkSetMaster(l, br); err != nil {
			return fmt.Errorf("join bridge %s: %w", e.Bridge, err)
		}
	}
	if err := h.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("set up link %s: %w", e.Name, err)
	}
	return nil
}

// AddBridge makes a bridge without spanning tree and without multicast snooping, and sets it up.
// mtu is in bytes.
func (h *Handle) AddBridge(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	off := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &off}
	if err := h.nl.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge %s: %w", name, err)
	}
	if err := h.nl.LinkSetUp(br); err != nil {
		return fmt.Errorf("set up bridge %s: %w", name, err)
	}
	return nil
}

// AddAddress gives the interface an address with the prefix length of its link, usable at once
// (no duplicate address detection). One that is there already is not an error.
func (h *Handle) AddAddress(device string, p netip.Prefix) error {
	l, err := h.nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("add address %v to %s: %w", p, device, err)
	}
	a := &netlink.Addr{IPNet: netlink.NewIPNet(p.Addr().AsSlice())}
	a.Mask = ipMask(p)
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := h.nl.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add address %v to %s: %w", p, device, err)
	}
	return nil
}

// AddUnderlayRoute makes a route of the underlay in the main table: it carries protocol "static"
// and is therefore never taken for one of ours.
func (h *Handle) AddUnderlayRoute(dst netip.Prefix, via netip.Addr, device string) error {
	l, err := h.nl.LinkByName(device)
	if err != nil {
		return fmt.Errorf("add route %v via %v dev %s: %w", dst, via, device, err)
	}
	n := netlink.NewIPNet(dst.Addr().AsSlice())
	n.Mask = ipMask(dst)
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: n, Gw: via.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := h.nl.RouteReplace(r); err != nil {
		return fmt.Errorf("add route %v via %v dev %s: %w", dst, via, device, err)
	}
	return nil
}

func ipMask(p netip.Prefix) []byte {
	m := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "weft/api/v3"
	"weft/model"
)

// nodeOf converts a Node record into the compilers' form.
func nodeOf(o *v3.Node) (*model.Node, error) {
	n := &model.Node{Name: model.NodeName(o.Name), Labels: o.Labels}
	if o.Spec.BGP != nil {
		for _, s := range []string{o.Spec.BGP.IPv4Address, o.Spec.BGP.IPv6Address} {
			if s == "" {
				continue
			}
			p, err := prefixOrHost(s)
			if err != nil {
				return nil, fmt.Errorf("spec.bgp address %q: %w", s, err)
			}
			n.Addresses = append(n.Addresses, p)
		}
	}
	ipip := ""
	if o.Spec.BGP != nil {
		ipip = o.Spec.BGP.IPv4IPIPTunnelAddr
	}
	n.IPIP = ipip != ""
	tunnelAddrs := []string{o.Spec.IPv4VXLANTunnelAddr, o.Spec.IPv6VXLANTunnelAddr, ipip}
	if w := o.Spec.Wireguard; w != nil {
		tunnelAddrs = append(tunnelAddrs, w.InterfaceIPv4Address, w.InterfaceIPv6Address)
	}
	for _, s := range tunnelAddrs {
		if s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("tunnel address %q: %w", s, err)
		}
		if !slices.Contains(n.TunnelAddresses, a) {
			n.TunnelAddresses = append(n.TunnelAddresses, a)
		}
	}
	if s := o.Spec.VXLANTunnelMACAddr; s != "" {
		m, err := model.ParseMAC(s)
		if err != nil {
			return nil, fmt.Errorf("spec.vxlanTunnelMACAddr: %w", err)
		}
		n.VXLANMAC = m
	}
	for _, l := range o.Status.OnLink {
		p, err := netip.ParsePrefix(l.CIDR)
		if err != nil {
			return nil, fmt.Errorf("status.onLink %q: %w", l.CIDR, err)
		}
		n.OnLink = append(n.OnLink, model.OnLink{Prefix: p, Gateway: l.Gateway})
	}
	if o.Status.Tunnels != nil {
		n.Tunnels = &model.Tunnels{Receives: endsOf(o.Status.Tunnels.Receives), Sends: endsOf(o.Status.Tunnels.Sends),
			EncryptedOnly: o.Status.Tunnels.EncryptedOnly}
		for _, s := range o.Status.Tunnels.Routed {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return nil, fmt.Errorf("status.tunnels.routed %q: %w", s, err)
			}
			n.Tunnels.Routed = append(n.Tunnels.Routed, p)
		}
	}
	if err := readBGP(n, o.Spec.BGP); err != nil {
		return nil, err
	}
	if b := o.Status.BGP; b != nil {
		n.BGP.Relies.Mesh = b.ReliesOnMesh
		for _, r := range b.ReliesOnReflectors {
			n.BGP.Relies.Reflectors = append(n.BGP.Relies.Reflectors, model.NodeName(r))
		}
		slices.Sort(n.BGP.Relies.Reflectors)
	}
	if err := readKeys(n, o); err != nil {
		return nil, err
	}
	return n, nil
}

// endpointAnnotation names the address at which a node's WireGuard devices are reached from outside,
// natAnnotation that it is behind NAT and must keep the way open itself.
const (
	endpointAnnotation = "weft.io/wireguard-endpoint"
	natAnnotation      = "weft.io/behind-nat"
)

// readKeys reads what a record says of encryption.
func readKeys(n *model.Node, o *v3.Node) error {
	keys := o.Status.WireguardKeys
	if len(keys) == 0 && o.Status.WireguardPublicKey != "" {
		keys = []v3.NodeKey{{PublicKey: o.Status.WireguardPublicKey}}
	}
	for _, k := range keys {
		key, err := model.ParsePublicKey(k.PublicKey)
		if err != nil {
			return fmt.Errorf("status.wireguardKeys, epoch %d: %w", k.Epoch, err)
		}
		n.Keys = append(n.Keys, model.NodeKey{Epoch: k.Epoch, Key: key})
	}
	slices.SortFunc(n.Keys, func(a, b model.NodeKey) int { return a.Epoch - b.Epoch })
	if s := o.Annotations[endpointAnnotation]; s != "" {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("annotation %s: %w", endpointAnnotation, err)
		}
		n.Outside = a
	}
	n.BehindNAT = o.Annotations[natAnnotation] == "true"
	return nil
}

func prefixOrHost(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return model.HostPrefix(a), nil
}

// blockOf converts an IPAMBlock: whose it is, and which of its addresses other nodes use.
func blockOf(o *v3.IPAMBlock) (*model.Block, error) {
	cidr, err := netip.ParsePrefix(o.Spec.CIDR)
	if err != nil {
		return nil, fmt.Errorf("spec.cidr %q: %w", o.Spec.CIDR, err)
	}
	b := &model.Block{CIDR: cidr.Masked()}
	if o.Spec.Affinity != nil {
		if host, ok := strings.CutPrefix(*o.Spec.Affinity, "host:"); ok {
			b.Node = model.NodeName(host)
		}
	}
	owner := make([]model.NodeName, len(o.Spec.Attributes))
	for i, a := range o.Spec.Attributes {
		owner[i] = model.NodeName(a.ActiveOwnerAttrs["node"])
	}
	addr := b.CIDR.Addr()
	for _, index := range o.Spec.Allocations {
		if index != nil && *index >= 0 && *index < len(owner) {
			if n := owner[*index]; n != "" && n != b.Node && b.CIDR.Contains(addr) {
				if b.Borrowed == nil {
					b.Borrowed = map[netip.Addr]model.NodeName{}
				}
				b.Borrowed[addr] = n
			}
		}
		addr = addr.Next()
	}
	return b, nil
}

// prefixOfBlockName reads an IPAMBlock's name: its CIDR with dashes for dots, colons and the slash.
func prefixOfBlockName(name string) (netip.Prefix, error) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return netip.Prefix{}, fmt.Errorf("IPAMBlock name %q: want a CIDR with dashes", name)
	}
	for _, sep := range []string{".", ":"} {
		if p, err := netip.ParsePrefix(strings.ReplaceAll(name[:i], "-", sep) + "/" + name[i+1:]); err == nil {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("IPAMBlock name %q: want a CIDR with dashes", name)
}

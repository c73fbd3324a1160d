package v3

import (
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateNode(n *Node) field.ErrorList {
	spec, status := field.NewPath("spec"), field.NewPath("status")
	var errs field.ErrorList
	addr := func(path *field.Path, s string, f family) {
		if s != "" {
			errs = append(errs, checkAddr(path, s, f)...)
		}
	}
	if b := n.Spec.BGP; b != nil {
		bgp := spec.Child("bgp")
		errs = append(errs, checkNodeAddress(bgp.Child("ipv4Address"), b.IPv4Address, 4)...)
		errs = append(errs, checkNodeAddress(bgp.Child("ipv6Address"), b.IPv6Address, 6)...)
		addr(bgp.Child("ipv4IPIPTunnelAddr"), b.IPv4IPIPTunnelAddr, 4)
		if b.ASNumber != nil {
			errs = append(errs, checkASNumber(bgp.Child("asNumber"), *b.ASNumber)...)
		}
		errs = append(errs, checkClusterID(bgp.Child("routeReflectorClusterID"), b.RouteReflectorClusterID)...)
	}
	addr(spec.Child("ipv4VXLANTunnelAddr"), n.Spec.IPv4VXLANTunnelAddr, 4)
	addr(spec.Child("ipv6VXLANTunnelAddr"), n.Spec.IPv6VXLANTunnelAddr, 6)
	if w := n.Spec.Wireguard; w != nil {
		addr(spec.Child("wireguard", "interfaceIPv4Address"), w.InterfaceIPv4Address, 4)
		addr(spec.Child("wireguard", "interfaceIPv6Address"), w.InterfaceIPv6Address, 6)
	}
	if s := n.Spec.VXLANTunnelMACAddr; s != "" {
		errs = append(errs, checkMAC(spec.Child("vxlanTunnelMACAddr"), s)...)
	}
	if s := n.Spec.VXLANTunnelMACAddrV6; s != "" {
		errs = append(errs, checkMAC(spec.Child("vxlanTunnelMACAddrV6"), s)...)
	}
	errs = append(errs, validateNodeLists(spec, &n.Spec)...)
	return append(errs, validateNodeStatus(status, &n.Status)...)
}

// checkClusterID wants the identity of a cluster of route reflectors (RFC 4456), which is no address and
// written like one.
func checkClusterID(path *field.Path, s string) field.ErrorList {
	if s == "" {
		return nil
	}
	if a, err := netip.ParseAddr(s); err != nil || !a.Is4() || a.IsUnspecified() {
		return invalid(path, excerpt(s), "want 32 bits that are not all zero, written like an IPv4 address: 224.0.0.1")
	}
	return nil
}

// isUnicast tells whether a host other than one's own may have the address.
func isUnicast(a netip.Addr) bool { return a.IsGlobalUnicast() || a.IsLinkLocalUnicast() }

// checkNodeAddress wants an underlay address, with or without the prefix length of its subnet.
func checkNodeAddress(path *field.Path, s string, f family) field.ErrorList {
	if s == "" {
		return nil
	}
	p, errs := checkAddrOrCIDR(path, s, f)
	if errs != nil {
		bits := 24
		if f == 6 {
			bits = 64
		}
		return invalid(path, excerpt(s), "want an %s address with the prefix length of its subnet such as %s/%d", f, f.exampleAddr(), bits)
	}
	if !isUnicast(p.Addr()) {
		return invalid(path, s, "want an address that other nodes can reach")
	}
	return nil
}

func validateNodeLists(path *field.Path, s *NodeSpec) field.ErrorList {
	var errs field.ErrorList
	for i, a := range s.Addresses {
		at := path.Child("addresses").Index(i)
		_, e := checkAddrOrCIDR(at.Child("address"), a.Address, 0)
		errs = append(errs, e...)
		if a.Type != "" {
			errs = append(errs, checkEnum(at.Child("type"), a.Type, AddressCalicoNodeIP, AddressInternalIP, AddressExternalIP)...)
		}
	}
	for i, n := range s.Interfaces {
		at := path.Child("interfaces").Index(i)
		if n.Name != "" {
			errs = append(errs, checkInterface(at.Child("name"), n.Name)...)
		}
		errs = append(errs, checkCIDRs(at.Child("addresses"), n.Addresses, 0)...)
	}
	return errs
}

func validateNodeStatus(path *field.Path, s *NodeStatus) field.ErrorList {
	errs := checkCIDRs(path.Child("podCIDRs"), s.PodCIDRs, 0)
	if s.WireguardPublicKey != "" {
		errs = append(errs, checkKey(path.Child("wireguardPublicKey"), s.WireguardPublicKey)...)
	}
	if s.WireguardPublicKeyV6 != "" {
		errs = append(errs, checkKey(path.Child("wireguardPublicKeyV6"), s.WireguardPublicKeyV6)...)
	}
	epochs := map[int]bool{}
	for i, k := range s.WireguardKeys {
		at := path.Child("wireguardKeys").Index(i)
		errs = append(errs, checkKey(at.Child("publicKey"), k.PublicKey)...)
		if epochs[k.Epoch] {
			errs = append(errs, field.Duplicate(at.Child("epoch"), k.Epoch))
		}
		epochs[k.Epoch] = true
	}
	for i, l := range s.OnLink {
		_, e := checkMaskedCIDR(path.Child("onLink").Index(i).Child("cidr"), l.CIDR, 0)
		errs = append(errs, e...)
	}
	if t := s.Tunnels; t != nil {
		errs = append(errs, checkTunnelEnds(path.Child("tunnels", "receives"), t.Receives, "VXLAN", "IPIP", "WireGuard")...)
		errs = append(errs, checkTunnelEnds(path.Child("tunnels", "sends"), t.Sends, "VXLAN", "IPIP", "WireGuard", "None")...)
	}
	if b := s.BGP; b != nil {
		for i, n := range b.ReliesOnReflectors {
			if at := path.Child("bgp", "reliesOnReflectors").Index(i); n == "" {
				errs = append(errs, field.Required(at, "want the name of a node"))
			} else if slices.Contains(b.ReliesOnReflectors[:i], n) {
				errs = append(errs, field.Duplicate(at, n))
			}
		}
	}
	return errs
}

func checkTunnelEnds(path *field.Path, ends []NodeTunnelEnd, encaps ...string) field.ErrorList {
	var errs field.ErrorList
	for i, e := range ends {
		at := path.Index(i)
		errs = append(errs, checkEnum(at.Child("encapsulation"), e.Encapsulation, encaps...)...)
		if e.Encapsulation != "None" {
			errs = append(errs, checkEnum(at.Child("family"), e.Family, "IPv4", "IPv6")...)
		}
		if e.Encapsulation != "VXLAN" && e.Encapsulation != "WireGuard" {
			continue
		}
		if e.Encapsulation == "VXLAN" && (e.VNI < 1 || e.VNI > 1<<24-1) {
			errs = append(errs, invalid(at.Child("vni"), e.VNI, "want 1 to 16777215")...)
		}
		if e.Port < 1 || e.Port > 65535 {
			errs = append(errs, invalid(at.Child("port"), e.Port, "want 1 to 65535")...)
		}
	}
	return errs
}

func validateEndpoint(path *field.Path, s *WorkloadEndpointSpec) field.ErrorList {
	var errs field.ErrorList
	own := map[netip.Addr]bool{}
	for i, n := range s.IPNetworks {
		at := path.Child("ipNetworks").Index(i)
		p, e := checkAddrOrCIDR(at, n, 0)
		switch {
		case e != nil:
			errs = append(errs, e...)
		case !p.IsSingleIP():
			errs = append(errs, invalid(at, n, "want one address: /32 for IPv4, /128 for IPv6")...)
		case own[p.Addr()]:
			errs = append(errs, field.Duplicate(at, n))
		default:
			own[p.Addr()] = true
		}
	}
	errs = append(errs, validateNATs(path.Child("ipNATs"), s.IPNATs, own)...)
	if s.IPv4Gateway != "" {
		errs = append(errs, checkAddr(path.Child("ipv4Gateway"), s.IPv4Gateway, 4)...)
	}
	if s.IPv6Gateway != "" {
		errs = append(errs, checkAddr(path.Child("ipv6Gateway"), s.IPv6Gateway, 6)...)
	}
	if s.InterfaceName != "" {
		errs = append(errs, checkInterface(path.Child("interfaceName"), s.InterfaceName)...)
	}
	if s.MAC != "" {
		errs = append(errs, checkMAC(path.Child("mac"), s.MAC)...)
	}
	errs = append(errs, checkCIDRs(path.Child("allowSpoofedSourcePrefixes"), s.AllowSpoofedSourcePrefixes, 0)...)
	for i, p := range s.Profiles {
		if p == "" {
			errs = append(errs, field.Required(path.Child("profiles").Index(i), "the name of a Profile"))
		}
	}
	errs = append(errs, validatePorts(path.Child("ports"), s.Ports)...)
	if s.QoSControls != nil {
		errs = append(errs, validateQoS(path.Child("qosControls"), s.QoSControls)...)
	}
	return errs
}

func validateNATs(path *field.Path, nats []IPNAT, own map[netip.Addr]bool) field.ErrorList {
	var errs field.ErrorList
	for i, n := range nats {
		inside, outside := path.Index(i).Child("internalIP"), path.Index(i).Child("externalIP")
		e := slices.Concat(checkAddr(inside, n.InternalIP, 0), checkAddr(outside, n.ExternalIP, 0))
		if e != nil {
			errs = append(errs, e...)
			continue
		}
		in, out := netip.MustParseAddr(n.InternalIP), netip.MustParseAddr(n.ExternalIP)
		if !own[in] {
			errs = append(errs, invalid(inside, n.InternalIP, "want an address of ipNetworks")...)
		}
		if in.Is4() != out.Is4() {
			errs = append(errs, invalid(outside, n.ExternalIP, "want an address of the same family as internalIP")...)
		}
	}
	return errs
}

func validatePorts(path *field.Path, ports []EndpointPort) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			errs = append(errs, checkPortName(at.Child("name"), p.Name)...)
		}
		errs = append(errs, checkProtocol(at.Child("protocol"), p.Protocol)...)
		errs = append(errs, checkRange(at.Child("port"), p.Port, 1, 65535)...)
		if p.HostIP != "" {
			errs = append(errs, checkAddr(at.Child("hostIP"), p.HostIP, 0)...)
		}
	}
	return errs
}

func validateQoS(path *field.Path, q *QoSControls) field.ErrorList {
	const (
		kilo = 1000
		peta = 1_000_000_000_000_000
		most = 34_359_738_360 // bits: the kernel's token bucket takes 32 bits of bytes
	)
	var errs field.ErrorList
	for _, r := range []struct {
		name      string
		v         int64
		low, high int64
	}{
		{"ingressBandwidth", q.IngressBandwidth, kilo, peta}, {"egressBandwidth", q.EgressBandwidth, kilo, peta},
		{"ingressBurst", q.IngressBurst, kilo, most}, {"egressBurst", q.EgressBurst, kilo, most},
		{"ingressPeakrate", q.IngressPeakrate, 1010, peta + peta/100}, {"egressPeakrate", q.EgressPeakrate, 1010, peta + peta/100},
		{"ingressMinburst", q.IngressMinburst, kilo, 100_000_000}, {"egressMinburst", q.EgressMinburst, kilo, 100_000_000},
		{"ingressPacketRate", q.IngressPacketRate, 1, 10_000}, {"egressPacketRate", q.EgressPacketRate, 1, 10_000},
		{"ingressPacketBurst", q.IngressPacketBurst, 1, 10_000}, {"egressPacketBurst", q.EgressPacketBurst, 1, 10_000},
		{"ingressMaxConnections", q.IngressMaxConnections, 1, 4_294_967_295}, {"egressMaxConnections", q.EgressMaxConnections, 1, 4_294_967_295},
	} {
		if r.v != 0 {
			errs = append(errs, checkRange(path.Child(r.name), r.v, r.low, r.high)...)
		}
	}
	if q.DSCP != nil {
		errs = append(errs, checkDSCP(path.Child("dscp"), *q.DSCP)...)
	}
	return errs
}

package v3

import (
	"math"
	"math/bits"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft/model/topology"
)

// felixRules collects what is wrong with the fields of a FelixConfiguration. Unset fields pass every
// rule.
type felixRules struct {
	path *field.Path
	errs field.ErrorList
}

func (r *felixRules) add(errs field.ErrorList) { r.errs = append(r.errs, errs...) }

func (r *felixRules) enum(name, v string, allowed ...string) {
	if v != "" {
		r.add(checkEnum(r.path.Child(name), v, allowed...))
	}
}

// fold is enum where upper and lower case are the same.
func (r *felixRules) fold(name, v string, allowed ...string) {
	if v != "" {
		r.add(checkEnumFold(r.path.Child(name), v, allowed...))
	}
}

func (r *felixRules) number(name string, v *int, low, high int) {
	if v != nil {
		r.add(checkRange(r.path.Child(name), *v, low, high))
	}
}

// mtu wants 0, which computes it, or what the family's hosts must be able to take: 576 bytes for
// IPv4 (RFC 791), 1280 for IPv6 (RFC 8200).
func (r *felixRules) mtu(name string, v *int, least int) {
	if v != nil && *v != 0 && (*v < least || *v > 65535) {
		r.add(invalid(r.path.Child(name), int64(*v), "want 0 to compute it, or %d to 65535", least))
	}
}

func (r *felixRules) duration(name string, v *metav1.Duration) {
	if v != nil && v.Duration < 0 {
		r.add(invalid(r.path.Child(name), v.Duration.String(), "want a duration of 0 or more such as 90s"))
	}
}

func (r *felixRules) regexp(name, v string) {
	if v != "" {
		r.add(checkRegexp(r.path.Child(name), v))
	}
}

func (r *felixRules) addr(name, v string, f family) {
	if v != "" {
		r.add(checkAddr(r.path.Child(name), v, f))
	}
}

func (r *felixRules) device(name, v string) {
	if v != "" {
		r.add(checkInterface(r.path.Child(name), v))
	}
}

func (r *felixRules) cidrs(name string, v *[]string, f family) {
	if v != nil {
		r.add(checkCIDRs(r.path.Child(name), *v, f))
	}
}

func (r *felixRules) pattern(name, v, pattern, want string) {
	if v != "" {
		r.add(checkPattern(r.path.Child(name), v, pattern, want))
	}
}

// mask wants room for the marks that are kept in it.
func (r *felixRules) mask(name string, v *uint32) {
	const least = 8
	if v != nil && bits.OnesCount32(*v) < least {
		r.add(invalid(r.path.Child(name), int64(*v), "want at least %d bits set", least))
	}
}

func validateFelix(c *FelixConfiguration) field.ErrorList {
	r := &felixRules{path: field.NewPath("spec")}
	at := r.path.Child("nodeSelector")
	fixed := isConfigurationName(c.Name)
	switch {
	case fixed && c.Spec.NodeSelector != "":
		r.add(invalid(at, excerpt(c.Spec.NodeSelector), "not allowed in %q: its name says which nodes it is for", excerpt(c.Name)))
	case !fixed && c.Spec.NodeSelector == "":
		r.add(field.ErrorList{field.Required(at, "which nodes this is for, unless the name is default or node.<name>")})
	case c.Spec.NodeSelector != "":
		r.add(checkSelector(at, c.Spec.NodeSelector))
	}
	r.tunnel(&c.Spec.FelixTunnelSpec)
	r.wireguard(&c.Spec.FelixWireguardSpec)
	r.route(&c.Spec.FelixRouteSpec)
	r.nat(&c.Spec.FelixRouteSpec)
	r.filter(&c.Spec.FelixFilterSpec)
	r.filterActions(&c.Spec.FelixFilterSpec)
	r.bpf(&c.Spec.FelixBPFSpec)
	r.bpfMaps(&c.Spec.FelixBPFSpec)
	r.process(&c.Spec.FelixProcessSpec)
	r.logs(&c.Spec.FelixProcessSpec)
	return r.errs
}

func (r *felixRules) tunnel(s *FelixTunnelSpec) {
	r.mtu("ipipMTU", s.IPIPMTU, 576)
	r.mtu("vxlanMTU", s.VXLANMTU, 576)
	r.mtu("vxlanMTUV6", s.VXLANMTUV6, 1280)
	r.number("vxlanPort", s.VXLANPort, 1, 65535)
	r.number("vxlanVNI", s.VXLANVNI, 1, 1<<24-1)
	r.regexp("mtuIfacePattern", s.MTUIfacePattern)
	r.enum("mtuMode", s.MTUMode, MTUSmallest, MTUPerRoute)
	r.enum("mtuProfile", s.MTUProfile, topology.ProfileNames()...)
	r.cidrs("externalNodesList", s.ExternalNodesList, 4)
	r.enum("bpfOverlayHostSourceIP", s.BPFOverlayHostSourceIP, "TunnelAddress", "HostAddress")
}

func (r *felixRules) wireguard(s *FelixWireguardSpec) {
	r.number("wireguardListeningPort", s.WireguardListeningPort, 1, 65535)
	r.number("wireguardListeningPortV6", s.WireguardListeningPortV6, 1, 65535)
	r.wireguardPorts(s)
	r.device("wireguardInterfaceName", s.WireguardInterfaceName)
	r.device("wireguardInterfaceNameV6", s.WireguardInterfaceNameV6)
	r.mtu("wireguardMTU", s.WireguardMTU, 576)
	r.mtu("wireguardMTUV6", s.WireguardMTUV6, 1280)
	r.enum("encryptionMode", s.EncryptionMode, EncryptionRequired, EncryptionPreferred)
	r.number("wireguardKeyEpoch", s.WireguardKeyEpoch, 0, math.MaxInt32)
	r.number("wireguardRoutingRulePriority", s.WireguardRoutingRulePriority, 1, 32765)
	r.duration("wireguardKeyRotationPeriod", s.WireguardKeyRotationPeriod)
	if v := s.WireguardKeyRotationPeriod; v != nil && v.Duration > 0 && v.Duration < time.Hour {
		r.add(invalid(r.path.Child("wireguardKeyRotationPeriod"), v.Duration.String(), "want 0, or 1h or more"))
	}
	r.duration("wireguardKeepAlive", s.WireguardKeepAlive)
	if v := s.WireguardKeepAlive; v != nil && v.Duration > math.MaxUint16*time.Second {
		r.add(invalid(r.path.Child("wireguardKeepAlive"), v.Duration.String(), "want at most 65535s"))
	}
}

// wireguardPorts refuses two ports that could not be used at the same time.
func (r *felixRules) wireguardPorts(s *FelixWireguardSpec) {
	if s.WireguardListeningPort == nil || s.WireguardListeningPortV6 == nil {
		return
	}
	p4, p6 := *s.WireguardListeningPort, *s.WireguardListeningPortV6
	if d := p4 - p6; d == 0 || d == 2 || d == -2 {
		r.add(invalid(r.path.Child("wireguardListeningPortV6"), p6,
			"want another than wireguardListeningPort (%d), and not 2 from it: while keys change, the devices of the new ones have a port 2 away from those of the old", p4))
	}
}

func (r *felixRules) route(s *FelixRouteSpec) {
	r.enum("programClusterRoutes", s.ProgramClusterRoutes, "Disabled", "Enabled", "EnabledIPIPOnly", "EnabledNoEncapOnly")
	r.fold("routeSource", s.RouteSource, "WorkloadIPs", "CalicoIPAM")
	r.number("deviceRouteProtocol", s.DeviceRouteProtocol, 0, 255)
	r.addr("deviceRouteSourceAddress", s.DeviceRouteSourceAddress, 4)
	r.addr("deviceRouteSourceAddressIPv6", s.DeviceRouteSourceAddressIPv6, 6)
	r.duration("routeRefreshInterval", s.RouteRefreshInterval)
	r.duration("interfaceRefreshInterval", s.InterfaceRefreshInterval)
	r.duration("netlinkTimeout", s.NetlinkTimeout)
	for _, p := range []struct {
		name string
		v    *int
	}{
		{"ipv4NormalRoutePriority", s.IPv4NormalRoutePriority}, {"ipv4ElevatedRoutePriority", s.IPv4ElevatedRoutePriority},
		{"ipv6NormalRoutePriority", s.IPv6NormalRoutePriority}, {"ipv6ElevatedRoutePriority", s.IPv6ElevatedRoutePriority},
	} {
		r.number(p.name, p.v, 1, math.MaxInt32-1)
	}
	r.duration("liveMigrationRouteConvergenceTime", s.LiveMigrationRouteConvergenceTime)
	r.enum("localSubnetL2Reachability", s.LocalSubnetL2Reachability, "Disabled", "PodsAndLoadBalancers")
	r.duration("localSubnetL2ReachabilityRefreshInterval", s.LocalSubnetL2ReachabilityRefreshInterval)
	if s.InterfacePrefix != "" {
		for p := range strings.SplitSeq(s.InterfacePrefix, ",") {
			if !isName(p, maxInterfaceName) {
				r.add(invalid(r.path.Child("interfacePrefix"), excerpt(s.InterfacePrefix), "want the beginning of interface names, several with commas between"))
			}
		}
	}
	r.tables(s)
}

// tables checks which route tables may be used: 253 to 255 are the kernel's own.
func (r *felixRules) tables(s *FelixRouteSpec) {
	one := func(path *field.Path, t RouteTableRange, high int) {
		if t.Min < 1 || t.Max < t.Min || t.Max > high {
			r.add(invalid(path, t, "want 1 <= min <= max <= %d", high))
			return
		}
		if t.Min <= 255 && t.Max >= 253 {
			r.add(invalid(path, t, "holds the tables 253 to 255, which are the kernel's own"))
		}
	}
	if s.RouteTableRange != nil {
		one(r.path.Child("routeTableRange"), *s.RouteTableRange, 250)
	}
	if s.RouteTableRanges == nil {
		return
	}
	if s.RouteTableRange != nil {
		r.add(field.ErrorList{field.Forbidden(r.path.Child("routeTableRange"), "excluded by routeTableRanges: leave one of them out")})
	}
	for i, t := range *s.RouteTableRanges {
		one(r.path.Child("routeTableRanges").Index(i), t, math.MaxInt32)
	}
}

func (r *felixRules) nat(s *FelixRouteSpec) {
	r.enum("ipForwarding", s.IPForwarding, "Enabled", "Disabled")
	r.fold("serviceLoopPrevention", s.ServiceLoopPrevention, "Drop", "Reject", "Disabled")
	r.enum("natOutgoingExclusions", s.NATOutgoingExclusions, NATExcludePools, NATExcludePoolsAndHosts)
	r.addr("natOutgoingAddress", s.NATOutgoingAddress, 4)
	r.ports("natPortRange", s.NATPortRange)
	r.pattern("iptablesNATOutgoingInterfaceFilter", s.IptablesNATOutgoingInterfaceFilter, `^[a-zA-Z0-9_.:-]{1,15}\+?$`, "an interface name, with + for the rest of it")
	r.enum("floatingIPs", s.FloatingIPs, "Enabled", "Disabled")
	r.fold("workloadSourceSpoofing", s.WorkloadSourceSpoofing, "Disabled", "Any")
	r.enum("awsSrcDstCheck", s.AWSSrcDstCheck, "DoNothing", "Enable", "Disable")
}

func (r *felixRules) ports(name string, v *intstr.IntOrString) {
	if v != nil {
		r.add(checkPortRange(r.path.Child(name), *v, 0))
	}
}

func (r *felixRules) filter(s *FelixFilterSpec) {
	r.fold("iptablesBackend", s.IptablesBackend, "Auto", "Legacy", "NFT")
	r.enum("nftablesMode", s.NftablesMode, "Auto", "Enabled", "Disabled")
	r.mask("iptablesMarkMask", s.IptablesMarkMask)
	r.mask("nftablesMarkMask", s.NftablesMarkMask)
	r.enum("nftablesFlowTableOffload", s.NftablesFlowTableOffload, "Disabled", "All", "Enabled")
	r.regexp("nftablesFlowTableDataIfacePattern", s.NftablesFlowTableDataIfacePattern)
	r.duration("iptablesRefreshInterval", s.IptablesRefreshInterval)
	r.duration("nftablesRefreshInterval", s.NftablesRefreshInterval)
	r.duration("ipsetsRefreshInterval", s.IPSetsRefreshInterval)
	r.duration("iptablesPostWriteCheckInterval", s.IptablesPostWriteCheckInterval)
	r.duration("iptablesLockTimeout", s.IptablesLockTimeout)
	r.duration("iptablesLockProbeInterval", s.IptablesLockProbeInterval)
	r.duration("xdpRefreshInterval", s.XDPRefreshInterval)
	r.fold("chainInsertMode", s.ChainInsertMode, "Insert", "Append")
	r.number("maxIpsetSize", s.MaxIpsetSize, 1, math.MaxInt32)
	r.pattern("logPrefix", s.LogPrefix, `^[a-zA-Z0-9%: /_-]*$`, `letters, digits, space, "%", ":", "/", "_" and "-"`)
	r.pattern("logActionRateLimit", s.LogActionRateLimit, `^[1-9][0-9]{0,3}/(second|minute|hour|day)$`, "a rate such as 10/second")
	r.number("logActionRateLimitBurst", s.LogActionRateLimitBurst, 0, 9999)
}

func (r *felixRules) filterActions(s *FelixFilterSpec) {
	for _, a := range []struct{ name, v, other string }{
		{"iptablesFilterAllowAction", s.IptablesFilterAllowAction, "Return"}, {"iptablesMangleAllowAction", s.IptablesMangleAllowAction, "Return"},
		{"nftablesFilterAllowAction", s.NftablesFilterAllowAction, "Return"}, {"nftablesMangleAllowAction", s.NftablesMangleAllowAction, "Return"},
	} {
		r.fold(a.name, a.v, "Accept", a.other)
	}
	r.fold("iptablesFilterDenyAction", s.IptablesFilterDenyAction, "Drop", "Reject")
	r.fold("nftablesFilterDenyAction", s.NftablesFilterDenyAction, "Drop", "Reject")
	r.fold("defaultEndpointToHostAction", s.DefaultEndpointToHostAction, "Drop", "Accept", "Return")
	if s.KubeNodePortRanges != nil {
		at := r.path.Child("kubeNodePortRanges")
		if n := len(*s.KubeNodePortRanges); n > 7 {
			r.add(field.ErrorList{field.TooMany(at, n, 7)})
		}
		for i, p := range *s.KubeNodePortRanges {
			r.add(checkPortRange(at.Index(i), p, 0))
		}
	}
	r.failsafes("failsafeInboundHostPorts", s.FailsafeInboundHostPorts)
	r.failsafes("failsafeOutboundHostPorts", s.FailsafeOutboundHostPorts)
}

func (r *felixRules) failsafes(name string, ports *[]ProtoPort) {
	if ports == nil {
		return
	}
	for i, p := range *ports {
		at := r.path.Child(name).Index(i)
		if p.Protocol != "" {
			r.add(checkEnumFold(at.Child("protocol"), p.Protocol, "TCP", "UDP", "SCTP"))
		}
		r.add(checkRange(at.Child("port"), p.Port, 1, 65535))
		if p.Net != "" {
			_, errs := checkAddrOrCIDR(at.Child("net"), p.Net, 0)
			r.add(errs)
		}
	}
}

package v3

import (
	"net/netip"
	"regexp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	maxCommunities   = 500 // also of prefixAdvertisements
	maxPerPrefix     = 50
	maxRoutePriority = 1<<31 - 2
	maxMeshNodes     = 100_000
	// The time of a graceful restart has 12 bits (RFC 4724), the hold time, three keepalives, 16 (RFC 4271).
	maxRestartSeconds   = 1<<12 - 1
	maxKeepaliveSeconds = (1<<16 - 1) / 3
)

// defaultBGPKind fills in what the kinds of BGP leave out. BGPConfiguration is left as it is, as
// FelixConfiguration is.
func defaultBGPKind(o Object) {
	if p, ok := o.(*BGPPeer); ok {
		setDefault(&p.Spec.SourceAddress, SourceAddressUseNodeIP)
		setDefault(&p.Spec.ReversePeering, ReversePeeringAuto)
		return
	}
	defaultPolicyKind(o)
}

// validateBGPKind checks the spec of the kinds of BGP.
func validateBGPKind(spec *field.Path, o Object) field.ErrorList {
	switch o := o.(type) {
	case *BGPConfiguration:
		return validateBGPConfiguration(spec, o)
	case *BGPPeer:
		return validateBGPPeer(spec, &o.Spec)
	case *BGPFilter:
		return validateBGPFilter(spec, &o.Spec)
	case *CalicoNodeStatus:
		return validateCalicoNodeStatus(spec, &o.Spec)
	}
	return validatePolicyKind(spec, o)
}

// isConfigurationName tells whether a configuration of that name is for all nodes or for one.
func isConfigurationName(name string) bool {
	return name == "default" || strings.HasPrefix(name, "node.")
}

func validateBGPConfiguration(path *field.Path, c *BGPConfiguration) field.ErrorList {
	s := &c.Spec
	r := &felixRules{path: path}
	if c.Name != "default" {
		r.add(validateDefaultOnly(path, s))
	}
	r.fold("logSeverityScreen", s.LogSeverityScreen, "Trace", "Debug", "Info", "Warning", "Error", "Fatal")
	if s.ASNumber != nil {
		r.add(checkASNumber(path.Child("asNumber"), *s.ASNumber))
	}
	r.serviceBlocks("serviceClusterIPs", s.ServiceClusterIPs)
	r.serviceBlocks("serviceExternalIPs", s.ServiceExternalIPs)
	r.serviceBlocks("serviceLoadBalancerIPs", s.ServiceLoadBalancerIPs)
	r.enum("serviceLoadBalancerAggregation", s.ServiceLoadBalancerAggregation, AggregationEnabled, AggregationDisabled)
	r.add(validateCommunities(path, s))
	r.add(checkPassword(path.Child("nodeMeshPassword"), s.NodeMeshPassword))
	r.add(checkSeconds(path.Child("nodeMeshMaxRestartTime"), s.NodeMeshMaxRestartTime, 0, maxRestartSeconds))
	if s.NodeToNodeMeshEnabled != nil && !*s.NodeToNodeMeshEnabled {
		const off = "there is no mesh, nodeToNodeMeshEnabled is false: leave one of them out"
		if s.NodeMeshPassword != nil {
			r.add(field.ErrorList{field.Forbidden(path.Child("nodeMeshPassword"), off)})
		}
		if s.NodeMeshMaxRestartTime != nil {
			r.add(field.ErrorList{field.Forbidden(path.Child("nodeMeshMaxRestartTime"), off)})
		}
	}
	r.enum("bindMode", s.BindMode, BindModeNone, BindModeNodeIP)
	for i, p := range s.IgnoredInterfaces {
		r.add(checkInterfacePattern(path.Child("ignoredInterfaces").Index(i), p))
	}
	r.addr("localWorkloadPeeringIPV4", s.LocalWorkloadPeeringIPV4, 4)
	r.addr("localWorkloadPeeringIPV6", s.LocalWorkloadPeeringIPV6, 6)
	r.enum("programClusterRoutes", s.ProgramClusterRoutes, ProgramRoutesDisabled, ProgramRoutesEnabled, ProgramRoutesEnabledIPIPOnly, ProgramRoutesEnabledNoEncapOnly)
	r.number("ipv4NormalRoutePriority", s.IPv4NormalRoutePriority, 1, maxRoutePriority)
	r.number("ipv6NormalRoutePriority", s.IPv6NormalRoutePriority, 1, maxRoutePriority)
	r.number("routeReflectorThreshold", s.RouteReflectorThreshold, 0, maxMeshNodes)
	return r.errs
}

// validateDefaultOnly refuses, in the configuration of one node, what is the same on all of them.
func validateDefaultOnly(path *field.Path, s *BGPConfigurationSpec) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
		more string
	}{
		{"nodeToNodeMeshEnabled", s.NodeToNodeMeshEnabled != nil, ""},
		{"asNumber", s.ASNumber != nil, "; that of a node is spec.bgp.asNumber of its Node"},
		{"serviceClusterIPs", len(s.ServiceClusterIPs) > 0, ""},
		{"serviceExternalIPs", len(s.ServiceExternalIPs) > 0, ""},
		{"serviceLoadBalancerIPs", len(s.ServiceLoadBalancerIPs) > 0, ""},
		{"serviceLoadBalancerAggregation", s.ServiceLoadBalancerAggregation != "", ""},
		{"nodeMeshPassword", s.NodeMeshPassword != nil, ""},
		{"nodeMeshMaxRestartTime", s.NodeMeshMaxRestartTime != nil, ""},
		{"routeReflectorThreshold", s.RouteReflectorThreshold != nil, ""},
		{"shareLearnedRoutes", s.ShareLearnedRoutes != nil, ""},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "stands in the BGPConfiguration default only"+f.more))
		}
	}
	return errs
}

func (r *felixRules) serviceBlocks(name string, blocks []ServiceIPBlock) {
	for i, b := range blocks {
		_, errs := checkAddrOrCIDR(r.path.Child(name).Index(i).Child("cidr"), b.CIDR, 0)
		r.add(errs)
	}
}

// validateCommunities wants every name that is used to be defined, and none to be defined where
// nothing uses them.
func validateCommunities(path *field.Path, s *BGPConfigurationSpec) field.ErrorList {
	at, advertisements := path.Child("communities"), path.Child("prefixAdvertisements")
	switch {
	case len(s.Communities) > maxCommunities:
		return field.ErrorList{field.TooMany(at, len(s.Communities), maxCommunities)}
	case len(s.PrefixAdvertisements) > maxCommunities:
		return field.ErrorList{field.TooMany(advertisements, len(s.PrefixAdvertisements), maxCommunities)}
	}
	var errs field.ErrorList
	defined := map[string]bool{}
	for i, c := range s.Communities {
		at := at.Index(i)
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), "the name that prefixAdvertisements use"))
		case defined[c.Name]:
			errs = append(errs, field.Duplicate(at.Child("name"), excerpt(c.Name)))
		default:
			errs = append(errs, checkSubdomain(at.Child("name"), c.Name)...)
		}
		defined[c.Name] = true
		errs = append(errs, checkCommunity(at.Child("value"), c.Value)...)
	}
	if len(s.Communities) > 0 && len(s.PrefixAdvertisements) == 0 {
		errs = append(errs, field.Forbidden(at, "nothing uses them: want prefixAdvertisements, or no communities"))
	}
	for i, p := range s.PrefixAdvertisements {
		at := advertisements.Index(i)
		_, e := checkAddrOrCIDR(at.Child("cidr"), p.CIDR, 0)
		errs = append(errs, e...)
		at = at.Child("communities")
		switch n := len(p.Communities); {
		case n == 0:
			errs = append(errs, field.Required(at, "what is advertised within cidr gets these: want at least one"))
		case n > maxPerPrefix:
			errs = append(errs, field.TooMany(at, n, maxPerPrefix))
			continue
		}
		for j, c := range p.Communities {
			if _, err := ParseCommunity(c); err != nil && !defined[c] {
				errs = append(errs, invalid(at.Index(j), excerpt(c), "want a name of spec.communities, or a community such as 64512:100 or 64512:1:100")...)
			}
		}
	}
	return errs
}

func checkCommunity(path *field.Path, s string) field.ErrorList {
	if _, err := ParseCommunity(s); err != nil {
		return invalid(path, excerpt(s), "%v", err)
	}
	return nil
}

// checkASNumber refuses the one that is nobody's (RFC 7607).
func checkASNumber(path *field.Path, n ASNumber) field.ErrorList {
	if n == 0 {
		return invalid(path, int64(n), "want 1 to 4294967295: AS 0 is nobody's (RFC 7607)")
	}
	return nil
}

// checkSeconds wants whole seconds, as they are on the wire.
func checkSeconds(path *field.Path, d *metav1.Duration, low, high int) field.ErrorList {
	if d == nil {
		return nil
	}
	s := int(d.Duration / time.Second)
	if d.Duration%time.Second != 0 || s < low || s > high {
		return invalid(path, d.Duration.String(), "want whole seconds from %ds to %ds", low, high)
	}
	return nil
}

// checkPassword wants a reference to one key of a Secret.
func checkPassword(path *field.Path, p *BGPPassword) field.ErrorList {
	if p == nil {
		return nil
	}
	path = path.Child("secretKeyRef")
	if p.SecretKeyRef == nil {
		return field.ErrorList{field.Required(path, "the name of a Secret and the key in it that holds the password")}
	}
	var errs field.ErrorList
	if p.SecretKeyRef.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "the name of a Secret"))
	} else {
		errs = append(errs, checkSubdomain(path.Child("name"), p.SecretKeyRef.Name)...)
	}
	if p.SecretKeyRef.Key == "" {
		return append(errs, field.Required(path.Child("key"), "the key of the Secret that holds the password"))
	}
	return append(errs, checkDataKey(path.Child("key"), p.SecretKeyRef.Key)...)
}

func checkDataKey(path *field.Path, key string) field.ErrorList {
	if len(validation.IsConfigMapKey(key)) > 0 {
		return invalid(path, excerpt(key), `want a key of a Secret: letters, digits, "-", "_" and "."`)
	}
	return nil
}

var interfacePattern = regexp.MustCompile(`^[a-zA-Z0-9_.*-]{1,15}$`)

// checkInterfacePattern wants the name of an interface with * for parts of it, and not all of them.
func checkInterfacePattern(path *field.Path, s string) field.ErrorList {
	if !interfacePattern.MatchString(s) || strings.Trim(s, "*") == "" {
		return invalid(path, excerpt(s), `want an interface name, with * for any part of it but not for all`)
	}
	return nil
}

func validateBGPPeer(path *field.Path, s *BGPPeerSpec) field.ErrorList {
	r := &felixRules{path: path}
	if s.Node != "" {
		r.add(checkSubdomain(path.Child("node"), s.Node))
	}
	r.selector("nodeSelector", s.NodeSelector)
	if s.Node != "" && s.NodeSelector != "" {
		r.add(field.ErrorList{field.Forbidden(path.Child("nodeSelector"), "excluded by node: leave one of them out")})
	}
	r.peer(s)
	if s.LocalASNumber != nil {
		r.add(checkASNumber(path.Child("localASNumber"), *s.LocalASNumber))
	}
	r.enum("nextHopMode", s.NextHopMode, NextHopModeAuto, NextHopModeSelf, NextHopModeKeep)
	if s.KeepOriginalNextHop && s.NextHopMode != "" {
		r.add(field.ErrorList{field.Forbidden(path.Child("keepOriginalNextHop"), "is the older form of nextHopMode: leave it out")})
	}
	r.add(checkPassword(path.Child("password"), s.Password))
	r.enum("sourceAddress", s.SourceAddress, SourceAddressUseNodeIP, SourceAddressNone)
	r.add(checkSeconds(path.Child("maxRestartTime"), s.MaxRestartTime, 0, maxRestartSeconds))
	r.add(checkSeconds(path.Child("keepaliveTime"), s.KeepaliveTime, 1, maxKeepaliveSeconds))
	if n := s.NumAllowedLocalASNumbers; n != nil {
		r.add(checkRange(path.Child("numAllowedLocalASNumbers"), int(*n), 0, 255))
	}
	for i, name := range s.Filters {
		at := path.Child("filters").Index(i)
		if name == "" {
			r.add(field.ErrorList{field.Required(at, "the name of a BGPFilter")})
		} else {
			r.add(checkSubdomain(at, name))
		}
	}
	r.enum("reversePeering", s.ReversePeering, ReversePeeringAuto, ReversePeeringManual)
	r.bfd(s.BFD)
	return r.errs
}

func (r *felixRules) selector(name, s string) {
	if s != "" {
		r.add(checkSelector(r.path.Child(name), s))
	}
}

// peer checks who the other end is.
func (r *felixRules) peer(s *BGPPeerSpec) {
	r.add(exactlyOne(r.path, map[string]bool{"peerIP": s.PeerIP != "", "peerSelector": s.PeerSelector != "", "localWorkloadSelector": s.LocalWorkloadSelector != ""}))
	r.selector("peerSelector", s.PeerSelector)
	r.selector("localWorkloadSelector", s.LocalWorkloadSelector)
	at := r.path.Child("asNumber")
	switch {
	case s.PeerSelector != "" && s.ASNumber != 0:
		r.add(field.ErrorList{field.Forbidden(at, "the nodes that peerSelector picks have AS numbers of their own: leave it out")})
	case s.LocalWorkloadSelector != "" && s.ASNumber == 0:
		r.add(field.ErrorList{field.Required(at, "the AS number of the pods that localWorkloadSelector picks")})
	}
	var peer netip.Addr
	if s.PeerIP != "" {
		var err error
		if peer, _, err = ParsePeerIP(s.PeerIP); err != nil {
			r.add(invalid(r.path.Child("peerIP"), excerpt(s.PeerIP), "%v", err))
		}
	}
	if s.ReachableBy == "" {
		return
	}
	at = r.path.Child("reachableBy")
	gateway, err := netip.ParseAddr(s.ReachableBy)
	switch {
	case s.PeerIP == "":
		r.add(field.ErrorList{field.Forbidden(at, "is the way to peerIP: there is none")})
	case err != nil || gateway.Zone() != "" || gateway.Is4In6() || !isUnicast(gateway):
		r.add(invalid(at, excerpt(s.ReachableBy), "want the address of a gateway such as 192.0.2.1"))
	case peer.IsValid() && peer.Is4() != gateway.Is4():
		r.add(invalid(at, s.ReachableBy, "want an address of the same family as peerIP, %s", s.PeerIP))
	}
}

func (r *felixRules) bfd(b *BGPPeerBFD) {
	if b == nil {
		return
	}
	at := r.path.Child("bfd")
	const least, most = 10 * time.Millisecond, time.Minute
	if d := b.Interval; d != nil && (d.Duration < least || d.Duration > most || d.Duration%time.Millisecond != 0) {
		r.add(invalid(at.Child("interval"), d.Duration.String(), "want whole milliseconds from %v to %v", least, most))
	}
	if b.Multiplier != 0 {
		r.add(checkRange(at.Child("multiplier"), b.Multiplier, 1, 255))
	}
}

func validateCalicoNodeStatus(path *field.Path, s *CalicoNodeStatusSpec) field.ErrorList {
	var errs field.ErrorList
	if s.Node == "" {
		errs = append(errs, field.Required(path.Child("node"), "the node that is to report"))
	} else {
		errs = append(errs, checkSubdomain(path.Child("node"), s.Node)...)
	}
	at := path.Child("classes")
	if len(s.Classes) == 0 {
		errs = append(errs, field.Required(at, "what is to be reported: some of Agent, BGP, Routes"))
	}
	seen := map[string]bool{}
	for i, c := range s.Classes {
		errs = append(errs, checkEnum(at.Index(i), c, StatusAgent, StatusBGP, StatusRoutes)...)
		if seen[c] {
			errs = append(errs, field.Duplicate(at.Index(i), excerpt(c)))
		}
		seen[c] = true
	}
	if n := s.UpdatePeriodSeconds; n != nil {
		errs = append(errs, checkRange(path.Child("updatePeriodSeconds"), int64(*n), 0, 86400)...)
	}
	return errs
}

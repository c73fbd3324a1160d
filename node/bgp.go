package node

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v3 "weft/api/v3"
	"weft/model"
)

// defaultKeepaliveSeconds is what BGPPeer.keepaliveTime means where it says nothing.
const defaultKeepaliveSeconds = 60

// readBGP reads what a record says of BGP.
func readBGP(n *model.Node, s *v3.NodeBGPSpec) error {
	if s == nil {
		return nil
	}
	if s.ASNumber != nil {
		n.BGP.ASN = uint32(*s.ASNumber)
	}
	if id := s.RouteReflectorClusterID; id != "" {
		a, err := netip.ParseAddr(id)
		if err != nil || !a.Is4() {
			return fmt.Errorf("spec.bgp.routeReflectorClusterID %q: want the form of an IPv4 address", id)
		}
		n.BGP.ClusterID = a
	}
	return nil
}

// bgpConfigOf merges the BGPConfigurations of a node: its own over the one named default over what is built
// in. What holds for the whole cluster is taken from the latter two only. What makes no sense is left out
// and named by an error.
func bgpConfigOf(self model.NodeName, all map[string]*v3.BGPConfiguration) (model.BGPConfig, []error) {
	cfg := model.BGPConfig{Mesh: true, ASN: uint32(v3.DefaultASNumber), MeshRestartSeconds: v3.DefaultBGPRestartSeconds,
		ReflectorThreshold: v3.DefaultRouteReflectorThreshold, ListenPort: v3.DefaultBGPListenPort, Priority: map[model.Family]uint32{}}
	var errs []error
	chain := []*v3.BGPConfiguration{all["default"], all[nodePrefix+string(self)]}
	if c := chain[0]; c != nil {
		s := &c.Spec
		override(&cfg.Mesh, s.NodeToNodeMeshEnabled)
		override(&cfg.ReflectorThreshold, s.RouteReflectorThreshold)
		override(&cfg.ShareLearned, s.ShareLearnedRoutes)
		if s.ASNumber != nil {
			cfg.ASN = uint32(*s.ASNumber)
		}
		cfg.MeshPassword = secretOf(s.NodeMeshPassword)
		cfg.MeshRestartSeconds = seconds(s.NodeMeshMaxRestartTime, v3.DefaultBGPRestartSeconds)
		cfg.EachLoadBalancerIP = s.ServiceLoadBalancerAggregation == v3.AggregationDisabled
		cfg.ClusterIPs = serviceBlocks("serviceClusterIPs", s.ServiceClusterIPs, &errs)
		cfg.ExternalIPs = serviceBlocks("serviceExternalIPs", s.ServiceExternalIPs, &errs)
		cfg.LoadBalancerIPs = serviceBlocks("serviceLoadBalancerIPs", s.ServiceLoadBalancerIPs, &errs)
	}
	values := map[string]string{}
	for _, c := range chain {
		if c == nil {
			continue
		}
		s := &c.Spec
		cfg.ListenPort = cmp.Or(s.ListenPort, cfg.ListenPort)
		if l, known := logLevels()[strings.ToLower(s.LogSeverityScreen)]; known {
			cfg.LogLevel = l
		}
		if len(s.IgnoredInterfaces) > 0 {
			cfg.IgnoredInterfaces = s.IgnoredInterfaces
		}
		if s.BindMode != "" {
			cfg.BindNodeIP = s.BindMode == v3.BindModeNodeIP
		}
		for f, p := range map[model.Family]*int{model.IPv4: s.IPv4NormalRoutePriority, model.IPv6: s.IPv6NormalRoutePriority} {
			if p != nil && *p > 0 && *p < math.MaxInt32 {
				cfg.Priority[f] = uint32(*p)
			}
		}
		for _, n := range s.Communities {
			values[n.Name] = n.Value
		}
		if len(s.PrefixAdvertisements) > 0 {
			cfg.Communities = communitiesOf(c.Name, s.PrefixAdvertisements, values, &errs)
		}
	}
	return cfg, errs
}

// logLevels are the values of logSeverityScreen, in lower case.
func logLevels() map[string]model.LogLevel {
	levels := map[string]model.LogLevel{}
	for _, l := range []model.LogLevel{model.LogTrace, model.LogDebug, model.LogInfo, model.LogWarning, model.LogError, model.LogFatal} {
		levels[strings.ToLower(l.String())] = l
	}
	return levels
}

// nodePrefix begins the names of BGPConfigurations that are for one node.
const nodePrefix = "node."

func secretOf(p *v3.BGPPassword) model.SecretRef {
	if p == nil || p.SecretKeyRef == nil {
		return model.SecretRef{}
	}
	return model.SecretRef{Name: p.SecretKeyRef.Name, Key: p.SecretKeyRef.Key}
}

func seconds(d *metav1.Duration, otherwise uint16) uint16 {
	if d == nil || d.Duration < 0 {
		return otherwise
	}
	return uint16(min(math.Ceil(d.Seconds()), math.MaxUint16))
}

func serviceBlocks(field string, blocks []v3.ServiceIPBlock, errs *[]error) []netip.Prefix {
	var out []netip.Prefix
	for _, b := range blocks {
		p, err := prefixOrHost(b.CIDR)
		if err != nil {
			*errs = append(*errs, fmt.Errorf("BGPConfiguration default: spec.%s %q: %w", field, b.CIDR, err))
			continue
		}
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func communitiesOf(name string, all []v3.PrefixAdvertisement, values map[string]string, errs *[]error) []model.BGPCommunities {
	var out []model.BGPCommunities
	for i, a := range all {
		fail := func(err error) {
			*errs = append(*errs, fmt.Errorf("BGPConfiguration %s: spec.prefixAdvertisements[%d]: %w", name, i, err))
		}
		p, err := prefixOrHost(a.CIDR)
		if err != nil {
			fail(err)
			continue
		}
		c := model.BGPCommunities{CIDR: p.Masked()}
		for _, text := range a.Communities {
			value, err := v3.ParseCommunity(cmp.Or(values[text], text))
			if err != nil {
				fail(fmt.Errorf("community %q: %w", text, err))
				continue
			}
			c.Communities = append(c.Communities, value)
		}
		out = append(out, c)
	}
	return out
}

// listenPorts returns the port of all nodes, and those that have another.
func listenPorts(all map[string]*v3.BGPConfiguration) (most uint16, others map[model.NodeName]uint16) {
	most, others = v3.DefaultBGPListenPort, map[model.NodeName]uint16{}
	if c := all["default"]; c != nil {
		most = cmp.Or(c.Spec.ListenPort, most)
	}
	for name, c := range all {
		if node, is := strings.CutPrefix(name, nodePrefix); is && c.Spec.ListenPort != 0 && c.Spec.ListenPort != most {
			others[model.NodeName(node)] = c.Spec.ListenPort
		}
	}
	return most, others
}

// bgpPeerOf converts a BGPPeer.
func bgpPeerOf(o *v3.BGPPeer) (model.BGPPeer, error) {
	s := &o.Spec
	p := model.BGPPeer{
		Name: o.Name, Node: model.NodeName(s.Node), NodeSelector: s.NodeSelector, PeerSelector: s.PeerSelector,
		ASN: uint32(s.ASNumber), Password: secretOf(s.Password), AnySource: s.SourceAddress == v3.SourceAddressNone,
		RestartSeconds:   seconds(s.MaxRestartTime, v3.DefaultBGPRestartSeconds),
		KeepaliveSeconds: seconds(s.KeepaliveTime, defaultKeepaliveSeconds),
		Filters:          s.Filters, Manual: s.ReversePeering == v3.ReversePeeringManual,
	}
	switch {
	case s.LocalWorkloadSelector != "":
		return p, fmt.Errorf("spec.localWorkloadSelector: nodes of this release speak no BGP with their pods")
	case s.PeerIP != "":
		a, port, err := v3.ParsePeerIP(s.PeerIP)
		if err != nil {
			return p, fmt.Errorf("spec.peerIP %q: %w", s.PeerIP, err)
		}
		p.Peer = netip.AddrPortFrom(a, port)
	}
	if s.LocalASNumber != nil {
		p.LocalASN = uint32(*s.LocalASNumber)
	}
	switch {
	case s.NextHopMode == v3.NextHopModeSelf:
		p.NextHop = model.BGPNextHopSelf
	case s.NextHopMode == v3.NextHopModeKeep || s.KeepOriginalNextHop:
		p.NextHop = model.BGPNextHopKeep
	}
	if n := s.NumAllowedLocalASNumbers; n != nil {
		p.AllowedLocalAS = uint8(min(max(*n, 0), math.MaxUint8))
	}
	override(&p.TTLSecurityHops, s.TTLSecurity)
	override(&p.MaxPrefixes, s.MaxPrefixes)
	if s.ReachableBy != "" {
		a, err := netip.ParseAddr(s.ReachableBy)
		if err != nil {
			return p, fmt.Errorf("spec.reachableBy %q: %w", s.ReachableBy, err)
		}
		p.ReachableBy = a
	}
	if b := s.BFD; b != nil {
		p.BFDIntervalMillis, p.BFDMultiplier = v3.DefaultBFDIntervalMillis, uint8(min(max(b.Multiplier, 0), math.MaxUint8))
		if b.Interval != nil && b.Interval.Milliseconds() > 0 {
			p.BFDIntervalMillis = uint32(min(b.Interval.Milliseconds(), math.MaxUint32))
		}
		p.BFDMultiplier = cmp.Or(p.BFDMultiplier, v3.DefaultBFDMultiplier)
	}
	return p, nil
}

// bgpFilterOf converts a BGPFilter.
func bgpFilterOf(o *v3.BGPFilter) (*model.BGPFilter, error) {
	f := &model.BGPFilter{Name: o.Name, Import: map[model.Family][]model.BGPFilterRule{}, Export: map[model.Family][]model.BGPFilterRule{}}
	for _, l := range []struct {
		field  string
		from   []v3.BGPFilterRule
		to     map[model.Family][]model.BGPFilterRule
		family model.Family
	}{
		{"importV4", o.Spec.ImportV4, f.Import, model.IPv4}, {"importV6", o.Spec.ImportV6, f.Import, model.IPv6},
		{"exportV4", o.Spec.ExportV4, f.Export, model.IPv4}, {"exportV6", o.Spec.ExportV6, f.Export, model.IPv6},
	} {
		for i := range l.from {
			r, err := bgpRuleOf(&l.from[i], l.family)
			if err != nil {
				return nil, fmt.Errorf("spec.%s[%d]: %w", l.field, i, err)
			}
			l.to[l.family] = append(l.to[l.family], r)
		}
	}
	return f, nil
}

func bgpRuleOf(s *v3.BGPFilterRule, f model.Family) (r model.BGPFilterRule, err error) {
	r = model.BGPFilterRule{RemotePeers: s.Source == v3.FilterRemotePeers, Interface: s.Interface,
		EBGP: s.PeerType == v3.PeerEBGP, IBGP: s.PeerType == v3.PeerIBGP, ASPath: asNumbers(s.ASPathPrefix)}
	switch s.Action {
	case v3.FilterAccept:
		r.Accept = true
	case v3.FilterReject:
	default:
		return r, fmt.Errorf("action %q: want Accept or Reject", s.Action)
	}
	if s.CIDR != "" {
		if r.CIDR, err = prefixOrHost(s.CIDR); err != nil {
			return r, fmt.Errorf("cidr %q: %w", s.CIDR, err)
		}
		r.CIDR = r.CIDR.Masked()
		if model.FamilyOf(r.CIDR.Addr()) != f {
			return r, fmt.Errorf("cidr %q: want one of %v", s.CIDR, f)
		}
		at := slices.Index([]string{v3.MatchEqual, v3.MatchNotEqual, v3.MatchIn, v3.MatchNotIn}, s.MatchOperator)
		if at < 0 {
			return r, fmt.Errorf("matchOperator %q: want Equal, NotEqual, In or NotIn", s.MatchOperator)
		}
		r.Match = model.BGPMatch(at)
	}
	if l := s.PrefixLength; l != nil {
		r.MinLength, r.MaxLength = lengthOf(l.Min), lengthOf(l.Max)
	}
	if c := s.Communities; c != nil && len(c.Values) > 0 {
		if r.Community, err = v3.ParseCommunity(c.Values[0]); err != nil {
			return r, fmt.Errorf("communities %q: %w", c.Values[0], err)
		}
	}
	if s.Priority != nil {
		r.Priority = uint32(*s.Priority)
	}
	for i, o := range s.Operations {
		var op model.BGPOperation
		switch {
		case o.AddCommunity != nil:
			if op.AddCommunity, err = v3.ParseCommunity(o.AddCommunity.Value); err != nil {
				return r, fmt.Errorf("operations[%d].addCommunity: %w", i, err)
			}
		case o.PrependASPath != nil:
			op.PrependASPath = asNumbers(o.PrependASPath.Prefix)
		case o.SetPriority != nil:
			op.SetPriority = uint32(o.SetPriority.Value)
		}
		r.Operations = append(r.Operations, op)
	}
	return r, nil
}

func lengthOf(n *int32) *int {
	if n == nil {
		return nil
	}
	v := int(*n)
	return &v
}

func asNumbers(from []v3.ASNumber) []uint32 {
	var out []uint32
	for _, n := range from {
		out = append(out, uint32(n))
	}
	return out
}

// bgpServiceOf converts a Service, without what is ready behind it; false where it has no addresses.
func bgpServiceOf(o *corev1.Service) (model.BGPService, bool) {
	s := model.BGPService{ID: model.ServiceID{Namespace: o.Namespace, Name: o.Name},
		Local: o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal}
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return s, false
	}
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{o.Spec.ClusterIP}
	}
	s.ClusterIPs, s.ExternalIPs = addressesOf(ips), addressesOf(o.Spec.ExternalIPs)
	ips = nil
	for _, in := range o.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP { // packets to others have another destination when they come
			ips = append(ips, in.IP)
		}
	}
	s.LoadBalancerIPs = addressesOf(ips)
	return s, len(s.ClusterIPs)+len(s.ExternalIPs)+len(s.LoadBalancerIPs) > 0
}

// addressesOf reads addresses and leaves out what is none, such as "None".
func addressesOf(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil && a.Zone() == "" {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// readyNodes returns the nodes that an EndpointSlice has a ready endpoint on, with its service and family;
// no service where it is of none. An endpoint without a node is on the one without a name.
func readyNodes(o *discoveryv1.EndpointSlice) (model.ServiceID, model.Family, []model.NodeName) {
	family, known := map[discoveryv1.AddressType]model.Family{discoveryv1.AddressTypeIPv4: model.IPv4, discoveryv1.AddressTypeIPv6: model.IPv6}[o.AddressType]
	id := model.ServiceID{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}
	if !known || id.Name == "" {
		return model.ServiceID{}, 0, nil
	}
	var nodes []model.NodeName
	for _, e := range o.Endpoints {
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			continue
		}
		name := model.NodeName("")
		if e.NodeName != nil {
			name = model.NodeName(*e.NodeName)
		}
		nodes = append(nodes, name)
	}
	slices.Sort(nodes)
	return id, family, slices.Compact(nodes)
}

package v3

import (
	"fmt"
	"strconv"
	"strings"
)

// bgpKinds are the kinds of BGP.
func bgpKinds() []KindInfo {
	v3 := groupVersion()
	return []KindInfo{
		{Kind: KindBGPConfiguration, Plural: "bgpconfigurations", Singular: "bgpconfiguration", Short: []string{"bgpconfig", "bgpconfigs"},
			GroupVersion: v3, New: newObject[BGPConfiguration](v3), Columns: bgpConfigurationColumns()},
		{Kind: KindBGPFilter, Plural: "bgpfilters", Singular: "bgpfilter",
			GroupVersion: v3, New: newObject[BGPFilter](v3), Columns: bgpFilterColumns()},
		{Kind: KindBGPPeer, Plural: "bgppeers", Singular: "bgppeer", Short: []string{"bgpp", "bp"},
			GroupVersion: v3, New: newObject[BGPPeer](v3), Columns: bgpPeerColumns()},
		{Kind: KindCalicoNodeStatus, Plural: "caliconodestatuses", Singular: "caliconodestatus", Short: []string{"nodestatus", "nodestatuses"},
			GroupVersion: v3, New: newObject[CalicoNodeStatus](v3), Columns: nodeStatusColumns()},
	}
}

func bgpConfigurationColumns() []Column {
	return []Column{
		column("MESH", func(c *BGPConfiguration) string { return optional(c.Spec.NodeToNodeMeshEnabled, strconv.FormatBool) }),
		column("ASN", func(c *BGPConfiguration) string { return optional(c.Spec.ASNumber, ASNumber.String) }),
		column("PORT", func(c *BGPConfiguration) string { return unlessZero(c.Spec.ListenPort) }),
		wide(column("REFLECTORS-ABOVE", func(c *BGPConfiguration) string { return optional(c.Spec.RouteReflectorThreshold, strconv.Itoa) })),
		wide(column("SERVICES", func(c *BGPConfiguration) string {
			var cidrs []string
			for _, list := range [][]ServiceIPBlock{c.Spec.ServiceClusterIPs, c.Spec.ServiceExternalIPs, c.Spec.ServiceLoadBalancerIPs} {
				for _, b := range list {
					cidrs = append(cidrs, b.CIDR)
				}
			}
			return few(cidrs)
		})),
	}
}

func bgpPeerColumns() []Column {
	return []Column{
		column("PEER", func(p *BGPPeer) string {
			switch s := &p.Spec; {
			case s.PeerIP != "":
				return s.PeerIP
			case s.PeerSelector != "":
				return "nodes " + s.PeerSelector
			case s.LocalWorkloadSelector != "":
				return "pods " + s.LocalWorkloadSelector
			}
			return ""
		}),
		column("NODE", func(p *BGPPeer) string {
			switch {
			case p.Spec.Node != "":
				return p.Spec.Node
			case p.Spec.NodeSelector != "":
				return p.Spec.NodeSelector
			}
			return "all()"
		}),
		column("ASN", func(p *BGPPeer) string { return unlessZero(p.Spec.ASNumber) }),
		wide(column("FILTERS", func(p *BGPPeer) string { return strings.Join(p.Spec.Filters, ",") })),
		wide(column("BFD", func(p *BGPPeer) string { return yesNo(p.Spec.BFD != nil) })),
		wide(column("PASSWORD", func(p *BGPPeer) string {
			if p.Spec.Password == nil || p.Spec.Password.SecretKeyRef == nil {
				return ""
			}
			return "secret/" + p.Spec.Password.SecretKeyRef.Name
		})),
	}
}

func bgpFilterColumns() []Column {
	return []Column{
		column("IPV4", func(f *BGPFilter) string { return ruleCount(len(f.Spec.ImportV4), len(f.Spec.ExportV4)) }),
		column("IPV6", func(f *BGPFilter) string { return ruleCount(len(f.Spec.ImportV6), len(f.Spec.ExportV6)) }),
	}
}

func nodeStatusColumns() []Column {
	return []Column{
		column("NODE", func(s *CalicoNodeStatus) string { return s.Spec.Node }),
		column("CLASSES", func(s *CalicoNodeStatus) string { return strings.Join(s.Spec.Classes, ",") }),
		column("EVERY", func(s *CalicoNodeStatus) string {
			if n := deref(s.Spec.UpdatePeriodSeconds); n > 0 {
				return fmt.Sprintf("%ds", n)
			}
			return "once"
		}),
		column("ESTABLISHED", func(s *CalicoNodeStatus) string {
			if s.Status.LastUpdated == nil {
				return ""
			}
			b := s.Status.BGP
			up := b.NumberEstablishedV4 + b.NumberEstablishedV6
			return fmt.Sprintf("%d/%d", up, up+b.NumberNotEstablishedV4+b.NumberNotEstablishedV6)
		}),
	}
}

// optional shows a value that is there.
func optional[T any](p *T, text func(T) string) string {
	if p == nil {
		return ""
	}
	return text(*p)
}

func unlessZero[T ~uint16 | ~uint32](v T) string {
	if v == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(v), 10)
}

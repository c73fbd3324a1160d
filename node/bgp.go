package node

import (
	"fmt"
	"net/netip"

	v3 "weft/api/v3"
	"weft/model"
)

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

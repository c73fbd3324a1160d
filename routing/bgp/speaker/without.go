package speaker

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// without counts the prefixes that are known, and would not be, were something taken away.
func (sp *speaker) without(w *Without) (*Lost, error) {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	lost := &Lost{}
	if sp.bgp == nil {
		return lost, nil
	}
	goes := map[netip.Addr]bool{}
	for _, a := range w.Peers {
		goes[a] = true
	}
	for _, family := range []bgp.Family{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC} {
		req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family}
		err := sp.bgp.ListPath(req, func(nlri bgp.NLRI, paths []*apiutil.Path) {
			stays := func(p *apiutil.Path) bool { return !goes[p.PeerAddress] && !(w.Reflected && reflected(p)) }
			n, ok := nlri.(*bgp.IPAddrPrefix)
			if !ok || len(paths) == 0 || slices.ContainsFunc(paths, stays) {
				return
			}
			lost.Count++
			lost.First = n.Prefix
		})
		if err != nil {
			return nil, fmt.Errorf("list the routes of BGP: %w", err)
		}
	}
	return lost, nil
}

// reflected tells whether a path came by way of a reflector: nodes of the cluster are clients of each other,
// so that each that passes a path on adds itself to the CLUSTER_LIST (RFC 4456), the first being the one that has it
// of its own or from a router.
func reflected(p *apiutil.Path) bool {
	return slices.ContainsFunc(p.Attrs, func(a bgp.PathAttributeInterface) bool {
		list, is := a.(*bgp.PathAttributeClusterList)
		return is && len(list.Value) > 1
	})
}

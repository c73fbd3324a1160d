package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// without counts the prefixes that are known, and would not be, were something taken away. It is an error where BGP does
// not run, or ends meanwhile: then nothing is known of what would be lost.
func (sp *speaker) without(w *Without) (*Lost, error) {
	b := sp.runs()
	if b == nil {
		return nil, errors.New("say what would be lost: the BGP speaker is not configured yet")
	}
	lost := &Lost{}
	goes := map[netip.Addr]bool{}
	for _, a := range w.Peers {
		goes[a] = true
	}
	for _, family := range []bgp.Family{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC} {
		req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family}
		err := b.ListPath(req, func(nlri bgp.NLRI, paths []*apiutil.Path) {
			stays := func(p *apiutil.Path) bool { return !goes[p.PeerAddress] && !(w.Reflected && reflected(p)) }
			n, ok := nlri.(*bgp.IPAddrPrefix)
			if !ok || len(paths) == 0 || slices.ContainsFunc(paths, stays) {
				return
			}
			if lost.Count++; lost.Count == 1 || n.Prefix.Compare(lost.First) < 0 {
				lost.First = n.Prefix
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list the routes of BGP: %w", err)
		}
	}
	if sp.runs() != b {
		return nil, errors.New("say what would be lost: the BGP speaker began anew meanwhile")
	}
	return lost, nil
}

// runs returns GoBGP where it runs, nil where not. It may end while it is asked, and then answers with errors or less.
func (sp *speaker) runs() *server.BgpServer {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	return sp.bgp
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

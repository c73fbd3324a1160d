package speaker

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"weft/routing"
)

// advertise originates these prefixes, and no others. It adds before it withdraws.
func (sp *speaker) advertise(want []routing.Advertisement) (changes int, err error) {
	var errs []error
	wanted := map[netip.Prefix]bool{}
	for _, a := range want {
		wanted[a.Prefix] = true
		if had, ok := sp.adverts[a.Prefix]; ok && sameRoute(had, a) {
			continue
		}
		p, err := pathFor(a)
		if err == nil {
			_, err = sp.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{p}})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("advertise %v: %w", a.Prefix, err))
			continue
		}
		sp.adverts[a.Prefix] = a
		changes++
	}
	for prefix, a := range sp.adverts {
		if wanted[prefix] {
			continue
		}
		p, err := pathFor(a)
		if err == nil {
			err = sp.bgp.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{p}})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("withdraw %v: %w", prefix, err))
			continue
		}
		delete(sp.adverts, prefix)
		changes++
	}
	return changes, errors.Join(errs...)
}

func sameRoute(a, b routing.Advertisement) bool {
	a.Why, b.Why, a.Service, b.Service = "", "", false, false
	return reflect.DeepEqual(a, b)
}

// pathFor returns an advertisement as a path. Where it has no next hop, GoBGP puts this host's address on
// the session there.
func pathFor(a routing.Advertisement) (*apiutil.Path, error) {
	n, err := bgp.NewIPAddrPrefix(a.Prefix)
	if err != nil {
		return nil, err
	}
	p := &apiutil.Path{Family: bgp.RF_IPv4_UC, Nlri: n, Attrs: []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0)}}
	hop := a.NextHop
	if a.Prefix.Addr().Is4() {
		if !hop.IsValid() {
			hop = netip.IPv4Unspecified()
		}
		h, err := bgp.NewPathAttributeNextHop(hop)
		if err != nil {
			return nil, err
		}
		p.Attrs = append(p.Attrs, h)
	} else {
		if !hop.IsValid() {
			hop = netip.IPv6Unspecified()
		}
		p.Family = bgp.RF_IPv6_UC
		h, err := bgp.NewPathAttributeMpReachNLRI(p.Family, []bgp.PathNLRI{{NLRI: n}}, hop)
		if err != nil {
			return nil, err
		}
		p.Attrs = append(p.Attrs, h)
	}
	var standard []uint32
	var large []*bgp.LargeCommunity
	for _, c := range a.Communities {
		n, err := numbers(c)
		switch {
		case err != nil:
			return nil, err
		case len(n) == 2:
			standard = append(standard, n[0]<<16|n[1]&0xffff)
		default:
			large = append(large, bgp.NewLargeCommunity(n[0], n[1], n[2]))
		}
	}
	if len(standard) > 0 {
		p.Attrs = append(p.Attrs, bgp.NewPathAttributeCommunities(standard))
	}
	if len(large) > 0 {
		p.Attrs = append(p.Attrs, bgp.NewPathAttributeLargeCommunities(large))
	}
	return p, nil
}

// numbers reads a community, standard (two numbers) or large (three).
func numbers(c string) ([]uint32, error) {
	parts := strings.Split(c, ":")
	bits := 32
	if len(parts) == 2 {
		bits = 16
	}
	if len(parts) != 2 && len(parts) != 3 {
		return nil, fmt.Errorf("community %q: want aa:nn or aa:nn:mm", c)
	}
	var out []uint32
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, bits)
		if err != nil {
			return nil, fmt.Errorf("community %q: %w", c, err)
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

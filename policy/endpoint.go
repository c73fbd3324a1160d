package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// podOf arranges what is asked of a pod's traffic.
func podOf[B interface{ binding() *bound }](e *model.Endpoint, matched []B, hasRules func(string, model.Direction) bool) *Endpoint {
	hook := func(d model.Direction) Hook {
		return Hook{Tiers: tiersOf(matched, d, tracked, true), Profiles: profilesOf(e.Profiles, d, hasRules)}
	}
	p := &Endpoint{Device: e.Device, ID: e.ID, MAC: e.MAC, Ingress: hook(model.Ingress), Egress: hook(model.Egress)}
	p.Sources = slices.Clone(e.Sources)
	for _, a := range e.Addresses {
		p.Sources = append(p.Sources, model.HostPrefix(a))
	}
	p.Sources = slices.Concat(ofFamily(p.Sources, model.IPv4), ofFamily(p.Sources, model.IPv6))
	return p
}

// hostOf arranges what is asked at an interface with a host endpoint.
func hostOf[B interface{ binding() *bound }](iface string, h *model.HostEndpoint, matched []B, hasRules func(string, model.Direction) bool) *Host {
	out := &Host{Interface: iface, Name: h.Name, PreDNAT: Hook{Tiers: tiersOf(matched, model.Ingress, preDNAT, false)}}
	for _, d := range directions {
		out.Untracked[d].Tiers = tiersOf(matched, d, untracked, false)
		out.Forward[d].Tiers = tiersOf(matched, d, forwarded, true)
		out.Normal[d] = Hook{Tiers: tiersOf(matched, d, tracked, true), Profiles: profilesOf(h.Profiles, d, hasRules)}
	}
	return out
}

// hostInterfaces says which of this node's host endpoints is for which interface. One that names
// the interface comes before one that expects an address of it; of several of a kind the first by
// name. "*" is for all that have none.
func hostInterfaces(hosts []*model.HostEndpoint, links []model.Link) map[string]*model.HostEndpoint {
	sorted := slices.SortedFunc(slices.Values(hosts), func(a, b *model.HostEndpoint) int { return strings.Compare(a.Name, b.Name) })
	at := map[string]*model.HostEndpoint{}
	for _, h := range sorted {
		if h.Interface != "" && at[h.Interface] == nil {
			at[h.Interface] = h
		}
	}
	for i := range links {
		for _, h := range sorted {
			if h.Interface == "" && at[links[i].Name] == nil && expects(h, &links[i]) {
				at[links[i].Name] = h
			}
		}
	}
	return at
}

func expects(h *model.HostEndpoint, l *model.Link) bool {
	return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return slices.Contains(h.ExpectedIPs, p.Addr()) })
}

// compareIDs orders endpoints; the first of those that claim one device has it.
func compareIDs(a, b model.EndpointID) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), strings.Compare(a.Interface, b.Interface))
}

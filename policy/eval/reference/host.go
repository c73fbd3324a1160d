package reference

import (
	"net/netip"
	"slices"

	"weft/model"
)

// hostEndpoint returns the host endpoint of an interface: one that names it, else one without a
// name that expects an address of it, else "*"; the first by name of each.
func (r *Reference) hostEndpoint(iface string) *model.HostEndpoint {
	choose := func(fits func(*model.HostEndpoint) bool) (first *model.HostEndpoint) {
		for _, h := range r.snapshot.Policy.HostEndpoints {
			if h.Node == r.snapshot.Self && fits(h) && (first == nil || h.Name < first.Name) {
				first = h
			}
		}
		return first
	}
	if h := choose(func(h *model.HostEndpoint) bool { return h.Interface == iface }); h != nil {
		return h
	}
	if h := choose(func(h *model.HostEndpoint) bool {
		return h.Interface == "" && slices.ContainsFunc(h.ExpectedIPs, func(a netip.Addr) bool { return r.hasAddress(iface, a) })
	}); h != nil {
		return h
	}
	return choose(func(h *model.HostEndpoint) bool { return h.Interface == "*" })
}

func (r *Reference) hasAddress(iface string, a netip.Addr) bool {
	for _, l := range r.snapshot.Underlay.Links {
		for _, p := range l.Addresses {
			if l.Name == iface && p.Addr() == a {
				return true
			}
		}
	}
	return false
}

// hostAllowsIn: untracked, pre-DNAT, then forward or normal.
func (r *Reference) hostAllowsIn(p *model.Packet) bool {
	h := r.hostEndpoint(p.In)
	if h == nil {
		return true
	}
	in, out := r.snapshot.Policy.Config.FailsafeIn, r.snapshot.Policy.Config.FailsafeOut
	safe := failsafe(in, p.Protocol, p.DstPort, p.Src)
	reply := failsafe(out, p.Protocol, p.SrcPort, p.Src)
	if !safe && !reply {
		if v := r.at(h, "untracked", model.Ingress, p); v != "" {
			return v == "allow"
		}
	}
	if !safe {
		if v := r.at(h, "preDNAT", model.Ingress, p); v != "" {
			return v == "allow"
		}
	}
	if p.Out != "" {
		return r.at(h, "forward", model.Ingress, p) != "deny"
	}
	return safe || r.overlay(p, p.Src) || r.at(h, "normal", model.Ingress, p) == "allow"
}

// hostAllowsOut: what is forwarded meets the forward policies; what the host sends the untracked
// ones, then the normal ones.
func (r *Reference) hostAllowsOut(p *model.Packet) bool {
	h := r.hostEndpoint(p.Out)
	if h == nil {
		return true
	}
	if p.In != "" {
		return r.at(h, "forward", model.Egress, p) != "deny"
	}
	in, out := r.snapshot.Policy.Config.FailsafeIn, r.snapshot.Policy.Config.FailsafeOut
	safe := failsafe(out, p.Protocol, p.DstPort, p.Dst)
	if !safe && !failsafe(in, p.Protocol, p.SrcPort, p.Dst) {
		if v := r.at(h, "untracked", model.Egress, p); v != "" {
			return v == "allow"
		}
	}
	return safe || r.overlay(p, p.Dst) || r.at(h, "normal", model.Egress, p) == "allow"
}

// overlay tells whether a packet is what a tunnel sends, to or from the address of another node.
func (r *Reference) overlay(p *model.Packet, peer netip.Addr) bool {
	o := r.snapshot.Policy.Overlay
	if !slices.Contains(o.Peers, peer) {
		return false
	}
	for _, c := range o.Carriers {
		if c == (model.Carrier{Family: c.Family, Protocol: p.Protocol, Port: p.DstPort}) && peer.Is4() == (c.Family == model.IPv4) {
			return true
		}
	}
	return false
}

func failsafe(list []model.Failsafe, protocol model.Protocol, port uint16, peer netip.Addr) bool {
	for _, f := range list {
		if f.Protocol == protocol && f.Port == port && (f.Net == netip.Prefix{} || f.Net.Contains(peer)) {
			return true
		}
	}
	return false
}

// at asks a host endpoint's policies at one of its places, and at the normal one its profiles.
func (r *Reference) at(h *model.HostEndpoint, place string, d model.Direction, p *model.Packet) string {
	asks := map[string]func(*model.Policy) bool{
		"untracked": func(p *model.Policy) bool { return p.DoNotTrack },
		"preDNAT":   func(p *model.Policy) bool { return p.PreDNAT && !p.DoNotTrack },
		"forward":   func(p *model.Policy) bool { return !p.DoNotTrack && !p.PreDNAT && p.ApplyOnForward },
		"normal":    func(p *model.Policy) bool { return !p.DoNotTrack && !p.PreDNAT },
	}[place]
	v := r.tiers("host "+h.Name+" "+place, r.inherit(h.Labels, h.Profiles), d, p, asks, place == "forward" || place == "normal")
	if v == "" && place == "normal" {
		v = r.profiles(h.Profiles, d, p)
	}
	return v
}

package reference

import (
	"net/netip"

	"weft/model"
)

// rules asks a list of rules: "allow", "deny", "pass", or empty when none of them decides.
func (r *Reference) rules(rules []model.Rule, d model.Direction, p *model.Packet, anywhere bool) string {
	for _, rule := range rules {
		if rule.Action == model.Log || !r.matches(&rule, d, p, anywhere) {
			continue
		}
		return rule.Action.String()
	}
	return ""
}

// matches tells whether all that a rule asks holds. anywhere tells that port names of the
// policy's own end may be those of other nodes' endpoints.
func (r *Reference) matches(rule *model.Rule, d model.Direction, p *model.Packet, anywhere bool) bool {
	v4 := p.Src.Is4()
	if rule.Family == model.IPv4 && !v4 || rule.Family == model.IPv6 && v4 {
		return false
	}
	if rule.Protocol != 0 && rule.Protocol != p.Protocol || rule.NotProtocol != 0 && rule.NotProtocol == p.Protocol {
		return false
	}
	if rule.ICMP != nil || rule.NotICMP != nil {
		if v4 != (p.Protocol == model.ICMP) { // ICMP is of IPv4, ICMPv6 of IPv6
			return false
		}
		if rule.ICMP != nil && !sameMessage(rule.ICMP, p) || rule.NotICMP != nil && sameMessage(rule.NotICMP, p) {
			return false
		}
	}
	src := side{addr: p.Src, port: p.SrcPort, hereOnly: d == model.Egress && !anywhere, servicePorts: d == model.Egress}
	dst := side{addr: p.Dst, port: p.DstPort, hereOnly: d == model.Ingress && !anywhere, servicePorts: d == model.Egress}
	return r.fits(&rule.Source, src, p) && r.fits(&rule.Destination, dst, p)
}

func sameMessage(m *model.ICMPMatch, p *model.Packet) bool {
	if m.Type != p.ICMPType {
		return false
	}
	return !m.HasCode || m.Code == p.ICMPCode
}

// side is one end of a packet.
type side struct {
	addr         netip.Addr
	port         uint16
	hereOnly     bool // port names are of this node's endpoints only
	servicePorts bool // a service's ports count
}

func (r *Reference) fits(e *model.EntityMatch, s side, p *model.Packet) bool {
	if e.Nets != nil && !within(s.addr, e.Nets) {
		return false
	}
	if len(e.NotNets) > 0 && (within(s.addr, e.NotNets) || !namesFamily(e.NotNets, s.addr)) {
		return false
	}
	if e.Selector != nil && !r.belongs(s.addr, *e.Selector) {
		return false
	}
	if e.NotSelector != nil && r.belongs(s.addr, *e.NotSelector) {
		return false
	}
	if e.Ports != nil && !r.portIn(e.Ports, e.Selector, s, p) {
		return false
	}
	if e.NotPorts != nil && r.portIn(e.NotPorts, e.Selector, s, p) {
		return false
	}
	return e.Service == nil || r.serves(e, s, p)
}

func within(a netip.Addr, nets []netip.Prefix) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// namesFamily: a rule that names prefixes is about their family only.
func namesFamily(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

func (r *Reference) belongs(a netip.Addr, sel string) bool {
	for _, i := range r.selected(sel) {
		if within(a, r.things[i].nets) {
			return true
		}
	}
	return false
}

func (r *Reference) portIn(ports []model.Port, sel *string, s side, p *model.Packet) bool {
	if p.Protocol != model.TCP && p.Protocol != model.UDP && p.Protocol != model.SCTP {
		return false
	}
	for _, want := range ports {
		if want.Name == "" && want.Range.First <= s.port && s.port <= want.Range.Last {
			return true
		}
		if want.Name != "" && r.named(want.Name, sel, s, p) {
			return true
		}
	}
	return false
}

// named: an endpoint that the selector selects, if there is one, has the address, and a port of
// the name with the packet's protocol and number.
func (r *Reference) named(name string, sel *string, s side, p *model.Packet) bool {
	among := "all()"
	if sel != nil {
		among = *sel
	}
	for _, i := range r.selected(among) {
		t := &r.things[i]
		if s.hereOnly && !t.here || !within(s.addr, t.nets) {
			continue
		}
		for _, have := range t.ports {
			if have.Name == name && have.Protocol == p.Protocol && have.Port == s.port {
				return true
			}
		}
	}
	return false
}

func (r *Reference) serves(m *model.EntityMatch, s side, p *model.Packet) bool {
	for _, e := range r.snapshot.Policy.Services[*m.Service] {
		if e.Address != s.addr {
			continue
		}
		if !s.servicePorts || m.AnyPort || e.Port != 0 && e.Port == s.port && e.Protocol == p.Protocol {
			return true
		}
	}
	return false
}

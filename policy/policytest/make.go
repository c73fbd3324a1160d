package policytest

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"weft/model"
)

// Device is the device of this node's n-th pod.
func Device(n int) string { return fmt.Sprintf("weft%011d", n) }

// Local4 and Local6 are the addresses of this node's n-th pod, 0 to 2.
func Local4(n int) netip.Addr { return addr4(n) }

// Local6 is Local4 of the other family.
func Local6(n int) netip.Addr { return addr6(n) }

const hosts = 12 // addresses in each family; the first three are this node's pods'

func addr4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
func addr6(n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n)})
}

func pick[T any](w *World, from ...T) T { return from[w.IntN(len(from))] }

func (w *World) family() model.Family { return pick(w, model.IPv4, model.IPv4, model.IPv6) }

func (w *World) addr(f model.Family) netip.Addr {
	if f == model.IPv4 {
		return addr4(w.IntN(hosts))
	}
	return addr6(w.IntN(hosts))
}

func (w *World) addrs() []netip.Addr {
	var list []netip.Addr
	for range w.IntN(3) {
		list = append(list, w.addr(w.family()))
	}
	return list
}

// prefix sometimes has host bits, as what people write does.
func (w *World) prefix(f model.Family) netip.Prefix {
	a := w.addr(f)
	if w.IntN(10) == 0 {
		return netip.PrefixFrom(a, 1)
	}
	return netip.PrefixFrom(a, a.BitLen()-w.IntN(4))
}

func (w *World) prefixes(f model.Family) []netip.Prefix {
	list := []netip.Prefix{} // empty is not nil
	for range w.IntN(4) {
		list = append(list, w.prefix(f))
	}
	return list
}

func (w *World) port() uint16 { return uint16(1 + w.IntN(4)) }

func (w *World) portProtocol() model.Protocol {
	return pick(w, model.TCP, model.TCP, model.UDP, model.SCTP)
}

func (w *World) namedPorts() []model.EndpointPort {
	var ports []model.EndpointPort
	for range w.IntN(3) {
		ports = append(ports, model.EndpointPort{Name: w.portName(), Protocol: w.portProtocol(), Port: w.port()})
	}
	return ports
}

func (w *World) portName() string { return pick(w, "http", "dns") }

func (w *World) labels() map[string]string {
	l := map[string]string{}
	for _, k := range []string{"a", "b", "c"} {
		if w.IntN(5) < 3 {
			l[k] = pick(w, "1", "2", "3")
		}
	}
	if w.IntN(3) == 0 {
		l["projectcalico.org/namespace"] = "ns"
	}
	return l
}

func (w *World) profileName() string { return pick(w, "kns.x", "kns.y", "ksa.z") }

func (w *World) profileNames() []string {
	var names []string
	for range w.IntN(3) {
		names = append(names, w.profileName())
	}
	return names
}

func (w *World) serviceID() model.ServiceID {
	return model.ServiceID{Namespace: "ns", Name: pick(w, "web", "db")}
}

func (w *World) policyID() model.PolicyID {
	kind := pick(w, model.KindGlobalNetworkPolicy, model.KindGlobalNetworkPolicy, model.KindNetworkPolicy, model.KindKubernetesNetworkPolicy)
	id := model.PolicyID{Kind: kind, Name: fmt.Sprint("p", w.IntN(6))}
	if kind != model.KindGlobalNetworkPolicy {
		id.Namespace = pick(w, "ns", "other")
	}
	return id
}

func (w *World) order() model.Order {
	o, err := model.OrderOf(pick(w, -math.MaxFloat64, -1, 0, math.Copysign(0, -1), 0.5, 1, 1, 2, 1000, 1_000_000, 1e300, math.Inf(1)))
	if err != nil {
		panic(err)
	}
	return o
}

// Selector is a random selector over the labels a, b and c.
func (w *World) Selector() string {
	term := func() string {
		k, v := pick(w, "a", "b", "c"), pick(w, "1", "2", "3")
		switch w.IntN(7) {
		case 0, 1:
			return fmt.Sprintf("%s == '%s'", k, v)
		case 2:
			return fmt.Sprintf("%s != '%s'", k, v)
		case 3:
			return fmt.Sprintf("%s in {'%s', '%s'}", k, v, pick(w, "1", "2", "3"))
		case 4:
			return fmt.Sprintf("has(%s)", k)
		case 5:
			return fmt.Sprintf("!has(%s)", k)
		}
		return fmt.Sprintf("%s not in {'%s'}", k, v)
	}
	switch w.IntN(8) {
	case 0:
		return ""
	case 1:
		return "all()"
	case 2:
		return "global()"
	case 3:
		return term() + " && " + term()
	case 4:
		return term() + " || " + term()
	}
	return term()
}

func (w *World) selector() *string {
	s := w.Selector()
	return &s
}

// Policy is a random policy of that name.
func (w *World) Policy(id model.PolicyID) *model.Policy {
	p := &model.Policy{ID: id, Tier: pick(w, "", "default", "t1", "t2", "kube-admin", "kube-baseline", "unknown"), Order: w.order(), Selector: w.Selector(),
		Types: pick(w, model.Types{}, model.Types{}, model.Types{Ingress: true}, model.Types{Egress: true}, model.Types{Ingress: true, Egress: true})}
	if w.IntN(4) > 0 {
		p.Ingress = w.Rules(model.Ingress)
	}
	if w.IntN(4) > 0 {
		p.Egress = w.Rules(model.Egress)
	}
	p.Staged = w.IntN(8) == 0
	if w.Hosts && !strings.HasPrefix(id.Kind, "Kubernetes") {
		switch w.IntN(8) {
		case 0:
			p.DoNotTrack, p.ApplyOnForward = true, true
		case 1:
			p.PreDNAT, p.ApplyOnForward = true, true
			p.Egress = nil
		case 2, 3:
			p.ApplyOnForward = true
		}
	}
	return p
}

// Rules is a random list of rules.
func (w *World) Rules(d model.Direction) []model.Rule {
	var rules []model.Rule
	for range w.IntN(4) {
		rules = append(rules, w.Rule(d))
	}
	return rules
}

// Rule is a random rule that no validation refuses. Most ask for one or two things only: one
// that asks for many matches nothing.
func (w *World) Rule(d model.Direction) model.Rule {
	r := model.Rule{Action: pick(w, model.Allow, model.Allow, model.Allow, model.Deny, model.Deny, model.Log, model.Pass)}
	f := w.family()
	if w.IntN(8) == 0 {
		r.Family = f
	}
	switch w.IntN(6) {
	case 0, 1:
		r.Protocol = w.portProtocol()
	case 2:
		r.Protocol = model.ICMP
		if f == model.IPv6 {
			r.Protocol = model.ICMPv6
		}
		r.ICMP, r.NotICMP = w.icmp(), w.icmp()
	}
	if w.IntN(8) == 0 {
		r.NotProtocol = pick(w, model.TCP, model.UDP, model.ICMP, model.ICMPv6)
	}
	w.entity(&r.Source, &r, f, d == model.Ingress)
	w.entity(&r.Destination, &r, f, d == model.Egress)
	return r
}

func (w *World) icmp() *model.ICMPMatch {
	if w.IntN(2) == 0 {
		return nil
	}
	return &model.ICMPMatch{Type: pick[uint8](w, 0, 8, 128, 135), Code: pick[uint8](w, 0, 1), HasCode: w.IntN(2) == 0}
}

func (w *World) entity(e *model.EntityMatch, r *model.Rule, f model.Family, peer bool) {
	if peer && w.IntN(10) == 0 {
		id := w.serviceID()
		e.Service, e.AnyPort = &id, w.IntN(3) == 0
		if e.AnyPort && w.IntN(2) == 0 {
			e.Ports = w.ports(r.Protocol)
		}
		return
	}
	if w.IntN(4) == 0 {
		e.Nets = w.prefixes(f)
	}
	if w.IntN(6) == 0 {
		e.NotNets = w.prefixes(f)
	}
	if w.IntN(4) == 0 {
		e.Selector = w.selector()
	}
	if w.IntN(8) == 0 {
		e.NotSelector = w.selector()
	}
	if w.IntN(4) == 0 {
		e.Ports = w.ports(r.Protocol)
	}
	if w.IntN(8) == 0 {
		e.NotPorts = w.ports(r.Protocol)
	}
}

func (w *World) ports(p model.Protocol) []model.Port {
	list := []model.Port{}
	for range w.IntN(4) {
		if w.IntN(2) == 0 || !p.HasPorts() {
			list = append(list, model.Port{Name: w.portName()})
			continue
		}
		first := w.port()
		list = append(list, model.Port{Range: model.PortRange{First: first, Last: first + uint16(w.IntN(2))}})
	}
	return list
}

// nobody listens.
type nobody struct{}

func (nobody) SetConfig(model.PolicyConfig)                              {}
func (nobody) SetLinks([]model.Link)                                     {}
func (nobody) SetOverlay(model.Overlay)                                  {}
func (nobody) SetTier(*model.Tier)                                       {}
func (nobody) DeleteTier(string)                                         {}
func (nobody) SetPolicy(*model.Policy) error                             { return nil }
func (nobody) DeletePolicy(model.PolicyID)                               {}
func (nobody) SetProfile(*model.Profile) error                           { return nil }
func (nobody) DeleteProfile(string)                                      {}
func (nobody) SetEndpoint(*model.Endpoint) error                         { return nil }
func (nobody) DeleteEndpoint(model.EndpointID)                           {}
func (nobody) SetRemote(*model.RemoteEndpoint) error                     { return nil }
func (nobody) DeleteRemote(model.RemoteID)                               {}
func (nobody) SetNetworkSet(*model.NetworkSet) error                     { return nil }
func (nobody) DeleteNetworkSet(model.NetworkSetID)                       {}
func (nobody) SetHostEndpoint(*model.HostEndpoint) error                 { return nil }
func (nobody) DeleteHostEndpoint(string)                                 {}
func (nobody) SetService(model.ServiceID, []model.ServiceEndpoint) error { return nil }
func (nobody) DeleteService(model.ServiceID)                             {}

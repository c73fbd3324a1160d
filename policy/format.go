package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// Format prints the Program as canonical text: sets with their members, chains with their rules,
// then what is asked at each pod and host interface.
func (p *Program) Format() string {
	var b strings.Builder
	for _, id := range slices.SortedFunc(maps.Keys(p.Sets), SetID.Compare) {
		fmt.Fprintf(&b, "set %s\n", id)
		for _, m := range p.Sets[id].Sorted() {
			fmt.Fprintf(&b, "\t%s\n", m)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Chains)) {
		c := p.Chains[id]
		fmt.Fprintf(&b, "chain %s%s\n", id, note(c.Staged, ", staged"))
		for i := range c.Rules {
			fmt.Fprintf(&b, "\t%s\n", &c.Rules[i])
		}
	}
	for _, device := range slices.Sorted(maps.Keys(p.Endpoints)) {
		e := p.Endpoints[device]
		fmt.Fprintf(&b, "pod %s on %s\n\tfrom %s only%s\n", e.ID, device, joinPrefixes(e.Sources), note(!e.MAC.IsZero(), ", MAC "+e.MAC.String()))
		e.Ingress.format(&b, "ingress", "drop")
		e.Egress.format(&b, "egress", "drop")
	}
	for _, name := range slices.Sorted(maps.Keys(p.Hosts)) {
		p.Hosts[name].format(&b)
	}
	p.formatConfig(&b)
	return b.String()
}

func (p *Program) formatConfig(b *strings.Builder) {
	for _, f := range p.Config.FailsafeIn {
		fmt.Fprintf(b, "failsafe ingress %s\n", formatFailsafe(f))
	}
	for _, f := range p.Config.FailsafeOut {
		fmt.Fprintf(b, "failsafe egress %s\n", formatFailsafe(f))
	}
	for _, t := range p.Carriers {
		if len(p.Hosts) > 0 {
			fmt.Fprintf(b, "host interfaces carry %s of other nodes\n", t)
		}
		for _, a := range p.Local {
			if model.FamilyOf(a) == t.Family {
				fmt.Fprintf(b, "not tracked: %s between %s and other nodes\n", t, a)
			}
		}
	}
	if p.Config.PodsToHost {
		b.WriteString("pods reach this host\n")
	}
}

func formatFailsafe(f model.Failsafe) string {
	return fmt.Sprintf("%s/%d%s", f.Protocol, f.Port, note(f.Net.IsValid(), " "+f.Net.String()))
}

func (h *Host) format(b *strings.Builder) {
	fmt.Fprintf(b, "host %s is %s\n", h.Interface, h.Name)
	for _, d := range directions {
		h.Untracked[d].format(b, "untracked "+d.String(), "go on")
	}
	h.PreDNAT.format(b, "pre-DNAT ingress", "go on")
	for _, d := range directions {
		h.Forward[d].format(b, "forward "+d.String(), "allow")
	}
	for _, d := range directions {
		h.Normal[d].format(b, d.String(), "drop")
	}
}

func (h *Hook) format(b *strings.Builder, name, end string) {
	fmt.Fprintf(b, "\t%s\n", name)
	for _, t := range h.Tiers {
		fmt.Fprintf(b, "\t\ttier %s, else %s%s\n", t.Name, t.Default, note(t.StagedDefault != t.Default, fmt.Sprintf(" (with staged policies %s)", t.StagedDefault)))
		staged := t.Staged
		for i := 0; i <= len(t.Policies); i++ {
			for len(staged) > 0 && staged[0].Before == i {
				fmt.Fprintf(b, "\t\t\t%s, staged\n", staged[0].Chain)
				staged = staged[1:]
			}
			if i < len(t.Policies) {
				fmt.Fprintf(b, "\t\t\t%s\n", t.Policies[i])
			}
		}
	}
	for _, c := range h.Profiles {
		fmt.Fprintf(b, "\t\t%s\n", c)
	}
	fmt.Fprintf(b, "\t\t%s\n", end)
}

// String prints `IPv4 selected by role == 'db'`, `IPv4 port http of all()`, `IPv6 service shop/db with ports`.
func (id SetID) String() string {
	var s string
	switch id.Kind {
	case Selected:
		s = fmt.Sprintf("%s selected by %s", id.Family, id.Selector)
	case NamedPort:
		s = fmt.Sprintf("%s port %s of %s", id.Family, id.Name, id.Selector)
	case ServicePorts:
		s = fmt.Sprintf("%s service %s with ports", id.Family, id.Name)
	case ServiceAddrs:
		s = fmt.Sprintf("%s service %s", id.Family, id.Name)
	case Peers:
		s = fmt.Sprintf("%s other nodes", id.Family)
	default:
		s = fmt.Sprintf("kind %d", id.Kind)
	}
	return s + note(id.Local, " on this node") + note(id.Staged, ", staged")
}

// String prints "10.0.0.1/32" or "10.0.0.1 tcp/80".
func (m Member) String() string {
	if m.Protocol == 0 {
		return m.Prefix.String()
	}
	return fmt.Sprintf("%s %s/%d", m.Prefix.Addr(), m.Protocol, m.Port)
}

// String prints "0 allow IPv4 tcp from {IPv4 selected by has(a)} to 10.0.0.0/8 port 80".
func (r *Rule) String() string {
	w := words{fmt.Sprint(r.Index), r.Action.String()}
	w.when(r.Family != 0, r.Family.String())
	w.when(r.Protocol != 0, r.Protocol.String())
	w.when(r.NotProtocol != 0, "not "+r.NotProtocol.String())
	w.when(r.ICMP != nil, formatICMP(r.ICMP))
	w.when(r.NotICMP != nil, "not "+formatICMP(r.NotICMP))
	r.Src.format(&w, "from")
	r.Dst.format(&w, "to")
	return strings.Join(w, " ")
}

type words []string

func (w *words) when(yes bool, word string) {
	if yes {
		*w = append(*w, word)
	}
}

func formatICMP(m *model.ICMPMatch) string {
	if m == nil {
		return ""
	}
	return fmt.Sprintf("type %d%s", m.Type, note(m.HasCode, fmt.Sprintf(" code %d", m.Code)))
}

func (m *Match) format(w *words, preposition string) {
	var own words
	own.when(len(m.Nets) > 0, joinPrefixes(m.Nets))
	for _, id := range m.In {
		own = append(own, "{"+id.String()+"}")
	}
	own.when(len(m.NotNets) > 0, "not "+joinPrefixes(m.NotNets))
	for _, id := range m.NotIn {
		own = append(own, "not {"+id.String()+"}")
	}
	own.when(m.Ports != nil, "port "+m.Ports.format())
	own.when(m.NotPorts != nil, "not port "+m.NotPorts.format())
	if len(own) > 0 {
		*w = append(append(*w, preposition), own...)
	}
}

func (p *Ports) format() string {
	if p == nil {
		return ""
	}
	var parts []string
	for _, r := range p.Ranges {
		if r.First == r.Last {
			parts = append(parts, fmt.Sprint(r.First))
		} else {
			parts = append(parts, r.String())
		}
	}
	for _, id := range p.Sets {
		parts = append(parts, "{"+id.String()+"}")
	}
	return strings.Join(parts, ",")
}

func joinPrefixes(nets []netip.Prefix) string {
	parts := make([]string, len(nets))
	for i, n := range nets {
		parts[i] = n.String()
	}
	return cmp.Or(strings.Join(parts, ","), "nowhere")
}

func note(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

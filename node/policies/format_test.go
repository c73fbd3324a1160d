package policies

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
)

// printSnapshot prints a snapshot's policy part as text to read and to compare.
func printSnapshot(s *model.Snapshot) string {
	var b strings.Builder
	v := &s.Policy
	section(&b, v.Tiers, func(t *model.Tier) string {
		return fmt.Sprintf("tier %s: order %s, else %s", t.Name, t.Order, t.DefaultAction)
	})
	section(&b, v.Policies, printPolicy)
	section(&b, v.Profiles, func(p *model.Profile) string {
		return "profile " + p.Name + printLabels(p.Labels) + printRules("ingress", p.Ingress) + printRules("egress", p.Egress)
	})
	pods := map[string]string{}
	for id, e := range s.Endpoints {
		pods[id.String()] = fmt.Sprintf("pod %s on %s, %s, MAC %s, profiles %v, sources %v%s%s", id, e.Device, e.Addresses, e.MAC, e.Profiles, e.Sources,
			printPorts(e.Ports), printLabels(e.Labels))
	}
	section(&b, pods, func(s string) string { return s })
	section(&b, v.Remote, func(e *model.RemoteEndpoint) string {
		return fmt.Sprintf("remote %s of %s, %s, profiles %v%s%s", e.ID.EndpointID, e.ID.Node, e.Addresses, e.Profiles, printPorts(e.Ports), printLabels(e.Labels))
	})
	section(&b, v.HostEndpoints, func(h *model.HostEndpoint) string {
		return fmt.Sprintf("host %s of %s, interface %q, %s, profiles %v%s%s", h.Name, h.Node, h.Interface, h.ExpectedIPs, h.Profiles, printPorts(h.Ports), printLabels(h.Labels))
	})
	section(&b, v.NetworkSets, func(n *model.NetworkSet) string {
		return fmt.Sprintf("set %q/%s %s, profiles %v%s", n.ID.Namespace, n.ID.Name, n.Nets, n.Profiles, printLabels(n.Labels))
	})
	services := map[string]string{}
	for id, endpoints := range v.Services {
		var list []string
		for _, e := range endpoints {
			list = append(list, fmt.Sprintf("\n\t%s %s/%d", e.Address, e.Protocol, e.Port))
		}
		slices.Sort(list)
		services[id.String()] = "service " + id.String() + strings.Join(list, "")
	}
	section(&b, services, func(s string) string { return s })
	c := v.Config
	fmt.Fprintf(&b, "failsafe in %s\nfailsafe out %s\npods to host %v\n", printFailsafes(c.FailsafeIn), printFailsafes(c.FailsafeOut), c.PodsToHost)
	return b.String()
}

func section[K comparable, V any](b *strings.Builder, m map[K]V, print func(V) string) {
	var lines []string
	for _, v := range m {
		lines = append(lines, print(v)+"\n")
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
}

func printPolicy(p *model.Policy) string {
	flags := ""
	for _, f := range []struct {
		set  bool
		name string
	}{{p.Staged, "staged"}, {p.DoNotTrack, "untracked"}, {p.PreDNAT, "pre-DNAT"}, {p.ApplyOnForward, "on forward"}} {
		if f.set {
			flags += ", " + f.name
		}
	}
	types := ""
	if p.Types.Ingress {
		types += " ingress"
	}
	if p.Types.Egress {
		types += " egress"
	}
	return fmt.Sprintf("%s: tier %q, order %s,%s%s\n\tfor %s%s%s", p.ID, p.Tier, p.Order, types, flags, p.Selector,
		printRules("ingress", p.Ingress), printRules("egress", p.Egress))
}

func printRules(name string, rules []model.Rule) string {
	text := ""
	for i, r := range rules {
		text += fmt.Sprintf("\n\t%s %d %s", name, i, r.Action)
		if r.Family != 0 {
			text += " " + r.Family.String()
		}
		if r.Protocol != 0 {
			text += " " + r.Protocol.String()
		}
		if r.NotProtocol != 0 {
			text += " not " + r.NotProtocol.String()
		}
		if r.ICMP != nil {
			text += fmt.Sprintf(" icmp %+v", *r.ICMP)
		}
		if r.NotICMP != nil {
			text += fmt.Sprintf(" not icmp %+v", *r.NotICMP)
		}
		text += printEntity(" from", &r.Source) + printEntity(" to", &r.Destination)
	}
	return text
}

func printEntity(name string, e *model.EntityMatch) string {
	text := ""
	nets := func(word string, list []netip.Prefix) {
		if list != nil {
			text += fmt.Sprintf("%s%s", word, list)
		}
	}
	ports := func(word string, list []model.Port) {
		if list == nil {
			return
		}
		var names []string
		for _, p := range list {
			if p.Name != "" {
				names = append(names, p.Name)
			} else {
				names = append(names, p.Range.String())
			}
		}
		text += word + "[" + strings.Join(names, " ") + "]"
	}
	nets(" ", e.Nets)
	nets(" not ", e.NotNets)
	if e.Selector != nil {
		text += " {" + *e.Selector + "}"
	}
	if e.NotSelector != nil {
		text += " not {" + *e.NotSelector + "}"
	}
	if e.Service != nil {
		text += " service " + e.Service.String()
	}
	if e.AnyPort {
		text += " of any port"
	}
	ports(" ports ", e.Ports)
	ports(" not ports ", e.NotPorts)
	if text == "" {
		return ""
	}
	return name + text
}

func printPorts(ports []model.EndpointPort) string {
	text := ""
	for _, p := range ports {
		text += fmt.Sprintf(", port %s %s/%d", p.Name, p.Protocol, p.Port)
	}
	return text
}

func printLabels(labels map[string]string) string {
	text := ""
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		text += fmt.Sprintf("\n\t%s=%s", k, labels[k])
	}
	return text
}

func printFailsafes(list []model.Failsafe) string {
	var out []string
	for _, f := range list {
		text := fmt.Sprintf("%s/%d", f.Protocol, f.Port)
		if f.Net.IsValid() {
			text += " " + f.Net.String()
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

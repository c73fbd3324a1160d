package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"weft/model"
	"weft/policy"
)

// maxPorts is how many port numbers one multiport match takes; a range counts as two.
const maxPorts = 15

// matcher turns rules into matches for one family, and notes the lists of prefixes that need a set.
type matcher struct {
	family model.Family
	lists  map[string][]netip.Prefix // by set name
}

// matches returns alternatives: the rule's packets are those that fulfil one of them. None: nothing
// of the family can.
func (m *matcher) matches(r *policy.Rule) []string {
	if r.Family != 0 && r.Family != m.family {
		return nil
	}
	protocol, possible := m.protocol(r)
	if !possible {
		return nil
	}
	src, srcPossible := m.end(&r.Src, "s", "src", "--sports")
	dst, dstPossible := m.end(&r.Dst, "d", "dst", "--dports")
	if !srcPossible || !dstPossible {
		return nil
	}
	head := slices.Concat(src.address, dst.address, protocol)
	tail := slices.Concat(src.rest, dst.rest)
	var out []string
	for _, sp := range src.ports {
		for _, dp := range dst.ports {
			out = append(out, words(slices.Concat(head, tail, []string{sp, dp})...))
		}
	}
	return out
}

func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func (m *matcher) protocol(r *policy.Rule) (match []string, possible bool) {
	switch {
	case r.Protocol != 0 && r.Protocol == r.NotProtocol:
		return nil, false
	case r.Protocol != 0:
		match = append(match, "-p "+m.protocolName(r.Protocol))
	case r.NotProtocol != 0:
		match = append(match, "! -p "+m.protocolName(r.NotProtocol))
	}
	if r.ICMP != nil {
		match = append(match, m.icmp(r.ICMP, false))
	}
	if r.NotICMP != nil {
		match = append(match, m.icmp(r.NotICMP, true))
	}
	return match, true
}

// protocolName prints names only where every iptables knows them.
func (m *matcher) protocolName(p model.Protocol) string {
	switch {
	case p == model.TCP, p == model.UDP, p == model.SCTP:
		return p.String()
	case p == model.ICMP && m.family == model.IPv4:
		return "icmp"
	case p == model.ICMPv6 && m.family == model.IPv6:
		return "ipv6-icmp"
	}
	return fmt.Sprint(uint8(p))
}

// icmp matches an ICMP type. In the icmp match type 255 stands for all.
func (m *matcher) icmp(i *model.ICMPMatch, not bool) string {
	negation := ""
	if not {
		negation = "! "
	}
	if m.family == model.IPv4 && i.Type == 255 {
		if i.HasCode {
			return fmt.Sprintf(`-m u32 %s--u32 "0>>22&0x3c@0>>16=0xff%02x"`, negation, i.Code)
		}
		return fmt.Sprintf(`-m u32 %s--u32 "0>>22&0x3c@0>>24=0xff"`, negation)
	}
	value := fmt.Sprint(i.Type)
	if i.HasCode {
		value = fmt.Sprintf("%d/%d", i.Type, i.Code)
	}
	if m.family == model.IPv4 {
		return fmt.Sprintf("-m icmp %s--icmp-type %s", negation, value)
	}
	return fmt.Sprintf("-m icmp6 %s--icmpv6-type %s", negation, value)
}

// endMatch is what is asked of one end; ports are alternatives, one empty one when any will do.
type endMatch struct{ address, rest, ports []string }

func (m *matcher) end(e *policy.Match, flag, direction, ports string) (out endMatch, possible bool) {
	set := func(not, name, how string) { out.rest = append(out.rest, "-m set "+not+"--match-set "+name+" "+how) }
	switch {
	case len(e.Nets) == 1:
		out.address = append(out.address, "-"+flag+" "+e.Nets[0].String())
	case len(e.Nets) > 1:
		set("", m.list(e.Nets), direction)
	}
	switch {
	case slices.ContainsFunc(e.NotNets, func(n netip.Prefix) bool { return n.Bits() == 0 }):
		return out, false // and some versions take `! -s 0.0.0.0/0` for everything
	case len(e.NotNets) == 1 && len(out.address) == 0:
		out.address = append(out.address, "! -"+flag+" "+e.NotNets[0].String())
	case len(e.NotNets) > 0:
		set("! ", m.list(e.NotNets), direction)
	}
	for _, id := range e.In {
		set("", setName(id), direction)
	}
	for _, id := range e.NotIn {
		set("! ", setName(id), direction)
	}
	if e.NotPorts != nil {
		for _, r := range multiports(e.NotPorts.Ranges) {
			out.rest = append(out.rest, "-m multiport ! "+ports+" "+r)
		}
		for _, id := range e.NotPorts.Sets {
			set("! ", setName(id), direction+","+direction)
		}
	}
	if e.Ports == nil {
		out.ports = []string{""}
		return out, true
	}
	for _, r := range multiports(e.Ports.Ranges) {
		out.ports = append(out.ports, "-m multiport "+ports+" "+r)
	}
	for _, id := range e.Ports.Sets {
		out.ports = append(out.ports, "-m set --match-set "+setName(id)+" "+direction+","+direction)
	}
	return out, true
}

// list returns the set that holds prefixes.
func (m *matcher) list(nets []netip.Prefix) string {
	name := listName(m.family, nets)
	m.lists[name] = nets
	return name
}

// multiports divides ranges so that each part fits into one match.
func multiports(ranges []model.PortRange) []string {
	var out, part []string
	n := 0
	for _, r := range ranges {
		width, text := 1, fmt.Sprint(r.First)
		if r.First != r.Last {
			width, text = 2, fmt.Sprintf("%d:%d", r.First, r.Last)
		}
		if n+width > maxPorts {
			out, part, n = append(out, strings.Join(part, ",")), nil, 0
		}
		part, n = append(part, text), n+width
	}
	if len(part) > 0 {
		out = append(out, strings.Join(part, ","))
	}
	return out
}

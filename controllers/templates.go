package controllers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	v3 "weft/api/v3"
	"weft/model/selector"
)

// template makes host endpoints of certain nodes, for certain addresses or interfaces of theirs.
type template struct {
	*v3.HostEndpointTemplate
	nodes   *selector.Selector // nil: all
	pattern *regexp.Regexp     // nil: it goes by addresses
	cidrs   []netip.Prefix
}

// templatesOf reads templates. One whose selector, pattern or range cannot be read would make other host endpoints than are
// asked for: it is left out. The store refuses such.
func templatesOf(list []v3.HostEndpointTemplate) []*template {
	var out []*template
	for i := range list {
		t := &template{HostEndpointTemplate: &list[i]}
		var err error
		if t.NodeSelector != "" {
			if t.nodes, err = selector.Parse(t.NodeSelector); err != nil {
				continue
			}
		}
		if t.InterfacePattern != "" {
			if t.pattern, err = regexp.Compile(t.InterfacePattern); err != nil {
				continue
			}
		}
		if t.cidrs, err = prefixes(t.InterfaceCIDRs); err != nil {
			continue
		}
		out = append(out, t)
	}
	return out
}

// prefixes reads ranges, and addresses as ranges of one.
func prefixes(list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("read %q: want an address or a CIDR: %w", s, err)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p)
	}
	return out, nil
}

// hosts returns the host endpoints of a node by t: one for the addresses in its ranges, or, by a pattern, one for each
// interface that it matches: with all addresses of that interface, which may be none, or, if there are ranges, with those in
// them, of which there must be one.
func (t *template) hosts(n *v3.Node) []*v3.HostEndpoint {
	if t.nodes != nil && !t.nodes.Matches(n.Labels) {
		return nil
	}
	if t.pattern == nil {
		if addrs := t.within(addressesOf(n)); len(addrs) > 0 {
			return []*v3.HostEndpoint{t.host(n, "", addrs)}
		}
		return nil
	}
	var out []*v3.HostEndpoint
	for _, i := range interfacesOf(n) {
		if !t.pattern.MatchString(i.name) {
			continue
		}
		addrs, ranges := i.addresses, len(t.InterfaceCIDRs) > 0
		if ranges {
			addrs = t.within(addrs)
		}
		if len(addrs) > 0 || !ranges {
			out = append(out, t.host(n, i.name, addrs))
		}
	}
	return out
}

func (t *template) host(n *v3.Node, iface string, addrs []netip.Addr) *v3.HostEndpoint {
	o := hostOf(n)
	o.Name = hostName(n.Name, t.GenerateName, iface)
	maps.Copy(o.Labels, t.Labels)
	o.Labels[CreatedBy] = ByController
	o.Annotations = maps.Clone(t.Annotations)
	o.Spec.InterfaceName, o.Spec.ExpectedIPs = iface, texts(addrs)
	return o
}

// within returns the addresses that are in a range of t.
func (t *template) within(addrs []netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if slices.ContainsFunc(t.cidrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, a)
		}
	}
	return out
}

// hostName returns the name of a host endpoint of a node, for all that it has, or by a template, which may be of an interface.
// It is what is not empty of these, joined. Nodes name their interfaces themselves: so that none can make a name that is
// another node's, there is a hash behind it then. Where the name could not be that of a resource there is one too.
func hostName(node, generate, iface string) string {
	raw := strings.Join(slices.DeleteFunc([]string{node, generate, iface}, func(s string) bool { return s == "" }), "-")
	if name := raw + hostSuffix; iface == "" && len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	return hashedName(raw, node, generate, iface)
}

// hashedName puts a hash of parts behind raw, in which what cannot be part of a name of a resource is replaced.
func hashedName(raw string, parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	end := "-" + hex.EncodeToString(sum[:8]) + hostSuffix
	if name := raw + end; len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	plain := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(raw))
	return strings.Trim(plain[:min(len(plain), 200)], "-") + end
}

// hostInterface is an interface that a node says it has.
type hostInterface struct {
	name      string
	addresses []netip.Addr // sorted; may be none
}

// interfacesOf returns the interfaces in a node's record. Its node wrote them: no more is believed than a node writes.
func interfacesOf(n *v3.Node) (out []hostInterface) {
	left := v3.MaxHostAddresses
	for _, i := range n.Spec.Interfaces[:min(len(n.Spec.Interfaces), v3.MaxHostInterfaces)] {
		h := hostInterface{name: i.Name}
		for _, s := range i.Addresses {
			s, _, _ = strings.Cut(s, "/")
			if a, err := netip.ParseAddr(s); err == nil && left > 0 {
				h.addresses = append(h.addresses, a.Unmap())
				left--
			}
		}
		if i.Name != "" {
			slices.SortFunc(h.addresses, netip.Addr.Compare)
			h.addresses = slices.Compact(h.addresses)
			out = append(out, h)
		}
	}
	return out
}

// addressesOf returns all addresses of a node, those of its interfaces and tunnels included, sorted.
func addressesOf(n *v3.Node) []netip.Addr {
	addrs := v3.AllNodeAddresses(n)
	for _, i := range interfacesOf(n) {
		addrs = append(addrs, i.addresses...)
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

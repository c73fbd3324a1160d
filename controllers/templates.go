package controllers

import (
	"crypto/sha256"
	"encoding/hex"
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
// asked for: it is left out. The store refuses such patterns.
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
		for _, c := range t.InterfaceCIDRs {
			if p, err := netip.ParsePrefix(c); err == nil {
				t.cidrs = append(t.cidrs, p)
			}
		}
		out = append(out, t)
	}
	return out
}

// hosts returns the host endpoints of a node by t: one for the addresses in its ranges, or, by a pattern, one for each
// interface that it matches, with the addresses of that interface which are in the ranges, if there are ranges.
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
		addrs := i.addresses
		if len(t.InterfaceCIDRs) > 0 {
			addrs = t.within(addrs)
		}
		if len(addrs) > 0 {
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

// hostName joins what is not empty to the name of a host endpoint. What cannot be part of a name of a resource is replaced,
// and a hash of what it was put behind it.
func hostName(parts ...string) string {
	raw := strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "-")
	if name := raw + hostSuffix; len(validation.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	sum := sha256.Sum256([]byte(raw))
	plain := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(raw))
	return strings.Trim(plain[:min(len(plain), 200)], "-") + "-" + hex.EncodeToString(sum[:8]) + hostSuffix
}

// hostInterface is an interface that a node says it has.
type hostInterface struct {
	name      string
	addresses []netip.Addr // sorted
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
		if slices.SortFunc(h.addresses, netip.Addr.Compare); i.Name != "" && len(h.addresses) > 0 {
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

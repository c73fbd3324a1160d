package v3

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft/model/selector"
)

// ruleContext is where a rule stands, as far as it matters for what it may say.
type ruleContext struct {
	ingress    bool
	namespaced bool // a service may leave its namespace out
}

func validateRules(path *field.Path, rules []Rule, in ruleContext) field.ErrorList {
	if len(rules) > maxRules {
		return field.ErrorList{field.TooMany(path, len(rules), maxRules)}
	}
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, validateRule(path.Index(i), &rules[i], in)...)
	}
	return errs
}

func validateRule(path *field.Path, r *Rule, in ruleContext) field.ErrorList {
	var errs field.ErrorList
	if r.Action == "" {
		errs = append(errs, field.Required(path.Child("action"), "want Allow, Deny, Log or Pass"))
	} else {
		errs = append(errs, checkEnum(path.Child("action"), r.Action, ActionAllow, ActionDeny, ActionLog, ActionPass)...)
	}
	if v := r.IPVersion; v != nil && *v != 4 && *v != 6 {
		errs = append(errs, invalid(path.Child("ipVersion"), int64(*v), "want 4 or 6")...)
	}
	if r.Protocol != nil {
		errs = append(errs, checkProtocol(path.Child("protocol"), *r.Protocol)...)
	}
	if r.NotProtocol != nil {
		errs = append(errs, checkProtocol(path.Child("notProtocol"), *r.NotProtocol)...)
	}
	errs = append(errs, validateICMP(path, r)...)
	errs = append(errs, validateFamily(path, r)...)
	errs = append(errs, validateEntity(path.Child("source"), &r.Source, r, in)...)
	errs = append(errs, validateEntity(path.Child("destination"), &r.Destination, r, in)...)
	if r.Source.Services != nil && !in.ingress {
		errs = append(errs, field.Forbidden(path.Child("source", "services"), "an egress rule asks for a service as its destination"))
	}
	if r.Destination.Services != nil && in.ingress {
		errs = append(errs, field.Forbidden(path.Child("destination", "services"), "an ingress rule asks for a service as its source"))
	}
	if r.HTTP != nil {
		errs = append(errs, validateHTTP(path.Child("http"), r, in)...)
	}
	if r.Metadata != nil {
		errs = append(errs, validateAnnotations(path.Child("metadata", "annotations"), r.Metadata.Annotations)...)
	}
	return errs
}

// ProtocolNumber returns the number of a protocol by name, in any case, or by number; 0 when p is
// neither.
func ProtocolNumber(p intstr.IntOrString) uint8 {
	if p.Type == intstr.Int {
		if p.IntVal < 1 || p.IntVal > 255 {
			return 0
		}
		return uint8(p.IntVal)
	}
	switch strings.ToLower(p.StrVal) {
	case "icmp":
		return 1
	case "tcp":
		return 6
	case "udp":
		return 17
	case "icmpv6":
		return 58
	case "sctp":
		return 132
	case "udplite":
		return 136
	}
	n, err := strconv.ParseUint(p.StrVal, 10, 8)
	if err != nil {
		return 0
	}
	return uint8(n)
}

// number is the protocol that the rule asks for; 0 for none, or one that is not valid.
func (r *Rule) number() uint8 {
	if r.Protocol == nil {
		return 0
	}
	return ProtocolNumber(*r.Protocol)
}

// hasPorts tells whether the rule's protocol has ports.
func (r *Rule) hasPorts() bool {
	switch r.number() {
	case 6, 17, 132:
		return true
	}
	return false
}

func validateICMP(path *field.Path, r *Rule) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		icmp *ICMPFields
	}{{"icmp", r.ICMP}, {"notICMP", r.NotICMP}} {
		if f.icmp == nil {
			continue
		}
		at := path.Child(f.name)
		if n := r.number(); n != 1 && n != 58 {
			errs = append(errs, field.Forbidden(at, "needs protocol ICMP or ICMPv6 in the same rule"))
		}
		if t := f.icmp.Type; t != nil {
			errs = append(errs, checkRange(at.Child("type"), *t, 0, 254)...)
		}
		if c := f.icmp.Code; c != nil {
			errs = append(errs, checkRange(at.Child("code"), *c, 0, 255)...)
			if f.icmp.Type == nil {
				errs = append(errs, field.Required(at.Child("type"), "a code needs a type"))
			}
		}
	}
	return errs
}

// validateFamily holds all that a rule says of a family to one of them.
func validateFamily(path *field.Path, r *Rule) field.ErrorList {
	var known family
	var why string
	if r.IPVersion != nil && (*r.IPVersion == 4 || *r.IPVersion == 6) {
		known, why = family(*r.IPVersion), fmt.Sprintf("ipVersion %d", *r.IPVersion)
	}
	var errs field.ErrorList
	if f := map[uint8]family{1: 4, 58: 6}[r.number()]; f != 0 {
		if known != 0 && known != f {
			errs = append(errs, invalid(path.Child("protocol"), r.Protocol.String(), "is of %s, the rule has %s", f, why)...)
		} else {
			known, why = f, "protocol "+r.Protocol.String()
		}
	}
	for _, l := range []struct {
		at   *field.Path
		nets []string
	}{
		{path.Child("source", "nets"), r.Source.Nets}, {path.Child("source", "notNets"), r.Source.NotNets},
		{path.Child("destination", "nets"), r.Destination.Nets}, {path.Child("destination", "notNets"), r.Destination.NotNets},
	} {
		if len(l.nets) > maxRuleNets {
			continue // said elsewhere
		}
		for i, s := range l.nets {
			p, wrong := checkAddrOrCIDR(l.at.Index(i), s, 0)
			if wrong != nil {
				continue
			}
			switch f := familyOf(p); {
			case known == 0:
				known, why = f, s
			case known != f:
				errs = append(errs, invalid(l.at.Index(i), s, "is of %s, the rule has %s: want one rule for each family", f, why)...)
			}
		}
	}
	return errs
}

func validateEntity(path *field.Path, e *EntityRule, r *Rule, in ruleContext) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, validateNets(path.Child("nets"), e.Nets)...)
	errs = append(errs, validateNets(path.Child("notNets"), e.NotNets)...)
	for i, s := range e.NotNets {
		if p, err := netip.ParsePrefix(s); err == nil && p.Bits() == 0 {
			errs = append(errs, invalid(path.Child("notNets").Index(i), s, "excludes every address: leave the rule out instead")...)
		}
	}
	errs = append(errs, checkRuleSelector(path.Child("selector"), e.Selector, false)...)
	errs = append(errs, checkRuleSelector(path.Child("notSelector"), e.NotSelector, false)...)
	errs = append(errs, checkRuleSelector(path.Child("namespaceSelector"), e.NamespaceSelector, true)...)
	if a := e.ServiceAccounts; a != nil {
		at := path.Child("serviceAccounts")
		for i, name := range a.Names {
			errs = append(errs, checkSubdomain(at.Child("names").Index(i), name)...)
		}
		errs = append(errs, checkRuleSelector(at.Child("selector"), a.Selector, false)...)
	}
	errs = append(errs, validateRulePorts(path.Child("ports"), e.Ports, r)...)
	errs = append(errs, validateRulePorts(path.Child("notPorts"), e.NotPorts, r)...)
	if e.Services != nil {
		errs = append(errs, validateService(path, e, in)...)
	}
	return errs
}

func validateNets(path *field.Path, nets []string) field.ErrorList {
	if len(nets) > maxRuleNets {
		return field.ErrorList{field.TooMany(path, len(nets), maxRuleNets)}
	}
	return checkCIDRs(path, nets, 0)
}

// validateRulePorts checks numbers, ranges and names of ports. A string of digits, or with a colon, is no name.
func validateRulePorts(path *field.Path, ports []intstr.IntOrString, r *Rule) field.ErrorList {
	if len(ports) > maxRulePorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxRulePorts)}
	}
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		if IsNamedPort(p) {
			errs = append(errs, checkPortName(at, p.StrVal)...)
			if r.Protocol != nil && r.number() != 0 && !r.hasPorts() {
				errs = append(errs, invalid(at, excerpt(p.StrVal), "protocol %s has no ports: want TCP, UDP, SCTP or none", r.Protocol.String())...)
			}
			continue
		}
		errs = append(errs, checkPortRange(at, p, 0)...)
		if !r.hasPorts() {
			errs = append(errs, invalid(at, p.String(), "needs protocol TCP, UDP or SCTP in the same rule")...)
		}
	}
	return errs
}

// IsNamedPort tells whether a port of a rule is a name; otherwise ParsePortRange reads it.
func IsNamedPort(p intstr.IntOrString) bool {
	return p.Type == intstr.String && strings.Trim(p.StrVal, "0123456789:") != ""
}

func validateService(path *field.Path, e *EntityRule, in ruleContext) field.ErrorList {
	at := path.Child("services")
	var errs field.ErrorList
	if e.Services.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), "the name of a Service"))
	} else {
		errs = append(errs, checkSubdomain(at.Child("name"), e.Services.Name)...)
	}
	switch ns := e.Services.Namespace; {
	case ns == "" && !in.namespaced:
		errs = append(errs, field.Required(at.Child("namespace"), "this policy belongs to no namespace: name the Service's"))
	case ns != "" && len(validation.IsDNS1123Label(ns)) > 0:
		errs = append(errs, invalid(at.Child("namespace"), excerpt(ns), "want a DNS label: "+dnsLabel)...)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"nets", e.Nets != nil}, {"notNets", e.NotNets != nil}, {"selector", e.Selector != ""}, {"notSelector", e.NotSelector != ""},
		{"namespaceSelector", e.NamespaceSelector != ""}, {"serviceAccounts", e.ServiceAccounts != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "excluded by services: want a rule of its own"))
		}
	}
	if in.ingress {
		return errs
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"ports", e.Ports != nil}, {"notPorts", e.NotPorts != nil}} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "the Service says the ports"))
		}
	}
	return errs
}

func validateHTTP(path *field.Path, r *Rule, in ruleContext) field.ErrorList {
	var errs field.ErrorList
	if r.Action != ActionAllow || !in.ingress {
		errs = append(errs, field.Forbidden(path, "only an Allow rule for ingress asks for requests"))
	}
	if r.Protocol != nil && r.number() != 6 {
		errs = append(errs, field.Forbidden(path, "needs protocol TCP, or none"))
	}
	if n := len(r.HTTP.Methods); n > maxHTTPMethods {
		errs = append(errs, field.TooMany(path.Child("methods"), n, maxHTTPMethods))
	}
	if n := len(r.HTTP.Paths); n > maxHTTPPaths {
		errs = append(errs, field.TooMany(path.Child("paths"), n, maxHTTPPaths))
	}
	for i, m := range r.HTTP.Methods {
		if m == "" || len(m) > 32 || strings.Trim(m, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
			errs = append(errs, invalid(path.Child("methods").Index(i), excerpt(m), "want a method such as GET")...)
		}
	}
	for i, p := range r.HTTP.Paths {
		at := path.Child("paths").Index(i)
		if (p.Exact == "") == (p.Prefix == "") {
			errs = append(errs, invalid(at, excerpt(p.Exact+p.Prefix), "want either exact or prefix")...)
		}
		for _, f := range []struct{ name, path string }{{"exact", p.Exact}, {"prefix", p.Prefix}} {
			if f.path != "" && !httpPath.MatchString(f.path) {
				errs = append(errs, invalid(at.Child(f.name), excerpt(f.path), "want a path that begins with / and has no ? and no #")...)
			}
		}
	}
	return errs
}

var httpPath = regexp.MustCompile(`^/[^\s?#]*$`)

// checkRuleSelector wants a selector, or nothing. global() has a meaning for namespaces only.
func checkRuleSelector(path *field.Path, s string, ofNamespaces bool) field.ErrorList {
	if s == "" {
		return nil
	}
	sel, err := selector.Parse(s)
	if err != nil {
		return invalid(path, excerpt(s), "%v", err)
	}
	if sel.Global() && !ofNamespaces {
		return invalid(path, s, "global() stands in a rule's namespaceSelector only, want all() for everything")
	}
	return nil
}

func checkSubdomain(path *field.Path, name string) field.ErrorList {
	if len(validation.IsDNS1123Subdomain(name)) == 0 {
		return nil
	}
	return invalid(path, excerpt(name), "want a DNS subdomain: %s", dnsSubdomain)
}

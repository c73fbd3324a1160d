package v3

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

const maxFilterOperations = 10 // also of AS numbers that one prepends

func validateBGPFilter(path *field.Path, s *BGPFilterSpec) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name  string
		rules []BGPFilterRule
		f     family
	}{{"exportV4", s.ExportV4, 4}, {"importV4", s.ImportV4, 4}, {"exportV6", s.ExportV6, 6}, {"importV6", s.ImportV6, 6}} {
		for i := range l.rules {
			errs = append(errs, validateFilterRule(path.Child(l.name).Index(i), &l.rules[i], l.f)...)
		}
	}
	return errs
}

func validateFilterRule(path *field.Path, rule *BGPFilterRule, f family) field.ErrorList {
	r := &felixRules{path: path}
	if rule.Action == "" {
		r.add(field.ErrorList{field.Required(path.Child("action"), "Accept or Reject")})
	}
	r.enum("action", rule.Action, FilterAccept, FilterReject)
	r.filterPrefix(rule, f)
	r.enum("source", rule.Source, FilterRemotePeers)
	if rule.Interface != "" && !interfacePattern.MatchString(rule.Interface) {
		r.add(invalid(path.Child("interface"), excerpt(rule.Interface), "want an interface name, with * for any part of it"))
	}
	r.enum("peerType", rule.PeerType, PeerEBGP, PeerIBGP)
	if c := rule.Communities; c != nil {
		at := path.Child("communities", "values")
		if len(c.Values) != 1 {
			r.add(invalid(at, c.Values, "want exactly one community"))
		}
		for i, v := range c.Values {
			r.add(checkCommunity(at.Index(i), v))
		}
	}
	for i, n := range rule.ASPathPrefix {
		r.add(checkASNumber(path.Child("asPathPrefix").Index(i), n))
	}
	r.number("priority", rule.Priority, 1, maxRoutePriority)
	r.operations(rule)
	return r.errs
}

// filterPrefix checks what is asked of a route's prefix.
func (r *felixRules) filterPrefix(rule *BGPFilterRule, f family) {
	at := r.path.Child("cidr")
	var cidr netip.Prefix
	if rule.CIDR != "" {
		var errs field.ErrorList
		cidr, errs = parseCIDR(at, rule.CIDR, f)
		r.add(errs)
	}
	operator := r.path.Child("matchOperator")
	r.enum("matchOperator", rule.MatchOperator, MatchEqual, MatchNotEqual, MatchIn, MatchNotIn)
	switch {
	case rule.CIDR != "" && rule.MatchOperator == "":
		r.add(field.ErrorList{field.Required(operator, "says how cidr is compared: one of Equal, NotEqual, In, NotIn")})
	case rule.CIDR == "" && rule.MatchOperator != "":
		r.add(field.ErrorList{field.Required(at, "what matchOperator compares with")})
	}
	l := rule.PrefixLength
	if l == nil {
		return
	}
	if rule.CIDR == "" {
		r.add(field.ErrorList{field.Forbidden(r.path.Child("prefixLength"), "needs cidr: for all prefixes, want cidr "+f.allCIDR()+" and matchOperator In")})
	}
	most := int32(32)
	if f == 6 {
		most = 128
	}
	low, high := int32(0), most
	if cidr.IsValid() {
		low = int32(cidr.Bits())
	}
	for _, b := range []struct {
		name  string
		value *int32
		bound *int32
	}{{"min", l.Min, &low}, {"max", l.Max, &high}} {
		if b.value == nil {
			continue
		}
		if *b.bound = *b.value; *b.value < 0 || *b.value > most {
			r.add(invalid(r.path.Child("prefixLength", b.name), int64(*b.value), "want 0 to %d", most))
			return
		}
	}
	if low > high {
		r.add(invalid(r.path.Child("prefixLength", "max"), int64(high), "want at least %d, or the rule matches nothing", low))
	}
}

func (f family) allCIDR() string {
	if f == 6 {
		return "::/0"
	}
	return "0.0.0.0/0"
}

func (r *felixRules) operations(rule *BGPFilterRule) {
	at := r.path.Child("operations")
	switch n := len(rule.Operations); {
	case rule.Operations == nil:
		return
	case n == 0:
		r.add(field.ErrorList{field.Required(at, "want at least one, or no list")})
	case n > maxFilterOperations:
		r.add(field.ErrorList{field.TooMany(at, n, maxFilterOperations)})
		return
	case rule.Action == FilterReject:
		r.add(field.ErrorList{field.Forbidden(at, "a route that is rejected is not changed: want action Accept, or no operations")})
	}
	for i, o := range rule.Operations {
		at := at.Index(i)
		r.add(exactlyOne(at, map[string]bool{"addCommunity": o.AddCommunity != nil, "prependASPath": o.PrependASPath != nil, "setPriority": o.SetPriority != nil}))
		if c := o.AddCommunity; c != nil {
			r.add(checkCommunity(at.Child("addCommunity", "value"), c.Value))
		}
		if p := o.PrependASPath; p != nil {
			at := at.Child("prependASPath", "prefix")
			if n := len(p.Prefix); n == 0 {
				r.add(field.ErrorList{field.Required(at, "the AS numbers that the path is to begin with")})
			} else if n > maxFilterOperations {
				r.add(field.ErrorList{field.TooMany(at, n, maxFilterOperations)})
			}
			for j, n := range p.Prefix {
				r.add(checkASNumber(at.Index(j), n))
			}
		}
		if p := o.SetPriority; p != nil {
			r.add(checkRange(at.Child("setPriority", "value"), p.Value, 1, maxRoutePriority))
		}
	}
}

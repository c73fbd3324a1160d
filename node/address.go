package node

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"weft/model"
)

// detection is what the autodetection of this node's underlay address may look at.
type detection struct {
	family   model.Family
	method   string // Config.Address
	underlay model.Underlay
	stores   []netip.Addr // addresses of the store's endpoints
	peers    []netip.Addr // underlay addresses of the other nodes, sorted by node
	internal []netip.Addr // InternalIP addresses of this node's record
	current  netip.Prefix // what the record says now; may be invalid
}

// methodAuto is the method that may find nothing for one family.
const methodAuto = "auto"

const keptWhy = "kept from the Node record: still on this host"

// found is an address and the sentence that says how it was found.
type found struct {
	addr netip.Prefix
	why  string
}

// skipped are interfaces that carry no underlay of ours: bridges and tunnels that containers and
// virtual machines bring.
var skipped = regexp.MustCompile(`^(weft|docker|cbr|dummy|virbr|lxcbr|veth|lo$|cali|tunl|flannel|kube-ipvs|cni|vxlan|wireguard|nodelocaldns|br-)`)

// detectAddress finds this node's underlay address of one family by the configured method. It is
// pure. Among equals the order of the interfaces' names decides; an address that the record
// already has is kept as long as the method still allows it, so that nothing flaps.
func detectAddress(d detection) (found, error) {
	name, arg, _ := strings.Cut(d.method, "=")
	switch name {
	case methodAuto:
		return d.auto()
	case "first-found":
		return d.pick(func(l model.Link, _ netip.Prefix) bool { return !skipped.MatchString(l.Name) }, "first interface that is up")
	case "interface":
		re := anyOf(arg)
		return d.pick(func(l model.Link, _ netip.Prefix) bool { return re.MatchString(l.Name) }, "interface matches "+arg)
	case "skip-interface":
		re := anyOf(arg)
		return d.pick(func(l model.Link, _ netip.Prefix) bool {
			return !skipped.MatchString(l.Name) && !re.MatchString(l.Name)
		}, "first interface that does not match "+arg)
	case "cidr":
		var nets []netip.Prefix
		for s := range strings.SplitSeq(arg, ",") {
			if p, err := netip.ParsePrefix(s); err == nil {
				nets = append(nets, p)
			}
		}
		return d.pick(func(_ model.Link, p netip.Prefix) bool {
			return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(p.Addr()) })
		}, "address is in "+arg)
	case "can-reach":
		target, err := netip.ParseAddr(arg)
		if err != nil {
			return found{}, fmt.Errorf("can-reach=%s: %w", arg, err)
		}
		return d.towards(target, "source address towards "+arg)
	case "kubernetes-internal-ip":
		for _, a := range d.internal {
			if f, err := d.own(a, "InternalIP of the Node record"); err == nil {
				return f, nil
			}
		}
		return found{}, fmt.Errorf("the Node record has no %s InternalIP that is on this host", d.family)
	}
	if a, err := netip.ParseAddr(d.method); err == nil && model.FamilyOf(a) == d.family {
		return d.own(a, "configured")
	}
	return found{}, fmt.Errorf("%s autodetection method %q is for the other family", d.family, d.method)
}

// auto is the default: the source address of the route towards the store, else towards the other
// nodes, else the first interface that is up.
func (d detection) auto() (found, error) {
	for _, a := range d.stores {
		if f, err := d.towards(a, "source address towards the store at "+a.String()); err == nil {
			return f, nil
		}
	}
	if d.current.IsValid() {
		if f, err := d.own(d.current.Addr(), keptWhy); err == nil {
			return f, nil
		}
	}
	for _, a := range d.peers {
		if f, err := d.towards(a, "source address towards node "+a.String()); err == nil {
			return f, nil
		}
	}
	return d.pick(func(l model.Link, _ netip.Prefix) bool { return !skipped.MatchString(l.Name) }, "first interface that is up")
}

func (d detection) mine(p netip.Prefix) bool {
	return model.FamilyOf(p.Addr()) == d.family && p.Addr().IsGlobalUnicast()
}

// pick returns the current address if allowed, else the first that is.
func (d detection) pick(allowed func(model.Link, netip.Prefix) bool, why string) (found, error) {
	var first found
	for _, l := range d.underlay.Links {
		for _, p := range l.Addresses {
			if !l.Up || !d.mine(p) || !allowed(l, p) {
				continue
			}
			f := found{p, fmt.Sprintf("%s (%s)", why, l.Name)}
			if p == d.current {
				return f, nil
			}
			if !first.addr.IsValid() {
				first = f
			}
		}
	}
	if !first.addr.IsValid() {
		return found{}, fmt.Errorf("no %s address found: %s: none of the interfaces %s has one", d.family, why, linkNames(d.underlay.Links))
	}
	return first, nil
}

// own finds a among the host's addresses, with its prefix length.
func (d detection) own(a netip.Addr, why string) (found, error) {
	for _, l := range d.underlay.Links {
		for _, p := range l.Addresses {
			if p.Addr() == a && l.Up && d.mine(p) {
				return found{p, fmt.Sprintf("%s (%s)", why, l.Name)}, nil
			}
		}
	}
	return found{}, fmt.Errorf("address %s (%s) is on no interface that is up", a, why)
}

// towards finds the source address that the kernel would use towards a: the route's own, else the
// first address of its interface.
func (d detection) towards(a netip.Addr, why string) (found, error) {
	if model.FamilyOf(a) != d.family {
		return found{}, fmt.Errorf("%s is not %s", a, d.family)
	}
	var routes []model.UnderlayRoute
	for _, r := range d.underlay.Routes {
		if r.Dst.Contains(a) {
			routes = append(routes, r)
		}
	}
	if len(routes) == 0 {
		return found{}, fmt.Errorf("no route towards %s", a)
	}
	r := slices.MinFunc(routes, func(x, y model.UnderlayRoute) int {
		return cmp.Or(cmp.Compare(y.Dst.Bits(), x.Dst.Bits()), cmp.Compare(x.Metric, y.Metric), cmp.Compare(x.Device, y.Device))
	})
	if r.Src.IsValid() {
		return d.own(r.Src, why)
	}
	for _, l := range d.underlay.Links {
		for _, p := range l.Addresses {
			if l.Name == r.Device && l.Up && d.mine(p) {
				return found{p, fmt.Sprintf("%s (%s)", why, l.Name)}, nil
			}
		}
	}
	return found{}, fmt.Errorf("the route towards %s leaves by %s, which has no %s address", a, r.Device, d.family)
}

func anyOf(list string) *regexp.Regexp {
	re, err := regexp.Compile("^(?:" + strings.ReplaceAll(list, ",", "|") + ")$")
	if err != nil { // validated when the configuration was read
		return regexp.MustCompile(`\z.`)
	}
	return re
}

func linkNames(links []model.Link) string {
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}

// Package reference answers what becomes of a packet slowly, from the model and the text of
// docs/policy.md alone: it looks at every policy and every endpoint, keeps no sets and no chains,
// and shares nothing with the compiler but the meaning of one selector on one set of labels. It is
// the twin that the compiler, the interpreter and the kernel are compared with.
package reference

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"

	"weft/model"
	"weft/model/selector"
)

// Reference answers for one snapshot, which must not change.
type Reference struct {
	snapshot *model.Snapshot
	things   []thing
	parsed   map[string]*selector.Selector
	asked    map[string][]int // answers to "which things does a selector select"
	listed   map[listKey][]*model.Policy
	// Staged enforces staged policies.
	Staged bool
}

// thing is whatever has labels and addresses.
type thing struct {
	labels map[string]string
	nets   []netip.Prefix
	ports  []model.EndpointPort
	here   bool // an endpoint of this node
}

type listKey struct {
	endpoint  string
	direction model.Direction
}

// New returns a Reference for a snapshot in which everything can be understood.
func New(s *model.Snapshot) (*Reference, error) {
	r := &Reference{snapshot: s, parsed: map[string]*selector.Selector{}, asked: map[string][]int{}, listed: map[listKey][]*model.Policy{}}
	for _, e := range s.Endpoints {
		r.add(e.Labels, e.Profiles, single(e.Addresses), e.Ports, true)
	}
	for _, e := range s.Policy.Remote {
		r.add(e.Labels, e.Profiles, single(e.Addresses), e.Ports, false)
	}
	for _, h := range s.Policy.HostEndpoints {
		r.add(h.Labels, h.Profiles, single(h.ExpectedIPs), h.Ports, h.Node == s.Self)
	}
	for _, n := range s.Policy.NetworkSets {
		r.add(n.Labels, n.Profiles, n.Nets, nil, false)
	}
	for _, p := range s.Policy.Policies {
		if err := r.parse(p.Selector); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ID, err)
		}
		if err := r.parseRules(append(slices.Clone(p.Ingress), p.Egress...)); err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ID, err)
		}
	}
	for _, p := range s.Policy.Profiles {
		if err := r.parseRules(append(slices.Clone(p.Ingress), p.Egress...)); err != nil {
			return nil, fmt.Errorf("read profile %s: %w", p.Name, err)
		}
	}
	return r, nil
}

func (r *Reference) add(own map[string]string, profiles []string, nets []netip.Prefix, ports []model.EndpointPort, here bool) {
	r.things = append(r.things, thing{r.inherit(own, profiles), nets, ports, here})
}

// inherit: a label of one's own, else that of the first profile that has it.
func (r *Reference) inherit(own map[string]string, profiles []string) map[string]string {
	all := maps.Clone(own)
	if all == nil {
		all = map[string]string{}
	}
	for _, name := range profiles {
		p := r.snapshot.Policy.Profiles[name]
		if p == nil {
			continue
		}
		for k, v := range p.Labels {
			if _, has := all[k]; !has {
				all[k] = v
			}
		}
	}
	return all
}

func single(addrs []netip.Addr) []netip.Prefix {
	var nets []netip.Prefix
	for _, a := range addrs {
		nets = append(nets, netip.PrefixFrom(a, a.BitLen()))
	}
	return nets
}

func (r *Reference) parse(s string) error {
	sel, err := selector.Parse(s)
	r.parsed[s] = sel
	return err
}

func (r *Reference) parseRules(rules []model.Rule) error {
	for _, rule := range rules {
		for _, e := range []model.EntityMatch{rule.Source, rule.Destination} {
			for _, s := range []*string{e.Selector, e.NotSelector} {
				if s == nil {
					continue
				}
				if err := r.parse(*s); err != nil {
					return err
				}
			}
		}
	}
	return r.parse("all()")
}

// selected returns the things that a selector selects, by their place.
func (r *Reference) selected(s string) []int {
	if a, known := r.asked[s]; known {
		return a
	}
	a := []int{}
	for i, t := range r.things {
		if r.parsed[s].Matches(t.labels) {
			a = append(a, i)
		}
	}
	r.asked[s] = a
	return a
}

// Allowed tells whether a packet may pass.
func (r *Reference) Allowed(p *model.Packet) bool {
	from, to := r.pod(p.In), r.pod(p.Out)
	if p.In == "" && to != nil {
		return true // host to its own pod is never policed
	}
	if from != nil {
		switch {
		case p.Out == "" && p.Protocol == model.ICMPv6 && p.Dst.Is6() && slices.Contains([]uint8{130, 131, 132, 133, 135, 136}, p.ICMPType):
			return true
		case !r.maySend(from, p), !r.podAllows(from, model.Egress, p):
			return false
		case p.Out == "":
			return r.snapshot.Policy.Config.PodsToHost
		}
	}
	if p.In != "" && from == nil && !r.hostAllowsIn(p) {
		return false
	}
	if to != nil {
		return r.podAllows(to, model.Ingress, p)
	}
	return p.Out == "" || r.hostAllowsOut(p)
}

// pod returns the pod on a device: the first by name of those that claim it.
func (r *Reference) pod(device string) *model.Endpoint {
	var first *model.Endpoint
	for _, e := range r.snapshot.Endpoints {
		if device == "" || e.Device != device {
			continue
		}
		if first == nil || fmt.Sprint(e.ID.Namespace, "\x00", e.ID.Pod, "\x00", e.ID.Interface) < fmt.Sprint(first.ID.Namespace, "\x00", first.ID.Pod, "\x00", first.ID.Interface) {
			first = &e
		}
	}
	return first
}

func (r *Reference) maySend(e *model.Endpoint, p *model.Packet) bool {
	if p.MAC != (model.MAC{}) && p.MAC != e.MAC {
		return false
	}
	for _, a := range e.Addresses {
		if a == p.Src {
			return true
		}
	}
	for _, n := range e.Sources {
		if n.Contains(p.Src) {
			return true
		}
	}
	return false
}

func (r *Reference) podAllows(e *model.Endpoint, d model.Direction, p *model.Packet) bool {
	v := r.tiers("pod "+e.Device, r.inherit(e.Labels, e.Profiles), d, p, func(pol *model.Policy) bool { return !pol.DoNotTrack && !pol.PreDNAT }, true)
	if v == "" {
		v = r.profiles(e.Profiles, d, p)
	}
	return v == "allow"
}

// tiers asks the policies that select labels, about a direction, at one place. The answer is
// "allow", "deny", or empty. ends tells whether tiers end with their default action.
func (r *Reference) tiers(who string, labels map[string]string, d model.Direction, p *model.Packet, at func(*model.Policy) bool, ends bool) string {
	list := r.policies(who, labels, d, at)
	for i := 0; i < len(list); {
		tier := tierOf(list[i])
		verdict, enforced := "", false
		for ; i < len(list) && tierOf(list[i]) == tier; i++ {
			if list[i].Staged && !r.Staged {
				continue
			}
			enforced = true
			if verdict == "" {
				rules := list[i].Ingress
				if d == model.Egress {
					rules = list[i].Egress
				}
				verdict = r.rules(rules, d, p, list[i].ApplyOnForward || list[i].DoNotTrack || list[i].PreDNAT)
			}
		}
		if verdict == "allow" || verdict == "deny" {
			return verdict
		}
		if verdict == "" && enforced && ends && r.tier(tier).DefaultAction != model.Pass {
			return "deny"
		}
	}
	return ""
}

func tierOf(p *model.Policy) string {
	if p.Tier == "" {
		return "default"
	}
	return p.Tier
}

// tier: as its resource says, else as is built in, else the last, which denies.
func (r *Reference) tier(name string) model.Tier {
	if t := r.snapshot.Policy.Tiers[name]; t != nil {
		return *t
	}
	builtin := map[string]float64{"kube-admin": 1000, "default": 1e6, "kube-baseline": 1e7}
	order, there := builtin[name]
	if !there {
		return model.Tier{Name: name, DefaultAction: model.Deny}
	}
	o, _ := model.OrderOf(order)
	t := model.Tier{Name: name, Order: o, DefaultAction: model.Pass}
	if name == "default" {
		t.DefaultAction = model.Deny
	}
	return t
}

// policies returns those that select labels and are about a direction, in the order in which they
// are asked.
func (r *Reference) policies(who string, labels map[string]string, d model.Direction, at func(*model.Policy) bool) []*model.Policy {
	key := listKey{who, d}
	if list, known := r.listed[key]; known {
		return list
	}
	list := []*model.Policy{}
	for _, p := range r.snapshot.Policy.Policies {
		if at(p) && about(p, d) && r.parsed[p.Selector].Matches(labels) {
			list = append(list, p)
		}
	}
	sort.Slice(list, func(i, j int) bool { return r.before(list[i], list[j]) })
	r.listed[key] = list
	return list
}

// about: the types that are listed; none listed, what there are rules for, and ingress when there
// are none at all.
func about(p *model.Policy, d model.Direction) bool {
	if p.Types.Ingress || p.Types.Egress {
		return d == model.Ingress && p.Types.Ingress || d == model.Egress && p.Types.Egress
	}
	if d == model.Egress {
		return len(p.Egress) > 0
	}
	return len(p.Egress) == 0 || len(p.Ingress) > 0
}

// before: tier order, tier name, order, name, kind, namespace.
func (r *Reference) before(a, b *model.Policy) bool {
	ta, tb := r.tier(tierOf(a)), r.tier(tierOf(b))
	if c := ta.Order.Compare(tb.Order); c != 0 {
		return c < 0
	}
	if tierOf(a) != tierOf(b) {
		return tierOf(a) < tierOf(b)
	}
	if c := a.Order.Compare(b.Order); c != 0 {
		return c < 0
	}
	return cmp.Or(cmp.Compare(a.ID.Name, b.ID.Name), cmp.Compare(a.ID.Kind, b.ID.Kind), cmp.Compare(a.ID.Namespace, b.ID.Namespace)) < 0
}

func (r *Reference) profiles(names []string, d model.Direction, p *model.Packet) string {
	for _, name := range names {
		profile := r.snapshot.Policy.Profiles[name]
		if profile == nil {
			continue
		}
		rules := profile.Ingress
		if d == model.Egress {
			rules = profile.Egress
		}
		if v := r.rules(rules, d, p, false); v == "allow" || v == "deny" {
			return v
		}
	}
	return ""
}

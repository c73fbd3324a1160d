package street

import (
	"errors"
	"fmt"
	"net/netip"

	"weft/model"
	"weft/policy"
)

const otherPods = 98

// compiler returns one that has all of a spec but the talking pods.
func compiler(spec Spec) (*policy.Compiler, error) {
	c := policy.NewCompiler("n0")
	allow := []model.Rule{{Action: model.Allow}}
	errs := []error{c.SetProfile(&model.Profile{Name: "kns.ns", Ingress: allow, Egress: allow})}
	for n := range otherPods {
		errs = append(errs, c.SetEndpoint(&model.Endpoint{ID: model.EndpointID{Namespace: "ns", Pod: fmt.Sprint("other", n), Interface: "eth0"},
			Device: fmt.Sprintf("weft%011x", n), MAC: model.MAC{2, 0, 0, 0, 1, byte(n)}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 1, byte(n)})},
			Labels: labels(n), Profiles: []string{"kns.ns"}}))
	}
	for n := range spec.Others {
		errs = append(errs, c.SetPolicy(threeRules(n, label(n))))
	}
	for n := range spec.Policies {
		p := threeRules(n, "has(talks)")
		if n == spec.Policies-1 {
			p.Ingress[2] = allow[0]
		}
		errs = append(errs, c.SetPolicy(p))
	}
	if spec.Members > 0 {
		errs = append(errs, c.SetNetworkSet(&model.NetworkSet{ID: model.NetworkSetID{Name: "big"}, Labels: map[string]string{"big": "yes"}, Nets: members(spec.Members)}))
		errs = append(errs, c.SetPolicy(&model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: "big"}, Selector: "has(talks)",
			Ingress: []model.Rule{{Action: model.Allow, Source: matches("has(big)")}}}))
	}
	return c, errors.Join(errs...)
}

func matches(selector string) model.EntityMatch { return model.EntityMatch{Selector: &selector} }

// label is the n-th of 20 labels' ten values, which as many pods have as not.
func label(n int) string { return fmt.Sprintf("label%d == 'value%d'", n%20, n/20%10) }

func labels(n int) map[string]string {
	l := map[string]string{}
	for i := range 4 {
		l[fmt.Sprint("label", (n+5*i)%20)] = fmt.Sprint("value", (n/20+i)%10)
	}
	return l
}

// threeRules are none that the talking pods' packets match.
func threeRules(n int, selector string) *model.Policy {
	order, _ := model.OrderOf(float64(n))
	port := uint16(20000 + n%10000)
	return &model.Policy{ID: model.PolicyID{Kind: model.KindGlobalNetworkPolicy, Name: fmt.Sprint("policy", n)}, Order: order, Selector: selector,
		Ingress: []model.Rule{
			{Action: model.Allow, Protocol: model.TCP, Source: matches(label(n + 1)), Destination: model.EntityMatch{Ports: []model.Port{{Range: model.PortRange{First: port, Last: port}}}}},
			{Action: model.Deny, Source: model.EntityMatch{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 32)}}},
			{Action: model.Allow, Protocol: model.UDP, Source: matches(label(n + 2))},
		}}
}

// members are single addresses, that of the pod that sends among them.
func members(n int) []netip.Prefix {
	out := []netip.Prefix{model.HostPrefix(addrA)}
	for i := range n - 1 {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 1}), 32))
	}
	return out
}

package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"weft/model"
)

// subject is anything with labels and addresses that a rule's selectors can find.
type subject struct {
	labels   map[string]string
	profiles []string
	nets     []netip.Prefix
	ports    []model.EndpointPort
	local    bool
}

func podSubject(e *model.Endpoint) (*subject, error) {
	nets, err := hostPrefixes(e.Addresses)
	if err == nil {
		_, err = masked(e.Sources)
	}
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", e.ID, err)
	}
	return &subject{e.Labels, e.Profiles, nets, e.Ports, true}, nil
}

func remoteSubject(e *model.RemoteEndpoint) (*subject, error) {
	nets, err := hostPrefixes(e.Addresses)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s on node %s: %w", e.ID.EndpointID, e.ID.Node, err)
	}
	return &subject{e.Labels, e.Profiles, nets, e.Ports, false}, nil
}

func hostSubject(h *model.HostEndpoint, self model.NodeName) (*subject, error) {
	nets, err := hostPrefixes(h.ExpectedIPs)
	if err != nil {
		return nil, fmt.Errorf("host endpoint %s: %w", h.Name, err)
	}
	return &subject{h.Labels, h.Profiles, nets, h.Ports, h.Node == self}, nil
}

func netsSubject(n *model.NetworkSet) (*subject, error) {
	nets, err := masked(n.Nets)
	if err != nil {
		return nil, fmt.Errorf("network set %s/%s: %w", n.ID.Namespace, n.ID.Name, err)
	}
	return &subject{n.Labels, n.Profiles, nets, nil, false}, nil
}

func hostPrefixes(addrs []netip.Addr) ([]netip.Prefix, error) {
	nets := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" {
			return nil, fmt.Errorf("address %s: want an IPv4 or IPv6 address without a zone", a)
		}
		nets = append(nets, model.HostPrefix(a))
	}
	return nets, nil
}

// masked returns prefixes without host bits: the same list when none has any, since it may be long.
func masked(nets []netip.Prefix) ([]netip.Prefix, error) {
	same := true
	for _, n := range nets {
		if !n.IsValid() || n.Addr().Is4In6() {
			return nil, fmt.Errorf("prefix %s: want an IPv4 or IPv6 prefix", n)
		}
		same = same && n == n.Masked()
	}
	if same {
		return nets, nil
	}
	out := make([]netip.Prefix, len(nets))
	for i, n := range nets {
		out[i] = n.Masked()
	}
	return out, nil
}

// members calls f for every member that the subject gives to a set whose selector selects it.
func (s *subject) members(id SetID, f func(Member)) {
	if id.Kind == Selected {
		for _, n := range s.nets {
			if model.FamilyOf(n.Addr()) == id.Family {
				f(Member{Prefix: n})
			}
		}
		return
	}
	if id.Local && !s.local {
		return
	}
	for _, p := range s.ports {
		if p.Name != id.Name {
			continue
		}
		for _, n := range s.nets {
			if model.FamilyOf(n.Addr()) == id.Family {
				f(Member{n, p.Protocol, p.Port})
			}
		}
	}
}

// serviceMembers calls f for every member that a service's endpoints give to a set.
func serviceMembers(endpoints []model.ServiceEndpoint, id SetID, f func(Member)) {
	for _, e := range endpoints {
		if model.FamilyOf(e.Address) != id.Family {
			continue
		}
		if id.Kind == ServiceAddrs {
			f(Member{Prefix: model.HostPrefix(e.Address)})
		} else if e.Port != 0 {
			f(Member{model.HostPrefix(e.Address), e.Protocol, e.Port})
		}
	}
}

// serviceOf returns the service that a set is of, if it is of one.
func serviceOf(id SetID) (model.ServiceID, bool) {
	if id.Kind != ServicePorts && id.Kind != ServiceAddrs {
		return model.ServiceID{}, false
	}
	namespace, name, _ := strings.Cut(id.Name, "/")
	return model.ServiceID{Namespace: namespace, Name: name}, true
}

func checkService(id model.ServiceID, endpoints []model.ServiceEndpoint) error {
	for _, e := range endpoints {
		if _, err := hostPrefixes([]netip.Addr{e.Address}); err != nil {
			return fmt.Errorf("service %s: %w", id, err)
		}
	}
	return nil
}

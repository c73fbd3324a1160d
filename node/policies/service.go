package policies

import (
	"fmt"
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"

	"weft/model"
)

// sliceOf converts an EndpointSlice: the service it is of, which has no name when it is of none, and
// its endpoints, ready or not. A port that says "every port" counts where only the address does.
func sliceOf(s *discoveryv1.EndpointSlice) (model.ServiceID, []model.ServiceEndpoint, error) {
	id := model.ServiceID{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
	if id.Name == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return model.ServiceID{}, nil, nil
	}
	type target struct {
		protocol model.Protocol
		port     uint16
	}
	var targets []target
	for i, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		number, err := kubernetesProtocol(p.Protocol)
		if err != nil {
			return id, nil, fmt.Errorf("ports[%d]: %w", i, err)
		}
		targets = append(targets, target{number, uint16(*p.Port)})
	}
	var out []model.ServiceEndpoint
	for i, e := range s.Endpoints {
		for _, text := range e.Addresses {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return id, nil, fmt.Errorf("endpoints[%d]: %w", i, err)
			}
			if len(targets) == 0 {
				out = append(out, model.ServiceEndpoint{Address: a})
			}
			for _, t := range targets {
				out = append(out, model.ServiceEndpoint{Address: a, Protocol: t.protocol, Port: t.port})
			}
		}
	}
	return id, out, nil
}

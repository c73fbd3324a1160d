package policy

import (
	"errors"

	"weft/model"
)

// Replace tells the Compiler of everything at once: what the snapshot does not hold is deleted. It
// is for the start, and for after a gap in the stream of changes; Flush finds the net difference.
// The error joins one entry for each object that was refused.
func (c *Compiler) Replace(s *model.Snapshot) error {
	v := &s.Policy
	c.SetConfig(v.Config)
	c.SetLinks(s.Underlay.Links)
	c.SetOverlay(v.Overlay)
	pods := make(map[model.EndpointID]*model.Endpoint, len(s.Endpoints))
	for id, e := range s.Endpoints {
		pods[id] = &e
	}
	set := func(t *model.Tier) error { c.SetTier(t); return nil }
	errs := []error{
		replace(c.tiers, v.Tiers, set, c.DeleteTier),
		replace(c.profiles, v.Profiles, c.SetProfile, c.DeleteProfile),
		replace(c.policies, v.Policies, c.SetPolicy, c.DeletePolicy),
		replace(c.pods, pods, c.SetEndpoint, c.DeleteEndpoint),
		replace(c.heps, v.HostEndpoints, c.SetHostEndpoint, c.DeleteHostEndpoint),
		replace(c.nets, v.NetworkSets, c.SetNetworkSet, c.DeleteNetworkSet),
		replace(c.remote, v.Remote, c.SetRemote, c.DeleteRemote),
	}
	for id := range c.services {
		if _, there := v.Services[id]; !there {
			c.DeleteService(id)
		}
	}
	for id, endpoints := range v.Services {
		errs = append(errs, c.SetService(id, endpoints))
	}
	return errors.Join(errs...)
}

func replace[K comparable, S, V any](known map[K]S, want map[K]V, set func(V) error, remove func(K)) error {
	var errs []error
	for k := range known {
		if _, there := want[k]; !there {
			remove(k)
		}
	}
	for _, v := range want {
		errs = append(errs, set(v))
	}
	return errors.Join(errs...)
}

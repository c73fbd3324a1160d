package node

import (
	"cmp"
	"net/netip"

	v3 "weft/api/v3"
	"weft/model"
)

// natSettings merges what the FelixConfigurations of this node say about the translation of what leaves
// the cluster, as tunnelSettings does. They are valid: the store's reader saw to it.
func (c *cluster) natSettings() model.NATConfig {
	var n model.NATConfig
	for _, f := range c.felixChain() {
		s := &f.Spec
		if s.NATOutgoingExclusions != "" {
			n.SpareHosts = s.NATOutgoingExclusions == v3.NATExcludePoolsAndHosts
		}
		if s.NATPortRange != nil {
			if first, last, err := v3.ParsePortRange(*s.NATPortRange); err == nil {
				n.Ports = model.PortRange{First: first, Last: last}
			}
		}
		if a, err := netip.ParseAddr(s.NATOutgoingAddress); err == nil {
			n.Address = a
		}
		n.Interface = cmp.Or(s.IptablesNATOutgoingInterfaceFilter, n.Interface)
	}
	return n
}

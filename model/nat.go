package model

import (
	"fmt"
	"net/netip"
)

// NATConfig is the part of FelixConfiguration that shapes the translation of what pods send out of
// the cluster. The zero value has all defaults.
type NATConfig struct {
	// SpareHosts leaves traffic to the cluster's nodes as it is (natOutgoingExclusions
	// IPPoolsAndHostIPs).
	SpareHosts bool
	Ports      PortRange  // new source ports (natPortRange)
	Address    netip.Addr // new source address, IPv4 (natOutgoingAddress); invalid: the interface's own
	// Interface limits it to what leaves by this interface; a + at the end stands for the rest of
	// a name (iptablesNATOutgoingInterfaceFilter). Empty: by any.
	Interface string
}

// PortRange is the ports from First to Last, both included. The zero value is no range.
type PortRange struct{ First, Last uint16 }

// IsZero tells whether there is no range.
func (r PortRange) IsZero() bool { return r == PortRange{} }

// String prints "20000-29999".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

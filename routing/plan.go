// Package routing compiles, purely, which routes this host keeps in the kernel: Plan. Its driver
// routing/fib makes the kernel so.
package routing

import (
	"net/netip"
)

// Plan is every route that this host keeps. The zero plan means "gone". No prefix is in both.
type Plan struct {
	Routes []Route // to blocks and to addresses of other nodes, sorted by Dst
	Pods   []Route // to addresses of this host's pods, sorted by Dst
}

// Route is one route of the main table with our protocol number.
type Route struct {
	Dst         netip.Prefix
	Blackhole   bool       // a block of this host: what no pod has goes nowhere
	Unreachable bool       // another node's, with no way to it: refused rather than sent elsewhere
	Via         netip.Addr // invalid: Dst is on Device itself (a local pod)
	Device      string
	Source      netip.Addr // preferred source; may be invalid
	MTU         int        // bytes; 0: the device's
	Why         string     // not written to the kernel
}

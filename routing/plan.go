// Package routing compiles, purely, which routes this host keeps in the kernel: Plan. Its driver
// routing/fib makes the kernel so.
package routing

import (
	"net/netip"

	"weft/model"
)

// Plan is every route that this host keeps. The zero plan means "gone". No prefix is in it twice.
type Plan struct {
	Routes  []Route // to blocks and to addresses of other nodes, sorted by Dst
	Pods    []Route // to addresses of this host's pods, sorted by Dst
	Learned []Route // from BGP, sorted by Dst: LearnedCompiler
	// Unsettled: Learned is not all of it yet. What an earlier process wrote of it stays: the routes to what is
	// in none of the Pools.
	Unsettled bool
	Pools     []netip.Prefix
}

// Route is one route of the main table with our protocol number.
type Route struct {
	Dst         netip.Prefix
	Blackhole   bool       // a block of this host: what no pod has goes nowhere
	Unreachable bool       // another node's, with no way to it: refused rather than sent elsewhere
	Throw       bool       // this table says nothing of it: the next rule decides
	Via         netip.Addr // invalid: Dst is on Device itself (a local pod)
	Device      string
	Hops        model.Hops // two or more next hops, in place of Via and Device
	Metric      int        // 0: that of all routes of ours
	Source      netip.Addr // preferred source; may be invalid
	MTU         int        // bytes; 0: the device's
	Why         string     // not written to the kernel
}

package kernel

import (
	"net/netip"

	"weft/model"
)

// RouteKey is a route's identity in the kernel (table, prefix, priority; we use TOS 0 only).
type RouteKey struct {
	Table  int // 254 is main
	Dst    netip.Prefix
	Metric int // IPv6 needs one: 0 reads back as 1024
}

// Route is the rest of a route. Type blackhole has neither Via nor Device.
type Route struct {
	Type   RouteType
	Via    netip.Addr // invalid: on link
	Device string
	Hops   model.Hops // two or more, in place of Via and Device
	OnLink bool       // next hops are reachable on their device whatever the addresses say (RTNH_F_ONLINK)
	Source netip.Addr // preferred source; may be invalid
	MTU    int        // bytes; 0: the device's
}

// RouteType is the kernel's route type (RTN_*).
type RouteType string

// The types we write.
const (
	Unicast   RouteType = "unicast"
	Blackhole RouteType = "blackhole"
	// UnreachableType answers with ICMP host unreachable, or ICMPv6 no route.
	UnreachableType RouteType = "unreachable"
	// Throw ends the lookup in its table: the next rule decides.
	Throw RouteType = "throw"
)

// NeighKey names a permanent neighbour entry: an IP address on a device.
type NeighKey struct {
	Device string
	IP     netip.Addr
}

// FDBKey names a static forwarding entry of a VXLAN device: a MAC on the device. The value is the
// outer destination (netip.Addr).
type FDBKey struct {
	Device string
	MAC    model.MAC
}

// AddrKey names an address on a device.
type AddrKey struct {
	Device string
	Prefix netip.Prefix
}

// EventKind is the class of a kernel Event.
type EventKind string

// The classes of events. EventLost means that the kernel dropped some: everything must be read
// again.
const (
	EventLink  EventKind = "link"
	EventAddr  EventKind = "address"
	EventRoute EventKind = "route"
	EventRule  EventKind = "rule"
	EventNeigh EventKind = "neighbour"
	EventFDB   EventKind = "fdb"
	// EventSysctl is a changed per-interface setting (netconf), such as forwarding.
	EventSysctl EventKind = "sysctl"
	EventLost   EventKind = "lost"
)

// Event is one change that the kernel reported. Only the fields of its Kind are set.
type Event struct {
	Kind    EventKind
	Removed bool

	Link Link // EventLink, and the device of the others where the kernel tells it

	Addr netip.Prefix // EventAddr

	RouteKey RouteKey // EventRoute
	Route    Route
	Protocol int // of the route or rule

	Rule Rule // EventRule

	NeighKey NeighKey  // EventNeigh
	MAC      model.MAC // EventNeigh: link-layer address

	FDBKey FDBKey     // EventFDB
	FDBDst netip.Addr // EventFDB

	// NeighState is the kernel's NUD_* state of an EventNeigh or EventFDB (0x80 is permanent).
	NeighState int

	Sysctl      string // EventSysctl: "net/ipv4/conf/all/forwarding"
	SysctlValue int
}

// Link is an interface as the kernel has it.
type Link struct {
	Index int
	Name  string
	Kind  string // "vxlan", "veth", "bridge", "" for hardware
	MTU   int
	MAC   model.MAC
	Up    bool // administratively
	// Running is the operational state: the carrier is there.
	Running bool
}

// Package tunnel holds the table of the interchangeable tunnel drivers and compiles, purely, what
// their devices must look like: Plan. The drivers below it (tunnel/vxlan, ...) make the kernel so.
package tunnel

import (
	"cmp"
	"net/netip"

	"weft/model"
)

// Plan is everything that the tunnel drivers keep in the kernel. The zero plan means "gone".
type Plan struct {
	Links      []Link
	Neighbours []Neighbour // sorted by device, node; no two with one device and IP
	FDB        []FDBEntry  // sorted by device, node; no two with one device and MAC
	Sources    []Source    // sorted by device, node, Outer, Inner
}

// Link is one tunnel device.
type Link struct {
	Driver    string // the row of Drivers that owns it
	Name      string
	Local     netip.Addr // outer source
	Parent    string     // underlay interface
	Addresses []netip.Addr
	MAC       model.MAC
	MTU       int // bytes
	VNI       int
	Port      int // UDP
}

// Neighbour is a permanent ARP or NDP entry: the next hop's inner MAC.
type Neighbour struct {
	Device string
	Node   model.NodeName
	IP     netip.Addr
	MAC    model.MAC
}

// FDBEntry is a static forwarding entry: the inner MAC's outer destination.
type FDBEntry struct {
	Device string
	Node   model.NodeName
	MAC    model.MAC
	Dst    netip.Addr
}

// Source allows the node with underlay address Outer to deliver, through the tunnel Device,
// packets whose inner source is in Inner (rule R9). What no Source allows is dropped.
type Source struct {
	Device string
	Node   model.NodeName
	Outer  netip.Addr
	Inner  netip.Prefix
}

// CompareNeighbours is the order of Plan.Neighbours.
func CompareNeighbours(a, b Neighbour) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Node, b.Node), a.IP.Compare(b.IP))
}

// CompareFDB is the order of Plan.FDB.
func CompareFDB(a, b FDBEntry) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Node, b.Node), a.Dst.Compare(b.Dst))
}

// CompareSources is the order of Plan.Sources.
func CompareSources(a, b Source) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Node, b.Node), a.Outer.Compare(b.Outer), comparePrefix(a.Inner, b.Inner))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Package encryption compiles, purely, which WireGuard devices this host has and what they know of
// the peers: Plan. The driver below it (encryption/wireguard) makes the kernel so, or a process
// that has the device in user space.
package encryption

import (
	"cmp"
	"net/netip"

	"weft/model"
)

// Plan is everything that the WireGuard driver keeps. The zero plan means "gone".
type Plan struct {
	Devices []Device // sorted by Name
	Peers   []Peer   // sorted by Device, Node; no two of one device with a key, or with the same prefix in AllowedIPs
}

// Device is one WireGuard device.
type Device struct {
	Name      string
	Epoch     int
	Key       PrivateKey
	Port      int // UDP
	Addresses []netip.Addr
	MTU       int // bytes
	// FwMark is on the packets that the device itself sends, so that a rule can tell them; 0: none.
	FwMark    uint32
	Threading bool // NAPI threads, of the kernel's device
}

// Peer is a node as a device knows it.
type Peer struct {
	Device string
	Node   model.NodeName
	Key    model.PublicKey
	// Endpoint is where the peer is sent to; once it was heard from elsewhere the device follows it,
	// and the driver leaves that alone unless Endpoint changes.
	Endpoint   netip.AddrPort
	AllowedIPs []netip.Prefix // masked, sorted; what the peer may send from and is sent
	Keepalive  int            // seconds; 0: none
}

// ComparePeers is the order of Plan.Peers.
func ComparePeers(a, b Peer) int {
	return cmp.Or(cmp.Compare(a.Device, b.Device), cmp.Compare(a.Node, b.Node))
}

// PrivateKey is a Curve25519 private key. However it is printed, marshalled or logged, only the fact
// that it is set shows.
type PrivateKey struct{ key [32]byte }

// Package kernel is the project's only door to netlink, sysctls and network namespaces. ids.go
// says what in the kernel is ours; whatever is not named there is never touched.
package kernel

// What is ours in a network namespace. Everything else belongs to somebody else.
const (
	// RouteProtocol marks every route and routing rule that we write (rtnetlink rtm_protocol; 87 is 'W' and is
	// assigned to nobody in /etc/iproute2/rt_protos).
	RouteProtocol = 87

	// VXLANDevice is the VTEP of this host.
	VXLANDevice = "weft-vxlan"
	// IPIPDevice is the shared IPIP device.
	IPIPDevice = "weft-ipip"
	// WireGuardDevice begins the names of encrypting devices.
	WireGuardDevice = "weft-wg"
	// PodLinkPrefix begins the host side of every pod's veth pair; 11 hex digits follow.
	PodLinkPrefix = "weft"

	// NFTable is our one nftables table, of family inet.
	NFTable = "weft"

	// PolicyMark are the bits of a packet's mark that policy drivers may use while a packet is in
	// their chains; they are cleared before it leaves them.
	PolicyMark = 0x0f000000

	// HostTable is the routing table that leads to other nodes' own addresses where these are encrypted, and
	// UnderlayMark the bit of a packet's mark that keeps a packet from being looked up there: the encrypting
	// devices' own have it. The rules that say so have RouteProtocol.
	HostTable    = 8787
	UnderlayMark = 0x10000000

	// ServiceTable is the routing table whose unreachable routes take what comes in for service addresses that nobody
	// serves. The rules that lead to it have RouteProtocol.
	ServiceTable = 8788

	// HeldMark is the bit of a connection's mark (ct mark) that says: policy denies it now, drop it.
	HeldMark = 0x08000000

	// LogGroup is the NFLOG group of packets that policy denied or logged.
	LogGroup = 8787
)

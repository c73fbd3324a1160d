package kernel

import (
	"net/netip"

	"weft/model"
)

// PodLink is the link of one pod: a veth pair between this host and the pod.
type PodLink struct {
	Device    string       // host side, see PodLinkPrefix
	IfName    string       // pod side: "eth0"
	MTU       int          // bytes, both sides
	MAC       model.MAC    // of the pod side; zero lets the kernel choose
	Addresses []netip.Addr // of the pod side; Create ignores them
	// Forwarding lets the pod itself forward packets (ip_forward inside).
	Forwarding bool
}

// PodLinkState is what Create made.
type PodLinkState struct {
	Index int       // of the host side
	MAC   model.MAC // of the pod side
}

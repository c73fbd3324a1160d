// Package byhand is what a person makes with ip(8) and bridge(8) where this project makes it by itself: hosts, pods and
// devices to compare with. It says the commands and runs none of them; only WireGuard, where the kernel has none, is a
// process, see WireGuard.
package byhand

import (
	"fmt"
	"net/netip"
)

// Gateway is the next hop of a pod: an address that nobody has, at the MAC address of the host's side.
var Gateway = netip.MustParseAddr("169.254.1.1")

const gatewayMAC = "ee:ee:ee:ee:ee:ee"

// Host makes a namespace forward packets of its pods.
func Host() []string {
	return []string{
		"ip link set lo up",
		"sysctl -qw net.ipv4.ip_forward=1",
		"sysctl -qw net.ipv4.conf.all.rp_filter=0",
		"sysctl -qw net.ipv4.conf.default.rp_filter=0",
	}
}

// Pod makes a pod's link. netns is the pod's namespace, a name or a path with a slash.
type Pod struct {
	Link, Netns string
	Address     netip.Addr
	MTU         int
}

// OnHost is done on the host, Inside in the pod.
func (p Pod) OnHost() []string {
	return []string{
		fmt.Sprintf("ip link add %s address %s mtu %d type veth peer name eth0 mtu %d netns %s", p.Link, gatewayMAC, p.MTU, p.MTU, p.Netns),
		"ip link set " + p.Link + " up",
		fmt.Sprintf("ip route add %v dev %s", p.Address, p.Link),
	}
}

// Inside is done in the pod, after OnHost.
func (p Pod) Inside() []string {
	return []string{
		"ip link set lo up",
		fmt.Sprintf("ip addr add %v/32 dev eth0", p.Address),
		"ip link set eth0 up",
		fmt.Sprintf("ip route add %v dev eth0", Gateway),
		fmt.Sprintf("ip neigh add %v lladdr %s dev eth0 nud permanent", Gateway, gatewayMAC),
		fmt.Sprintf("ip route add default via %v", Gateway),
	}
}

// VXLAN is a device with one peer.
type VXLAN struct {
	Device, Parent  string
	VNI, Port, MTU  int
	MAC             string
	Address, Local  netip.Addr // inner, outer
	Peer, PeerOuter netip.Addr // what routes name as their next hop, and where it is
	PeerMAC         string
}

// Commands make the device, its address, and what it knows of the peer.
func (v VXLAN) Commands() []string {
	return []string{
		fmt.Sprintf("ip link add %s address %s mtu %d type vxlan id %d dstport %d local %v dev %s nolearning", v.Device, v.MAC, v.MTU, v.VNI, v.Port, v.Local, v.Parent),
		fmt.Sprintf("ip addr add %v/32 dev %s", v.Address, v.Device),
		fmt.Sprintf("ip link set %s up", v.Device),
		fmt.Sprintf("ip neigh add %v lladdr %s dev %s nud permanent", v.Peer, v.PeerMAC, v.Device),
		fmt.Sprintf("bridge fdb add %s dev %s dst %v self permanent", v.PeerMAC, v.Device, v.PeerOuter),
	}
}

// IPIP is a device with one peer.
type IPIP struct {
	Device      string
	MTU         int
	Local, Peer netip.Addr // outer
}

// Commands make the device.
func (t IPIP) Commands() []string {
	return []string{
		fmt.Sprintf("ip link add %s mtu %d type ipip local %v remote %v ttl 64", t.Device, t.MTU, t.Local, t.Peer),
		fmt.Sprintf("ip link set %s up", t.Device),
	}
}

// Routes lead to prefixes; via may be the zero Addr where the device needs none.
func Routes(device string, via netip.Addr, prefixes ...netip.Prefix) []string {
	var out []string
	for _, p := range prefixes {
		c := fmt.Sprintf("ip route replace %v", p)
		if via.IsValid() {
			c += fmt.Sprintf(" via %v", via)
		}
		c += " dev " + device
		if via.IsValid() {
			c += " onlink"
		}
		out = append(out, c)
	}
	return out
}

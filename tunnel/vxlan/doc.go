// Package vxlan keeps this host's VXLAN devices as the tunnel plan wants them: the device, its
// addresses, the static neighbour and forwarding entries, and the guard that lets in only what a
// known node may send. It decides nothing (package tunnel does) and writes no routes.
//
// A packet from pod to pod walks: route (block via peer's node address) → neighbour entry (node
// address to the MAC of the peer's VTEP) → forwarding entry (that MAC to the peer's underlay
// address) → UDP → the peer's guard (outer source, VNI and inner source) → its device → its pod.
// Nothing is learnt and nothing is flooded, so there is no ARP in the tunnel.
package vxlan

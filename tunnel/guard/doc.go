// Package guard lets in, where tunnel packets arrive, only what a known node may send (rule R9 of
// docs/vxlan.md): pairs of outer source and inner source, as the tunnel plan's Sources say. It also keeps
// pods from sending tunnel packets. It is nftables, in the project's table; each tunnel driver has a
// Guard of its own and applies it before its device can receive. It makes no devices.
package guard

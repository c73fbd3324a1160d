// Package wireguard makes the kernel have the WireGuard devices and peers of an encryption.Plan: its own
// devices, or TUN devices of processes (package userspace) where it has none. It owns the links that
// carry our mark and are of these kinds, their addresses and their peers. It owns no route and no rule:
// what is sent to a device is routing's business.
package wireguard

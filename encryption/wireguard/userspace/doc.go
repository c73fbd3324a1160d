// Package userspace is the process that has a WireGuard device in user space: a TUN device, the UDP
// sockets and the protocol (golang.zx2c4.com/wireguard). It outlives the node service, which starts it,
// configures it through its socket and adopts it again. It owns no configuration: keys and peers are
// told, and kept in memory only.
//
// The TUN device stays when the process ends, however it ends, and drops what is sent to it until
// the next process has it: addresses and routes hang from it, so that nothing takes another way.
package userspace

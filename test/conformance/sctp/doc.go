// Package sctp takes the place of github.com/ishidawataru/sctp in the agnhost that test pods run: the part of its API
// that agnhost uses, over the kernel's SCTP where that is, and else over github.com/pion/sctp on raw sockets, for kernels
// without (CONFIG_IP_SCTP). Either way real SCTP packets are on the wire, which is what policy is asked about.
package sctp

package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"weft/model"
)

// inPod opens a socket in the pod's namespace, sets the sysctls there and calls f with the socket.
func (p *PodLinks) inPod(ns *os.File, s []sysctl, f func(*Handle) error) error {
	buf, ok := p.buffers.Get().(*[]byte)
	if !ok {
		b := make([]byte, podBuffer)
		buf = &b
	}
	defer p.buffers.Put(buf)
	h := &Handle{}
	err := enter(ns, func() (err error) {
		if err := setAll(s); err != nil {
			return err
		}
		h.conn, err = openPodConn(*buf)
		return err
	})
	if err != nil {
		return err
	}
	defer h.conn.close()
	return f(h)
}

// podBuffer is more than the kernel puts into one message of a dump (32 KiB), in bytes.
const podBuffer = 64 << 10

// openPodConn opens a socket that lives for one call and reads into buf.
func openPodConn(buf []byte) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := prepareSocket(fd, receiveBuffer); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &conn{file: os.NewFile(uintptr(fd), "netlink"), buf: buf}, nil
}

// all sends the requests in one exchange and joins what failed.
func (h *Handle) all(ctx context.Context, reqs []request) error {
	errs, err := h.exec(ctx, reqs)
	if err != nil {
		return err
	}
	for i, e := range errs {
		if e != nil {
			errs[i] = fmt.Errorf("%s: %w", requestName(reqs[i].typ), e)
		}
	}
	return errors.Join(errs...)
}

func requestName(typ uint16) string {
	switch typ {
	case unix.RTM_NEWADDR:
		return "add address"
	case unix.RTM_NEWROUTE:
		return "add route"
	case unix.RTM_NEWNEIGH:
		return "add neighbour entry"
	case unix.RTM_SETNEIGHTBL:
		return "set neighbour parameters"
	default:
		return "change link"
	}
}

func whenAbsent(there bool) error {
	if there {
		return nil
	}
	return unix.ENODEV
}

func hasFamily(addrs []netip.Addr, f model.Family) bool {
	for _, a := range addrs {
		if model.FamilyOf(a) == f {
			return true
		}
	}
	return false
}

func setUp(index int) request {
	return request{unix.RTM_NEWLINK, 0, ifInfo(index, unix.IFF_UP, unix.IFF_UP).b}
}

// Indices of the IPv4 settings of an interface (linux/ip.h, IPV4_DEVCONF_*) and of the attributes
// around them (linux/if_link.h, linux/neighbour.h) that package unix lacks.
const (
	confForwarding      = 1
	confProxyARP        = 3
	confAcceptRedirects = 4
	confSendRedirects   = 6
	confRPFilter        = 8
	confRouteLocalnet   = 26
	iflaInetConf        = 1
	iflaInet6AddrGen    = 8
	addrGenNone         = 1 // IN6_ADDR_GEN_MODE_NONE
	ndtaName            = 1
	ndtaParms           = 6
	ndtpaIfindex        = 1
	ndtpaProxyDelay     = 13
)

// setPodConf makes the IPv4 settings of the host side in one message, before the link is up; with
// v6, no link-local address is made, since we add the gateway's ourselves.
func setPodConf(index int, v6 bool) request {
	e := ifInfo(index, 0, 0).nest(unix.IFLA_AF_SPEC, func(e *encoder) {
		e.nest(unix.AF_INET, func(e *encoder) {
			e.nest(iflaInetConf, func(e *encoder) {
				e.u32(confRPFilter, 1)        // strict: a pod sends from its own address only
				e.u32(confRouteLocalnet, 0)   // 127.0.0.0/8 of the host is not for pods
				e.u32(confAcceptRedirects, 0) // a pod does not change the host's routes
				e.u32(confSendRedirects, 0)
				e.u32(confForwarding, 1)
				e.u32(confProxyARP, 1) // answers for 169.254.1.1, for pods that flush their neighbours
			})
		})
		if v6 {
			e.nest(unix.AF_INET6, func(e *encoder) { e.attr(iflaInet6AddrGen, []byte{addrGenNone}) })
		}
	})
	return request{unix.RTM_NEWLINK, 0, e.b}
}

// noProxyDelay makes the kernel answer proxied ARP at once instead of within 0.8 s (struct ndtmsg).
func noProxyDelay(index int) request {
	e := (&encoder{}).raw(unix.AF_INET, 0, 0, 0).str(ndtaName, "arp_cache").nest(ndtaParms, func(e *encoder) {
		e.u32(ndtpaIfindex, uint32(index)).attr(ndtpaProxyDelay, make([]byte, 8)) // milliseconds
	})
	return request{unix.RTM_SETNEIGHTBL, 0, e.b}
}

// addAddr adds an address (struct ifaddrmsg) without duplicate address detection: the link has two
// ends, and we chose the addresses of both.
func addAddr(index int, a netip.Prefix, scope byte) request {
	e := (&encoder{}).raw(familyOf(a.Addr()), byte(a.Bits()), 0, scope).rawU32(uint32(index))
	e.addr(unix.IFA_LOCAL, a.Addr()).addr(unix.IFA_ADDRESS, a.Addr())
	if a.Addr().Is6() {
		e.u32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return request{unix.RTM_NEWADDR, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, e.b}
}

// addNeigh adds a permanent neighbour entry (struct ndmsg).
func addNeigh(index int, ip netip.Addr, m model.MAC) request {
	e := (&encoder{}).raw(familyOf(ip), 0, 0, 0).rawU32(uint32(index))
	e.raw(unix.NUD_PERMANENT, 0, 0, unix.RTN_UNICAST)
	e.addr(unix.NDA_DST, ip).mac(unix.NDA_LLADDR, m)
	return request{unix.RTM_NEWNEIGH, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, e.b}
}

// addRoute adds a route of the main table (struct rtmsg). An invalid via makes it on link.
func addRoute(index int, dst netip.Prefix, via netip.Addr) request {
	scope := byte(unix.RT_SCOPE_UNIVERSE)
	if !via.IsValid() {
		scope = unix.RT_SCOPE_LINK
	}
	e := (&encoder{}).raw(familyOf(dst.Addr()), byte(dst.Bits()), 0, 0,
		unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, scope, unix.RTN_UNICAST).rawU32(0)
	if dst.Bits() > 0 {
		e.addr(unix.RTA_DST, dst.Addr())
	}
	if via.IsValid() {
		e.addr(unix.RTA_GATEWAY, via)
	}
	e.u32(unix.RTA_OIF, uint32(index))
	return request{unix.RTM_NEWROUTE, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, e.b}
}

package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// Place is where sockets are opened: the path of a network namespace; empty is this process's own.
type Place string

func (p Place) do(f func() error) error {
	if p == "" {
		return f()
	}
	return kernel.Do(string(p), f)
}

// keepAlive notices within some 15 s that the other end has gone without a word.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 2}

// Listener is where a Server is reached: a TCP and a UDP port of the same number.
type Listener struct {
	tcp net.Listener
	udp *net.UDPConn
}

// Listen opens the ports of an address; port 0 takes a free one. The address may not be the unspecified one: who wants
// to be reached says at which address.
func Listen(ctx context.Context, p Place, at netip.AddrPort) (*Listener, error) {
	if !at.Addr().IsValid() || at.Addr().IsUnspecified() {
		return nil, fmt.Errorf("listen on %v: want one address of this host, not all of them", at)
	}
	l := &Listener{}
	err := p.do(func() (err error) {
		lc := net.ListenConfig{Control: kernel.Cubic, KeepAliveConfig: keepAlive}
		if l.tcp, err = lc.Listen(ctx, "tcp", at.String()); err != nil {
			return err
		}
		l.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr()))
		return err
	})
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %v: %w", at, err)
	}
	_ = l.udp.SetReadBuffer(4 << 20) // as much of it as the host allows
	if err := unfragmented(l.udp, at.Addr()); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %v: %w", at, err)
	}
	return l, nil
}

// Addr returns the address and the port.
func (l *Listener) Addr() netip.AddrPort {
	a := l.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// Close ends the listening.
func (l *Listener) Close() {
	if l.tcp != nil {
		_ = l.tcp.Close()
	}
	if l.udp != nil {
		_ = l.udp.Close()
	}
}

func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var inner error
	err := c.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// mss bounds the segments of a socket, so that its packets have at most this many bytes of IP.
func mss(mtu int, to netip.Addr) func(fd int) error {
	headers := 20 + 20 // IPv4 and TCP; the kernel takes TCP's options off itself
	if to.Is6() {
		headers += 20
	}
	return func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, mtu-headers)
	}
}

// unfragmented sends every packet as it is, with DF, whatever the kernel has learned of the path (ip(7)).
func unfragmented(c *net.UDPConn, to netip.Addr) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(raw, func(fd int) error {
		if to.Is6() {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	})
}

// retransmits is how many segments of the connections were sent again (tcpi_total_retrans, tcp(7)).
func retransmits(conns []net.Conn) (sum uint64) {
	for _, c := range conns {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			continue
		}
		_ = onSocket(raw, func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil {
				sum += uint64(info.Total_retrans)
			}
			return err
		})
	}
	return sum
}

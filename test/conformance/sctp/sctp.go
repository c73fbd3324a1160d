package sctp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// SCTPAddr is an address of an endpoint: of several addresses only the first is used.
type SCTPAddr struct {
	IPAddrs []net.IPAddr
	Port    int
}

// ResolveSCTPAddr reads HOST:PORT.
func ResolveSCTPAddr(_, address string) (*SCTPAddr, error) {
	a, err := net.ResolveUDPAddr("udp4", address)
	if err != nil {
		return nil, err
	}
	if a.IP == nil {
		a.IP = net.IPv4zero
	}
	return &SCTPAddr{[]net.IPAddr{{IP: a.IP}}, a.Port}, nil
}

// Network is "sctp".
func (a *SCTPAddr) Network() string { return "sctp" }

// String is HOST:PORT.
func (a *SCTPAddr) String() string {
	return net.JoinHostPort(a.IPAddrs[0].String(), strconv.Itoa(a.Port))
}

func (a *SCTPAddr) ip4() (ip [4]byte, err error) {
	if len(a.IPAddrs) == 0 || a.IPAddrs[0].IP.To4() == nil {
		return ip, fmt.Errorf("address %v: want one of IPv4", a.IPAddrs)
	}
	copy(ip[:], a.IPAddrs[0].IP.To4())
	return ip, nil
}

// stream is an association of one stream.
type stream interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// SCTPConn is an association.
type SCTPConn struct {
	stream
	peer *SCTPAddr
}

// SCTPRemoteAddr is the peer's address.
func (c *SCTPConn) SCTPRemoteAddr(int) (*SCTPAddr, error) { return c.peer, nil }

// Close ends the association; one that never came to be is closed already.
func (c *SCTPConn) Close() error {
	if c == nil || c.stream == nil {
		return errors.New("no association")
	}
	return c.stream.Close()
}

// SCTPListener takes associations of a port.
type SCTPListener struct {
	accept func() (*SCTPConn, error)
	close  func() error
}

// AcceptSCTP waits for the next association.
func (l *SCTPListener) AcceptSCTP() (*SCTPConn, error) { return l.accept() }

// Close ends the listening; associations go on.
func (l *SCTPListener) Close() error { return l.close() }

// DialSCTP makes an association; the local address is the kernel's choice.
func DialSCTP(_ string, _, to *SCTPAddr) (*SCTPConn, error) {
	ip, err := to.ip4()
	if err != nil {
		return nil, err
	}
	if inKernel() {
		return dialKernel(ip, to)
	}
	return dialUser(to)
}

// ListenSCTP listens at a port of all addresses.
func ListenSCTP(_ string, at *SCTPAddr) (*SCTPListener, error) {
	if inKernel() {
		return listenKernel(at)
	}
	return listenUser(at)
}

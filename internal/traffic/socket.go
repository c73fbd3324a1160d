package traffic

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// bufferBytes is what a socket may queue: a quarter of a second of all pairs, were this process
// not scheduled for so long.
const bufferBytes = 16 << 20

// openSocket opens a non-blocking UDP socket in the host's namespace, bound to its address and a
// port of the kernel's choice.
func openSocket(h Host) (fd int, port uint16, err error) {
	family := unix.AF_INET
	if h.Addr.Is6() {
		family = unix.AF_INET6
	}
	err = kernel.Do(h.Netns, func() error {
		fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, 0, fmt.Errorf("open a socket on %s: %w", h.Name, err)
	}
	for _, set := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferBytes) },
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, bufferBytes) },
		func() error { return unix.Bind(fd, sockaddr(h.Addr, 0)) },
	} {
		if err := set(); err != nil {
			unix.Close(fd)
			return -1, 0, fmt.Errorf("prepare a socket on %s (%v): %w", h.Name, h.Addr, err)
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return -1, 0, fmt.Errorf("ask for the port on %s: %w", h.Name, err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		port = uint16(sa.Port)
	}
	return fd, port, nil
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}

// rawAddr is a sockaddr_in or sockaddr_in6 as the kernel reads it.
type rawAddr struct {
	bytes [unix.SizeofSockaddrInet6]byte
	size  uint32
}

func newRawAddr(a netip.Addr, port uint16) *rawAddr {
	r := &rawAddr{}
	put := func(family uint16, at int, addr []byte, size uint32) {
		*(*uint16)(unsafe.Pointer(&r.bytes[0])) = family
		r.bytes[2], r.bytes[3] = byte(port>>8), byte(port)
		copy(r.bytes[at:], addr)
		r.size = size
	}
	if a.Is4() {
		put(unix.AF_INET, 4, a.AsSlice(), unix.SizeofSockaddrInet4)
	} else {
		put(unix.AF_INET6, 8, a.AsSlice(), unix.SizeofSockaddrInet6)
	}
	return r
}

// mmsghdr is struct mmsghdr of sendmmsg(2) on 64-bit machines.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   uint32
}

// mmsg is sendmmsg(2) or recvmmsg(2) without waiting; it returns how many messages were dealt with.
func mmsg(call uintptr, fd int, m []mmsghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

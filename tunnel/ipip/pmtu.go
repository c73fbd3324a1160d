package ipip

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// pmtuSocket makes the kernel believe routers that say that an outer packet was too big. Without the
// ipip module nobody but a raw socket of its protocol takes such messages; with one, the kernel
// keeps the MTU of the path (RFC 1191), and the programs find it when they look up the route. What
// was learnt stays when the socket closes, for net.ipv4.route.mtu_expires seconds.
type pmtuSocket struct{ f *os.File }

func listenPMTU(h *kernel.Handle) (*pmtuSocket, error) {
	fd := -1
	err := h.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IPIP)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a raw socket of IP protocol 4, to learn the MTU of paths: %w", err)
	}
	// No packet is to be queued.
	none := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare a raw socket of IP protocol 4: %w", err)
	}
	return &pmtuSocket{os.NewFile(uintptr(fd), "ipip-pmtu")}, nil
}

func (s *pmtuSocket) close() {
	if s != nil {
		s.f.Close()
	}
}

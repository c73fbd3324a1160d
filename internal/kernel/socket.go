package kernel

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cubic is the Control of a dialer or listener whose congestion control is cubic, whatever the host has.
func Cubic(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
	return errors.Join(err, set)
}

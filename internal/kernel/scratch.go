package kernel

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Do runs f in the network namespace that h works in, on a thread of its own; see the function Do.
func (h *Handle) Do(f func() error) error {
	ns, err := h.Namespace()
	if err != nil {
		return err
	}
	defer ns.Close()
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace of a netlink socket: %w", err)
		}
		return f()
	})
}

// InScratch runs f with a handle on a network namespace that nobody else sees and that is gone when
// f returns: to find out what the kernel can do. It needs root.
func InScratch(f func(*Handle) error) error {
	return onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace to try the kernel in (needs root): %w", err)
		}
		h, err := Open()
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

// NewScratch makes a network namespace without a name, whose loopback is down. It lives as long as the file or a socket
// in it is open: whatever is in it is gone when this process ends, however that ends. It needs root.
func NewScratch() (ns *os.File, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace (needs root): %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// LinkMove moves a link, which is set down thereby, into another network namespace. The outer packets of a tunnel device
// go on in the one that it was made in.
func (h *Handle) LinkMove(ctx context.Context, name string, to *os.File) error {
	return h.changeLink(ctx, name, "move to another network namespace", ifInfo(0, 0, 0).u32(unix.IFLA_NET_NS_FD, uint32(to.Fd())))
}

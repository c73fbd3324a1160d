package kernel

import (
	"fmt"

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

package wireguard

import (
	"context"
	"errors"
	"fmt"

	"weft/internal/kernel"
)

// Probe returns the way to WireGuard that this kernel has, the kernel's own first, or an error that says
// what is missing. It tries them in a network namespace of its own.
func Probe(ctx context.Context) (Way, error) {
	var errs []error
	for _, w := range []Way{Kernel, Userspace} {
		err := Check(ctx, w)
		if err == nil {
			return w, nil
		}
		errs = append(errs, fmt.Errorf("way %s: %w", w, err))
	}
	return "", fmt.Errorf("this host has no WireGuard: load the module wireguard (Linux 5.6), or the module tun and give access to /dev/net/tun: %w", errors.Join(errs...))
}

// Check tells why this kernel has not the way to WireGuard; nil when it has.
func Check(ctx context.Context, w Way) error {
	switch w {
	case Kernel:
		return kernel.InScratch(func(h *kernel.Handle) error { return h.AddWireGuard(ctx, kernel.WireGuardDevice, 1420) })
	case Userspace:
		return kernel.InScratch(func(*kernel.Handle) error { return kernel.CheckTUN() })
	}
	return fmt.Errorf("way to WireGuard %q: want %q or %q", w, Kernel, Userspace)
}

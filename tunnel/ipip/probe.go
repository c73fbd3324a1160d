package ipip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"weft/internal/kernel"
)

// Probe returns the way to IPIP that this kernel has, the kernel's own first, or an error that says
// what is missing. It tries them in a network namespace of its own.
func Probe(ctx context.Context) (Way, error) {
	var errs []error
	for _, w := range []Way{Kernel, EBPF} {
		err := Check(ctx, w)
		if err == nil {
			return w, nil
		}
		errs = append(errs, fmt.Errorf("way %s: %w", w, err))
	}
	return "", fmt.Errorf("this kernel has no IPIP: load the module ipip, or let eBPF work (CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT with TCX or clsact, a link of kind dummy or ifb): %w", errors.Join(errs...))
}

// Check tells why this kernel has not the way to IPIP; nil when it has.
func Check(ctx context.Context, w Way) error {
	if w != Kernel && w != EBPF {
		return fmt.Errorf("way to IPIP %q: want %q or %q", w, Kernel, EBPF)
	}
	return kernel.InScratch(func(h *kernel.Handle) error {
		d := New(h, w, slog.New(slog.DiscardHandler))
		defer d.Close()
		if err := d.add(ctx, nil, kernel.TunnelLink{
			Link:  kernel.Link{Name: kernel.IPIPDevice, MTU: 1480, MAC: kernel.TunnelMAC()},
			Local: netip.AddrFrom4([4]byte{192, 0, 2, 1}),
		}); err != nil || w == Kernel {
			return err
		}
		dev, err := d.read(ctx, kernel.IPIPDevice)
		if err != nil {
			return err
		}
		d.bpf.hooks = hooksOf(h)
		if err := d.bpf.load(nil); err != nil {
			return err
		}
		_, err = d.bpf.attach(ctx, dev.Index, map[int]bool{dev.Index: true}, nil)
		return err
	})
}

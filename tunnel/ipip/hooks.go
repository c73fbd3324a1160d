package ipip

import (
	"context"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// place is a hook of a link.
type place struct {
	index int // of the link
	hook  kernel.Hook
}

// hooks are where tc programs run. What is attached stays when the process ends and goes with its
// link: nothing has to be pinned, and the next process finds it by looking at the links.
type hooks interface {
	// list returns the programs at each of the places; a link that is gone has none.
	list(ctx context.Context, places []place) ([][]ebpf.ProgramID, error)
	// attach runs program at the place, instead of old where that is not nil: there is no moment
	// without either.
	attach(ctx context.Context, p place, program, old *ebpf.Program) error
	// detach takes a program away; an absent one is not an error.
	detach(ctx context.Context, p place, program *ebpf.Program) error
}

// hooksOf returns TCX where the kernel has it (6.6), else clsact.
func hooksOf(h *kernel.Handle) hooks {
	const loopback = 1
	if _, err := (tcx{h}).list(context.Background(), []place{{loopback, kernel.Egress}}); err == nil {
		return tcx{h}
	}
	return clsact{h}
}

// tcx attaches without a link object: those live as long as somebody holds or pins them, and a pin
// lives as long as its mount, which may be the process's own.
type tcx struct{ h *kernel.Handle }

func (p place) tcx() ebpf.AttachType {
	if p.hook == kernel.Egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

func (t tcx) list(_ context.Context, places []place) ([][]ebpf.ProgramID, error) {
	out := make([][]ebpf.ProgramID, len(places))
	err := t.h.Do(func() error {
		for i, p := range places {
			there, err := link.QueryPrograms(link.QueryOptions{Target: p.index, Attach: p.tcx()})
			if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return fmt.Errorf("list the %s programs of link %d: %w", p.hook, p.index, err)
			}
			for _, a := range there.Programs {
				out[i] = append(out[i], a.ID)
			}
		}
		return nil
	})
	return out, err
}

func (t tcx) attach(_ context.Context, p place, program, old *ebpf.Program) error {
	o := link.RawAttachProgramOptions{Target: p.index, Program: program, Attach: p.tcx()}
	if old != nil {
		o.Anchor = link.ReplaceProgram(old)
	}
	err := t.h.Do(func() error { return link.RawAttachProgram(o) })
	if err != nil {
		return fmt.Errorf("attach a program to the %s of link %d: %w", p.hook, p.index, err)
	}
	return nil
}

func (t tcx) detach(_ context.Context, p place, program *ebpf.Program) error {
	o := link.RawDetachProgramOptions{Target: p.index, Program: program, Attach: p.tcx()}
	err := t.h.Do(func() error { return link.RawDetachProgram(o) })
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("detach a program from the %s of link %d: %w", p.hook, p.index, err)
	}
	return nil
}

// clsact attaches a filter: for kernels without TCX.
type clsact struct{ h *kernel.Handle }

func (c clsact) list(ctx context.Context, places []place) ([][]ebpf.ProgramID, error) {
	out := make([][]ebpf.ProgramID, len(places))
	for i, p := range places {
		filters, err := c.h.BPFFilters(ctx, p.index, p.hook)
		if err != nil {
			return nil, err
		}
		for _, f := range filters {
			out[i] = append(out[i], ebpf.ProgramID(f.ID))
		}
	}
	return out, nil
}

func (c clsact) attach(ctx context.Context, p place, program, _ *ebpf.Program) error {
	return c.h.SetBPFFilter(ctx, p.index, p.hook, "weft-ipip", program.FD())
}

func (c clsact) detach(ctx context.Context, p place, _ *ebpf.Program) error {
	return c.h.DeleteBPFFilter(ctx, p.index, p.hook)
}

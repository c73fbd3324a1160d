package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Hook is where a tc program sees packets of a link.
type Hook int

// The hooks.
const (
	Ingress Hook = iota
	Egress
)

func (k Hook) String() string { return [...]string{"ingress", "egress"}[k] }

// parent is the tc handle of the hook's filters (linux/pkt_sched.h TC_H_MIN_INGRESS, TC_H_MIN_EGRESS).
func (k Hook) parent() uint32 { return clsact&^0xffff | 0xfff2 + uint32(k) }

const (
	clsact       = 0xfffffff1 // TC_H_CLSACT
	clsactHandle = 0xffff0000
	tcMsgSize    = 20 // struct tcmsg
	// linux/pkt_cls.h, linux/rtnetlink.h
	tcaKind, tcaOptions               = 1, 2
	tcaBPFFD, tcaBPFName, tcaBPFFlags = 6, 7, 8
	tcaBPFID                          = 11
	directAction                      = 1
	// filterPriority and filterHandle are where our filters are; others may have theirs beside them.
	filterPriority, filterHandle = 87, 1
	ethPAll                      = unix.ETH_P_ALL
)

// BPFFilter is a tc filter that runs an eBPF program.
type BPFFilter struct {
	Name string
	ID   uint32 // of the program
}

func tcMsg(index int, handle, parent, info uint32) *encoder {
	e := &encoder{}
	return e.raw(unix.AF_UNSPEC, 0, 0, 0).rawU32(uint32(index)).rawU32(handle).rawU32(parent).rawU32(info)
}

func filterInfo() uint32 {
	var be [2]byte
	binary.BigEndian.PutUint16(be[:], ethPAll)
	return filterPriority<<16 | uint32(binary.NativeEndian.Uint16(be[:]))
}

// SetBPFFilter runs the program, of type SCHED_CLS, for every packet at the hook of the link with
// this index, in place of the one that an earlier call set there; there is no moment without either.
// It is for kernels before 6.6, which have no TCX. The program stays when the process ends.
func (h *Handle) SetBPFFilter(ctx context.Context, index int, hook Hook, name string, program int) error {
	qdisc := tcMsg(index, clsactHandle, clsact, 0).str(tcaKind, "clsact").b
	err := h.execOne(ctx, request{unix.RTM_NEWQDISC, unix.NLM_F_CREATE | unix.NLM_F_EXCL, qdisc})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make the clsact qdisc of link %d: %w", index, err)
	}
	e := tcMsg(index, filterHandle, hook.parent(), filterInfo()).str(tcaKind, "bpf")
	e.nest(tcaOptions, func(e *encoder) {
		e.u32(tcaBPFFD, uint32(program)).str(tcaBPFName, name).u32(tcaBPFFlags, directAction)
	})
	err = h.execOne(ctx, request{unix.RTM_NEWTFILTER, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, e.b})
	if err != nil {
		return fmt.Errorf("set the %s filter %s of link %d: %w", hook, name, index, err)
	}
	return nil
}

// BPFFilters returns the eBPF filters at the hook of the link with this index. A link without a
// clsact qdisc, or no link, has none.
func (h *Handle) BPFFilters(ctx context.Context, index int, hook Hook) ([]BPFFilter, error) {
	msgs, err := h.dump(ctx, unix.RTM_GETTFILTER, tcMsg(index, 0, hook.parent(), 0).b)
	if noHook(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the %s filters of link %d: %w", hook, index, err)
	}
	var out []BPFFilter
	for _, m := range msgs {
		if len(m.body) < tcMsgSize || m.typ != unix.RTM_NEWTFILTER {
			continue
		}
		kind, f := "", BPFFilter{}
		eachAttr(m.body[tcMsgSize:], func(typ uint16, v []byte) {
			switch typ {
			case tcaKind:
				kind = cString(v)
			case tcaOptions:
				eachAttr(v, func(typ uint16, v []byte) {
					switch typ {
					case tcaBPFName:
						f.Name = cString(v)
					case tcaBPFID:
						f.ID = getU32(v)
					}
				})
			}
		})
		if kind == "bpf" && f.ID != 0 {
			out = append(out, f)
		}
	}
	return out, nil
}

// DeleteBPFFilter takes away what SetBPFFilter set, and the clsact qdisc when nothing is left in
// it. An absent one is not an error.
func (h *Handle) DeleteBPFFilter(ctx context.Context, index int, hook Hook) error {
	filter := tcMsg(index, filterHandle, hook.parent(), filterInfo()).str(tcaKind, "bpf").b
	err := h.execOne(ctx, request{unix.RTM_DELTFILTER, 0, filter})
	if err != nil && !noHook(err) {
		return fmt.Errorf("delete the %s filter of link %d: %w", hook, index, err)
	}
	for _, k := range []Hook{Ingress, Egress} {
		msgs, err := h.dump(ctx, unix.RTM_GETTFILTER, tcMsg(index, 0, k.parent(), 0).b)
		if err != nil || len(msgs) > 0 {
			return nil // somebody else's, or no such qdisc any more
		}
	}
	err = h.execOne(ctx, request{unix.RTM_DELQDISC, 0, tcMsg(index, clsactHandle, clsact, 0).b})
	if err != nil && !noHook(err) {
		return fmt.Errorf("delete the clsact qdisc of link %d: %w", index, err)
	}
	return nil
}

// noHook tells that a link, its clsact qdisc or the filter is absent.
func noHook(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}

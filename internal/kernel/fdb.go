package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/model"
)

// nlAttrs are the attributes that neighbour and forwarding entries share.
type nlAttrs struct {
	dst netip.Addr
	mac model.MAC
}

// FDBTable is the static forwarding entries of one VXLAN device that is wholly ours: inner MAC to
// outer destination (the "self" entries of bridge(8)). The kernel's own all-zero default entry, which
// floods to nowhere, is not in it; one with a destination is, so that it is removed. Entries that the device learnt are not in it.
type FDBTable struct {
	h      *Handle
	device string
	index  deviceIndex
}

// NewFDBTable returns the table of the device, which need not exist yet.
func NewFDBTable(h *Handle, device string) *FDBTable {
	return &FDBTable{h: h, device: device, index: deviceIndex{h: h, device: device}}
}

// List returns the static entries; an absent device has none. The all-zero or a multicast MAC, to
// which somebody may have appended several destinations, then has the invalid address: Delete
// removes all of them.
func (t *FDBTable) List(ctx context.Context) (map[FDBKey]netip.Addr, error) {
	out := map[FDBKey]netip.Addr{}
	index, err := t.index.refresh(ctx)
	if errors.Is(err, unix.ENODEV) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	msgs, err := t.h.dump(ctx, unix.RTM_GETNEIGH, ndMsg(unix.AF_BRIDGE, 0, 0, 0).u32(unix.NDA_IFINDEX, uint32(index)).b)
	if err != nil {
		return nil, fmt.Errorf("list forwarding entries of %s: %w", t.device, err)
	}
	for _, m := range msgs {
		n, ok := parseNeigh(m.body)
		if !ok || n.index != index || !n.static() {
			continue
		}
		k := FDBKey{t.device, n.mac}
		if _, twice := out[k]; twice {
			n.dst = netip.Addr{}
		}
		out[k] = n.dst
	}
	return out, nil
}

// static tells whether a forwarding entry is one that somebody configured.
func (n neigh) static() bool {
	return n.flags&unix.NTF_SELF != 0 && n.state&(unix.NUD_PERMANENT|unix.NUD_NOARP) != 0 && n.dst.IsValid()
}

// Put creates or replaces one entry.
func (t *FDBTable) Put(ctx context.Context, k FDBKey, v netip.Addr) error {
	return t.PutMany(ctx, []reconcile.Change[FDBKey, netip.Addr]{{Key: k, Want: v}})[0]
}

// Delete removes one entry.
func (t *FDBTable) Delete(ctx context.Context, k FDBKey, v netip.Addr) error {
	return t.DeleteMany(ctx, []reconcile.Change[FDBKey, netip.Addr]{{Key: k, Have: v}})[0]
}

// Equal compares the outer destinations.
func (t *FDBTable) Equal(have, want netip.Addr) bool { return have == want }

// PutMany creates or replaces entries, many in one exchange.
func (t *FDBTable) PutMany(ctx context.Context, puts []reconcile.Change[FDBKey, netip.Addr]) []error {
	return runBatch(ctx, &t.index, puts, func(index int, c reconcile.Change[FDBKey, netip.Addr]) request {
		e := ndMsg(unix.AF_BRIDGE, index, unix.NUD_PERMANENT, unix.NTF_SELF)
		e.mac(unix.NDA_LLADDR, c.Key.MAC).addr(unix.NDA_DST, c.Want)
		return request{unix.RTM_NEWNEIGH, unix.NLM_F_CREATE | unix.NLM_F_REPLACE, e.b}
	})
}

// DeleteMany removes entries; absent ones are not errors.
func (t *FDBTable) DeleteMany(ctx context.Context, deletes []reconcile.Change[FDBKey, netip.Addr]) []error {
	errs := runBatch(ctx, &t.index, deletes, func(index int, c reconcile.Change[FDBKey, netip.Addr]) request {
		e := ndMsg(unix.AF_BRIDGE, index, 0, unix.NTF_SELF).mac(unix.NDA_LLADDR, c.Key.MAC)
		if c.Have.IsValid() {
			e.addr(unix.NDA_DST, c.Have)
		}
		return request{unix.RTM_DELNEIGH, 0, e.b}
	})
	return forgive(errs, unix.ENOENT, unix.ENODEV)
}

// deviceIndex remembers the interface index of a device between a List and the writes after it. A
// device that was replaced meanwhile makes the writes fail, and the next List looks again.
type deviceIndex struct {
	h      *Handle
	device string
	index  atomic.Int64 // 0: not known
}

func (d *deviceIndex) refresh(ctx context.Context) (int, error) {
	d.index.Store(0)
	l, ok, err := d.h.LinkByName(ctx, d.device)
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, fmt.Errorf("link %s: %w", d.device, unix.ENODEV)
	}
	d.index.Store(int64(l.Index))
	return l.Index, nil
}

func (d *deviceIndex) get(ctx context.Context) (int, error) {
	if i := d.index.Load(); i != 0 {
		return int(i), nil
	}
	return d.refresh(ctx)
}

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"weft/internal/reconcile"
	"weft/model"
)

const ndMsgSize = 12 // struct ndmsg

// NeighTable is the permanent neighbour entries (ARP and NDP) of one device that is wholly ours.
// Entries that the kernel learnt by itself are not in it.
type NeighTable struct {
	h      *Handle
	device string
	index  deviceIndex
}

// NewNeighTable returns the table of the device, which need not exist yet.
func NewNeighTable(h *Handle, device string) *NeighTable {
	return &NeighTable{h: h, device: device, index: deviceIndex{h: h, device: device}}
}

// List returns the permanent entries; an absent device has none.
func (t *NeighTable) List(ctx context.Context) (map[NeighKey]model.MAC, error) {
	out := map[NeighKey]model.MAC{}
	index, err := t.index.refresh(ctx)
	if errors.Is(err, unix.ENODEV) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	body := ndMsg(unix.AF_UNSPEC, 0, 0, 0).u32(unix.NDA_IFINDEX, uint32(index)).b
	msgs, err := t.h.dump(ctx, unix.RTM_GETNEIGH, body)
	if err != nil {
		return nil, fmt.Errorf("list neighbours of %s: %w", t.device, err)
	}
	for _, m := range msgs {
		n, ok := parseNeigh(m.body)
		if ok && n.index == index && n.state&unix.NUD_PERMANENT != 0 && n.dst.IsValid() {
			out[NeighKey{t.device, n.dst}] = n.mac
		}
	}
	return out, nil
}

// Put creates or replaces one entry.
func (t *NeighTable) Put(ctx context.Context, k NeighKey, v model.MAC) error {
	return t.PutMany(ctx, []reconcile.Change[NeighKey, model.MAC]{{Key: k, Want: v}})[0]
}

// Delete removes one entry.
func (t *NeighTable) Delete(ctx context.Context, k NeighKey, v model.MAC) error {
	return t.DeleteMany(ctx, []reconcile.Change[NeighKey, model.MAC]{{Key: k, Have: v}})[0]
}

// Equal compares the MAC addresses.
func (t *NeighTable) Equal(have, want model.MAC) bool { return have == want }

// PutMany creates or replaces entries, many in one exchange.
func (t *NeighTable) PutMany(ctx context.Context, puts []reconcile.Change[NeighKey, model.MAC]) []error {
	return runBatch(ctx, &t.index, puts, func(index int, c reconcile.Change[NeighKey, model.MAC]) request {
		return addNeigh(index, c.Key.IP, c.Want)
	})
}

// DeleteMany removes entries; absent ones are not errors.
func (t *NeighTable) DeleteMany(ctx context.Context, deletes []reconcile.Change[NeighKey, model.MAC]) []error {
	errs := runBatch(ctx, &t.index, deletes, func(index int, c reconcile.Change[NeighKey, model.MAC]) request {
		e := ndMsg(familyOf(c.Key.IP), index, 0, 0).addr(unix.NDA_DST, c.Key.IP)
		return request{unix.RTM_DELNEIGH, 0, e.b}
	})
	return forgive(errs, unix.ENOENT, unix.ENODEV)
}

// ndMsg is a struct ndmsg.
func ndMsg(family uint8, index int, state uint16, flags uint8) *encoder {
	e := (&encoder{}).raw(family, 0, 0, 0).rawU32(uint32(index))
	e.b = binary.NativeEndian.AppendUint16(e.b, state)
	return e.raw(flags, 0)
}

// neigh is a neighbour or forwarding entry message.
type neigh struct {
	family uint8
	index  int
	state  uint16
	flags  uint8
	nlAttrs
}

func parseNeigh(b []byte) (neigh, bool) {
	if len(b) < ndMsgSize {
		return neigh{}, false
	}
	n := neigh{family: b[0], index: int(int32(binary.NativeEndian.Uint32(b[4:]))),
		state: binary.NativeEndian.Uint16(b[8:]), flags: b[10]}
	eachAttr(b[ndMsgSize:], func(typ uint16, v []byte) {
		switch typ {
		case unix.NDA_DST:
			n.dst = getAddr(v)
		case unix.NDA_LLADDR:
			n.mac = getMAC(v)
		}
	})
	return n, true
}

// runBatch makes one request of each change, for the device as it was last seen, and sends them
// together. The returned errors are in the order of the changes.
func runBatch[C any](ctx context.Context, d *deviceIndex, changes []C, f func(index int, c C) request) []error {
	index, err := d.get(ctx)
	if err != nil {
		errs := make([]error, len(changes))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	reqs := make([]request, len(changes))
	for i, c := range changes {
		reqs[i] = f(index, c)
	}
	errs, _ := d.h.exec(ctx, reqs) // what broke the exchange is in errs too
	return errs
}

// forgive turns the errnos into success.
func forgive(errs []error, ok ...unix.Errno) []error {
	for i, err := range errs {
		for _, e := range ok {
			if errors.Is(err, e) {
				errs[i] = nil
			}
		}
	}
	return errs
}

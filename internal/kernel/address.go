package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const ifAddrMsgSize = 8 // struct ifaddrmsg

// AddrTable is the addresses of one device that is wholly ours, link-local IPv6 ones excepted.
type AddrTable struct {
	h      *Handle
	device string
	index  deviceIndex
}

// NewAddrTable returns the table of the device, which need not exist yet.
func NewAddrTable(h *Handle, device string) *AddrTable {
	return &AddrTable{h: h, device: device, index: deviceIndex{h: h, device: device}}
}

// List returns the addresses; an absent device has none.
func (t *AddrTable) List(ctx context.Context) (map[AddrKey]struct{}, error) {
	out := map[AddrKey]struct{}{}
	index, err := t.index.refresh(ctx)
	if errors.Is(err, unix.ENODEV) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	body := (&encoder{}).raw(unix.AF_UNSPEC, 0, 0, 0).rawU32(uint32(index)).b
	msgs, err := t.h.dump(ctx, unix.RTM_GETADDR, body)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", t.device, err)
	}
	for _, m := range msgs {
		at, p, ok := parseAddrMsg(m.body)
		if ok && at == index && !p.Addr().IsLinkLocalUnicast() {
			out[AddrKey{t.device, p}] = struct{}{}
		}
	}
	return out, nil
}

// parseAddrMsg reads an address message: the index of its interface, and the address.
func parseAddrMsg(b []byte) (int, netip.Prefix, bool) {
	if len(b) < ifAddrMsgSize {
		return 0, netip.Prefix{}, false
	}
	var local, address netip.Addr
	eachAttr(b[ifAddrMsgSize:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local = getAddr(v)
		case unix.IFA_ADDRESS:
			address = getAddr(v)
		}
	})
	if !local.IsValid() { // IPv6 without a peer has IFA_ADDRESS only
		local = address
	}
	p := netip.PrefixFrom(local, int(b[1]))
	return int(binary.NativeEndian.Uint32(b[4:])), p, p.IsValid()
}

// Put adds the address with global scope, usable at once.
func (t *AddrTable) Put(ctx context.Context, k AddrKey, _ struct{}) error {
	return runBatch(ctx, &t.index, []AddrKey{k}, func(index int, k AddrKey) request {
		return addAddr(index, k.Prefix, unix.RT_SCOPE_UNIVERSE)
	})[0]
}

// Delete removes the address.
func (t *AddrTable) Delete(ctx context.Context, k AddrKey, _ struct{}) error {
	errs := runBatch(ctx, &t.index, []AddrKey{k}, func(index int, k AddrKey) request {
		e := (&encoder{}).raw(familyOf(k.Prefix.Addr()), byte(k.Prefix.Bits()), 0, 0).rawU32(uint32(index))
		return request{unix.RTM_DELADDR, 0, e.addr(unix.IFA_LOCAL, k.Prefix.Addr()).b}
	})
	return forgive(errs, unix.EADDRNOTAVAIL, unix.ENODEV)[0]
}

// Equal: an address has nothing but its key.
func (t *AddrTable) Equal(struct{}, struct{}) bool { return true }

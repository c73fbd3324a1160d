package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const ifInfoSize = 16 // struct ifinfomsg

// extFilterSkipStats leaves the counters out of link messages (RTEXT_FILTER_SKIP_STATS, Linux 4.4).
const extFilterSkipStats = 1 << 3

// ifInfo is a struct ifinfomsg.
func ifInfo(index int, flags, change uint32) *encoder {
	e := &encoder{}
	e.raw(unix.AF_UNSPEC, 0, 0, 0).rawU32(uint32(index)).rawU32(flags).rawU32(change)
	return e
}

// Links returns every interface of the namespace.
func (h *Handle) Links(ctx context.Context) ([]Link, error) {
	body := ifInfo(0, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).b
	msgs, err := h.dump(ctx, unix.RTM_GETLINK, body)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	links := make([]Link, 0, len(msgs))
	for _, m := range msgs {
		if l, ok := parseLink(m.body); ok && m.typ == unix.RTM_NEWLINK {
			links = append(links, l)
		}
	}
	return links, nil
}

// LinkByName returns the interface called name, and whether there is one.
func (h *Handle) LinkByName(ctx context.Context, name string) (Link, bool, error) {
	if err := checkLinkName(name); err != nil {
		return Link{}, false, err
	}
	r := linkByName(name)
	m, err := h.query(ctx, r.typ, r.body)
	return linkOf(name, m, err)
}

// linkByName asks for one link, without its counters.
func linkByName(name string) request {
	return request{unix.RTM_GETLINK, 0, ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, name).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).b}
}

// linkOf reads the answer to linkByName.
func linkOf(name string, m message, err error) (Link, bool, error) {
	if errors.Is(err, unix.ENODEV) {
		return Link{}, false, nil
	}
	if err != nil {
		return Link{}, false, fmt.Errorf("look up link %s: %w", name, err)
	}
	l, ok := parseLink(m.body)
	if !ok || m.typ != unix.RTM_NEWLINK {
		return Link{}, false, fmt.Errorf("look up link %s: the kernel's answer has no link", name)
	}
	return l, true, nil
}

// LinkSetUp sets the interface administratively up. An absent one is an error that wraps
// unix.ENODEV.
func (h *Handle) LinkSetUp(ctx context.Context, name string) error {
	return h.changeLink(ctx, name, "set up", ifInfo(0, unix.IFF_UP, unix.IFF_UP))
}

// LinkSetDown sets the interface administratively down. The kernel then drops its IPv4 routes
// without an event of their own.
func (h *Handle) LinkSetDown(ctx context.Context, name string) error {
	return h.changeLink(ctx, name, "set down", ifInfo(0, 0, unix.IFF_UP))
}

// LinkSetMTU sets the interface's MTU in bytes.
func (h *Handle) LinkSetMTU(ctx context.Context, name string, mtu int) error {
	return h.changeLink(ctx, name, fmt.Sprintf("set MTU %d of", mtu), ifInfo(0, 0, 0).u32(unix.IFLA_MTU, uint32(mtu)))
}

// LinkDelete removes the interface; an absent one is not an error.
func (h *Handle) LinkDelete(ctx context.Context, name string) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	body := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, name).b
	err := h.execOne(ctx, request{unix.RTM_DELLINK, 0, body})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func (h *Handle) changeLink(ctx context.Context, name, what string, e *encoder) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	err := h.execOne(ctx, request{unix.RTM_NEWLINK, 0, e.str(unix.IFLA_IFNAME, name).b})
	if err != nil {
		return fmt.Errorf("%s link %s: %w", what, name, err)
	}
	return nil
}

// checkLinkName refuses what the kernel would take for "no name" or cut short.
func checkLinkName(name string) error {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return fmt.Errorf("link name %q: want 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	return nil
}

// parseLink reads a link message of the routing netlink.
func parseLink(b []byte) (Link, bool) {
	if len(b) < ifInfoSize {
		return Link{}, false
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	l := Link{
		Index:   int(int32(binary.NativeEndian.Uint32(b[4:]))),
		Up:      flags&unix.IFF_UP != 0,
		Running: flags&unix.IFF_RUNNING != 0,
	}
	eachAttr(b[ifInfoSize:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = cString(v)
		case unix.IFLA_MTU:
			l.MTU = int(getU32(v))
		case unix.IFLA_ADDRESS:
			l.MAC = getMAC(v)
		case unix.IFLA_LINKINFO:
			eachAttr(v, func(typ uint16, v []byte) {
				if typ == unix.IFLA_INFO_KIND {
					l.Kind = cString(v)
				}
			})
		}
	})
	return l, l.Name != ""
}

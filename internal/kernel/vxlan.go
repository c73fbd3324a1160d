package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/model"
)

// tunnelAlias is the interface alias that marks a tunnel device as made by us, whatever name
// somebody gave it since.
const tunnelAlias = "weft tunnel"

const addrGenModeNone = 1 // linux/if_link.h IN6_ADDR_GEN_MODE_NONE

// VXLAN is a VXLAN device: a VTEP (RFC 7348).
type VXLAN struct {
	Name  string
	Index int // of the interface; ignored when a device is made
	VNI   int // 24 bits
	Port  int // UDP, both of our socket and of the peers'
	Local netip.Addr
	// Parent is the index of the underlay interface; 0 is none.
	Parent int
	MAC    model.MAC
	MTU    int // bytes, inner
	Up     bool
	// Learning is whether the device learns forwarding entries from what it receives, and External
	// whether each packet brings its own tunnel key. Devices that we make do neither.
	Learning, External bool
	// Ours is whether the device carries our mark.
	Ours bool
	// Master is the index of the bridge or VRF that the device was put into; 0 is none.
	Master int
}

// VXLANs returns every VXLAN device of the namespace, also those of others.
func (h *Handle) VXLANs(ctx context.Context) ([]VXLAN, error) {
	body := ifInfo(0, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).
		nest(unix.IFLA_LINKINFO, func(e *encoder) { e.str(unix.IFLA_INFO_KIND, "vxlan") }).b
	msgs, err := h.dump(ctx, unix.RTM_GETLINK, body)
	if err != nil {
		return nil, fmt.Errorf("list VXLAN devices: %w", err)
	}
	var out []VXLAN
	for _, m := range msgs {
		if v, ok := parseVXLAN(m.body); ok && m.typ == unix.RTM_NEWLINK {
			out = append(out, v)
		}
	}
	return out, nil
}

// AddVXLAN makes the device, administratively down and without learning. A name that is taken, or
// a VNI and port that another device has, is an error that wraps unix.EEXIST.
func (h *Handle) AddVXLAN(ctx context.Context, v VXLAN) error {
	if err := checkLinkName(v.Name); err != nil {
		return err
	}
	if v.VNI < 1 || v.VNI >= 1<<24 || v.Port < 1 || v.Port > 65535 {
		return fmt.Errorf("make VXLAN device %s: VNI %d, port %d: want 1 to 16777215 and 1 to 65535", v.Name, v.VNI, v.Port)
	}
	e := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, v.Name).u32(unix.IFLA_MTU, uint32(v.MTU)).mac(unix.IFLA_ADDRESS, v.MAC)
	e.nest(unix.IFLA_LINKINFO, func(e *encoder) {
		e.str(unix.IFLA_INFO_KIND, "vxlan")
		e.nest(unix.IFLA_INFO_DATA, func(e *encoder) {
			e.u32(nl.IFLA_VXLAN_ID, uint32(v.VNI))
			e.attr(nl.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(v.Port)))
			v.changeable(e)
		})
	})
	err := h.execOne(ctx, request{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, e.b})
	if err != nil {
		return fmt.Errorf("make VXLAN device %s: %w", v.Name, err)
	}
	// The kernel takes these for a link that exists only.
	err = h.MarkTunnel(ctx, v.Name)
	if err == nil {
		err = h.noLinkLocal(ctx, v.Name)
	}
	if err != nil {
		return errors.Join(err, h.LinkDelete(ctx, v.Name))
	}
	return nil
}

// noLinkLocal keeps the kernel from giving the interface an IPv6 link-local address when it comes
// up: that would only send multicast into a tunnel that has no place to carry it to. Where IPv6 is
// off for the interface, there is nothing to keep.
func (h *Handle) noLinkLocal(ctx context.Context, name string) error {
	e := ifInfo(0, 0, 0).nest(unix.IFLA_AF_SPEC, func(e *encoder) {
		e.nest(unix.AF_INET6, func(e *encoder) { e.attr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenModeNone}) })
	})
	err := h.changeLink(ctx, name, "turn off IPv6 link-local addresses of", e)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// changeable encodes what a VXLAN device can change while it lives (Linux 5.0 and later).
func (v VXLAN) changeable(e *encoder) {
	if v.Parent != 0 {
		e.u32(nl.IFLA_VXLAN_LINK, uint32(v.Parent))
	}
	local := uint16(nl.IFLA_VXLAN_LOCAL)
	if v.Local.Is6() {
		local = nl.IFLA_VXLAN_LOCAL6
	}
	e.addr(local, v.Local)
	e.attr(nl.IFLA_VXLAN_LEARNING, []byte{0})
}

// ChangeVXLAN gives the living device v.Local and v.Parent (0 leaves the one that it has: the kernel
// cannot take it away) and turns learning off. The kernel
// refuses what only a new device can have (another family of Local) with EOPNOTSUPP or EINVAL.
func (h *Handle) ChangeVXLAN(ctx context.Context, v VXLAN) error {
	e := ifInfo(0, 0, 0)
	e.nest(unix.IFLA_LINKINFO, func(e *encoder) {
		e.str(unix.IFLA_INFO_KIND, "vxlan")
		e.nest(unix.IFLA_INFO_DATA, v.changeable)
	})
	return h.changeLink(ctx, v.Name, "change the underlay of", e)
}

// MarkTunnel marks the interface as a tunnel device of ours.
func (h *Handle) MarkTunnel(ctx context.Context, name string) error {
	return h.changeLink(ctx, name, "mark", ifInfo(0, 0, 0).attr(unix.IFLA_IFALIAS, []byte(tunnelAlias)))
}

// LinkSetMAC sets the interface's Ethernet address. The kernel then drops all neighbour entries of
// the interface, permanent ones included.
func (h *Handle) LinkSetMAC(ctx context.Context, name string, m model.MAC) error {
	return h.changeLink(ctx, name, "set MAC address of", ifInfo(0, 0, 0).mac(unix.IFLA_ADDRESS, m))
}

// LinkSetNoMaster takes the interface out of its bridge or VRF.
func (h *Handle) LinkSetNoMaster(ctx context.Context, name string) error {
	return h.changeLink(ctx, name, "free from its master", ifInfo(0, 0, 0).u32(unix.IFLA_MASTER, 0))
}

// LinkRename renames the interface with this index. A kernel before 6.2 refuses it with EBUSY
// while the interface is up.
func (h *Handle) LinkRename(ctx context.Context, index int, name string) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	err := h.execOne(ctx, request{unix.RTM_NEWLINK, 0, ifInfo(index, 0, 0).str(unix.IFLA_IFNAME, name).b})
	if err != nil {
		return fmt.Errorf("rename link %d to %s: %w", index, name, err)
	}
	return nil
}

// LinkRenameDown renames an interface on kernels that rename only what is down: it sets it down, renames
// it and, if asked, sets it up again, all in one exchange. The routes through it go.
func (h *Handle) LinkRenameDown(ctx context.Context, index int, name string, up bool) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	reqs := []request{
		{unix.RTM_NEWLINK, 0, ifInfo(index, 0, unix.IFF_UP).b},
		{unix.RTM_NEWLINK, 0, ifInfo(index, 0, 0).str(unix.IFLA_IFNAME, name).b},
	}
	if up {
		reqs = append(reqs, request{unix.RTM_NEWLINK, 0, ifInfo(index, unix.IFF_UP, unix.IFF_UP).b})
	}
	errs, _ := h.exec(ctx, reqs) // its error is in each answer that it touches
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("set down link %d and rename it to %s: %w", index, name, err)
	}
	return nil
}

func parseVXLAN(b []byte) (VXLAN, bool) {
	l, ok := parseLink(b)
	if !ok || l.Kind != "vxlan" {
		return VXLAN{}, false
	}
	v := VXLAN{Name: l.Name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, Up: l.Up}
	eachAttr(b[ifInfoSize:], func(typ uint16, a []byte) {
		switch typ {
		case unix.IFLA_IFALIAS:
			v.Ours = cString(a) == tunnelAlias
		case unix.IFLA_MASTER:
			v.Master = int(getU32(a))
		case unix.IFLA_LINKINFO:
			eachAttr(a, func(typ uint16, data []byte) {
				if typ == unix.IFLA_INFO_DATA {
					eachAttr(data, v.parseAttr)
				}
			})
		}
	})
	return v, true
}

func (v *VXLAN) parseAttr(typ uint16, a []byte) {
	switch typ {
	case nl.IFLA_VXLAN_ID:
		v.VNI = int(getU32(a))
	case nl.IFLA_VXLAN_LINK:
		v.Parent = int(getU32(a))
	case nl.IFLA_VXLAN_LOCAL, nl.IFLA_VXLAN_LOCAL6:
		v.Local = getAddr(a)
	case nl.IFLA_VXLAN_PORT:
		if len(a) == 2 {
			v.Port = int(binary.BigEndian.Uint16(a))
		}
	case nl.IFLA_VXLAN_LEARNING:
		v.Learning = len(a) == 1 && a[0] != 0
	case nl.IFLA_VXLAN_FLOWBASED:
		v.External = len(a) == 1 && a[0] != 0
	}
}

// Namespace returns a file of the network namespace that h works in, for libraries that open
// sockets of their own there. The caller closes it.
func (h *Handle) Namespace() (*os.File, error) {
	raw, err := h.conn.file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("find the network namespace of a netlink socket: %w", err)
	}
	var ns int
	var inner error
	err = raw.Control(func(fd uintptr) { ns, inner = unix.IoctlRetInt(int(fd), unix.SIOCGSKNS) })
	if err := errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("find the network namespace of a netlink socket: %w", err)
	}
	return os.NewFile(uintptr(ns), "netns"), nil
}

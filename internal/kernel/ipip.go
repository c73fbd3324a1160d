package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"weft/model"
)

// Kinds of links that can be an IPIP device.
const (
	// KindIPIP is the kernel's own IPIP device (RFC 2003).
	KindIPIP = "ipip"
	// KindIFB and KindDummy make links that drop whatever a tc program did not send elsewhere.
	KindIFB, KindDummy = "ifb", "dummy"
)

// The settings that IPIP devices of ours have.
const (
	ipipTTL = 64
	// ipipInheritTOS copies DSCP and ECN of the inner header (IFLA_IPTUN_TOS, its lowest bit).
	ipipInheritTOS = 1
)

// TunnelLink is a link as far as it matters to an IPIP tunnel: the tunnel device itself, or an
// interface below it.
type TunnelLink struct {
	Link
	// Local is the outer source, of KindIPIP only; the peer of a device of ours is any.
	Local netip.Addr
	// Standard tells that a device of KindIPIP has what AddIPIP gives it: any peer, no underlay
	// interface, TTL 64, DF set, DSCP and ECN copied.
	Standard bool
	// Ethernet tells that packets have an Ethernet header there.
	Ethernet bool
	Ours     bool // it carries our mark
	Master   int  // index of the bridge or VRF that it was put into; 0 is none
}

// TunnelLinks returns every link of the namespace.
func (h *Handle) TunnelLinks(ctx context.Context) ([]TunnelLink, error) {
	body := ifInfo(0, 0, 0).u32(unix.IFLA_EXT_MASK, extFilterSkipStats).b
	msgs, err := h.dump(ctx, unix.RTM_GETLINK, body)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make([]TunnelLink, 0, len(msgs))
	for _, m := range msgs {
		if d, ok := parseTunnelLink(m.body); ok && m.typ == unix.RTM_NEWLINK {
			out = append(out, d)
		}
	}
	return out, nil
}

// AddIPIP makes a link of d.Kind with d.Name, d.MTU and, for KindIPIP, d.Local, administratively
// down. An IPIP device takes packets of any peer and follows the kernel's routes to it. It sets DF:
// a receiver cannot tell whose a later fragment is, and the kernel keeps the path's MTU (RFC 2003
// section 5.1) and tells senders. A kind that the kernel has not is an error that wraps
// unix.EOPNOTSUPP, a name or local address that is taken one that wraps unix.EEXIST.
func (h *Handle) AddIPIP(ctx context.Context, d TunnelLink) error {
	if err := checkLinkName(d.Name); err != nil {
		return err
	}
	e := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, d.Name).u32(unix.IFLA_MTU, uint32(d.MTU))
	if d.Kind != KindIPIP && !d.MAC.IsZero() {
		e.mac(unix.IFLA_ADDRESS, d.MAC)
	}
	e.nest(unix.IFLA_LINKINFO, func(e *encoder) {
		e.str(unix.IFLA_INFO_KIND, d.Kind)
		if d.Kind == KindIPIP {
			e.nest(unix.IFLA_INFO_DATA, d.options)
		}
	})
	err := h.execOne(ctx, request{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, e.b})
	if err != nil {
		return fmt.Errorf("make %s device %s: %w", d.Kind, d.Name, err)
	}
	// The kernel takes these for a link that exists only.
	err = h.MarkTunnel(ctx, d.Name)
	if err == nil {
		err = h.noLinkLocal(ctx, d.Name)
	}
	if err != nil {
		return errors.Join(err, h.LinkDelete(ctx, d.Name))
	}
	return nil
}

// AddIPIPTo makes the kernel's IPIP device between two IPv4 addresses, administratively down and without our mark. It takes
// the packets of that peer before devices that take any peer's. mtu is in bytes. Errors are those of AddIPIP.
func (h *Handle) AddIPIPTo(ctx context.Context, name string, mtu int, local, remote netip.Addr) error {
	if err := checkLinkName(name); err != nil {
		return err
	}
	if !local.Is4() || !remote.Is4() || local.IsUnspecified() || remote.IsUnspecified() { // any peer's packets would come
		return fmt.Errorf("make IPIP device %s from %v to %v: want two IPv4 addresses", name, local, remote)
	}
	e := ifInfo(0, 0, 0).str(unix.IFLA_IFNAME, name).u32(unix.IFLA_MTU, uint32(mtu))
	e.nest(unix.IFLA_LINKINFO, func(e *encoder) {
		e.str(unix.IFLA_INFO_KIND, KindIPIP)
		e.nest(unix.IFLA_INFO_DATA, func(e *encoder) {
			TunnelLink{Local: local}.options(e)
			e.addr(nl.IFLA_IPTUN_REMOTE, remote)
		})
	})
	if err := h.execOne(ctx, request{unix.RTM_NEWLINK, unix.NLM_F_CREATE | unix.NLM_F_EXCL, e.b}); err != nil {
		return fmt.Errorf("make IPIP device %s from %v to %v: %w", name, local, remote, err)
	}
	return nil
}

// ChangeIPIP gives the living device of KindIPIP d.Local and the settings that AddIPIP gives.
func (h *Handle) ChangeIPIP(ctx context.Context, d TunnelLink) error {
	e := ifInfo(0, 0, 0).nest(unix.IFLA_LINKINFO, func(e *encoder) {
		e.str(unix.IFLA_INFO_KIND, KindIPIP)
		e.nest(unix.IFLA_INFO_DATA, d.options)
	})
	return h.changeLink(ctx, d.Name, "change the tunnel of", e)
}

func (d TunnelLink) options(e *encoder) {
	e.addr(nl.IFLA_IPTUN_LOCAL, d.Local)
	e.attr(nl.IFLA_IPTUN_TTL, []byte{ipipTTL})
	e.attr(nl.IFLA_IPTUN_TOS, []byte{ipipInheritTOS})
	e.attr(nl.IFLA_IPTUN_PMTUDISC, []byte{1})
	e.attr(nl.IFLA_IPTUN_PROTO, []byte{unix.IPPROTO_IPIP})
}

func parseTunnelLink(b []byte) (TunnelLink, bool) {
	l, ok := parseLink(b)
	if !ok {
		return TunnelLink{}, false
	}
	d := TunnelLink{Link: l, Ethernet: binary.NativeEndian.Uint16(b[2:]) == unix.ARPHRD_ETHER}
	var remote netip.Addr
	var link, ttl, tos, df int
	eachAttr(b[ifInfoSize:], func(typ uint16, a []byte) {
		switch typ {
		case unix.IFLA_IFALIAS:
			d.Ours = cString(a) == tunnelAlias
		case unix.IFLA_MASTER:
			d.Master = int(getU32(a))
		case unix.IFLA_LINKINFO:
			if l.Kind != KindIPIP {
				return
			}
			eachAttr(a, func(typ uint16, data []byte) {
				if typ != unix.IFLA_INFO_DATA {
					return
				}
				eachAttr(data, func(typ uint16, v []byte) {
					switch typ {
					case nl.IFLA_IPTUN_LOCAL:
						d.Local = getAddr(v)
					case nl.IFLA_IPTUN_REMOTE:
						remote = getAddr(v)
					case nl.IFLA_IPTUN_LINK:
						link = int(getU32(v))
					case nl.IFLA_IPTUN_TTL:
						ttl = getByte(v)
					case nl.IFLA_IPTUN_TOS:
						tos = getByte(v)
					case nl.IFLA_IPTUN_PMTUDISC:
						df = getByte(v)
					}
				})
			})
		}
	})
	d.Standard = (!remote.IsValid() || remote.IsUnspecified()) && link == 0 && ttl == ipipTTL && tos == ipipInheritTOS && df == 1
	return d, true
}

func getByte(v []byte) int {
	if len(v) != 1 {
		return 0
	}
	return int(v[0])
}

// TunnelMAC is what a device of KindIFB or KindDummy is made with: its frames never leave the host.
func TunnelMAC() model.MAC { return model.MAC{0x66, 0, 0, 0, 0, unix.IPPROTO_IPIP} }

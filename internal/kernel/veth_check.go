package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"weft/model"
)

// Check compares both sides of a pod's link, the pod's addresses and routes, and the host's route
// to each address, with what Create, Configure, Activate and the node's routes make them. It
// returns everything that differs.
func (p *PodLinks) Check(ctx context.Context, ns *os.File, l PodLink) error {
	var errs []error
	errs = append(errs, p.withHost(ctx, func(h *Handle) error { return h.checkHost(ctx, l) }))
	errs = append(errs, p.inPod(ns, nil, func(h *Handle) error { return h.checkPod(ctx, l) }))
	return errors.Join(errs...)
}

// Routed returns an error unless the host's routes to all of the link's addresses lead into the
// link. It says what the kernel would do with a packet, not what is in a table.
func (p *PodLinks) Routed(ctx context.Context, l PodLink) error {
	if err := checkLinkName(l.Device); err != nil {
		return err
	}
	return p.withHost(ctx, func(h *Handle) error {
		reqs := []request{linkByName(l.Device)}
		for _, a := range l.Addresses {
			reqs = append(reqs, routeTo(a))
		}
		answers, err := h.queries(ctx, reqs)
		if err != nil {
			return fmt.Errorf("look up pod link %s and its routes: %w", l.Device, err)
		}
		link, there, err := linkOf(l.Device, answers[0].message, answers[0].err)
		if err != nil || !there {
			return fmt.Errorf("look up pod link %s: %w", l.Device, errors.Join(err, whenAbsent(there)))
		}
		return checkRoutes(link, l.Addresses, answers[1:])
	})
}

func (h *Handle) checkHost(ctx context.Context, l PodLink) error {
	link, there, err := h.LinkByName(ctx, l.Device)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("host side %s is gone", l.Device)
	}
	var reqs []request
	for _, a := range l.Addresses {
		reqs = append(reqs, routeTo(a))
	}
	answers, err := h.queries(ctx, reqs)
	if err == nil {
		err = checkRoutes(link, l.Addresses, answers)
	}
	return errors.Join(checkLink("host side", link, l.MTU, podHostMAC), err)
}

// checkRoutes reads the answers to routeTo of addrs: all must lead into the link.
func checkRoutes(link Link, addrs []netip.Addr, answers []answer) error {
	var errs []error
	for i, a := range addrs {
		oif, err := routeDevice(answers[i].body), answers[i].err
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("host route to %s: %w", a, err))
		case oif != link.Index:
			errs = append(errs, fmt.Errorf("host route to %s leads to interface %d instead of %s (%d)", a, oif, link.Name, link.Index))
		}
	}
	return errors.Join(errs...)
}

func (h *Handle) checkPod(ctx context.Context, l PodLink) error {
	link, there, err := h.LinkByName(ctx, l.IfName)
	if err != nil {
		return err
	}
	if !there {
		return fmt.Errorf("pod side %s is gone", l.IfName)
	}
	errs := []error{checkLink("pod side", link, l.MTU, l.MAC)}
	have, err := h.addressesOf(ctx, link.Index)
	errs = append(errs, err)
	for _, a := range l.Addresses {
		if err == nil && !have[model.HostPrefix(a)] {
			errs = append(errs, fmt.Errorf("pod side %s has not the address %s", l.IfName, a))
		}
		errs = append(errs, h.checkDefault(ctx, link, model.FamilyOf(a)))
	}
	return errors.Join(errs...)
}

func checkLink(what string, l Link, mtu int, mac model.MAC) error {
	switch {
	case !l.Up:
		return fmt.Errorf("%s %s is down", what, l.Name)
	case l.MTU != mtu:
		return fmt.Errorf("%s %s has MTU %d instead of %d", what, l.Name, l.MTU, mtu)
	case l.MAC != mac:
		return fmt.Errorf("%s %s has MAC %s instead of %s", what, l.Name, l.MAC, mac)
	}
	return nil
}

// routeTo asks the kernel which way it would send to dst.
func routeTo(dst netip.Addr) request {
	e := (&encoder{}).raw(familyOf(dst), byte(dst.BitLen()), 0, 0, 0, 0, 0, 0).rawU32(0)
	return request{unix.RTM_GETROUTE, 0, e.addr(unix.RTA_DST, dst).b}
}

// routeDevice returns the interface in a route message, 0 where it names none.
func routeDevice(b []byte) int {
	oif := 0
	if len(b) >= unix.SizeofRtMsg {
		eachAttr(b[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			if typ == unix.RTA_OIF {
				oif = int(getU32(v))
			}
		})
	}
	return oif
}

// addressesOf lists the addresses of one interface.
func (h *Handle) addressesOf(ctx context.Context, index int) (map[netip.Prefix]bool, error) {
	msgs, err := h.dump(ctx, unix.RTM_GETADDR, (&encoder{}).raw(unix.AF_UNSPEC, 0, 0, 0).rawU32(0).b)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	have := map[netip.Prefix]bool{}
	for _, m := range msgs {
		if len(m.body) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(m.body[4:])) != index {
			continue
		}
		eachAttr(m.body[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			if a := getAddr(v); typ == unix.IFA_ADDRESS && a.IsValid() {
				have[netip.PrefixFrom(a, int(m.body[1]))] = true
			}
		})
	}
	return have, nil
}

// checkDefault looks for the pod's default route and, for IPv4, the on-link route to its gateway.
func (h *Handle) checkDefault(ctx context.Context, l Link, f model.Family) error {
	gw := PodGateway(f)
	family := byte(unix.AF_INET)
	if f == model.IPv6 {
		family = unix.AF_INET6
	}
	msgs, err := h.dump(ctx, unix.RTM_GETROUTE, (&encoder{}).raw(family, 0, 0, 0, 0, 0, 0, 0).rawU32(0).b)
	if err != nil {
		return fmt.Errorf("list routes of the pod: %w", err)
	}
	isDefault, onLink := false, f == model.IPv6
	for _, m := range msgs {
		if len(m.body) < unix.SizeofRtMsg || m.body[4] != unix.RT_TABLE_MAIN {
			continue
		}
		var dst, via netip.Addr
		oif := 0
		eachAttr(m.body[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			switch typ {
			case unix.RTA_DST:
				dst = getAddr(v)
			case unix.RTA_GATEWAY:
				via = getAddr(v)
			case unix.RTA_OIF:
				oif = int(getU32(v))
			}
		})
		if oif != l.Index {
			continue
		}
		isDefault = isDefault || m.body[1] == 0 && via == gw
		onLink = onLink || int(m.body[1]) == gw.BitLen() && dst == gw && !via.IsValid()
	}
	if !isDefault {
		return fmt.Errorf("pod has no %s default route via %s on %s", f, gw, l.Name)
	}
	if !onLink {
		return fmt.Errorf("pod has no route to its gateway %s on %s", gw, l.Name)
	}
	return nil
}

package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// monitorBuffer is the receive buffer of a Monitor in bytes. An event takes about 1 KiB of it, so
// that it holds a flush of some 16,000 entries while nobody reads.
const monitorBuffer = 16 << 20

// monitorGroups are the multicast groups of rtnetlink(7) that a Monitor joins, all on one socket:
// so the order of events is the kernel's, and a device's name is known before its routes. The
// neighbour group carries FDB entries too.
func monitorGroups() []int {
	return []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
		unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
		unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
	}
}

// Monitor reports what changes in one network namespace: links, addresses, routes, routing rules, neighbours, FDB
// entries and forwarding settings, whoever changes them. The kernel keeps events for it from
// NewMonitor on, so that what is read after NewMonitor plus the events is the whole truth.
type Monitor struct {
	conn  *conn
	h     *Handle // to read the links
	links map[int]Link
}

// NewMonitor subscribes in the network namespace at nsPath, or in the calling thread's when nsPath
// is empty.
func NewMonitor(ctx context.Context, nsPath string) (*Monitor, error) {
	m := &Monitor{}
	open := func() (err error) {
		if m.conn, err = openConn(monitorBuffer); err != nil {
			return err
		}
		m.h, err = Open()
		return err
	}
	var err error
	if nsPath == "" {
		err = open()
	} else {
		err = Do(nsPath, open)
	}
	if err == nil {
		err = m.join()
	}
	if err == nil {
		err = m.readLinks(ctx)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("watch the kernel: %w", err)
	}
	return m, nil
}

// Close ends the subscription. Run does so itself.
func (m *Monitor) Close() {
	if m.conn != nil {
		m.conn.close()
	}
	if m.h != nil {
		m.h.Close()
	}
}

// Watch calls f for every change in the network namespace at nsPath ("" is the calling thread's)
// until ctx ends, whose error it returns. Use a Monitor where reading must begin after the
// subscription.
func Watch(ctx context.Context, nsPath string, f func(Event)) error {
	m, err := NewMonitor(ctx, nsPath)
	if err != nil {
		return err
	}
	return m.Run(ctx, f)
}

func (m *Monitor) join() error {
	raw, err := m.conn.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		for _, g := range monitorGroups() {
			if inner = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); inner != nil {
				inner = fmt.Errorf("join netlink group %d: %w", g, inner)
				return
			}
		}
	})
	return errors.Join(err, inner)
}

func (m *Monitor) readLinks(ctx context.Context) error {
	links, err := m.h.Links(ctx)
	if err != nil {
		return err
	}
	m.links = make(map[int]Link, len(links))
	for _, l := range links {
		m.links[l.Index] = l
	}
	return nil
}

// Run calls f for every event, one at a time and in the kernel's order, until ctx ends, whose error
// it returns. When the kernel had to drop events because f was too slow, f gets one EventLost and
// the watch goes on. Run closes the Monitor.
func (m *Monitor) Run(ctx context.Context, f func(Event)) error {
	defer m.Close()
	defer m.conn.follow(ctx)()
	for {
		err := m.conn.receive(func(h header, body []byte) (bool, error) {
			m.event(h.typ, body, f)
			return ctx.Err() == nil, nil
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, unix.ENOBUFS) {
			if err = m.startAfresh(ctx); err == nil {
				f(Event{Kind: EventLost})
			}
		}
		if err != nil {
			return fmt.Errorf("watch the kernel: %w", err)
		}
	}
}

// startAfresh follows an overflow. The kernel reports an overflow once and then goes on
// dropping until the queue has been read to its end: what is still in it is thrown away first, so
// that whatever was dropped had happened before the caller reads everything again.
func (m *Monitor) startAfresh(ctx context.Context) error {
	raw, err := m.conn.file.SyscallConn()
	if err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var inner error
		err := raw.Read(func(fd uintptr) bool {
			_, _, inner = unix.Recvfrom(int(fd), m.conn.buf, unix.MSG_DONTWAIT)
			return true
		})
		switch {
		case err != nil:
			return err
		case errors.Is(inner, unix.EAGAIN):
			return m.readLinks(ctx)
		case inner != nil && !errors.Is(inner, unix.ENOBUFS) && !errors.Is(inner, unix.EINTR):
			return inner
		}
	}
}

func (m *Monitor) event(typ uint16, body []byte, f func(Event)) {
	switch typ {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		m.link(typ == unix.RTM_DELLINK, body, f)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		m.address(typ == unix.RTM_DELADDR, body, f)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if r, ok := parseRoute(body); ok && !r.cloned {
			n := r.named(m.name)
			f(Event{Kind: EventRoute, Removed: typ == unix.RTM_DELROUTE, Link: m.links[r.oif],
				RouteKey: n.key, Route: n.route, Protocol: n.protocol})
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if r, protocol, ok := parseRule(body); ok {
			f(Event{Kind: EventRule, Removed: typ == unix.RTM_DELRULE, Rule: r, Protocol: protocol})
		}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		m.neighbour(typ == unix.RTM_DELNEIGH, body, f)
	case unix.RTM_NEWNETCONF:
		m.netconf(body, f)
	}
}

func (m *Monitor) name(index int) string { return m.links[index].Name }

func (m *Monitor) link(removed bool, body []byte, f func(Event)) {
	// A bridge reports its ports as links of family AF_BRIDGE: not a link that comes or goes.
	l, ok := parseLink(body)
	if !ok || body[0] != unix.AF_UNSPEC {
		return
	}
	if removed {
		delete(m.links, l.Index)
	} else {
		m.links[l.Index] = l
	}
	f(Event{Kind: EventLink, Removed: removed, Link: l})
}

const ifAddrSize = 8 // struct ifaddrmsg

func (m *Monitor) address(removed bool, body []byte, f func(Event)) {
	if len(body) < ifAddrSize {
		return
	}
	var addr, local netip.Addr
	eachAttr(body[ifAddrSize:], func(typ uint16, v []byte) {
		switch typ {
		case unix.IFA_ADDRESS:
			addr = getAddr(v)
		case unix.IFA_LOCAL:
			local = getAddr(v)
		}
	})
	if local.IsValid() { // IFA_ADDRESS is the peer's on a point-to-point link
		addr = local
	}
	index := int(binary.NativeEndian.Uint32(body[4:]))
	if p := netip.PrefixFrom(addr, int(body[1])); p.IsValid() {
		f(Event{Kind: EventAddr, Removed: removed, Link: m.links[index], Addr: p})
	}
}

func (m *Monitor) neighbour(removed bool, body []byte, f func(Event)) {
	n, ok := parseNeigh(body)
	if !ok {
		return
	}
	e := Event{Kind: EventNeigh, Removed: removed, Link: m.links[n.index], MAC: n.mac, NeighState: int(n.state)}
	if n.family == unix.AF_BRIDGE {
		e.Kind, e.FDBDst = EventFDB, n.dst
		e.FDBKey = FDBKey{Device: e.Link.Name, MAC: n.mac}
	} else {
		e.NeighKey = NeighKey{Device: e.Link.Name, IP: n.dst}
	}
	f(e)
}

// The attributes and special indexes of linux/netconf.h.
const (
	netconfIfIndex    = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfProxy      = 5
	netconfAll        = -1
	netconfDefault    = -2
)

func (m *Monitor) netconf(body []byte, f func(Event)) {
	if len(body) < 4 {
		return
	}
	dir, proxy := "net/ipv4/conf/", "proxy_arp"
	if body[0] == unix.AF_INET6 {
		dir, proxy = "net/ipv6/conf/", "proxy_ndp"
	}
	names := map[uint16]string{netconfForwarding: "forwarding", netconfRPFilter: "rp_filter", netconfProxy: proxy}
	var link Link
	device := ""
	// struct netconfmsg is one byte, padded to four.
	eachAttr(body[4:], func(typ uint16, v []byte) {
		if typ != netconfIfIndex {
			return
		}
		switch index := int(int32(getU32(v))); index {
		case netconfAll:
			device = "all"
		case netconfDefault:
			device = "default"
		default:
			if link = m.links[index]; link.Name != "" {
				device = link.Name
			} else {
				device = "if" + strconv.Itoa(index)
			}
		}
	})
	eachAttr(body[4:], func(typ uint16, v []byte) {
		if name, ok := names[typ]; ok && device != "" {
			f(Event{Kind: EventSysctl, Link: link, Sysctl: dir + device + "/" + name, SysctlValue: int(int32(getU32(v)))})
		}
	})
}

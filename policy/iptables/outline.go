package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/model"
)

// outline is what of the kernel's state is cheap to read.
type outline struct {
	sets   map[string]int // members of each set of ours
	tables map[key]tableInfo
}

func (o *outline) equal(p *outline) bool {
	return maps.Equal(o.sets, p.sets) && maps.Equal(o.tables, p.tables)
}

// tableInfo is of struct ipt_getinfo (linux/netfilter_ipv4/ip_tables.h), and ip6t_getinfo, which is
// laid out the same: everything of a legacy table but its rules.
type tableInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	Entries    uint32
	Size       uint32
}

const (
	soGetInfo   = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	ipsetList   = 7  // IPSET_CMD_LIST
	ipsetFlags  = 6  // IPSET_ATTR_FLAGS
	ipsetData   = 7  // IPSET_ATTR_DATA
	setNameAttr = 2  // IPSET_ATTR_SETNAME
	elementsIn  = 24 // IPSET_ATTR_ELEMENTS, in the data
	listHeader  = 1 << 2
)

func (d *Driver) readOutline() (outline, error) {
	var o outline
	var err error
	if o.sets, err = d.setCounts(); err == nil && d.in == Legacy {
		o.tables, err = d.readTables()
	}
	return o, err
}

func (d *Driver) readTables() (map[key]tableInfo, error) {
	tables := map[key]tableInfo{}
	err := d.run.in(func() error {
		for _, f := range families {
			if err := legacyInfo(f, d.legacyOurs(f), tables); err != nil {
				return err
			}
		}
		return nil
	})
	return tables, err
}

// legacyOurs lists the tables that we have chains in: asking for others would make them.
func (d *Driver) legacyOurs(f model.Family) (tables []string) {
	if !present(f) {
		return nil
	}
	for _, h := range hooks {
		if _, ours := d.rules.chains[key{f, h.table, h.chain}]; ours && !slices.Contains(tables, h.table) {
			tables = append(tables, h.table)
		}
	}
	return tables
}

// legacyInfo reads what ip_tables says of some tables.
func legacyInfo(f model.Family, tables []string, into map[key]tableInfo) error {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if f == model.IPv6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open a raw socket: %w", err)
	}
	defer unix.Close(fd)
	for _, t := range tables {
		var info tableInfo
		copy(info.Name[:], t)
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), soGetInfo,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return fmt.Errorf("read the legacy table %s: %w", t, errno)
		}
		into[key{f, t, ""}] = info
	}
	return nil
}

// setCounts asks for the heads of all sets, without their members.
func (d *Driver) setCounts() (map[string]int, error) {
	c, err := d.dial(0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(1, 6) // IPSET_ATTR_PROTOCOL
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(ipsetFlags|unix.NLA_F_NET_BYTEORDER, listHeader)
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_IPSET<<8 | ipsetList, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.AF_INET, 0, 0, 0}, data...),
	})
	if err != nil {
		return nil, fmt.Errorf("list ipsets: %w", err)
	}
	counts := map[string]int{}
	for _, m := range msgs {
		name, n, err := setHead(m)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, prefix) {
			counts[name] = n
		}
	}
	return counts, nil
}

func setHead(m netlink.Message) (name string, n int, err error) {
	if len(m.Data) < 4 {
		return "", 0, errors.New("list ipsets: the kernel's answer is too short")
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return "", 0, fmt.Errorf("list ipsets: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case setNameAttr:
			name = ad.String()
		case ipsetData:
			ad.Nested(func(in *netlink.AttributeDecoder) error {
				in.ByteOrder = binary.BigEndian
				for in.Next() {
					if in.Type() == elementsIn {
						n = int(in.Uint32())
					}
				}
				return in.Err()
			})
		}
	}
	return name, n, ad.Err()
}

package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// Watch calls kick when somebody else changed the owner's part, until ctx ends, whose error it
// returns. The next Apply then repairs it. nftables has its own events, which kernel.Watch does not
// carry.
func (o *Owner) Watch(ctx context.Context, kick func()) error {
	ns, err := o.h.Namespace()
	if err != nil {
		return err
	}
	id, err := namespaceOf(ns)
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	ns.Close()
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer c.Close()
	defer func() { _ = among(id, func(w *writers) error { delete(w.watchers, c); return nil }) }()
	err = among(id, func(w *writers) error { w.watchers[c] = true; return nil })
	if err := errors.Join(err, c.SetReadBuffer(socketBuffer), c.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// What happened before we listened is unknown.
	o.touch.Store(true)
	o.watched.Store(true)
	defer o.watched.Store(false)
	kick()
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	buf := make([]byte, eventBuffer)
	for {
		n, err := receiveInto(raw, buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case errors.Is(err, unix.ENOBUFS), err == nil && n > len(buf): // events were lost
			o.touch.Store(true)
			kick()
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		case o.foreignIn(buf[:n]):
			o.foreign.Store(true)
			o.touch.Store(true)
			kick()
		}
	}
}

// eventBuffer in bytes is more than the kernel joins into one datagram of events.
const eventBuffer = 64 << 10

// receiveInto reads one datagram and returns how long it is, which may be more than the buffer.
func receiveInto(raw syscall.RawConn, buf []byte) (n int, err error) {
	inner := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
		return err != unix.EAGAIN && err != unix.EINTR
	})
	return n, errors.Join(inner, err)
}

// foreignIn tells whether an event about the owner's part is among these, none of which is an owner's of this process. Other
// programs may have thousands about what is theirs, so that nothing is copied here.
func (o *Owner) foreignIn(b []byte) bool {
	for len(b) >= unix.SizeofNlMsghdr {
		length := int(binary.NativeEndian.Uint32(b))
		if length < unix.SizeofNlMsghdr || length > len(b) {
			return true // cannot be read: better one look too many
		}
		if concerns(binary.NativeEndian.Uint16(b[4:]), b[unix.SizeofNlMsghdr:length], o.prefix) {
			return true
		}
		b = b[min((length+3)&^3, len(b)):]
	}
	return false
}

// concerns tells whether an nftables event is about the table, or about something in it whose name
// begins with prefix. In every kind of message the first attributes are strings that name the table and
// then the chain, set or object.
func concerns(kind uint16, data []byte, prefix string) bool {
	const nfgenmsg = 4 // struct nfgenmsg: family, version, resource id
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(data) < nfgenmsg || data[0] != unix.NFPROTO_INET {
		return false
	}
	var nameAttr uint16
	switch kind & 0xff {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		nameAttr = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		nameAttr = unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET:
		nameAttr = unix.NFTA_SET_NAME
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		nameAttr = unix.NFTA_SET_ELEM_LIST_SET
	case nftables.NFT_MSG_NEWFLOWTABLE, nftables.NFT_MSG_DELFLOWTABLE:
		nameAttr = nftables.NFTA_FLOWTABLE_NAME
	case unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_DELOBJ:
		nameAttr = unix.NFTA_OBJ_NAME
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		nameAttr = 0 // the table itself
	default:
		return false
	}
	var table, name []byte
	for data = data[nfgenmsg:]; len(data) > 0; {
		if len(data) < unix.SizeofNlAttr {
			return true // cannot be read
		}
		length := int(binary.NativeEndian.Uint16(data))
		if length < unix.SizeofNlAttr || length > len(data) {
			return true
		}
		value := bytes.TrimSuffix(data[unix.SizeofNlAttr:length], []byte{0})
		switch binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case unix.NFTA_TABLE_NAME: // 1 in every kind of message
			table = value
		case nameAttr:
			name = value
		}
		data = data[min((length+3)&^3, len(data)):]
	}
	return string(table) == kernel.NFTable && (nameAttr == 0 || bytes.HasPrefix(name, []byte(prefix)))
}

func portOf(c *netlink.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var port uint32
	var inner error
	err = raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		sa, inner = unix.Getsockname(int(fd))
		if n, ok := sa.(*unix.SockaddrNetlink); ok {
			port = n.Pid
		}
	})
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	if port == 0 { // the kernel's own
		return 0, errors.New("a netlink socket has no port")
	}
	return port, nil
}

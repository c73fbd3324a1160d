package nft

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

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
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	ns.Close()
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer c.Close()
	if err := errors.Join(c.SetReadBuffer(socketBuffer), c.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// What happened before we listened is unknown.
	o.touch.Store(true)
	o.watched.Store(true)
	defer o.watched.Store(false)
	kick()
	for {
		msgs, err := c.Receive()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		switch {
		case errors.Is(err, unix.ENOBUFS): // events were lost
			o.touch.Store(true)
			kick()
			continue
		case err != nil:
			return fmt.Errorf("watch nftables: %w", err)
		}
		for _, m := range msgs {
			if !o.ports.ours(m.Header.PID) && concerns(m, o.prefix) {
				o.foreign.Store(true)
				o.touch.Store(true)
				kick()
				break
			}
		}
	}
}

// concerns tells whether an nftables event is about the table, or about something in it whose name
// begins with prefix. In every kind of message the first attributes are strings that name the table and
// then the chain, set or object.
func concerns(m netlink.Message, prefix string) bool {
	const nfgenmsg = 4 // struct nfgenmsg: family, version, resource id
	subsystem, kind := int(m.Header.Type)>>8, int(m.Header.Type)&0xff
	if subsystem != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenmsg || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	var nameAttr uint16
	switch kind {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		nameAttr = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		nameAttr = unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_NEWSET, unix.NFT_MSG_DELSET:
		nameAttr = unix.NFTA_SET_NAME
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		nameAttr = unix.NFTA_SET_ELEM_LIST_SET
	case unix.NFT_MSG_NEWOBJ, unix.NFT_MSG_DELOBJ:
		nameAttr = unix.NFTA_OBJ_NAME
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		nameAttr = 0 // the table itself
	default:
		return false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err != nil {
		return true // cannot be read: better one look too many
	}
	table, name := "", ""
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME: // 1 in every kind of message
			table = ad.String()
		case nameAttr:
			name = ad.String()
		}
	}
	return table == kernel.NFTable && (nameAttr == 0 || strings.HasPrefix(name, prefix))
}

// ports are the netlink ports that an owner's own events carry. The one before the last is kept, as its
// events may still be under way when a new socket is opened.
type ports struct {
	mu        sync.Mutex
	now, last uint32
}

func (p *ports) add(port uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.last = port, p.now
}

func (p *ports) ours(port uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return port != 0 && (port == p.now || port == p.last)
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
	return port, errors.Join(err, inner)
}

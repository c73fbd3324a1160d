package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/bench/street"
	"weft/internal/kernel"
	"weft/node/datastore"
	"weft/node/datastore/etcd"
)

// setPause is between two looks at the counts of ipsets, of whose changes the kernel tells nobody.
const setPause = 2 * time.Millisecond

// listen notes the moment of every change of rules in the node's namespace: transactions of nftables (nfnetlink(7): each
// ends with NFT_MSG_NEWGEN), and by iptables of its sets' counts too.
func (m *policyRun) listen(ctx context.Context) (stop func(), err error) {
	ns, err := os.Open(kernel.NetnsPath(m.lab.Netns("n1")))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	m.events = make(chan time.Time, 1<<16)
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(32<<20), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return nil, fmt.Errorf("listen to nftables: %w", errors.Join(err, conn.Close()))
	}
	var wait sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop = func() { cancel(); _ = conn.Close(); wait.Wait() }
	wait.Go(func() { m.hear(ctx, conn) })
	if m.backend != street.IPTables {
		return stop, nil
	}
	sets, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	if err != nil {
		stop()
		return nil, fmt.Errorf("look at ipsets: %w", err)
	}
	wait.Go(func() { m.lookAtSets(ctx, sets); _ = sets.Close() })
	return stop, nil
}

func (m *policyRun) hear(ctx context.Context, conn *netlink.Conn) {
	for {
		all, err := conn.Receive()
		if ctx.Err() != nil || err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		now := time.Now()
		for _, msg := range all {
			switch msg.Header.Type {
			case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN:
				m.events <- now
			case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWSETELEM, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
				m.members(msg.Data, now)
			}
		}
	}
}

// lookAtSets compares the heads of all ipsets, again and again.
func (m *policyRun) lookAtSets(ctx context.Context, conn *netlink.Conn) {
	var last []byte
	for ctx.Err() == nil {
		msgs, err := conn.Execute(setHeads())
		now := time.Now()
		if err == nil {
			var heads []byte
			for _, msg := range msgs {
				heads = append(heads, msg.Data...)
			}
			if last != nil && !bytes.Equal(heads, last) {
				m.events <- now
			}
			last = heads
		}
		select {
		case <-ctx.Done():
		case <-time.After(setPause):
		}
	}
}

// setHeads asks for all ipsets without their members (linux/netfilter/ipset/ip_set.h).
func setHeads() netlink.Message {
	const list, protocol, flags, headersOnly = 7, 1, 6, 1 << 2
	ae := netlink.NewAttributeEncoder()
	ae.Uint8(protocol, 6)
	ae.ByteOrder = binary.BigEndian
	ae.Uint32(flags|unix.NLA_F_NET_BYTEORDER, headersOnly)
	data, _ := ae.Encode() // of integers
	return netlink.Message{Header: netlink.Header{Type: unix.NFNL_SUBSYS_IPSET<<8 | list, Flags: netlink.Request | netlink.Dump},
		Data: append([]byte{unix.AF_INET, 0, 0, 0}, data...)}
}

// echoes tell when this process heard from the store what it wrote: what nobody who follows the store is faster than.
// There are two, to see how far they differ.
type echoes struct {
	heard  [2]chan time.Time
	cancel context.CancelFunc
	wait   sync.WaitGroup
}

func followEchoes(ctx context.Context, store *etcd.Store, kinds ...string) (*echoes, error) {
	list, err := store.List(ctx, "IPPool") // for the revision; there are few
	if err != nil {
		return nil, err
	}
	e := &echoes{}
	ctx, e.cancel = context.WithCancel(ctx)
	for i := range e.heard {
		heard := make(chan time.Time, 1<<16)
		e.heard[i] = heard
		e.wait.Go(func() {
			_ = store.Watch(ctx, list.Revision, kinds, func(changes []datastore.Change) error {
				now := time.Now()
				for range changes {
					select {
					case heard <- now:
					default: // nobody asks
					}
				}
				return nil
			})
		})
	}
	return e, nil
}

func (e *echoes) close() { e.cancel(); e.wait.Wait() }

func (e *echoes) drain() {
	for _, c := range e.heard {
		for len(c) > 0 {
			<-c
		}
	}
}

// after returns how long after begin each heard of a change.
func (e *echoes) after(begin time.Time) (out [2]time.Duration, err error) {
	for i, c := range e.heard {
		select {
		case at := <-c:
			out[i] = at.Sub(begin)
		case <-time.After(10 * time.Second):
			return out, errors.New("the store did not tell of a change within 10 s")
		}
	}
	return out, nil
}

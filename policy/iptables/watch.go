package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/model"
)

const (
	// pollEvery is how often Watch looks at what has no events: sets, and legacy iptables. It reads
	// counts only.
	pollEvery = 500 * time.Millisecond
	// againAfter is how much longer than the last reading and writing of everything Watch waits until it has
	// everything compared again after legacy tables were written.
	againAfter = 20
	// eventBuffer is the receive buffer for events of nf_tables in bytes.
	eventBuffer = 8 << 20
)

// suspects are chains that somebody else is said to have touched.
type suspects struct {
	mu     sync.Mutex
	chains map[key]bool
}

func (s *suspects) add(k key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chains == nil {
		s.chains = map[key]bool{}
	}
	s.chains[k] = true
}

func (s *suspects) take() map[key]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.chains
	s.chains = nil
	return t
}

// Watch calls kick when somebody else changed the Driver's chains, sets or hooks, until ctx ends,
// whose error it returns. The next Apply then repairs them. Changes by the nft backend are told by
// the kernel; those by the legacy one, and of sets, are found within pollEvery by the number of
// rules and members.
func (d *Driver) Watch(ctx context.Context, kick func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := d.dial(unix.NFNLGRP_NFTABLES)
	if err != nil {
		return err
	}
	if c == nil { // the kernel has no nf_tables
		return d.poll(ctx, kick)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	polled := make(chan error, 1)
	go func() {
		defer cancel()
		polled <- d.poll(ctx, kick)
	}()
	err = d.events(ctx, c, kick)
	cancel()
	if p := <-polled; !errors.Is(p, context.Canceled) {
		err = p
	}
	return err
}

// dial opens a socket to nfnetlink that gets the group's events; nil where the kernel has no such
// group.
func (d *Driver) dial(group uint32) (*netlink.Conn, error) {
	ns, err := d.run.h.Namespace()
	if err != nil {
		return nil, err
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(ns.Fd())})
	ns.Close()
	if err != nil {
		return nil, fmt.Errorf("watch netfilter: %w", err)
	}
	if group == 0 {
		return c, nil
	}
	if err := errors.Join(c.SetReadBuffer(eventBuffer), c.JoinGroup(group)); err != nil {
		c.Close()
		if errors.Is(err, unix.EINVAL) {
			return nil, nil
		}
		return nil, fmt.Errorf("watch netfilter: %w", err)
	}
	return c, nil
}

func (d *Driver) events(ctx context.Context, c *netlink.Conn, kick func()) error {
	// What happened before we listened is unknown.
	d.look.Store(true)
	kick()
	for {
		msgs, err := c.Receive()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch netfilter: %w", err)
		}
		concerned := err != nil // events were lost
		for _, m := range msgs {
			if d.run.ours(m.Header.PID) {
				continue
			}
			k, about := eventChain(m)
			if about && strings.HasPrefix(k.chain, prefix) {
				d.suspects.add(k)
			}
			concerned = concerned || about
		}
		if concerned {
			d.look.Store(true)
			kick()
		}
	}
}

// eventChain tells which chain an event of nf_tables is about, if that or its table is our business.
// In every kind of message the first attributes are strings that name the table and then the chain.
func eventChain(m netlink.Message) (key, bool) {
	const nfgenmsg = 4 // struct nfgenmsg: family, version, resource id
	subsystem, kind := int(m.Header.Type)>>8, int(m.Header.Type)&0xff
	if subsystem != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenmsg {
		return key{}, false
	}
	k := key{family: model.IPv4}
	switch m.Data[0] {
	case unix.NFPROTO_IPV4:
	case unix.NFPROTO_IPV6:
		k.family = model.IPv6
	default:
		return key{}, false
	}
	var chainAttr uint16
	switch kind {
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chainAttr = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chainAttr = unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_DELTABLE:
	default:
		return key{}, false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[nfgenmsg:])
	if err != nil {
		return key{}, false
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME: // 1 in every kind of message
			k.table = ad.String()
		case chainAttr:
			k.chain = ad.String()
		}
	}
	if chainAttr == 0 {
		return k, k.table == filter || k.table == raw || k.table == mangle
	}
	for _, h := range hooks {
		if h.table == k.table && (h.builtin == k.chain || strings.HasPrefix(k.chain, prefix)) {
			return k, true
		}
	}
	return key{}, false
}

// poll looks at the outline again and again.
func (d *Driver) poll(ctx context.Context, kick func()) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		if d.differs() {
			d.look.Store(true)
			kick()
		}
	}
}

// differs tells whether the kernel's outline is not what it was after the last Apply, or has to be doubted.
func (d *Driver) differs() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.known {
		return false // the next Apply reads everything
	}
	if !d.again.IsZero() && time.Now().After(d.again) {
		d.again = time.Time{}
		return true
	}
	now, err := d.readOutline()
	if err != nil {
		d.log.Debug("the outline of policy in the kernel could not be read", "error", err)
		return false
	}
	return !now.equal(&d.outline)
}

// lookFirst has this Apply compare everything if somebody changed a legacy table since the last one, which
// would show no more once it is over. It returns how the tables are; nil where that is not of interest.
func (d *Driver) lookFirst() (tables map[key]tableInfo) {
	if d.wrote = false; !d.known || d.in != Legacy {
		return nil
	}
	now, err := d.readTables()
	if err != nil {
		return nil // noteOutline says so
	}
	if !maps.Equal(now, d.outline.tables) {
		d.look.Store(true)
	}
	return now
}

// noteOutline keeps what Apply left. Of legacy tables that it did not write that is how they were before it
// read them. Those that it wrote tell nothing of what somebody else did meanwhile: they are compared once
// more, a while later so that this takes a small part of a processor even if policy changes all the time.
func (d *Driver) noteOutline(before map[key]tableInfo) {
	if !d.known {
		return
	}
	now, err := d.readOutline()
	if err != nil {
		d.log.Debug("the outline of policy in the kernel could not be read", "error", err)
		return
	}
	switch {
	case d.in != Legacy:
	case before != nil && !d.wrote:
		now.tables = before
	case d.again.IsZero():
		d.again = time.Now().Add(againAfter * d.took)
	}
	// What is wanted counts, not what is there: a member that is missing already is found too.
	there := now.sets
	now.sets = map[string]int{}
	for name := range d.refused.sets {
		if n, left := there[name]; left {
			now.sets[name] = n
		}
	}
	for name, s := range d.sets {
		now.sets[name] = s.count
	}
	d.outline = now
}

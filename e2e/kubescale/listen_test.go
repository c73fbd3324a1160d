package kubescale

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"weft/internal/testkit"
)

// listener hears the transactions of nftables in a namespace (nfnetlink(7)).
type listener struct {
	mu    sync.Mutex
	port  []byte // rules with which are waited for; nil: none
	heard chan time.Time
	count [2]int // messages and transactions
}

func listen(t *testing.T, ns testkit.NS) *listener {
	t.Helper()
	f, err := os.Open(ns.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(f.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.SetReadBuffer(32<<20), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		t.Fatal(err)
	}
	l := &listener{heard: make(chan time.Time, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			all, err := conn.Receive()
			if err != nil && t.Context().Err() != nil {
				return
			}
			l.take(all, time.Now())
		}
	}()
	t.Cleanup(func() { // the test's context has ended by now
		_ = conn.SetReadDeadline(time.Now())
		<-done
		_ = conn.Close()
	})
	return l
}

func (l *listener) take(all []netlink.Message, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range all {
		l.count[0]++
		switch m.Header.Type {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN:
			l.count[1]++
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWRULE:
			// A message of a transaction comes after the kernel has committed it.
			if l.port != nil && bytes.Contains(m.Data, l.port) {
				l.port = nil
				l.heard <- at
			}
		}
	}
}

// expect has the listener tell on heard when a rule about a port comes, whose number nothing else has in it.
func (l *listener) expect(port int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.heard:
	default:
	}
	l.port = binary.BigEndian.AppendUint16(nil, uint16(port))
}

func (l *listener) counts() (messages, transactions int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[0], l.count[1]
}

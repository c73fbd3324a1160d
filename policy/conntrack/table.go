package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
	"weft/model"
)

const (
	// receiveBuffer in bytes: what the kernel may have ready while we look at what we have. A dump
	// waits for room, it is not lost.
	receiveBuffer = 1 << 20
	// readBuffer in bytes is more than the kernel puts into one datagram of a dump (32 KiB).
	readBuffer = 64 << 10
	// dumpAttempts bounds how often a dump is started again that the kernel says is torn.
	dumpAttempts = 5
	// writesPerSend bounds the messages of one system call; each is answered.
	writesPerSend = 64
	// exchangeTimeout bounds the wait for an answer.
	exchangeTimeout = 10 * time.Second
)

// Messages and attributes of ctnetlink (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	msgGet    = msgNew | 1
	msgDelete = msgNew | 2
	msgStats  = msgNew | 5

	attrOrig     = 1
	attrReply    = 2
	attrMark     = 8
	attrID       = 12
	attrMaster   = 14
	attrZone     = 18
	attrMarkMask = 21
	attrFilter   = 25

	attrTupleIP, attrTupleProto, attrTupleZone = 1, 2, 3

	attrFilterOrig, attrFilterReply = 1, 2
	filterSource                    = 1 << 0 // of the tuple's addresses, only the source counts
)

// table is a socket to the connection tracking table of one network namespace.
type table struct {
	file *os.File
	seq  uint32
	buf  []byte
}

// openTable opens the table of h's namespace.
func openTable(h *kernel.Handle) (*table, error) {
	t := &table{buf: make([]byte, readBuffer)}
	err := h.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		t.file = os.NewFile(uintptr(fd), "conntrack")
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1) // only spares copies
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		if t.file != nil {
			_ = t.file.Close()
		}
		return nil, fmt.Errorf("open connection tracking: %w (the kernel needs NF_CT_NETLINK)", err)
	}
	return t, nil
}

func (t *table) close() { _ = t.file.Close() }

// filter says which entries the kernel shall show; the zero filter is all.
type filter struct {
	from   netip.Addr // the original sender
	to     netip.Addr // the original receiver, as translated
	marked bool       // with kernel.HeldMark
}

func (f filter) body() []byte {
	switch {
	case f.from.IsValid():
		return filterBody(f.from, attrOrig, filterSource, 0)
	case f.to.IsValid():
		return filterBody(f.to, attrReply, 0, filterSource)
	}
	b := header(unix.AF_UNSPEC)
	if f.marked {
		b = appendMark(b, kernel.HeldMark)
	}
	return b
}

func filterBody(a netip.Addr, tuple uint16, orig, reply uint32) []byte {
	ip, family := uint16(1), uint8(unix.AF_INET) // CTA_IP_V4_SRC
	if a.Is6() {
		ip, family = 3, unix.AF_INET6 // CTA_IP_V6_SRC
	}
	b := appendNest(header(family), tuple, appendNest(nil, attrTupleIP, appendAttr(nil, ip, a.AsSlice())))
	return appendNest(b, attrFilter, appendAttr(appendAttr(nil, attrFilterOrig, native(orig)), attrFilterReply, native(reply)))
}

// dump calls f for every entry that the filter lets through. What f is given is its own only during
// the call. The kernel may show an entry twice.
func (t *table) dump(ctx context.Context, flt filter, f func(*entry)) error {
	var err error
	for range dumpAttempts {
		if err = t.dumpOnce(ctx, flt, f); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("read connection tracking: %w", err)
	}
	return nil
}

func (t *table) dumpOnce(ctx context.Context, flt filter, f func(*entry)) error {
	t.seq++
	if err := t.send(ctx, appendMessage(nil, msgGet, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, t.seq, flt.body())); err != nil {
		return err
	}
	var e entry
	torn := false
	for done := false; !done; {
		if err := t.limit(ctx); err != nil { // a big table takes more than one exchange may
			return err
		}
		err := t.receive(func(m message) error {
			if m.seq != t.seq {
				return nil
			}
			torn = torn || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_DONE:
				done = true
				return m.err()
			case unix.NLMSG_ERROR:
				return m.err()
			}
			if e.parse(m.body) {
				f(&e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if torn {
		return unix.EINTR
	}
	return nil
}

// count returns how many entries there are.
func (t *table) count(ctx context.Context) (n int, err error) {
	t.seq++
	err = t.send(ctx, appendMessage(nil, msgStats, unix.NLM_F_REQUEST|unix.NLM_F_ACK, t.seq, header(unix.AF_UNSPEC)))
	for done := false; err == nil && !done; {
		err = t.receive(func(m message) error {
			switch {
			case m.seq != t.seq:
			case m.typ == unix.NLMSG_ERROR:
				done = true
				return m.err()
			case len(m.body) > 4:
				attrs(m.body[4:], func(typ uint16, v []byte) {
					if typ == 1 && len(v) == 4 { // CTA_STATS_GLOBAL_ENTRIES
						n = int(binary.BigEndian.Uint32(v))
					}
				})
			}
			return nil
		})
	}
	if err != nil {
		return 0, fmt.Errorf("count the entries of connection tracking: %w", err)
	}
	return n, nil
}

// write is a change of one entry.
type write struct {
	typ  uint16
	body []byte
}

// deletion removes an entry, if it is still the same.
func (e *entry) deletion() write {
	b := appendAttr(header(e.family()), attrOrig|unix.NLA_F_NESTED, e.rawOrig)
	return write{msgDelete, appendAttr(b, attrID, e.rawID)}
}

// marking sets kernel.HeldMark, or takes it off; other bits of the mark stay.
func (e *entry) marking(on bool) write {
	b := appendAttr(header(e.family()), attrOrig|unix.NLA_F_NESTED, e.rawOrig)
	if on {
		return write{msgNew, appendMark(b, kernel.HeldMark)}
	}
	return write{msgNew, appendMark(b, 0)}
}

func (e *entry) family() uint8 {
	if model.FamilyOf(e.src) == model.IPv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// do makes changes, and returns how many were made. An entry that is gone is no error.
func (t *table) do(ctx context.Context, writes []write) (done int, err error) {
	for len(writes) > 0 {
		n := min(len(writes), writesPerSend)
		first := t.seq + 1
		var out []byte
		for _, w := range writes[:n] {
			t.seq++
			out = appendMessage(out, w.typ, unix.NLM_F_REQUEST|unix.NLM_F_ACK, t.seq, w.body)
		}
		writes = writes[n:]
		if err := t.send(ctx, out); err != nil {
			return done, fmt.Errorf("change connection tracking: %w", err)
		}
		var failed error
		for answers := 0; answers < n; {
			err := t.receive(func(m message) error {
				if m.typ != unix.NLMSG_ERROR || m.seq-first >= uint32(n) {
					return nil
				}
				answers++
				switch err := m.err(); {
				case err == nil:
					done++
				case !errors.Is(err, unix.ENOENT) && failed == nil:
					failed = err
				}
				return nil
			})
			if err != nil {
				return done, fmt.Errorf("change connection tracking: %w", err)
			}
		}
		if failed != nil {
			return done, fmt.Errorf("change an entry of connection tracking: %w", failed)
		}
	}
	return done, nil
}

// limit bounds the next exchange with the kernel.
func (t *table) limit(ctx context.Context) error {
	deadline := time.Now().Add(exchangeTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	return errors.Join(ctx.Err(), t.file.SetDeadline(deadline))
}

func (t *table) send(ctx context.Context, b []byte) error {
	if err := t.limit(ctx); err != nil {
		return err
	}
	_, err := t.file.Write(b)
	return err
}

type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// err reads the error number that a message of type NLMSG_ERROR or NLMSG_DONE begins with.
func (m message) err() error {
	if len(m.body) < 4 {
		return nil
	}
	if n := int32(binary.NativeEndian.Uint32(m.body)); n != 0 {
		return unix.Errno(-n)
	}
	return nil
}

// receive takes one datagram and calls f for each message of the current exchange in it.
func (t *table) receive(f func(message) error) error {
	n, err := t.file.Read(t.buf)
	if err != nil {
		return err
	}
	for b := t.buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return fmt.Errorf("a netlink message of %d bytes in %d", size, len(b))
		}
		m := message{typ: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
			seq: binary.NativeEndian.Uint32(b[8:]), body: b[unix.NLMSG_HDRLEN:size]}
		if err := f(m); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// header is a struct nfgenmsg.
func header(family uint8) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func appendMark(b []byte, mark uint32) []byte {
	b = appendAttr(b, attrMark, binary.BigEndian.AppendUint32(nil, mark))
	return appendAttr(b, attrMarkMask, binary.BigEndian.AppendUint32(nil, kernel.HeldMark))
}

func appendMessage(b []byte, typ, flags uint16, seq uint32, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, body...))
}

func appendAttr(b []byte, typ uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	return pad(append(b, v...))
}

func appendNest(b []byte, typ uint16, inner []byte) []byte {
	return appendAttr(b, typ|unix.NLA_F_NESTED, inner)
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

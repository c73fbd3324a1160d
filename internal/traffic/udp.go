package traffic

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// headerBytes of a payload: token, pair, sequence number, time of sending, 8 bytes each.
	headerBytes = 32
	// batch is how many packets one recvmmsg takes.
	batch = 64
	// drain is how long packets are waited for after the last was sent, if some are missing.
	drain = time.Second
	// warmSeq is the sequence number of packets that only open the way.
	warmSeq = ^uint64(0)
)

// udpRun is all UDP streams. One thread sends and receives all of them: each round it hands every
// host's packets to the kernel in one call and takes what arrived in another.
type udpRun struct {
	token    uint64
	interval time.Duration
	hosts    []Host
	pairs    []pairOf
	counters []counter // by pair
	refused  []uint64  // by pair
	heard    []bool    // by pair
	ends     []*end    // by host
	sent     *atomic.Uint64
	alien    uint64 // packets of this run that were never sent
	late     []time.Duration
	skipped  uint64
	took     time.Duration
}

// end is the socket of one host with the buffers of its messages.
type end struct {
	fd       int
	port     uint16
	out      []mmsghdr
	outPair  []int // pair of each
	payloads [][]byte
	in       []mmsghdr
	inData   [][]byte
	control  [][]byte
	keep     []any // what only the kernel points to
}

func openUDP(c Config, pairs []pairOf, token uint64, sent *atomic.Uint64) (*udpRun, error) {
	u := &udpRun{token: token, interval: c.Interval, hosts: c.Hosts, pairs: pairs, sent: sent,
		counters: make([]counter, len(pairs)), refused: make([]uint64, len(pairs)), heard: make([]bool, len(pairs))}
	for _, h := range c.Hosts {
		fd, port, err := openSocket(h)
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
			u.ends = append(u.ends, &end{fd: fd, port: port})
		}
		if err != nil {
			u.close()
			return nil, err
		}
	}
	for i, p := range pairs {
		u.ends[p.from].addPair(i, token, c.Size, newRawAddr(c.Hosts[p.to].Addr, u.ends[p.to].port))
	}
	for _, e := range u.ends {
		e.prepareReceive(c.Size)
	}
	return u, nil
}

func (u *udpRun) close() {
	for _, e := range u.ends {
		unix.Close(e.fd)
	}
}

func (e *end) addPair(pair int, token uint64, size int, to *rawAddr) {
	b := make([]byte, size)
	binary.NativeEndian.PutUint64(b, token)
	binary.NativeEndian.PutUint64(b[8:], uint64(pair))
	copy(b[headerBytes:], Cookie)
	iov := &unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	m := mmsghdr{hdr: unix.Msghdr{Name: &to.bytes[0], Namelen: to.size, Iov: iov}}
	m.hdr.SetIovlen(1)
	e.out, e.outPair, e.payloads = append(e.out, m), append(e.outPair, pair), append(e.payloads, b)
	e.keep = append(e.keep, to, iov)
}

func (e *end) prepareReceive(size int) {
	for range batch {
		b, control := make([]byte, size), make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.Timespec{}))))
		iov := &unix.Iovec{Base: &b[0]}
		iov.SetLen(len(b))
		m := mmsghdr{hdr: unix.Msghdr{Iov: iov, Control: &control[0]}}
		m.hdr.SetIovlen(1)
		m.hdr.SetControllen(len(control))
		e.in, e.inData, e.control = append(e.in, m), append(e.inData, b), append(e.control, control)
		e.keep = append(e.keep, iov)
	}
}

// warm sends until every pair was heard once, so that neighbours are known, and no pair that never
// talked passes for one that lost packets.
func (u *udpRun) warm(ctx context.Context, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		for _, e := range u.ends {
			u.send(e, warmSeq)
		}
		time.Sleep(20 * time.Millisecond)
		u.receiveAll()
		if !slices.Contains(u.heard, false) {
			// What is still on its way carries warmSeq and is not counted.
			clear(u.refused)
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
	}
	var silent []string
	for i, p := range u.pairs {
		if !u.heard[i] {
			silent = append(silent, u.hosts[p.from].Name+" to "+u.hosts[p.to].Name)
		}
	}
	return fmt.Errorf("traffic: %d of %d pairs were not heard within %v: %s", len(silent), len(u.pairs), limit, strings.Join(silent, ", "))
}

// run sends a round each interval until stop is closed.
func (u *udpRun) run(stop <-chan struct{}) {
	runtime.LockOSThread() // never unlocked: the thread ends with its priority
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -15)
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	defer u.close()
	start := monotonic()
	next := start
	for !closed(stop) {
		behind := monotonic() - next
		u.late = append(u.late, time.Duration(max(0, behind)))
		if behind > int64(u.interval) {
			// To catch up in one burst would be another kind of traffic.
			missed := behind / int64(u.interval)
			u.skipped += uint64(missed)
			next += missed * int64(u.interval)
		}
		seq := u.sent.Load()
		u.sent.Store(seq + 1) // before any can arrive
		for _, e := range u.ends {
			u.send(e, seq)
		}
		u.receiveAll()
		next += int64(u.interval)
		sleepUntil(next)
	}
	u.took = time.Duration(monotonic() - start)
	for end := time.Now().Add(drain); time.Now().Before(end) && !u.complete(); time.Sleep(time.Millisecond) {
		u.receiveAll()
	}
}

func (u *udpRun) complete() bool {
	for i := range u.counters {
		if u.counters[i].received < u.sent.Load() {
			return false
		}
	}
	return true
}

// send hands a host's packets of one round to the kernel.
func (u *udpRun) send(e *end, seq uint64) {
	now := uint64(time.Now().UnixNano())
	for _, b := range e.payloads {
		binary.NativeEndian.PutUint64(b[16:], seq)
		binary.NativeEndian.PutUint64(b[24:], now)
	}
	for todo := 0; todo < len(e.out); {
		n, err := mmsg(unix.SYS_SENDMMSG, e.fd, e.out[todo:])
		if err != nil {
			u.refused[e.outPair[todo]]++ // and go on behind it
			n = 1
		}
		todo += n
	}
}

func (u *udpRun) receiveAll() {
	for _, e := range u.ends {
		for u.receive(e) == batch {
		}
	}
}

func (u *udpRun) receive(e *end) int {
	for i := range e.in {
		e.in[i].hdr.SetControllen(len(e.control[i]))
	}
	n, err := mmsg(unix.SYS_RECVMMSG, e.fd, e.in)
	if err != nil {
		return 0 // nothing there; an error that ICMP reported changes nothing for a stream
	}
	for i := range n {
		b := e.inData[i]
		if int(e.in[i].len) != len(b) || binary.NativeEndian.Uint64(b) != u.token {
			continue
		}
		pair := binary.NativeEndian.Uint64(b[8:])
		seq := binary.NativeEndian.Uint64(b[16:])
		if pair >= uint64(len(u.pairs)) || u.ends[u.pairs[pair].to] != e {
			u.alien++
			continue
		}
		if u.heard[pair] = true; seq == warmSeq {
			continue
		}
		if !u.counters[pair].add(seq, u.sent.Load(), int64(binary.NativeEndian.Uint64(b[24:])), arrival(e.control[i])) {
			u.alien++
		}
	}
	return n
}

// arrival reads the kernel's time stamp (SO_TIMESTAMPNS, socket(7)).
func arrival(control []byte) int64 {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_SOCKET || h.Type != unix.SCM_TIMESTAMPNS {
		return time.Now().UnixNano()
	}
	return (*unix.Timespec)(unsafe.Pointer(&control[unix.CmsgLen(0)])).Nano()
}

func (u *udpRun) report() Report {
	r := Report{Duration: u.took, Interval: u.interval, Skipped: u.skipped}
	slices.Sort(u.late)
	if n := len(u.late); n > 0 {
		r.LateP99, r.LateMax = u.late[n*99/100], u.late[n-1]
	}
	sent := u.sent.Load()
	for i, p := range u.pairs {
		c := &u.counters[i]
		r.Pairs = append(r.Pairs, Pair{From: u.hosts[p.from].Name, To: u.hosts[p.to].Name, Sent: sent, Refused: u.refused[i],
			Received: c.received, Lost: sent - c.received, Reordered: c.reordered, Duplicated: c.duplicated,
			LongestGap: c.longestGap, Latency: c.latency, Missing: c.missing(sent, 10), counter: c})
	}
	return r
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func monotonic() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return t.Nano()
}

func sleepUntil(at int64) {
	t := unix.NsecToTimespec(at)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &t, nil) == unix.EINTR {
	}
}

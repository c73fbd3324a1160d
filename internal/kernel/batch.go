package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// batchRequests and batchBytes bound what one sendmsg carries. The kernel handles the
	// messages in order before the call returns and queues one answer for each that failed, about
	// 1 KiB of receive buffer; the bound keeps them within even an unforced default buffer (208 KiB).
	batchRequests = 128
	batchBytes    = 32 << 10
	// queryBatch bounds what one sendmsg asks: an answer about a link takes up to 4 KiB of buffer.
	queryBatch  = 32
	nlmsgHeader = unix.NLMSG_HDRLEN
)

// request is one netlink message to send: body is the fixed struct and the attributes, as encoder
// makes them.
type request struct {
	typ   uint16 // RTM_*
	flags uint16 // NLM_F_CREATE and the like; REQUEST is added, and ACK where one is needed
	body  []byte
}

// message is one netlink message that was received.
type message struct {
	typ  uint16
	body []byte
}

// conn is a netlink socket for requests of our own making: many in one system call, each with its
// own outcome, and dumps that are whole or an error. One exchange at a time.
type conn struct {
	mu   sync.Mutex
	file *os.File
	seq  uint32
	buf  []byte
}

// openConn opens a routing netlink socket in the calling thread's network namespace.
func openConn(receiveBuffer int) (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := prepareSocket(fd, receiveBuffer); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &conn{file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, 64<<10)}, nil
}

func prepareSocket(fd, receiveBuffer int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := setReceiveBuffer(fd, receiveBuffer); err != nil {
		return fmt.Errorf("set receive buffer: %w", err)
	}
	// Strict checking: the kernel filters dumps and refuses what it does not understand.
	// Extended acknowledgements bring the kernel's own words; capped ones do not echo the request.
	for _, opt := range []int{unix.NETLINK_GET_STRICT_CHK, unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK} {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, 1); err != nil {
			return fmt.Errorf("set netlink option %d: %w", opt, err)
		}
	}
	return nil
}

// setReceiveBuffer asks for size bytes, beyond net.core.rmem_max where we may.
func setReceiveBuffer(fd, size int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) == nil {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
}

func (c *conn) close() { c.file.Close() }

// exec sends requests in order, many in one system call, and returns one error for each of them:
// nil where the kernel did it. One that failed does not stop the rest. The second result
// is not nil when the exchange itself broke; requests whose fate is unknown then carry it too.
func (h *Handle) exec(ctx context.Context, reqs []request) ([]error, error) {
	c := h.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.follow(ctx)()
	errs := make([]error, len(reqs))
	for start := 0; start < len(reqs); {
		end := batchEnd(reqs, start)
		if err := c.execBatch(reqs[start:end], errs[start:end]); err != nil {
			err = c.cause(ctx, err)
			for i := start; i < len(reqs); i++ {
				if errs[i] == nil || errors.Is(errs[i], errPending) {
					errs[i] = err
				}
			}
			return errs, err
		}
		start = end
	}
	return errs, nil
}

// execOne sends one request and returns the kernel's answer to it.
func (h *Handle) execOne(ctx context.Context, r request) error {
	errs, _ := h.exec(ctx, []request{r})
	return errs[0]
}

func batchEnd(reqs []request, start int) int {
	bytes := 0
	end := start
	for end < len(reqs) && end-start < batchRequests {
		bytes += nlmsgHeader + align4(len(reqs[end].body))
		if end > start && bytes > batchBytes {
			break
		}
		end++
	}
	return end
}

// errPending marks a request that is not answered yet.
var errPending = errors.New("no answer yet")

// execBatch asks for one acknowledgement, of the last request. The kernel handles requests in their
// order (net/netlink/af_netlink.c, netlink_rcv_skb) and answers those that fail in any case: what is
// unanswered when the last one is answered was done.
func (c *conn) execBatch(reqs []request, errs []error) error {
	first := c.seq + 1
	var out []byte
	for i, r := range reqs {
		c.seq++
		flags := r.flags | unix.NLM_F_REQUEST
		if i == len(reqs)-1 {
			flags |= unix.NLM_F_ACK
		}
		out = appendMessage(out, r.typ, flags, c.seq, r.body)
		errs[i] = errPending
	}
	if err := c.send(out); err != nil {
		return err
	}
	for last := len(reqs) - 1; errors.Is(errs[last], errPending); {
		err := c.receive(func(m header, body []byte) (bool, error) {
			i := m.seq - first // wraps together with seq; foreign numbers fall outside
			if i >= uint32(len(reqs)) || m.typ != unix.NLMSG_ERROR || !errors.Is(errs[i], errPending) {
				return true, nil
			}
			errs[i] = ackError(m, body)
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	for i, err := range errs {
		if errors.Is(err, errPending) {
			errs[i] = nil
		}
	}
	return nil
}

// answer is what the kernel says to a query: a message or an error.
type answer struct {
	message
	err error
}

// query sends one request that is answered by one message.
func (h *Handle) query(ctx context.Context, typ uint16, body []byte) (message, error) {
	a, err := h.queries(ctx, []request{{typ: typ, body: body}})
	if err != nil {
		return message{}, err
	}
	return a[0].message, a[0].err
}

// queries sends requests that are answered by one message each, many in one system call, and returns
// the answers in their order. The error says that the exchange itself broke.
func (h *Handle) queries(ctx context.Context, reqs []request) ([]answer, error) {
	c := h.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.follow(ctx)()
	answers := make([]answer, 0, len(reqs))
	for len(reqs) > 0 {
		n := min(len(reqs), queryBatch)
		some, err := c.queryBatch(reqs[:n])
		if err != nil {
			return nil, c.cause(ctx, err)
		}
		answers, reqs = append(answers, some...), reqs[n:]
	}
	return answers, nil
}

func (c *conn) queryBatch(reqs []request) ([]answer, error) {
	first := c.seq + 1
	var out []byte
	for _, r := range reqs {
		c.seq++
		out = appendMessage(out, r.typ, unix.NLM_F_REQUEST, c.seq, r.body)
	}
	if err := c.send(out); err != nil {
		return nil, err
	}
	answers, done := make([]answer, len(reqs)), make([]bool, len(reqs))
	for pending := len(reqs); pending > 0; {
		err := c.receive(func(m header, body []byte) (bool, error) {
			i := m.seq - first
			if i >= uint32(len(reqs)) || done[i] {
				return true, nil
			}
			done[i] = true
			pending--
			if m.typ != unix.NLMSG_ERROR {
				answers[i].message = message{m.typ, append([]byte(nil), body...)}
			} else if answers[i].err = ackError(m, body); answers[i].err == nil {
				answers[i].err = errors.New("the kernel acknowledged the query without an answer")
			}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return answers, nil
}

// dump returns every message of a dump, all of them or an error: an interrupted dump is started
// again. With strict checking the kernel applies the filter that body holds.
func (h *Handle) dump(ctx context.Context, typ uint16, body []byte) ([]message, error) {
	var msgs []message
	err := retryDump(ctx, func() (err error) {
		msgs, err = h.dumpOnce(ctx, typ, body)
		return err
	})
	return msgs, err
}

func (h *Handle) dumpOnce(ctx context.Context, typ uint16, body []byte) ([]message, error) {
	c := h.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.follow(ctx)()
	c.seq++
	seq := c.seq
	if err := c.send(appendMessage(nil, typ, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, seq, body)); err != nil {
		return nil, c.cause(ctx, err)
	}
	var msgs []message
	var answer error
	done, interrupted := false, false
	for !done {
		err := c.receive(func(m header, body []byte) (bool, error) {
			if m.seq != seq {
				return true, nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if len(body) >= 4 {
					answer = ackError(m, body)
				}
				return false, nil
			}
			msgs = append(msgs, message{m.typ, append([]byte(nil), body...)})
			return true, nil
		})
		if err != nil {
			return nil, c.cause(ctx, err)
		}
	}
	if answer != nil {
		return nil, answer
	}
	if interrupted {
		return nil, nl.ErrDumpInterrupted
	}
	return msgs, nil
}

// follow makes the socket's calls fail when ctx ends, and returns what undoes it.
func (c *conn) follow(ctx context.Context) func() {
	_ = c.file.SetDeadline(time.Time{})
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = c.file.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-stopped
		}
	}
}

// cause prefers the context's error over the deadline that follow set because of it.
func (c *conn) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("netlink: %w", err)
}

func (c *conn) send(b []byte) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Write(func(fd uintptr) bool {
		inner = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	return errors.Join(err, inner)
}

// receive reads one datagram and calls f for its messages until f returns false or an error.
func (c *conn) receive(f func(header, []byte) (bool, error)) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var from unix.Sockaddr
	var inner error
	err = raw.Read(func(fd uintptr) bool {
		n, from, inner = unix.Recvfrom(int(fd), c.buf, 0)
		return inner != unix.EAGAIN && inner != unix.EINTR
	})
	if err := errors.Join(err, inner); err != nil {
		return err
	}
	// Only the kernel (port 0) is believed; another process may send to our port.
	if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
		return nil
	}
	return eachMessage(c.buf[:n], f)
}

// header is the part of nlmsghdr that matters on receipt.
type header struct {
	typ, flags uint16
	seq        uint32
}

// eachMessage walks the netlink messages of one datagram.
func eachMessage(b []byte, f func(header, []byte) (bool, error)) error {
	for len(b) >= nlmsgHeader {
		n := int(binary.NativeEndian.Uint32(b))
		if n < nlmsgHeader || n > len(b) {
			return fmt.Errorf("message of %d bytes in a datagram of %d", n, len(b))
		}
		m := header{
			typ:   binary.NativeEndian.Uint16(b[4:]),
			flags: binary.NativeEndian.Uint16(b[6:]),
			seq:   binary.NativeEndian.Uint32(b[8:]),
		}
		if more, err := f(m, b[nlmsgHeader:n]); err != nil || !more {
			return err
		}
		b = b[min(align4(n), len(b)):]
	}
	return nil
}

// ackError reads a NLMSG_ERROR or NLMSG_DONE: nil for success, else the errno and the kernel's own
// words where it has some.
func ackError(m header, body []byte) error {
	if len(body) < 4 {
		return errors.New("acknowledgement is cut short")
	}
	code := int32(binary.NativeEndian.Uint32(body))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return errno
	}
	rest := body[4:]
	if m.typ == unix.NLMSG_ERROR {
		if len(rest) < nlmsgHeader {
			return errno
		}
		skip := nlmsgHeader
		if m.flags&unix.NLM_F_CAPPED == 0 {
			skip = align4(int(binary.NativeEndian.Uint32(rest)))
		}
		if skip < 0 || skip > len(rest) {
			return errno
		}
		rest = rest[skip:]
	}
	words := ""
	eachAttr(rest, func(typ uint16, v []byte) {
		if typ == nl.NLMSGERR_ATTR_MSG {
			words = cString(v)
		}
	})
	if words == "" {
		return errno
	}
	return fmt.Errorf("%w (%s)", errno, words)
}

func appendMessage(b []byte, typ, flags uint16, seq uint32, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(nlmsgHeader+len(body)))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, body...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

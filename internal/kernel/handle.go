package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// dumpAttempts bounds how often an interrupted dump is started again. Each one means that the
	// table changed while it was read, so that only a table under constant change uses them up.
	dumpAttempts = 20
	// requestTimeout bounds one exchange on the library's socket; our own exchanges follow their
	// context instead.
	requestTimeout = 10 * time.Second
	// receiveBuffer is the receive buffer of a request socket in bytes: room for the answers to
	// one batch many times over.
	receiveBuffer = 1 << 20
)

// Handle talks to the routing netlink of one network namespace: the one that it was opened in,
// whatever thread uses it later. Its methods may be called from several goroutines.
type Handle struct {
	nl   *netlink.Handle // for what the library encodes well, such as creating links
	conn *conn           // for batches and dumps
}

// Open returns a Handle on the network namespace of the calling thread.
func Open() (*Handle, error) {
	c, err := openConn(receiveBuffer)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	n, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		c.close()
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	h := &Handle{nl: n, conn: c}
	if err := h.configure(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// configure sets the options of the library's socket; those of conn are set where it is opened.
func (h *Handle) configure() error {
	if err := h.nl.SetSocketTimeout(requestTimeout); err != nil {
		return fmt.Errorf("set netlink timeout: %w", err)
	}
	// The forced size needs CAP_NET_ADMIN over the namespace; the plain one is capped by
	// net.core.rmem_max, whose default is still more than one message.
	if err := h.nl.SetSocketReceiveBufferSize(receiveBuffer, true); err != nil {
		if err := h.nl.SetSocketReceiveBufferSize(receiveBuffer, false); err != nil {
			return fmt.Errorf("set netlink receive buffer: %w", err)
		}
	}
	// Strict checking makes the kernel (4.20 and later) filter dumps and refuse what it does not
	// understand, instead of ignoring it.
	if err := h.nl.SetStrictCheck(true); err != nil {
		return fmt.Errorf("set netlink strict checking: %w", err)
	}
	return nil
}

// OpenAt returns a Handle on the network namespace at nsPath, such as "/run/netns/lab.n1" or
// "/proc/123/ns/net".
func OpenAt(nsPath string) (*Handle, error) {
	var h *Handle
	err := Do(nsPath, func() (err error) {
		h, err = Open()
		return err
	})
	return h, err
}

// Close releases the sockets. Calls that are under way fail.
func (h *Handle) Close() {
	h.nl.Close()
	h.conn.close()
}

// retryDump calls dump again while it reports that the table changed under it: a partial list is
// not a list. Other errors, and the context's, end it.
func retryDump(ctx context.Context, dump func() error) error {
	var err error
	for range dumpAttempts {
		if err := ctx.Err(); err != nil {
			return err
		}
		err = dump()
		if !errors.Is(err, nl.ErrDumpInterrupted) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return fmt.Errorf("the table changed during each of %d dumps: %w", dumpAttempts, err)
}

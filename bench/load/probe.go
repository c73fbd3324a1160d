package load

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeTries = 3
	probeTime  = 300 * time.Millisecond // of the first try, until the path's own time is known; the last waits three times as long
	leastProbe = 50 * time.Millisecond
)

// Fits tells whether a packet with mtu bytes of IP and DF set reaches the server, and one as large comes back.
func (c *Client) Fits(ctx context.Context, mtu int) (bool, error) {
	size := mtu - 28 // IPv4 and UDP
	if c.o.To.Addr().Is6() {
		size = mtu - 48
	}
	if size < packetHeader+2 || size > maxPacket {
		return false, fmt.Errorf("probe a packet of %d bytes: too small or too large for UDP", mtu)
	}
	u, err := c.udp(ctx)
	if err != nil {
		return false, fmt.Errorf("probe %v: %w", c.o.To, err)
	}
	defer u.Close()
	defer context.AfterFunc(ctx, func() { _ = u.Close() })()
	if err := unfragmented(u, c.o.To.Addr()); err != nil {
		return false, fmt.Errorf("probe %v: %w", c.o.To, err)
	}
	out, in := make([]byte, size), make([]byte, size+1)
	copy(out, c.key[:])
	out[keyBytes] = kindEcho
	patience := orElse(c.patience, probeTime)
	for try := range probeTries {
		begin := time.Now()
		out[keyBytes+1] = byte(try)
		if _, err := u.Write(out); errors.Is(err, unix.EMSGSIZE) {
			return false, nil // larger than the interface's MTU
		}
		_ = u.SetReadDeadline(begin.Add(patience * time.Duration(try+1)))
		fits, err := answered(u, in, size)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if fits {
			c.patience = max(leastProbe, 4*time.Since(begin))
		}
		if fits || err != nil {
			return fits, err
		}
	}
	return false, nil
}

func answered(u *net.UDPConn, in []byte, size int) (bool, error) {
	for {
		n, err := u.Read(in)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EMSGSIZE):
			return false, nil // EMSGSIZE: a router said so
		case errors.Is(err, unix.ECONNREFUSED):
			return false, errors.New("probe: nobody listens for UDP at the server's port")
		case err != nil:
			return false, nil
		case n == size:
			return true, nil
		}
	}
}

// MTU returns the largest packet in bytes of IP, from low to high, that reaches the server with DF set and comes back.
// Where not even low does, it is an error.
func (c *Client) MTU(ctx context.Context, low, high int) (int, error) {
	fits, err := c.Fits(ctx, low)
	if err != nil {
		return 0, err
	}
	if !fits {
		return 0, fmt.Errorf("of %d packets of %d bytes to %v none came back: is UDP filtered on the way?", probeTries, low, c.o.To)
	}
	if fits, err = c.Fits(ctx, high); err != nil || fits {
		return high, err
	}
	for high-low > 1 {
		mid := (low + high) / 2
		fits, err := c.Fits(ctx, mid)
		if err != nil {
			return 0, err
		}
		if fits {
			low = mid
		} else {
			high = mid
		}
	}
	return low, nil
}

package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"weft/internal/kernel"
)

const (
	writeBytes = 256 << 10
	// settleIn is how much of a throughput measurement passes before counting begins, since TCP
	// starts slowly.
	settleIn = 100 * time.Millisecond
)

// Throughput sends one TCP stream as fast as it goes for a while, and returns bits per second as
// the receiver counted them. The congestion control is cubic whatever the host's is, so that figures
// of different hosts mean the same.
func Throughput(ctx context.Context, from, to Host, d time.Duration) (bps float64, err error) {
	fail := func(err error) (float64, error) {
		return 0, fmt.Errorf("throughput from %s to %s: %w", from.Name, to.Name, err)
	}
	control := net.ListenConfig{Control: kernel.Cubic}
	var l net.Listener
	err = kernel.Do(to.Netns, func() (err error) {
		l, err = control.Listen(ctx, "tcp", netip.AddrPortFrom(to.Addr, 0).String())
		return err
	})
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	dialer := net.Dialer{Timeout: 5 * time.Second, Control: kernel.Cubic}
	var out net.Conn
	err = kernel.Do(from.Netns, func() (err error) {
		out, err = dialer.DialContext(ctx, "tcp", l.Addr().String())
		return err
	})
	if err != nil {
		return fail(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		return fail(err)
	}
	defer in.Close()
	end := time.Now().Add(settleIn + d)
	_ = out.SetDeadline(end.Add(5 * time.Second))
	_ = in.SetDeadline(end.Add(5 * time.Second))
	wrote := make(chan error, 1)
	go func() {
		b := make([]byte, writeBytes)
		var err error
		for err == nil && time.Now().Before(end) && ctx.Err() == nil {
			_, err = out.Write(b)
		}
		wrote <- errors.Join(err, out.(*net.TCPConn).CloseWrite())
	}()
	bps, err = count(in, time.Now().Add(settleIn), end)
	if err := errors.Join(err, <-wrote, ctx.Err()); err != nil {
		return fail(err)
	}
	return bps, nil
}

// count reads to the end and counts what arrives from begin to end.
func count(in net.Conn, begin, end time.Time) (bps float64, err error) {
	b := make([]byte, writeBytes)
	var bytes int
	var first, last time.Time
	for {
		n, err := in.Read(b)
		if now := time.Now(); n > 0 && now.After(begin) && !now.After(end) {
			if first.IsZero() {
				first = now // its own bytes came before it
			} else {
				bytes, last = bytes+n, now
			}
		}
		if n == 0 && err != nil {
			break
		}
	}
	if bytes == 0 {
		return 0, errors.New("nothing arrived")
	}
	return float64(bytes) * 8 / last.Sub(first).Seconds(), nil
}

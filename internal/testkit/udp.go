package testkit

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// CountUDP counts the IPv4 datagrams that reach port 9 (discard) in a namespace. count returns how many
// came since it was called last, once no more come.
func CountUDP(t testing.TB, ns NS) (count func() int) {
	t.Helper()
	var c net.PacketConn
	ns.Do(t, func() (err error) {
		roomy := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var inner error
			err := raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
			return errors.Join(err, inner)
		}}
		c, err = roomy.ListenPacket(context.Background(), "udp4", ":9")
		return err
	})
	got := make(chan int, 1)
	got <- 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 2048)
		for {
			if _, _, err := c.ReadFrom(b); err != nil {
				return
			}
			got <- <-got + 1
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return func() int {
		// All on one machine: what has not come when nothing came for a while never comes.
		for before := -1; ; time.Sleep(100 * time.Millisecond) {
			n := <-got
			if n == before {
				got <- 0
				return n
			}
			got <- n
			before = n
		}
	}
}

package testkit

import (
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// CountUDP counts the IPv4 datagrams that reach port 9 (discard) in a namespace. count waits until
// want have come since it was called last, for 5 s at most, and until no more come, and returns how many did.
func CountUDP(t testing.TB, ns NS) (count func(want int) int) {
	t.Helper()
	var c net.PacketConn
	ns.Do(t, func() (err error) {
		if c, err = net.ListenPacket("udp4", ":9"); err != nil {
			return err
		}
		return Roomy(c.(*net.UDPConn))
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
	return func(want int) int {
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			n := <-got
			got <- n
			if n >= want {
				break
			}
		}
		// All on one machine: what more there is comes within a while.
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

// Roomy gives a socket a buffer for 8 MB of what comes and is not read yet, so that a process that has to
// wait for a processor loses nothing.
func Roomy(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20) })
	return errors.Join(err, inner)
}

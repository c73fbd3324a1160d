package traffic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// Cookie is in every UDP packet of a Run and all through its TCP streams, so that whoever reads it on a wire
// knows that these are not encrypted there. It is not longer than what a packet of 100 bytes has room for.
var Cookie = []byte("weft: nobody on the wire may read this")

// tapBuffer in bytes is what the kernel keeps for a Tap that is late.
const tapBuffer = 256 << 20

// Tap reads every packet that passes an interface, in both directions, until Stop.
type Tap struct {
	fd     int
	quit   chan struct{}
	done   sync.WaitGroup
	once   sync.Once
	seen   Seen
	err    error
	cookie []byte
}

// Seen is what a Tap read.
type Seen struct {
	Packets int // inspected
	Clear   int // that held the cookie
	// First is the first that did, from the Ethernet header on.
	First []byte
}

// Add sums up what two Taps saw.
func (s Seen) Add(o Seen) Seen {
	if s.First == nil {
		s.First = o.First
	}
	return Seen{s.Packets + o.Packets, s.Clear + o.Clear, s.First}
}

// OpenTap begins to read the packets of an interface in the network namespace at a path (packet(7)), looking
// for the cookie.
func OpenTap(netns, device string, cookie []byte) (*Tap, error) {
	t := &Tap{fd: -1, quit: make(chan struct{}), cookie: cookie}
	err := kernel.Do(netns, func() (err error) {
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		// With protocol 0 nothing is read before it is bound to the interface.
		if t.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		i, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		err = unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tapBuffer)
		if err == nil {
			err = unix.SetsockoptTimeval(t.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		if err == nil {
			err = unix.Bind(t.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
		}
		return err
	})
	if err != nil {
		if t.fd >= 0 {
			unix.Close(t.fd)
		}
		return nil, fmt.Errorf("read the packets of %s in %s: %w", device, netns, err)
	}
	t.done.Go(t.read)
	return t, nil
}

func (t *Tap) read() {
	b := make([]byte, 1<<17)
	for flags := 0; ; {
		n, _, err := unix.Recvfrom(t.fd, b, flags)
		switch {
		case err == nil:
			t.seen.Packets++
			if bytes.Contains(b[:n], t.cookie) {
				if t.seen.Clear++; t.seen.First == nil {
					t.seen.First = bytes.Clone(b[:n])
				}
			}
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // the device went down: what came before is still to be read
		case !errors.Is(err, unix.EAGAIN):
			t.err = err
			return
		case flags != 0:
			return
		}
		if closed(t.quit) {
			flags = unix.MSG_DONTWAIT // what is there by now; more may come for ever
		}
	}
}

// Stop ends it, once all that has passed by now is read. An error says that packets were missed.
func (t *Tap) Stop() (Seen, error) {
	t.once.Do(func() {
		close(t.quit)
		t.done.Wait()
		st, err := unix.GetsockoptTpacketStats(t.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
		switch {
		case t.err != nil:
		case err != nil:
			t.err = err
		case st.Drops > 0:
			t.err = fmt.Errorf("%d of %d packets were missed", st.Drops, st.Packets)
		}
		unix.Close(t.fd)
	})
	return t.seen, t.err
}

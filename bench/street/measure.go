package street

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"weft/internal/kernel"
)

// Sample is so many things done, and what they took.
type Sample struct {
	N int
	// Clock is by the clock; Processor is what this process used of processors, in the kernel too (of packets: the thread
	// that sends and receives), to which other programs of the machine do not add.
	Clock, Processor time.Duration
}

// Each is the processor time of one.
func (s Sample) Each() time.Duration {
	if s.N == 0 {
		return 0
	}
	return s.Processor / time.Duration(s.N)
}

// clockLimit is how much longer a measurement may take than it should use of a processor: others use the machine too.
const clockLimit = 2

func processorTime(clock int32) time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(clock, &t) // which cannot fail for these clocks
	return time.Duration(t.Nano())
}

// measure calls f, which says how many it did, until d of processor time was used, by the clock of the thread or the process.
func measure(d time.Duration, clock int32, f func() (int, error)) (s Sample, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin, busy := time.Now(), processorTime(clock)
	for s.Processor < d && s.Clock < clockLimit*d && err == nil {
		var n int
		n, err = f()
		s.N += n
		s.Clock, s.Processor = time.Since(begin), processorTime(clock)-busy
	}
	return s, err
}

// Connections opens TCP connections from pod to pod, one after the other, until d of processor time was used.
func (s *Street) Connections(d time.Duration) (sample Sample, err error) {
	err = kernel.Do(path(s.a), func() error {
		to := netip.AddrPortFrom(addrB, 80).String()
		sample, err = measure(d, unix.CLOCK_PROCESS_CPUTIME_ID, func() (int, error) {
			c, err := (&net.Dialer{Timeout: 2 * time.Second}).Dial("tcp", to)
			if err != nil {
				return 0, err
			}
			_ = c.(*net.TCPConn).SetLinger(0)
			return 1, c.Close()
		})
		return err
	})
	return sample, err
}

const (
	batch      = 64 // packets of one system call
	smallBytes = 64
)

// answer lets the first flow be one that was answered, which connection tracking then knows as established.
func (s *Street) answer() error {
	b := make([]byte, smallBytes)
	for range 2 {
		if _, err := s.from.Write(b); err != nil {
			return err
		}
		_ = s.to.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := s.to.Read(b); err != nil {
			return fmt.Errorf("wait for a packet that the rules allow: %w", err)
		}
		if _, err := s.to.Write(b); err != nil {
			return err
		}
		_ = s.from.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := s.from.Read(b); err != nil {
			return fmt.Errorf("wait for the answer: %w", err)
		}
	}
	return nil
}

// Packets sends UDP packets with 64 bytes of payload from pod to pod, until d of processor time was used, and reads
// them there; N is how many arrived.
// Those of an answered flow meet the rules for what is established; of one that nobody answers each meets all rules, as
// the first packet of a connection does.
func (s *Street) Packets(answered bool, d time.Duration) (Sample, error) {
	from, to := s.lone, s.sink
	if answered {
		from, to = s.from, s.to
	}
	out, in := ipv4.NewPacketConn(from), ipv4.NewPacketConn(to)
	send, receive := messages(), messages()
	_ = to.SetReadDeadline(time.Now().Add(clockLimit*d + 5*time.Second))
	return measure(d, unix.CLOCK_THREAD_CPUTIME_ID, func() (int, error) {
		sent, err := out.WriteBatch(send, 0)
		if err != nil {
			return 0, err
		}
		got := 0
		for got < sent {
			n, err := in.ReadBatch(receive, 0)
			if err != nil {
				return got, fmt.Errorf("%d of %d packets arrived: %w", got, sent, err)
			}
			got += n
		}
		return got, nil
	})
}

func messages() []ipv4.Message {
	all := make([]ipv4.Message, batch)
	for i := range all {
		all[i].Buffers = [][]byte{make([]byte, smallBytes)}
	}
	return all
}

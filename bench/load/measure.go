package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
)

// settleOf is how much of a measurement passes before counting begins, since TCP starts slowly.
func settleOf(d time.Duration) time.Duration {
	return min(max(d/4, 50*time.Millisecond), 500*time.Millisecond)
}

// Flow is what was measured of a flow of packets in one direction, from client to server.
type Flow struct {
	Rate        float64 // TCP: bits of payload a second; UDP: packets a second, both as they arrived
	Sent        float64 // UDP: packets a second that were sent
	Retransmits uint64  // TCP: segments sent again while it was counted
	Bits        float64 // of payload that arrived while it was counted
	// Sender and Receiver are what the processors of either end did meanwhile, see busyTime; where both are one machine,
	// each is that of all.
	Sender, Receiver time.Duration
}

// TCP sends streams as fast as they go, and returns what arrived in d.
func (c *Client) TCP(ctx context.Context, streams int, d time.Duration) (Flow, error) {
	f, err := c.tcp(ctx, streams, d)
	if err != nil {
		return f, fmt.Errorf("measure %d TCP streams to %v: %w", streams, c.o.To, err)
	}
	return f, nil
}

func (c *Client) tcp(ctx context.Context, streams int, d time.Duration) (f Flow, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var conns []net.Conn
	var writers sync.WaitGroup
	defer func() {
		cancel()
		for _, s := range conns {
			_ = s.(*net.TCPConn).SetLinger(0) // what is queued is nothing that anybody waits for
			_ = s.Close()
		}
		writers.Wait()
	}()
	for range streams {
		var w welcome
		s, _, err := c.open(ctx, hello{Open: openStream}, &w)
		if err != nil {
			return f, err
		}
		conns = append(conns, s)
	}
	broken := make(chan error, streams)
	var start sync.WaitGroup
	start.Add(1)
	for _, s := range conns {
		writers.Go(func() {
			start.Wait()
			if err := c.write(ctx, s); err != nil {
				broken <- err
			}
		})
	}
	begin := retransmits(conns)
	f, n, err := c.count(ctx, d, start.Done, func() { begin = retransmits(conns) })
	if err != nil {
		return f, err
	}
	f.Retransmits = retransmits(conns) - begin
	f.Bits = float64(n.Bytes) * 8
	f.Rate = f.Bits / n.Time.Seconds()
	if len(broken) > 0 {
		return f, <-broken
	}
	if n.Bytes == 0 {
		return f, ErrNothing
	}
	return f, nil
}

// ErrNothing is of a measurement in whose time nothing came through, as where others keep the processors busy.
var ErrNothing = errors.New("nothing arrived")

func (c *Client) write(ctx context.Context, s net.Conn) error {
	b := make([]byte, bufferBytes)
	begin, sent := time.Now(), 0.0
	for ctx.Err() == nil {
		n, err := s.Write(b)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if sent += float64(n); c.o.Rate > 0 {
			ahead := time.Duration(sent/c.o.Rate*float64(time.Second)) - time.Since(begin)
			_ = wait(ctx, ahead)
		}
	}
	return nil
}

// count lets the server count for d. start is called when the request is on its way, and settled when counting begins.
func (c *Client) count(ctx context.Context, d time.Duration, start, settled func()) (f Flow, n counted, err error) {
	settle := settleOf(d)
	var a answer
	var asked sync.WaitGroup
	asked.Go(func() {
		var e error
		if a, e = c.ask(ctx, request{Do: doCount, Settle: settle, Time: d}, settle+d); e != nil {
			err = e
		}
	})
	start()
	_ = wait(ctx, settle)
	settled()
	before, e1 := busyTime()
	_ = wait(ctx, d)
	after, e2 := busyTime()
	asked.Wait()
	if err == nil {
		err = errors.Join(e1, e2)
	}
	if err == nil && a.Count == nil {
		err = errors.New("the server did not count")
	}
	if err != nil {
		return f, n, err
	}
	f.Sender, f.Receiver = after-before, a.Count.Busy
	return f, *a.Count, nil
}

// Packets sends UDP packets with size bytes of payload as fast as one thread can, and returns how many a second arrived
// at a server that counts with one thread.
func (c *Client) Packets(ctx context.Context, size int, d time.Duration) (Flow, error) {
	f, err := c.packets(ctx, size, d)
	if err != nil {
		return f, fmt.Errorf("measure packets of %d bytes to %v: %w", size, c.o.To, err)
	}
	return f, nil
}

func (c *Client) packets(ctx context.Context, size int, d time.Duration) (f Flow, err error) {
	if size < packetHeader || size > maxPacket {
		return f, fmt.Errorf("%d bytes: want %d to %d", size, packetHeader, maxPacket)
	}
	u, err := c.udp(ctx)
	if err != nil {
		return f, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var sender sync.WaitGroup
	defer func() {
		cancel()
		_ = u.Close()
		sender.Wait()
	}()
	out := messages(batch, size)
	for _, m := range out {
		copy(m.Buffers[0], c.key[:])
		m.Buffers[0][keyBytes] = kindCount
	}
	var sent uint64
	var took time.Duration
	startSending := func() {
		sender.Go(func() {
			conn := ipv4.NewPacketConn(u)
			begin := time.Now()
			for ctx.Err() == nil {
				n, err := conn.WriteBatch(out, 0)
				if err != nil && isClosed(err) {
					break
				}
				sent += uint64(max(n, 0)) // otherwise a full queue, or an ICMP error
			}
			took = time.Since(begin)
		})
	}
	f, n, err := c.count(ctx, d, startSending, func() {})
	cancel()
	sender.Wait()
	if err != nil {
		return f, err
	}
	f.Rate, f.Bits = float64(n.Packets)/n.Time.Seconds(), float64(n.Packets)*float64(size)*8
	f.Sent = float64(sent) / took.Seconds()
	return f, nil
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

// udp opens a socket that sends to the server.
func (c *Client) udp(ctx context.Context) (u *net.UDPConn, err error) {
	d := net.Dialer{Timeout: connectTime}
	if c.o.Local.IsValid() {
		d.LocalAddr = &net.UDPAddr{IP: c.o.Local.AsSlice()}
	}
	err = c.o.From.do(func() error {
		conn, err := d.DialContext(ctx, "udp", c.o.To.String())
		if err == nil {
			u = conn.(*net.UDPConn)
		}
		return err
	})
	return u, err
}

// Latencies are the times from requests to their answers, sorted.
type Latencies []time.Duration

// Percentile returns the time that a share p of the requests, from 0 to 1, did not exceed.
func (l Latencies) Percentile(p float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(len(l)-1, int(p*float64(len(l))))]
}

// Requests sends requests of size bytes over one TCP connection, each after the answer to the one before, for d. An
// answer has as many bytes.
func (c *Client) Requests(ctx context.Context, size int, d time.Duration) (Latencies, error) {
	var w welcome
	s, in, err := c.open(ctx, hello{Open: openEcho, Size: size}, &w)
	if err != nil {
		return nil, fmt.Errorf("measure requests to %v: %w", c.o.To, err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	b := make([]byte, size)
	var all Latencies
	end := time.Now().Add(settleOf(d) + d)
	counting := time.Now().Add(settleOf(d))
	_ = s.SetDeadline(end.Add(connectTime))
	for begin := time.Now(); begin.Before(end); begin = time.Now() {
		_, err := s.Write(b)
		if err == nil {
			_, err = io.ReadFull(in, b)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("measure requests to %v: after %d answers: %w", c.o.To, len(all), err)
		}
		if begin.After(counting) {
			all = append(all, time.Since(begin))
		}
	}
	slices.Sort(all)
	return all, nil
}

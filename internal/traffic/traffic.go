package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Host is one end of streams: an address inside a network namespace. A host with two families is
// two Hosts.
type Host struct {
	Name  string
	Netns string // path
	Addr  netip.Addr
}

// Config says what runs between which hosts.
type Config struct {
	Hosts []Host
	// Pair chooses among the ordered pairs of different namespaces and one family; nil takes all.
	Pair func(from, to Host) bool
	// Interval is the time between two packets of each pair.
	Interval time.Duration
	// Size is the UDP payload in bytes, at least 32; 0 means 100.
	Size int
	// TCP adds one TCP stream to each pair, at about 100 kB/s: enough to see it stall, too little to
	// fill the kernel's packet backlog and so cause the loss that is to be measured.
	TCP bool
	// Warm is how long every pair may take until it is heard for the first time; 0 means 5 s.
	Warm time.Duration
}

// Run is traffic that flows until Stop.
type Run struct {
	udp   *udpRun
	tcp   *tcpRun
	ticks atomic.Uint64
	stop  chan struct{}
	once  sync.Once
	done  sync.WaitGroup
}

type pairOf struct{ from, to int } // indexes of hosts

// Start opens the sockets, waits until every pair was heard, and lets the traffic flow. An error
// names the pairs that were not heard.
func Start(ctx context.Context, c Config) (*Run, error) {
	if c.Interval <= 0 {
		return nil, errors.New("traffic: the interval between packets must be positive")
	}
	if c.Size == 0 {
		c.Size = 100
	}
	if c.Size < headerBytes {
		return nil, fmt.Errorf("traffic: payload of %d bytes: want at least %d", c.Size, headerBytes)
	}
	if c.Warm == 0 {
		c.Warm = 5 * time.Second
	}
	pairs := c.pairs()
	if len(pairs) == 0 {
		return nil, errors.New("traffic: no pair of hosts to send between")
	}
	r := &Run{stop: make(chan struct{})}
	var err error
	if r.udp, err = openUDP(c, pairs, rand.Uint64(), &r.ticks); err != nil {
		return nil, err
	}
	if err := r.udp.warm(ctx, c.Warm); err != nil {
		r.udp.close()
		return nil, err
	}
	if c.TCP {
		if r.tcp, err = openTCP(ctx, c, pairs); err != nil {
			r.udp.close()
			return nil, err
		}
		r.tcp.start(r.stop, &r.done)
	}
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		r.udp.run(r.stop)
	}()
	return r, nil
}

func (c Config) pairs() []pairOf {
	var out []pairOf
	for i, a := range c.Hosts {
		for j, b := range c.Hosts {
			if a.Netns != b.Netns && a.Addr.Is4() == b.Addr.Is4() && (c.Pair == nil || c.Pair(a, b)) {
				out = append(out, pairOf{i, j})
			}
		}
	}
	return out
}

// Mark returns how many packets each pair has sent by now, to be given to Report.Between.
func (r *Run) Mark() uint64 { return r.ticks.Load() }

// Stop ends the senders, waits a moment for what is still on its way, and returns the account.
func (r *Run) Stop() Report {
	r.once.Do(func() { close(r.stop) })
	r.done.Wait()
	rep := r.udp.report()
	if r.tcp != nil {
		r.tcp.report(&rep)
	}
	return rep
}

package conntrack

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
)

// counted is a lock that knows how long it was held at a time.
type counted struct {
	sync.Mutex
	since time.Time
	times int
	most  time.Duration
	all   time.Duration
}

func (c *counted) Lock() {
	c.Mutex.Lock()
	c.since = time.Now()
}

func (c *counted) Unlock() {
	d := time.Since(c.since)
	c.times++
	c.all += d
	c.most = max(c.most, d)
	c.Mutex.Unlock()
}

// While a Cutter looks at a big table policy goes on: it holds the Program for moments only, in which
// changes get in between, and what these deny is cut by the next look.
func TestPolicyGoesOnDuringALook(t *testing.T) {
	r := newRig(t)
	entries := testkit.Count(100_000)
	many := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 50, 0, n}) }
	for n := range byte(100) {
		e := &model.Endpoint{ID: model.EndpointID{Namespace: "many", Pod: device(100 + n), Interface: "eth0"}, Device: device(100 + n),
			Labels: map[string]string{"app": "many"}, Addresses: []netip.Addr{many(n)}}
		if err := r.compiler.SetEndpoint(e); err != nil {
			t.Fatal(err)
		}
	}
	r.policy("many", "app == 'many'")
	var program counted
	c := r.cutter(Options{Program: &program})
	r.apply(c, r.compiler.Flush())
	r.fill(entries)
	change := func(denied ...netip.Addr) {
		program.Lock()
		defer program.Unlock()
		r.policy("many", "app == 'many'", denied...)
		c.Follow(r.compiler.Flush())
	}

	change(netip.MustParseAddr("192.0.2.1"))
	done := make(chan Result)
	program.times, program.most = 0, 0
	go func() {
		res, err := c.Cut(t.Context())
		if err != nil {
			t.Error(err)
		}
		done <- res
	}()
	changes, longest := 0, time.Duration(0)
	var res Result
	for running := true; running; {
		select {
		case res = <-done:
			running = false
		default:
			began := time.Now()
			change(netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3"))
			change(netip.MustParseAddr("192.0.2.1"))
			longest = max(longest, time.Since(began)/2)
			changes += 2
			time.Sleep(time.Millisecond)
		}
	}
	t.Logf("a look of %v at %d entries held the program %v at most; %d changes meanwhile, the longest took %v", res.Took, res.Read, program.most, changes, longest)
	if res.Judged < entries-entries/1000 {
		t.Errorf("judged %d of %d entries", res.Judged, entries)
	}
	if changes < 4 {
		t.Errorf("only %d changes during a look of %v", changes, res.Took)
	}
	if entries >= 50_000 && longest > res.Took/3 {
		t.Errorf("a change took %v during a look of %v: it waited for it", longest, res.Took)
	}

	change(many(1), netip.AddrFrom4([4]byte{10, 7, 0, 0}))
	res, err := c.Cut(t.Context())
	if err != nil || res.Cut == 0 || res.Cut > entries/50 {
		t.Errorf("what is denied after the look: %d of %d cut, %v", res.Cut, entries, err)
	}
	change()
	if again, err := c.Cut(t.Context()); err != nil || again.Released != res.Cut {
		t.Errorf("%d of %d are released, %v", again.Released, res.Cut, err)
	}
}

// The pause after a look lets the goal be met as long as that can be, and costs a tenth until then.
func TestPause(t *testing.T) {
	for took := time.Duration(0); took <= 2*time.Second; took += time.Millisecond {
		p := pause(took)
		if share := took.Seconds() / (took + p).Seconds(); took > 0 && share > 0.67 {
			t.Errorf("looks of %v take %.2f of a processor", took, share)
		}
		if took <= 360*time.Millisecond && 2*took+p > goal {
			t.Errorf("after a look of %v a connection may live on for %v", took, 2*took+p)
		}
		if took <= 81*time.Millisecond && p != 9*took {
			t.Errorf("after a look of %v the pause is %v", took, p)
		}
	}
}

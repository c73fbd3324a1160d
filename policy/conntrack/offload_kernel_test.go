package conntrack

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/offload"
)

// offload puts the connections of both pods into a flow table.
func (r *rig) offload() *offload.Driver {
	r.t.Helper()
	d := offload.New(r.handle, slog.New(slog.DiscardHandler))
	r.t.Cleanup(d.Close)
	if _, err := d.Apply(r.t.Context(), offload.Plan{Pods: []string{device(1), device(2)}, Other: []string{"eth0"}}); err != nil {
		r.t.Fatal(err)
	}
	if d.Lacks() != nil {
		r.t.Fatal(d.Lacks())
	}
	return d
}

// offloaded counts the entries that are in a flow table.
func (r *rig) offloaded() int {
	return strings.Count(testkit.Run(r.t, r.node, "cat", "/proc/net/nf_conntrack"), "[OFFLOAD]")
}

func (r *rig) allOffloaded(n int) {
	r.t.Helper()
	testkit.Eventually(r.t, 20*time.Second, fmt.Sprintf("%d connections are offloaded", n), func() bool { return r.offloaded() == n })
}

// Offloaded streams that a change denies are cut within the bound, whatever either end sends, others go on and are
// offloaded again; those that are allowed again as well.
func TestOffloadedStreamsAreCut(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRigOf(t, true)
	c := r.cutter(Options{Flush: r.offload().Flush})
	r.apply(c, r.compiler.Flush())
	denied, allowed := r.streams(r.peer, 5000, 2), r.streams(r.shop, 6000, 2)
	chances, longest := 0, time.Duration(0)
	for range 4 {
		r.allOffloaded(len(denied) + len(allowed))
		begin := time.Now()
		if res := r.deny(c, true); res.Cut != len(denied) {
			t.Errorf("%d connections were cut, want %d", res.Cut, len(denied))
		}
		time.Sleep(time.Until(begin.Add(limit + 500*time.Millisecond)))
		for _, s := range denied {
			chances++
			d := s.last().Sub(begin)
			if longest = max(longest, d); d > limit {
				t.Errorf("%s lived on for %v at least", s.name, d)
			}
		}
		r.goOn(allowed, time.Now())
		r.allOffloaded(len(allowed))
		if res := r.deny(c, false); res.Released != len(denied) {
			t.Errorf("%d connections were released, want %d", res.Released, len(denied))
		}
		r.goOn(denied, time.Now())
	}
	t.Logf("the longest of %d offloaded streams that were denied lived on for %v", chances, longest)
}

// Where denied connections are deleted, the offloaded ones are as well, although the kernel may refuse
// that at first. (They may come back the other way round: TestControls.)
func TestOffloadedStreamsAreDeleted(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRigOf(t, true)
	c := r.cutter(Options{Flush: r.offload().Flush, Delete: true})
	r.apply(c, r.compiler.Flush())
	denied := r.streams(r.peer, 5000, 1)
	r.allOffloaded(len(denied))
	if res := r.deny(c, true); res.Cut != len(denied) {
		t.Errorf("%d connections were deleted, want %d", res.Cut, len(denied))
	}
}

// The control: without the flow table being emptied they go on.
func TestOffloadedStreamsGoOnWithoutFlush(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRigOf(t, true)
	r.offload()
	c := r.cutter(Options{})
	r.apply(c, r.compiler.Flush())
	denied := r.streams(r.peer, 5000, 1)
	r.allOffloaded(len(denied))
	begin := time.Now()
	r.deny(c, true)
	time.Sleep(time.Until(begin.Add(limit + 500*time.Millisecond)))
	if n := alive(denied, begin.Add(limit)); n != len(denied) {
		t.Errorf("%d of %d offloaded streams live on, want all: the other test proves nothing", n, len(denied))
	}
}

// The connections of a pod that is gone while its link and the peers are there end, and with the next pod of its
// address none goes on.
func TestOffloadedStreamsOfAPodThatIsGone(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRigOf(t, true)
	c := r.cutter(Options{Flush: r.offload().Flush})
	r.apply(c, r.compiler.Flush())
	gone := r.streams(r.peer, 5000, 1)
	r.allOffloaded(len(gone))
	begin := time.Now()
	r.compiler.DeleteEndpoint(model.EndpointID{Namespace: "default", Pod: "web", Interface: "eth0"})
	u := r.compiler.Flush()
	r.enforce(u)
	if res := r.apply(c, u); res.Ended != len(gone) {
		t.Errorf("%d connections were ended, want %d", res.Ended, len(gone))
	}
	time.Sleep(time.Until(begin.Add(limit + 500*time.Millisecond)))
	for _, s := range gone {
		if d := s.last().Sub(begin); d > limit {
			t.Errorf("%s lived on for %v at least", s.name, d)
		}
	}
	if n := r.offloaded(); n != 0 {
		t.Errorf("%d connections are offloaded, want 0", n)
	}
}

// What another pod sends with the addresses and ports of an offloaded connection is not taken for a part of it: the
// device is part of what is looked up, so that it meets the check of sources. The control is without policy.
func TestOffloadedConnectionsAreNotOpenToOthers(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	r := newRigOf(t, true)
	c := r.cutter(Options{Flush: r.offload().Flush})
	r.apply(c, r.compiler.Flush())
	var all []*stream
	for i, f := range []model.Family{model.IPv4, model.IPv6} {
		all = append(all, r.stream("udp", f, r.peer, uint16(5000+i)))
		testkit.Run(t, r.shop, "ip", "address", "add", model.HostPrefix(address(1, f)).String(), "dev", "eth0", "nodad")
	}
	testkit.Run(t, r.node, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf."+device(2)+".rp_filter=0")
	r.allOffloaded(len(all))
	const ruleset = "table inet seen { chain in { type filter hook prerouting priority -500; udp length 21 counter; }; }"
	if _, err := testkit.TryInput(t, r.peer, ruleset, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	arrived := func() (n int) {
		out := testkit.Run(t, r.peer, "nft", "list", "table", "inet", "seen")
		if _, err := fmt.Sscanf(out[strings.Index(out, "counter packets"):], "counter packets %d", &n); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		return n
	}
	const each = 50
	send := func() {
		for _, s := range all {
			to := s.client.LocalAddr().(*net.UDPAddr)
			r.shop.Do(t, func() error {
				from := netip.AddrPortFrom(address(1, s.family), s.port)
				fd, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), to)
				if err != nil {
					return err
				}
				defer fd.Close()
				for range each {
					if _, err := fd.Write(make([]byte, 13)); err != nil {
						return err
					}
				}
				return nil
			})
		}
		time.Sleep(200 * time.Millisecond)
	}
	send()
	n := arrived()
	if n != 0 {
		t.Errorf("%d of %d packets with another pod's address arrive", n, each*len(all))
	}
	r.enforce(policy.Update{})
	send()
	if n := arrived(); n != each*len(all) {
		t.Errorf("without policy %d of %d arrive, want all: the test proves nothing", n, each*len(all))
	}
	t.Logf("%d of %d packets with the addresses and ports of offloaded connections arrive; without policy all", n, each*len(all))
}

// TestOffloadCost compares what small packets to a pod and its answers cost when their connection is offloaded, and when
// rules and connection tracking meet each. All of their way is in it, both ends' sockets too.
func TestOffloadCost(t *testing.T) {
	testkit.Require(t, testkit.Root, testkit.FlowTable)
	for _, f := range []model.Family{model.IPv4, model.IPv6} {
		r := newRigOf(t, true)
		d := r.offload()
		s := &stream{network: "udp", stop: make(chan struct{})}
		t.Cleanup(func() {
			for _, c := range s.closers {
				_ = c.Close()
			}
			s.wg.Wait()
		})
		to := netip.AddrPortFrom(address(1, f), 5000)
		r.web.Do(t, func() error { return s.serve(to) })
		r.peer.Do(t, func() (err error) {
			s.client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
			return err
		})
		s.closers = append(s.closers, s.client)
		rounds := func(n int) time.Duration {
			var b [8]byte
			begin := time.Now()
			for range n {
				_ = s.client.SetDeadline(time.Now().Add(5 * time.Second))
				if _, err := s.client.Write(b[:]); err != nil {
					t.Fatal(err)
				}
				if _, err := s.client.Read(b[:]); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(begin)
		}
		rounds(1)
		time.Sleep(2200 * time.Millisecond)
		const each = 1000
		var ratios []float64
		var on, off time.Duration
		for range 9 {
			if _, err := d.Apply(t.Context(), offload.Plan{}); err != nil {
				t.Fatal(err)
			}
			rounds(20)
			off = rounds(each)
			if _, err := d.Apply(t.Context(), offload.Plan{Pods: []string{device(1), device(2)}, Other: []string{"eth0"}}); err != nil {
				t.Fatal(err)
			}
			rounds(20)
			r.allOffloaded(1)
			on = rounds(each)
			ratios = append(ratios, float64(on)/float64(off))
		}
		slices.Sort(ratios)
		t.Logf("%s: a packet takes %.3f / %.3f / %.3f (least, median, most of %d rounds of %d packets) of what it takes without offload, lastly %v and %v",
			f, ratios[0], ratios[len(ratios)/2], ratios[len(ratios)-1], len(ratios), 2*each, on/(2*each), off/(2*each))
		if m := ratios[len(ratios)/2]; m > 1 {
			t.Errorf("offloaded packets of %s cost %.3f of the others", f, m)
		}
	}
}

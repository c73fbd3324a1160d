package bgp

import (
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"weft/routing"
	"weft/routing/bgp/speaker"
)

// Over any events, the list is what a map of them has, in order; and what was returned before stays as it was.
func TestRoutesForgetNothing(t *testing.T) {
	listed := 0
	rapid.Check(t, func(t *rapid.T) {
		var r routes
		want, of := map[netip.Prefix]routing.Learned{}, map[netip.Prefix]uint64{}
		stream := uint64(1)
		some := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 7).Draw(t, "net"))}), rapid.SampledFrom([]int{16, 24}).Draw(t, "bits"))
		}), 0, 6)
		var last, lastCopy []routing.Learned
		equal := cmp.Options{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}
		t.Repeat(map[string]func(*rapid.T){
			"told": func(t *rapid.T) {
				way := routing.Way{NextHops: []netip.Addr{addr(rapid.SampledFrom([]string{"10.77.0.2", "10.77.0.3"}).Draw(t, "hop"))}, Peer: addr("10.77.0.2")}
				b := speaker.Routes{Way: way, Prefixes: some.Draw(t, "told")}
				for _, p := range b.Prefixes {
					want[p], of[p] = routing.Learned{Prefix: p, Way: &way}, stream
				}
				r.take(stream, &speaker.Event{Routes: []speaker.Routes{b}})
			},
			"withdrawn": func(t *rapid.T) {
				gone := some.Draw(t, "withdrawn")
				for _, p := range gone {
					delete(want, p)
				}
				r.take(stream, &speaker.Event{Withdrawn: gone})
			},
			"another stream": func(*rapid.T) { stream++ },
			"settled": func(*rapid.T) {
				maps.DeleteFunc(want, func(p netip.Prefix, _ routing.Learned) bool { return of[p] != stream })
				r.take(stream, &speaker.Event{Settled: true})
			},
			"cleared": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") == 0 {
					clear(want)
					r.clear()
					last, lastCopy = nil, nil
				}
			},
			"listed": func(t *rapid.T) {
				if diff := cmp.Diff(lastCopy, last, equal); diff != "" {
					t.Fatalf("a list that was returned has changed (-was +is):\n%s", diff)
				}
				var got []routing.Learned
				for more := true; more; {
					got, more = r.sorted(rapid.IntRange(1, 4).Draw(t, "most"))
					if changes := differ(last, got); changes > 4 {
						t.Fatalf("%d changes at once", changes)
					}
					last, lastCopy = got, slices.Clone(got)
				}
				all := slices.SortedFunc(maps.Values(want), func(a, b routing.Learned) int { return a.Prefix.Compare(b.Prefix) })
				if diff := cmp.Diff(all, got, equal); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				listed += len(got)
			},
		})
	})
	if listed == 0 {
		t.Error("no route was ever listed")
	}
}

// differ returns how many prefixes two lists have different routes to.
func differ(a, b []routing.Learned) (n int) {
	ways := map[netip.Prefix]*routing.Way{}
	for _, l := range a {
		ways[l.Prefix] = l.Way
	}
	for _, l := range b {
		if !ways[l.Prefix].Equal(l.Way) {
			n++
		}
		delete(ways, l.Prefix)
	}
	return n + len(ways)
}

// While an Apply waits for a speaker that does not answer, others are told what there is.
func TestPeersWaitForNoApply(t *testing.T) {
	d := New(nil, slog.New(slog.DiscardHandler), Options{})
	d.running.Lock()
	defer d.running.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := d.Peers(t.Context())
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Peers waits for Apply")
	}
}

// Whether all is known does not depend on how much of it was taken over, and asking takes nothing over.
func TestSettledTakesNothing(t *testing.T) {
	d := New(nil, slog.New(slog.DiscardHandler), Options{})
	const n = 2*learnedMost + 1
	all := make(speaker.Prefixes, n)
	for i := range all {
		all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	d.take(1, speaker.Event{Routes: []speaker.Routes{{Way: routing.Way{NextHops: []netip.Addr{addr("10.77.0.2")}}, Prefixes: all}}})
	if d.Settled() {
		t.Error("settled before the speaker was")
	}
	d.take(1, speaker.Event{Settled: true})
	for portion := 1; ; portion++ {
		for range 10 {
			if !d.Settled() {
				t.Fatalf("not settled before portion %d", portion)
			}
		}
		list, settled := d.Learned()
		if len(list) != min(portion*learnedMost, n) {
			t.Fatalf("portion %d: %d routes of %d", portion, len(list), n)
		}
		if settled {
			break
		}
	}
}

package conntrack

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
	"weft/model"
)

// limit is what a connection that policy denies may live on.
const limit = time.Second

// kinds calls f for each protocol and family.
func kinds(f func(network string, family model.Family)) {
	for _, network := range []string{"tcp", "udp"} {
		for _, family := range []model.Family{model.IPv4, model.IPv6} {
			f(network, family)
		}
	}
}

// streams opens several streams to web of each kind.
func (r *rig) streams(from testkit.NS, port uint16, each int) (all []*stream) {
	for range each {
		kinds(func(network string, family model.Family) {
			all = append(all, r.stream(network, family, from, port))
			port++
		})
	}
	return all
}

// alive counts the streams on which something arrived after a moment.
func alive(all []*stream, after time.Time) (n int) {
	for _, s := range all {
		if s.last().After(after) {
			n++
		}
	}
	return n
}

// running counts the streams on which something arrived at both ends after a moment.
func running(all []*stream, after time.Time) (n int) {
	for _, s := range all {
		if s.runs(after) {
			n++
		}
	}
	return n
}

// silent waits until nothing has arrived on any of the streams for 100 ms, and returns the moment.
func (r *rig) silent(all []*stream) time.Time {
	r.t.Helper()
	testkit.Eventually(r.t, limit, "all denied streams are silent", func() bool { return alive(all, time.Now().Add(-100*time.Millisecond)) == 0 })
	return time.Now()
}

// goOn waits until something arrived at both ends of all streams after a moment. TCP may take a while: how
// long an end waits before it sends again doubles with every loss, so that an end that never had the time
// to send while its stream was free would be silent for minutes.
func (r *rig) goOn(all []*stream, after time.Time) {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); running(all, after) < len(all); time.Sleep(5 * time.Millisecond) {
		if time.Now().Before(end) {
			continue
		}
		for _, s := range all {
			if !s.runs(after) {
				out, _ := testkit.Try(r.t, r.peer, "ss", "-tino", "state", "established", "dport", "=", fmt.Sprint(s.port))
				r.t.Errorf("%s does not go on: nothing at one end at least for %v\n%s", s.name, time.Since(after), out)
			}
		}
		r.t.Fatalf("%s\n%s", testkit.Run(r.t, r.node, "cat", "/proc/net/nf_conntrack"), testkit.Run(r.t, r.node, "nft", "list", "ruleset"))
	}
}

// A change that denies ends the streams that it is about, in both directions and for as long as it
// holds; others go on. What is allowed again goes on.
func TestDeniedStreamsAreCut(t *testing.T) {
	t.Run("policy/nftables", func(t *testing.T) { deniedStreamsAreCut(t, newRigOf(t, true), testkit.Count(20)) })
	t.Run("ruleset", func(t *testing.T) { deniedStreamsAreCut(t, newRig(t), testkit.Count(5)) })
}

func deniedStreamsAreCut(t *testing.T, r *rig, rounds int) {
	c := r.cutter(Options{})
	r.apply(c, r.compiler.Flush())
	denied, allowed := r.streams(r.peer, 5000, 2), r.streams(r.shop, 6000, 2)
	var took []time.Duration
	var lived, undisturbed int
	for range rounds {
		begin := time.Now()
		res := r.deny(c, true)
		if res.Cut != len(denied) {
			t.Errorf("%d connections were cut, want %d", res.Cut, len(denied))
		}
		time.Sleep(time.Until(begin.Add(limit + 300*time.Millisecond)))
		for _, s := range denied {
			d := max(0, s.last().Sub(begin))
			if took = append(took, d); d > limit {
				lived++
				t.Errorf("%s lived on for %v at least", s.name, d)
			}
		}
		r.goOn(allowed, time.Now())
		undisturbed += len(allowed)
		res = r.deny(c, false)
		if res.Released != len(denied) || res.Cut != 0 {
			t.Errorf("%d connections were released and %d cut, want %d and 0", res.Released, res.Cut, len(denied))
		}
		freed := time.Now()
		r.goOn(denied, freed)
	}
	slices.Sort(took)
	t.Logf("%d of %d streams lived on for more than %v; time to cut: median %v, p99 %v, most %v", lived, len(took), limit,
		took[len(took)/2], took[len(took)*99/100], took[len(took)-1])
	t.Logf("%d of %d streams that stayed allowed went on", undisturbed, rounds*len(allowed))
	if r.ruled() {
		t.Error("the rule is left although nothing is held")
	}
	if !t.Failed() && lived == 0 && len(took) < 20 && !testkit.Emulated() {
		t.Errorf("only %d chances to live on", len(took))
	}
}

// ruled tells whether the rule that holds connections is there.
func (r *rig) ruled() bool {
	r.t.Helper()
	return strings.Contains(testkit.Run(r.t, r.node, "nft", "list", "ruleset"), "chain held-in")
}

// A Cutter that begins finds what was allowed before, keeps what an earlier one holds, and releases it
// later. What stays held stays so through changes that are about others.
func TestRestart(t *testing.T) {
	r := newRig(t)
	denied, other := r.streams(r.peer, 5000, 1), r.streams(r.shop, 6000, 1)
	r.deny(nil, true)
	u := r.compiler.Flush()
	for round := range 3 {
		c := r.cutter(Options{})
		res := r.apply(c, u)
		if want := []int{len(denied), 0, 0}[round]; res.Cut != want {
			t.Errorf("Cutter %d cut %d connections, want %d", round, res.Cut, want)
		}
		quiet := r.silent(denied)
		if !r.ruled() {
			t.Errorf("the rule is not there after Cutter %d began", round)
		}
		r.policy("shop", "app == 'shop'", address(9, model.IPv4))
		r.apply(c, r.compiler.Flush())
		r.policy("shop", "app == 'shop'")
		u = r.compiler.Flush()
		if res := r.apply(c, u); res.Released != 0 {
			t.Errorf("%d connections were released by a change that is about others", res.Released)
		}
		dropped, err := c.Dropped(t.Context())
		if err != nil {
			t.Error(err)
		}
		testkit.Eventually(t, 5*time.Second, "packets are dropped", func() bool {
			now, _ := c.Dropped(t.Context())
			return now > dropped
		})
		if n := alive(denied, quiet); n > 0 {
			t.Errorf("%d of %d denied streams that were silent go on under Cutter %d", n, len(denied), round)
		}
		c.Close()
	}
	c := r.cutter(Options{})
	r.apply(c, u)
	r.deny(c, false)
	freed := time.Now()
	r.goOn(denied, freed)
	r.goOn(other, freed)
	if r.ruled() {
		t.Error("the rule is left although nothing is held")
	}
}

// The connections of a pod that is gone end, whatever policy says of whoever has its address next.
func TestConnectionsOfGonePods(t *testing.T) {
	r := newRig(t)
	c := r.cutter(Options{})
	r.apply(c, r.compiler.Flush())
	r.streams(r.peer, 5000, 1)
	r.compiler.DeleteEndpoint(model.EndpointID{Namespace: "default", Pod: "web", Interface: "eth0"})
	if res := r.apply(c, r.compiler.Flush()); res.Ended != 4 {
		t.Errorf("%d connections ended, want 4: %+v", res.Ended, res)
	}
}

// A storm of changes looks at the table now and then, and asks for another Apply after the last.
func TestStormIsPutOff(t *testing.T) {
	r := newRig(t)
	kicks := make(chan struct{}, 1000)
	c := r.cutter(Options{Kick: func() { kicks <- struct{}{} }})
	r.apply(c, r.compiler.Flush())
	denied := r.streams(r.peer, 5000, 1)
	deferred := 0
	begin := time.Now()
	for n := range 100 {
		r.policy("shop", "app == 'shop'", address(byte(100+n), model.IPv4))
		if r.apply(c, r.compiler.Flush()).Deferred {
			deferred++
		}
	}
	r.policy("web", "app == 'web'", address(9, model.IPv4), address(9, model.IPv6))
	last := time.Now()
	for res := r.apply(c, r.compiler.Flush()); res.Cut < len(denied); res = r.apply(c, r.compiler.Flush()) {
		select {
		case <-kicks:
		case <-time.After(limit):
			t.Fatal("no Apply is asked for")
		}
	}
	t.Logf("%d of 100 changes within %v put off; the last one cut after %v", deferred, last.Sub(begin), time.Since(last))
	if deferred == 0 || time.Since(last) > limit {
		t.Errorf("%d changes put off, the last one cut after %v", deferred, time.Since(last))
	}
}

// Controls: without the Cutter every denied stream goes on; with one that deletes entries, those come
// back the other way round whose answering end sends first.
func TestControls(t *testing.T) {
	r := newRig(t)
	first := r.compiler.Flush()
	denied := r.streams(r.peer, 5000, 5)
	r.deny(nil, true)
	time.Sleep(limit)
	r.goOn(denied, time.Now()) // else the ruleset asks about more than new connections
	t.Logf("without a Cutter %d of %d denied streams go on", len(denied), len(denied))
	r.deny(nil, false)
	c := r.cutter(Options{Delete: true})
	r.apply(c, first)
	back := map[string]int{}
	rounds := testkit.Count(10)
	for range rounds {
		r.deny(c, true)
		time.Sleep(limit)
		now := time.Now().Add(-100 * time.Millisecond)
		for _, s := range denied {
			if s.last().After(now) {
				back[s.network]++
			}
		}
		r.deny(c, false)
		freed := time.Now()
		r.goOn(denied, freed)
	}
	all := len(denied) / 2 * rounds
	t.Logf("deleted and back the other way round: %d of %d TCP streams, %d of %d UDP streams", back["tcp"], all, back["udp"], all)
	if back["tcp"]+back["udp"] == 0 {
		t.Error("no deleted stream came back: is there still a reason to hold them?")
	}
}

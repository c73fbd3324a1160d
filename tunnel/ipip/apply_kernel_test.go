package ipip

import (
	"context"
	"testing"

	"weft/internal/kernel"
	"weft/internal/testkit"
	"weft/tunnel"
)

func TestProbe(t *testing.T) {
	testkit.Require(t, testkit.Root)
	w, err := Probe(context.Background())
	t.Logf("way %s, %v", w, err)
	if err != nil {
		t.Error(err)
	}
	if err := Check(context.Background(), "smoke signals"); err == nil {
		t.Error("a way that does not exist was accepted")
	}
}

// TestCarries has the pods of two nodes talk, and takes all away again.
func TestCarries(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		a, b := hosts[0], hosts[1]
		before := testkit.Links(t, a.NS)
		join(t, hosts)
		for _, options := range [][]string{nil, {"-s", "1452", "-M", "do"}, {"-s", "3000"}} {
			if !ping(t, a, b, options...) || !ping(t, b, a, options...) {
				t.Errorf("ping %v fails", options)
			}
		}
		if res, err := a.driver.Apply(context.Background(), plan(t, a, hosts)); err != nil || !res.Zero() {
			t.Errorf("the same again: %v, %v", res, err)
		}
		if d, err := a.driver.Dropped(context.Background()); err != nil || d != (Dropped{}) {
			t.Errorf("dropped %+v, %v", d, err)
		}
		apply(t, a, tunnel.Plan{})
		if got := testkit.Links(t, a.NS); got != before {
			t.Errorf("after the zero plan:\n%swant:\n%s", got, before)
		}
		if ping(t, a, b) {
			t.Error("ping without the device arrives")
		}
		links, err := a.h.TunnelLinks(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		left, err := a.driver.bpf.everywhere(context.Background(), links)
		if err != nil || len(left) > 0 {
			t.Errorf("%d programs are left, %v", len(left), err)
		}
		if out := testkit.Run(t, a.NS, "nft", "list", "ruleset"); out != "" {
			t.Errorf("left in nftables:\n%s", out)
		}
		if out := testkit.Run(t, a.NS, "tc", "qdisc", "show", "dev", "eth0"); w.clsact && out != "qdisc noqueue 0: root refcnt 2 \n" {
			t.Errorf("left in tc:\n%s", out)
		}
		// Made a second time, it is new; what somebody takes away then is a repair.
		if res, err := a.driver.Apply(context.Background(), plan(t, a, hosts)); err != nil || res.Added == 0 || res.Repaired != 0 {
			t.Errorf("made a second time: %v, %v, want no repairs", res, err)
		}
		testkit.Run(t, a.NS, "ip", "addr", "flush", "dev", kernel.IPIPDevice)
		a.driver.Invalidate()
		if res, err := a.driver.Apply(context.Background(), plan(t, a, hosts)); err != nil || res.Repaired != 1 {
			t.Errorf("the address was taken away: %v, %v, want one repair", res, err)
		}
	})
}

// TestFirstPacket wants the first packet to arrive also while the next hop of the underlay is not known,
// and after it was forgotten.
func TestFirstPacket(t *testing.T) {
	ways(t, func(t *testing.T, w way) {
		testkit.LeakCheck(t)
		hosts := cluster(t, w, w)
		join(t, hosts)
		n, lost := 20, 0
		if testkit.Emulated() {
			n = 5
		}
		for range n {
			for _, h := range hosts {
				testkit.Run(t, h.NS, "ip", "neigh", "flush", "dev", "eth0")
			}
			if _, err := testkit.Try(t, hosts[0].pod, "ping", "-n", "-c", "1", "-W", "2", hosts[1].podIP.String()); err != nil {
				lost++
			}
		}
		if lost > 0 {
			t.Errorf("%d of %d first packets were lost", lost, n)
		}
	})
}

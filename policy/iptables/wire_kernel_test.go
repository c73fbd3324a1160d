package iptables

import (
	"flag"
	"testing"

	"weft/internal/testkit"
	"weft/model"
	"weft/policy"
	"weft/policy/policytest"
	"weft/policy/policytest/wire"
)

var (
	worlds   = flag.Int("worlds", 12, "random worlds of TestWire, for each backend")
	perWorld = flag.Int("packets", 1800, "random packets in each of them")
)

// TestWire sends random packets through the kernel that runs random Programs, and compares with
// policy/eval. Half of the worlds come by their differences.
func TestWire(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		var all wire.Tally
		for seed := range uint64(testkit.Count(*worlds)) {
			w := policytest.Full(seed, seed%2 == 0)
			c := policy.NewCompiler(policytest.Self)
			if err := c.Replace(w.Snapshot); err != nil {
				t.Fatal(err)
			}
			u := c.Flush()
			d.generation = 1 << 40 // of another compiler
			apply(t, d, u)
			if seed%4 >= 2 {
				for range 10 {
					w.Step(c)
					u = c.Flush()
					apply(t, d, u)
				}
			}
			packets := make([]*model.Packet, *perWorld)
			for i := range packets {
				packets[i] = w.Packet()
			}
			tally, wrong := rig.Check(t, u.Program, packets)
			all.Add(tally)
			for i, x := range wrong {
				if i < 5 {
					t.Errorf("seed %d: %s", seed, x)
				}
			}
			if len(wrong) > 0 {
				t.FailNow()
			}
		}
		t.Logf("%s: %s", b, all)
		if all.Allowed < all.Verdicts/20 || all.Denied < all.Verdicts/20 {
			t.Error("the worlds do not exercise the driver")
		}
	})
}

// TestShapes: fragments, and packets with an extension header of IPv6, meet what the same packet meets whole.
func TestShapes(t *testing.T) {
	backends(t, func(t *testing.T, b Backend) {
		rig := wire.New(t)
		d := newDriver(t, rig.Node, b)
		rig.CheckShapes(t, testkit.Count(6), 300, func(u policy.Update) {
			d.generation = 1 << 40 // of another compiler
			apply(t, d, u)
		})
	})
}

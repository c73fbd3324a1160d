package topology

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
)

// TestEncryptionLosesNothing interleaves, at random, encryption switched on and off, rotations of the keys
// and changes of the pool with the small steps of three nodes. No packet is sent by a device that the
// peer has not, nor in clear to a peer that refuses it, nor past the sender's own guard; in the end
// all is encrypted and nothing in clear is let through, or nothing is left of encryption.
func TestEncryptionLosesNothing(t *testing.T) {
	steps := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(false)
		w.encrypts = true
		w.write(func(s *model.Snapshot) { s.Encryption.Enabled4 = rapid.Bool().Draw(t, "enabled at first") })
		w.setPool(rapid.SampledFrom(simModes).Draw(t, "mode at first"))
		w.settle(t)
		w.drawn(t, func(l string) { t.Fatal(l) })
		w.settle(t)
		steps += len(w.history)
		for _, h := range w.hosts {
			want := w.last().Encryption.Enabled4
			for peer, p := range h.routes {
				if (p.Reach == WireGuard) != want {
					t.Fatalf("%s reaches %s by %s (%s), encryption %v", h.name, peer, p.Reach, p.Why, want)
				}
				if h.guard.refuses(blockOf[peer]) != want {
					t.Fatalf("%s refuses clear text with %s: %v, want %v", h.name, peer, !want, want)
				}
			}
			for e := range h.devices {
				if e.Encap == model.EncapWireGuard && (!want || e.Epoch != w.last().Encryption.Epoch) {
					t.Fatalf("%s is left with %s", h.name, e)
				}
			}
			if said := w.last().Nodes[h.name].Tunnels.EncryptedOnly; said != want {
				t.Fatalf("%s says that it refuses clear text: %v, want %v", h.name, said, want)
			}
		}
	})
	if steps < 1000 {
		t.Errorf("only %d states of the store were gone through", steps)
	}
	t.Logf("0 packets lost in %d states of the store", steps)
}

// TestGuardedPools: a disabled pool is guarded as long as a node has addresses of it; without, it names a network
// outside of the cluster.
func TestGuardedPools(t *testing.T) {
	s := rackSnapshot(simModes[0])
	s.Encryption = model.EncryptionConfig{Enabled4: true, Port4: 51820}
	s.Pools = append(s.Pools, model.Pool{Name: "office", CIDR: prefix("10.200.0.0/16"), Disabled: true}, model.Pool{Name: "six", CIDR: prefix("fd00:10:244::/48")})
	pools := func() string {
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(v.Guard.Pools)
	}
	if got := pools(); got != fmt.Sprintf("[%v]", s.Pools[0].CIDR) {
		t.Errorf("guarded: %s", got)
	}
	s.Pools[0].Disabled = true
	if got := pools(); got != fmt.Sprintf("[%v]", s.Pools[0].CIDR) {
		t.Errorf("guarded, disabled with pods: %s", got)
	}
	s.Blocks[prefix("10.200.1.0/26")] = &model.Block{CIDR: prefix("10.200.1.0/26"), Node: "n2"}
	s.Encryption.Enabled6 = true
	if got := pools(); got != fmt.Sprintf("[10.200.0.0/16 %v fd00:10:244::/48]", s.Pools[0].CIDR) {
		t.Errorf("guarded, all: %s", got)
	}
}

package topology

import (
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

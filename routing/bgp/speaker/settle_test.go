package speaker

import (
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"weft/routing"
)

// A peer that has told nothing is waited for, but no longer once no session with it is wanted.
func TestSettleWithoutThoseThatWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sp := newSpeaker(Process{}, slog.New(slog.DiscardHandler), &slog.LevelVar{})
		here := routing.Session{Peer: netip.MustParseAddr("10.0.0.2"), RestartSeconds: 120}
		gone := routing.Session{Peer: netip.MustParseAddr("10.0.0.3"), RestartSeconds: 120}
		sp.hub.putPeer(Peer{Address: here.Peer, State: Established, EndOfRIB: true})
		sp.want([]routing.Session{here, gone})
		go sp.settle(t.Context())
		time.Sleep(100 * time.Second)
		if sp.hub.isSettled() {
			t.Error("settled without a peer that is wanted")
		}
		sp.want([]routing.Session{here})
		time.Sleep(time.Second)
		if !sp.hub.isSettled() {
			t.Error("a peer that is not wanted any more is waited for")
		}
	})
}

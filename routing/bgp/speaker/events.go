package speaker

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"

	"weft/routing"
)

// watch takes what GoBGP says until ctx ends.
func (sp *speaker) watch(ctx context.Context, s *server.BgpServer) error {
	r := newRIB(sp.hub)
	return s.WatchEvent(ctx, server.WatchEventMessageCallbacks{
		OnBestPath: func(paths []*apiutil.Path, _ time.Time) {
			if ctx.Err() == nil {
				r.update(paths)
			}
		},
		OnPeerUpdate: func(e *apiutil.WatchEventMessage_PeerEvent, at time.Time) {
			if ctx.Err() == nil && e.Type == apiutil.PEER_EVENT_STATE {
				sp.onPeer(e.Peer.State, at)
			}
		},
		OnPathEor: func(p *apiutil.Path, _ time.Time) {
			sp.hub.changePeer(p.PeerAddress, func(x *Peer) { x.EndOfRIB = true })
		},
	}, server.WatchPeer(), server.WatchBestPath(true), server.WatchEor(true))
}

var states = map[bgp.FSMState]PeerState{
	bgp.BGP_FSM_IDLE: Idle, bgp.BGP_FSM_CONNECT: Connect, bgp.BGP_FSM_ACTIVE: Active,
	bgp.BGP_FSM_OPENSENT: OpenSent, bgp.BGP_FSM_OPENCONFIRM: OpenConfirm, bgp.BGP_FSM_ESTABLISHED: Established,
}

func (sp *speaker) onPeer(s apiutil.PeerState, at time.Time) {
	session, ok := sp.session(s.NeighborAddress)
	if !ok {
		return
	}
	state, ok := states[s.SessionState]
	if !ok {
		state = Idle // it is being removed
	}
	why := explainDown(session, s.DisconnectReason)
	sp.hub.changePeer(s.NeighborAddress, func(p *Peer) {
		if p.State == state {
			return
		}
		if p.State == Established {
			p.Flaps++
		}
		if state != Established {
			p.EndOfRIB = false
		}
		if state == Established {
			p.notified = false
		}
		if state == Idle && why != "" && !p.notified && (p.LastError == "" || time.Since(p.ErrorAt) > time.Second) {
			p.LastError, p.ErrorAt = why, at
		}
		p.State, p.Since, p.RouterID = state, at, s.RouterID
	})
}

// explainDown is for what the log has no word on.
func explainDown(s routing.Session, why api.PeerState_DisconnectReason) string {
	switch why {
	case api.PeerState_DISCONNECT_REASON_READ_FAILED, api.PeerState_DISCONNECT_REASON_WRITE_FAILED, api.PeerState_DISCONNECT_REASON_GRACEFUL_RESTART:
		return fmt.Sprintf("the TCP connection to %v ended without a NOTIFICATION: its BGP speaker ended, or the way to it broke", s.Peer)
	case api.PeerState_DISCONNECT_REASON_RESTART_TIMER_EXPIRED:
		return fmt.Sprintf("%v did not come back within its restart time: its routes are dropped", s.Peer)
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		return explainSent(s, "5", "", "")
	case api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		return explainSent(s, "2", "2", "")
	case api.PeerState_DISCONNECT_REASON_HARD_RESET:
		return fmt.Sprintf("%v ended the session: %s", s.Peer, notification("6", "9"))
	}
	return ""
}

// pause ends a session whose peer announced too many prefixes, and begins it again some time later. GoBGP
// itself ends it too, but as if the peer restarted gracefully: what it announced would stay.
func (sp *speaker) pause(a netip.Addr) {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	s, ok := sp.session(a)
	if !ok || sp.bgp == nil || sp.pauses[a] != nil {
		return
	}
	if err := sp.deletePeer(context.Background(), s, false); err != nil {
		sp.log.Warn("a session over its limit is not ended", "peer", a, "error", err)
		return
	}
	sp.pauses[a] = time.AfterFunc(limitPause, func() { sp.resume(a) })
}

func (sp *speaker) resume(a netip.Addr) {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	s, ok := sp.session(a)
	if !ok || sp.bgp == nil || sp.pauses[a] == nil {
		return
	}
	delete(sp.pauses, a)
	if err := sp.bgp.AddPeer(context.Background(), &api.AddPeerRequest{Peer: peerOf(s, false)}); err != nil {
		sp.log.Warn("a session does not begin again after its pause", "peer", a, "error", err)
	}
}

// renew begins a session anew that is not up, and that GoBGP would not bring up, or not for long.
func (sp *speaker) renew(a netip.Addr, why string) {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	s, ok := sp.session(a)
	if !ok || sp.bgp == nil || sp.pauses[a] != nil {
		return
	}
	sp.log.Info("a session begins anew", "peer", a, "why", why)
	err := sp.deletePeer(context.Background(), s, false)
	if err == nil {
		err = sp.bgp.AddPeer(context.Background(), &api.AddPeerRequest{Peer: peerOf(s, false)})
	}
	if err != nil {
		sp.log.Warn("a session does not begin anew", "peer", a, "error", err)
	}
}

// mind looks after what GoBGP does not: it has no time limit for a session that is almost up, whose peer
// falls silent.
func (sp *speaker) mind(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range sp.hub.snapshot() {
			s, ok := sp.session(p.Address)
			if !ok || p.State != OpenSent && p.State != OpenConfirm || time.Since(p.Since) < max(openTimeout, time.Duration(s.HoldSeconds)*time.Second) {
				continue
			}
			sp.hub.changePeer(p.Address, func(p *Peer) { p.explain(explainSilence(s), false, false) })
			sp.renew(p.Address, "its peer fell silent while it came up")
		}
	}
}

// openTimeout is the least time that a peer gets to bring a session up once it is connected.
const openTimeout = 10 * time.Second

// helloSeconds is how long a peer that sends no End-of-RIB gets to tell what it has.
const helloSeconds = 10

// settle waits until all peers have told what they have, or had the time for it. A session without
// graceful restart gets none: its peer has forgotten this host, too. One that is not wanted any more is not waited for.
func (sp *speaker) settle(ctx context.Context) {
	begin := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		peers := map[netip.Addr]Peer{} // one that is not there yet has told nothing
		for _, p := range sp.hub.snapshot() {
			peers[p.Address] = p
		}
		sp.mu.Lock()
		sessions := sp.wanted
		sp.mu.Unlock()
		waiting := false
		for i := range sessions {
			s, p := &sessions[i], peers[sessions[i].Peer]
			if s.RestartSeconds == 0 || p.EndOfRIB {
				continue
			}
			established := p.State == Established && time.Since(p.Since) > helloSeconds*time.Second
			late := time.Since(begin) > time.Duration(s.RestartSeconds)*time.Second
			waiting = waiting || !established && !late
		}
		if !waiting {
			sp.hub.settle()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

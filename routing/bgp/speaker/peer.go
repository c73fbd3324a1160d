package speaker

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"weft/routing"
)

const (
	// retrySeconds is between attempts to connect, and idleSeconds after a session ended. An attempt may take
	// a second less: longer than the kernel needs to know that nobody has the address.
	retrySeconds = 5
	idleSeconds  = 2
	// deferSeconds is how long a process that takes over waits for what its peers have to tell, before it
	// tells them what it has (RFC 4724, Selection_Deferral_Timer).
	deferSeconds = 10
)

// peerOf returns a session as GoBGP wants it.
func peerOf(s routing.Session, restarting bool) *api.Peer {
	p := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: s.Peer.String(), PeerAsn: s.ASN, LocalAsn: s.LocalASN, AuthPassword: string(s.Password),
			AllowOwnAsn: uint32(s.AllowedLocalAS),
		},
		Transport: &api.Transport{RemotePort: uint32(port(s)), PassiveMode: s.Passive},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: retrySeconds, IdleHoldTimeAfterReset: idleSeconds, HoldTime: uint64(s.HoldSeconds), KeepaliveInterval: uint64(s.KeepaliveSeconds),
		}},
	}
	if s.Source.IsValid() {
		p.Transport.LocalAddress = s.Source.String()
	}
	family := &api.Family{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST}
	if s.Peer.Is4() {
		family.Afi = api.Family_AFI_IP
	}
	f := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: family, Enabled: true}}
	if s.MaxPrefixes > 0 {
		f.PrefixLimits = &api.PrefixLimit{Family: family, MaxPrefixes: s.MaxPrefixes}
	}
	if s.RestartSeconds > 0 {
		p.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(s.RestartSeconds), DeferralTime: deferSeconds, NotificationEnabled: true, LocalRestarting: restarting,
		}
		f.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	p.AfiSafis = []*api.AfiSafi{f}
	if s.ReflectorClient {
		p.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: s.ClusterID.String()}
	}
	switch {
	case s.TTLSecurityHops > 0:
		p.TtlSecurity = &api.TtlSecurity{Enabled: true, TtlMin: 256 - uint32(s.TTLSecurityHops)}
	case s.ASN != s.LocalASN:
		p.EbgpMultihop = &api.EbgpMultihop{Enabled: true, MultihopTtl: 255}
	}
	if s.BFD.IntervalMillis > 0 {
		us := s.BFD.IntervalMillis * 1000
		p.Bfd = &api.BfdPeerConfig{Enabled: true, Port: 3784, DesiredMinimumTxInterval: us, RequiredMinimumReceive: us, DetectionMultiplier: uint32(s.BFD.Multiplier)}
	}
	return p
}

func (sp *speaker) addPeer(ctx context.Context, s routing.Session, restarting bool) error {
	sp.setSession(s.Peer, &s) // first, so that what it says finds its session
	sp.hub.putPeer(Peer{Address: s.Peer, Name: s.Name, ASN: s.ASN, State: Idle, Since: time.Now()})
	if err := sp.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: peerOf(s, restarting && s.RestartSeconds > 0)}); err != nil {
		sp.setSession(s.Peer, nil)
		sp.hub.deletePeer(s.Peer)
		return fmt.Errorf("add BGP session %s with %v (AS %d): %w", s.Name, s.Peer, s.ASN, err)
	}
	return nil
}

// removePeer ends a session. again tells that one with the same peer follows, which is no news to who watches.
func (sp *speaker) removePeer(ctx context.Context, s routing.Session, again bool) error {
	paused := sp.pauses[s.Peer]
	if paused != nil {
		paused.Stop()
		delete(sp.pauses, s.Peer)
	}
	if err := sp.deletePeer(ctx, s, paused != nil); err != nil {
		return err
	}
	sp.setSession(s.Peer, nil)
	if !again {
		sp.hub.deletePeer(s.Peer)
	}
	return nil
}

// deletePeer ends a session in GoBGP, if it is there.
func (sp *speaker) deletePeer(ctx context.Context, s routing.Session, gone bool) error {
	if gone {
		return nil
	}
	if s.Password != "" {
		// GoBGP takes the password from its listening sockets only when it is told of a neighbour without one.
		p := peerOf(s, false)
		p.Conf.AuthPassword, p.Conf.AdminDown = "", true
		if _, err := sp.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: p}); err != nil {
			return fmt.Errorf("end BGP session %s with %v: %w", s.Name, s.Peer, err)
		}
	}
	if err := sp.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: s.Peer.String()}); err != nil {
		return fmt.Errorf("end BGP session %s with %v: %w", s.Name, s.Peer, err)
	}
	return nil
}

// changePeer changes what can be changed while a session is up.
func (sp *speaker) changePeer(ctx context.Context, old, s routing.Session) error {
	sp.setSession(s.Peer, &s)
	sp.hub.changePeer(s.Peer, func(p *Peer) { p.Name = s.Name })
	if old.MaxPrefixes == s.MaxPrefixes && old.BFD == s.BFD || sp.pauses[s.Peer] != nil {
		return nil
	}
	p := peerOf(s, false)
	if _, err := sp.bgp.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: p}); err != nil {
		return fmt.Errorf("change BGP session %s with %v: %w", s.Name, s.Peer, err)
	}
	return nil
}

// peers returns the sessions with their counts.
func (sp *speaker) peers(ctx context.Context) ([]Peer, error) {
	list := sp.hub.snapshot()
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	if sp.bgp == nil {
		return list, nil
	}
	at := map[netip.Addr]int{}
	for i, p := range list {
		at[p.Address] = i
	}
	err := sp.bgp.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: true}, func(p *api.Peer) {
		a, err := netip.ParseAddr(p.GetState().GetNeighborAddress())
		i, ok := at[a]
		if err != nil || !ok {
			return
		}
		for _, f := range p.GetAfiSafis() {
			list[i].Received += f.GetState().GetReceived()
			list[i].Sent += f.GetState().GetAdvertised()
		}
		if p.GetBfd().GetEnabled() {
			list[i].BFD = bfdState(p.GetState().GetBfdState().GetSessionState())
		}
	})
	for i := range list {
		if err == nil && list[i].Received > 0 {
			list[i].Accepted, err = sp.accepted(list[i].Address)
		}
	}
	if err != nil {
		return nil, errors.Join(errors.New("list BGP sessions"), err)
	}
	return list, nil
}

// accepted counts what a peer announced and the filters accept; GoBGP's own count is from before them.
func (sp *speaker) accepted(peer netip.Addr) (n uint64, err error) {
	family := bgp.RF_IPv4_UC
	if peer.Is6() {
		family = bgp.RF_IPv6_UC
	}
	req := apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_ADJ_IN, Name: peer.String(), Family: family, EnableFiltered: true}
	err = sp.bgp.ListPath(req, func(_ bgp.NLRI, paths []*apiutil.Path) {
		if slices.ContainsFunc(paths, func(p *apiutil.Path) bool { return !p.Filtered }) {
			n++
		}
	})
	return n, err
}

func bfdState(s api.BfdSessionState) string {
	switch s {
	case api.BfdSessionState_BFD_SESSION_STATE_UP:
		return "Up"
	case api.BfdSessionState_BFD_SESSION_STATE_INIT:
		return "Init"
	case api.BfdSessionState_BFD_SESSION_STATE_ADMIN_DOWN:
		return "AdminDown"
	}
	return "Down"
}

package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
	"google.golang.org/protobuf/proto"

	"weft/routing"
)

// limitPause is how long a session stays down whose peer announced too many prefixes.
const limitPause = time.Minute

// speaker makes GoBGP do what a routing.Speaker says. configure is called by one goroutine at a time.
type speaker struct {
	proc  Process
	log   *slog.Logger
	level *slog.LevelVar
	hub   *hub
	md5   md5Watch

	configuring sync.Mutex
	bgp         *server.BgpServer // nil: not running
	stopWatch   context.CancelFunc
	global      global
	adverts     map[netip.Prefix]routing.Advertisement
	policy      *api.SetPoliciesRequest
	sets        map[string]routing.PrefixSet
	links       []Link

	pauses map[netip.Addr]*time.Timer // of sessions that are not in GoBGP now

	mu       sync.Mutex // a leaf: GoBGP may hold locks of its own
	sessions map[netip.Addr]routing.Session
	wanted   []routing.Session // of the last configure, done or not
}

// global is what cannot be changed without ending every session.
type global struct {
	asn    uint32
	id     netip.Addr
	port   uint16
	listen string
}

func globalOf(s routing.Speaker) global {
	var l []string
	for _, a := range s.Listen {
		l = append(l, a.String())
	}
	return global{asn: s.ASN, id: s.RouterID, port: s.ListenPort, listen: strings.Join(l, " ")}
}

func newSpeaker(p Process, log *slog.Logger, level *slog.LevelVar) *speaker {
	return &speaker{
		proc: p, log: log, level: level, hub: newHub(), adverts: map[netip.Prefix]routing.Advertisement{},
		sessions: map[netip.Addr]routing.Session{}, pauses: map[netip.Addr]*time.Timer{},
	}
}

func (sp *speaker) session(a netip.Addr) (routing.Session, bool) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	s, ok := sp.sessions[a]
	return s, ok
}

func (sp *speaker) setSession(a netip.Addr, s *routing.Session) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if s == nil {
		delete(sp.sessions, a)
	} else {
		sp.sessions[a] = *s
	}
}

func (sp *speaker) want(s []routing.Session) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.wanted = s
}

// known returns the sessions that are configured, by their peer.
func (sp *speaker) known() map[netip.Addr]routing.Session {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	out := make(map[netip.Addr]routing.Session, len(sp.sessions))
	for a, s := range sp.sessions {
		out[a] = s
	}
	return out
}

// configure makes the difference between what is and what is wanted. It returns how many things it changed,
// and what failed: the rest is done.
func (sp *speaker) configure(ctx context.Context, want routing.Speaker) (int, error) {
	sp.configuring.Lock()
	defer sp.configuring.Unlock()
	if want.ASN == 0 {
		return sp.withdraw(ctx)
	}
	if err := check(want); err != nil {
		return 0, err
	}
	sp.level.Set(slog.Level(want.LogLevel))
	links, err := hostLinks(want)
	if err != nil {
		return 0, err
	}
	policy, err := policies(want, links)
	if err != nil {
		return 0, err
	}
	sp.want(want.Sessions)
	changes, restarting, err := sp.running(ctx, want)
	if err != nil {
		return changes, err
	}
	// What goes goes before its filters do, and what comes comes after its filters.
	n, err := sp.removeOthers(ctx, want)
	changes += n
	errs := []error{err}
	refilter := false
	if sp.policy == nil || !proto.Equal(sp.policy, policy) {
		if err := sp.bgp.SetPolicies(ctx, policy); err != nil {
			return changes, errors.Join(append(errs, fmt.Errorf("set filters: %w", err))...)
		}
		refilter = sp.policy != nil
		sp.policy = policy
		changes++
	}
	n, err = sp.advertise(want.Advertisements)
	changes += n
	errs = append(errs, err)
	sets := map[string]routing.PrefixSet{}
	for _, s := range want.Sets {
		sets[s.Name] = s
	}
	for _, w := range want.Sessions {
		s, had := sp.session(w.Peer)
		switch {
		case !had:
			changes++
			errs = append(errs, sp.addPeer(ctx, w, restarting))
		case !reflect.DeepEqual(s, w):
			changes++
			errs = append(errs, sp.changePeer(ctx, s, w))
		}
		if had && refilter && sp.pauses[w.Peer] == nil {
			errs = append(errs, sp.refilter(ctx, s, w, sets, !reflect.DeepEqual(sp.links, links)))
		}
	}
	sp.sets, sp.links = sets, links
	return changes, errors.Join(errs...)
}

// running makes GoBGP run as the host's speaker.
func (sp *speaker) running(ctx context.Context, want routing.Speaker) (changes int, restarting bool, err error) {
	if sp.bgp != nil && sp.global != globalOf(want) {
		sp.log.Info("AS number, router id or listening address changed: every session begins anew")
		if err := sp.stop(ctx, false); err != nil {
			return 0, false, err
		}
	}
	if sp.bgp != nil {
		return 0, false, nil
	}
	restarting, err = sp.start(ctx, want)
	return 1, restarting, err
}

// removeOthers ends the sessions that are not wanted, and those that have to begin anew.
func (sp *speaker) removeOthers(ctx context.Context, want routing.Speaker) (changes int, err error) {
	wanted := map[netip.Addr]routing.Session{}
	for _, s := range want.Sessions {
		wanted[s.Peer] = s
	}
	had := sp.known()
	var gone []netip.Addr
	for a := range had {
		if _, ok := wanted[a]; !ok {
			gone = append(gone, a)
		}
	}
	errs := []error{sp.unsay(ctx, gone)}
	for a, s := range had {
		if w, ok := wanted[a]; !ok || !sameSession(s, w) {
			changes++
			errs = append(errs, sp.removePeer(ctx, s, ok))
		}
	}
	return changes, errors.Join(errs...)
}

// check refuses what would end up as something else than was meant.
func check(s routing.Speaker) error {
	if !s.RouterID.Is4() {
		return fmt.Errorf("router id %v: want an IPv4 address", s.RouterID)
	}
	seen := map[netip.Addr]string{}
	for _, x := range s.Sessions {
		bare := x.Peer.WithZone("")
		switch {
		case !x.Peer.IsValid() || x.Peer.Is4In6():
			return fmt.Errorf("session %s: peer address %v", x.Name, x.Peer)
		case x.ASN == 0 || x.LocalASN == 0:
			return fmt.Errorf("session %s with %v: no AS number", x.Name, x.Peer)
		case seen[bare] != "":
			return fmt.Errorf("sessions %s and %s have the same peer address %v", seen[bare], x.Name, bare)
		}
		seen[bare] = x.Name
	}
	return nil
}

// sameSession tells that two sessions differ at most in what can be changed while one is up.
func sameSession(a, b routing.Session) bool {
	for _, s := range []*routing.Session{&a, &b} {
		s.Name, s.Mesh, s.Node, s.Gateway, s.NextHop, s.MaxPrefixes, s.BFD, s.Import, s.Export =
			"", false, "", netip.Addr{}, 0, 0, routing.BFD{}, nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// refilter asks the filters of a session again, where they changed.
func (sp *speaker) refilter(ctx context.Context, old, s routing.Session, sets map[string]routing.PrefixSet, links bool) error {
	changed := func(a, b []routing.FilterRule) bool {
		return !reflect.DeepEqual(a, b) || slices.ContainsFunc(b, func(r routing.FilterRule) bool {
			return r.Interface != "" && links || r.Set != "" && !reflect.DeepEqual(sp.sets[r.Set], sets[r.Set])
		})
	}
	var errs []error
	soft := func(d api.ResetPeerRequest_Direction) {
		if err := sp.bgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: s.Peer.String(), Soft: true, Direction: d}); err != nil {
			errs = append(errs, fmt.Errorf("filter the routes of %v anew: %w", s.Peer, err))
		}
	}
	if changed(old.Import, s.Import) {
		soft(api.ResetPeerRequest_DIRECTION_IN)
	}
	if changed(old.Export, s.Export) || old.NextHop != s.NextHop {
		soft(api.ResetPeerRequest_DIRECTION_OUT)
	}
	return errors.Join(errs...)
}

// start starts GoBGP. restarting tells that neighbours may hold routes of an earlier process.
func (sp *speaker) start(ctx context.Context, want routing.Speaker) (restarting bool, err error) {
	tap := &logTap{next: sp.log.Handler(), down: sp.hub.down.Load, said: sp.onLog}
	bgp := server.NewBgpServer(server.LoggerOption(slog.New(tap), sp.level))
	go bgp.Serve()
	g := &api.Global{Asn: want.ASN, RouterId: want.RouterID.String(), ListenPort: int32(want.ListenPort), UseMultiplePaths: true}
	for _, a := range listenOn(want) {
		g.ListenAddresses = append(g.ListenAddresses, a.String())
	}
	fail := func(err error) (bool, error) {
		bgp.Stop()
		return false, fmt.Errorf("start BGP (AS %d, router id %v, port %d of %s): %w", want.ASN, want.RouterID, want.ListenPort, strings.Join(g.ListenAddresses, ", "), err)
	}
	if err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: g}); err != nil {
		return fail(err)
	}
	// Empty policies of the names that stay: later ones take their place in one step.
	empty := []*api.Policy{{Name: importPolicy}, {Name: exportPolicy}}
	if err := bgp.SetPolicies(ctx, &api.SetPoliciesRequest{Policies: empty}); err != nil {
		return fail(err)
	}
	for name, d := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT, exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		err := bgp.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: d, Policies: []*api.Policy{{Name: name}}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		}})
		if err != nil {
			return fail(err)
		}
	}
	watching, stop := context.WithCancel(context.Background())
	if err := sp.watch(watching, bgp); err != nil {
		stop()
		return fail(err)
	}
	if _, err := os.Stat(sp.proc.ran()); err == nil {
		restarting = true
	}
	if err := os.WriteFile(sp.proc.ran(), nil, 0o600); err != nil {
		sp.log.Warn("a process that takes over will not know that it does", "error", err)
	}
	sp.bgp, sp.stopWatch, sp.global, sp.policy = bgp, stop, globalOf(want), nil
	go sp.mind(watching)
	if !sp.hub.isSettled() {
		go sp.settle(watching)
	}
	sp.log.Info("BGP started", "asn", want.ASN, "routerID", want.RouterID, "restarting", restarting)
	return restarting, nil
}

// listenOn returns the addresses to listen on: where none is wanted, all of the families that there are.
func listenOn(s routing.Speaker) []netip.Addr {
	if len(s.Listen) > 0 {
		return s.Listen
	}
	out := []netip.Addr{netip.IPv4Unspecified()}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err == nil {
		out = append(out, netip.IPv6Unspecified())
	}
	return out
}

// withdraw ends all sessions, so that neighbours forget what they learned here.
func (sp *speaker) withdraw(ctx context.Context) (int, error) {
	if err := os.Remove(sp.proc.ran()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	sp.hub.settle()
	if sp.bgp == nil {
		return 0, nil
	}
	return 1, errors.Join(sp.unsay(ctx, slices.Collect(maps.Keys(sp.known()))), sp.stop(ctx, false))
}

// unsayTime is what a peer gets to read that it has nothing more from here.
const unsayTime = 250 * time.Millisecond

// unsay withdraws everything from some peers. The end of a session does so, too, but where the NOTIFICATION
// gets lost, as it may when a socket is closed that has something to read, a peer with graceful restart takes
// that for a crash and keeps all for a while.
func (sp *speaker) unsay(ctx context.Context, peers []netip.Addr) error {
	if len(peers) == 0 || sp.policy == nil {
		return nil
	}
	policy := proto.CloneOf(sp.policy)
	refuse(policy, peers)
	if err := sp.bgp.SetPolicies(ctx, policy); err != nil {
		return fmt.Errorf("withdraw all from peers that go: %w", err)
	}
	sp.policy = policy
	for _, a := range peers {
		if sp.pauses[a] != nil {
			continue
		}
		err := sp.bgp.ResetPeer(ctx, &api.ResetPeerRequest{Address: a.String(), Soft: true, Direction: api.ResetPeerRequest_DIRECTION_OUT})
		if err != nil {
			return fmt.Errorf("withdraw all from %v: %w", a, err)
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(unsayTime):
	}
	return nil
}

// stop ends GoBGP. With keep, neighbours that know graceful restart keep what they learned for a while.
func (sp *speaker) stop(ctx context.Context, keep bool) error {
	if sp.bgp == nil {
		return nil
	}
	var err error
	if keep {
		err = sp.bgp.StopBgp(ctx, &api.StopBgpRequest{AllowGracefulRestart: true})
	} else {
		sp.bgp.Stop()
	}
	sp.stopWatch()
	sp.bgp, sp.policy = nil, nil
	clear(sp.adverts)
	for _, t := range sp.pauses {
		t.Stop()
	}
	clear(sp.pauses)
	for a := range sp.known() {
		sp.setSession(a, nil)
		sp.hub.deletePeer(a)
	}
	sp.hub.clearRoutes()
	return err
}

// hostLinks returns the interfaces of this host, where a filter asks for them.
func hostLinks(s routing.Speaker) ([]Link, error) {
	asks := func(r routing.FilterRule) bool { return r.Interface != "" && r.Interface != "*" }
	if !slices.ContainsFunc(s.Sessions, func(x routing.Session) bool {
		return slices.ContainsFunc(x.Import, asks) || slices.ContainsFunc(x.Export, asks)
	}) {
		return nil, nil
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the interfaces, which a filter asks for: %w", err)
	}
	var out []Link
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of %s, which a filter asks for: %w", i.Name, err)
		}
		l := Link{Name: i.Name}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.Prefixes = append(l.Prefixes, p.Masked())
			}
		}
		out = append(out, l)
	}
	return out, nil
}

package mtu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"weft/bench/load"
	"weft/bench/report"
	"weft/internal/kernel"
)

// tunnelRequest is what the client asks the server for, by load.Client.Setup.
type tunnelRequest struct {
	Do   string      `json:"do"` // "ask", "make", "mtu", "drop"
	Name string      `json:"name,omitempty"`
	MTU  int         `json:"mtu,omitempty"`
	Key  wgtypes.Key `json:"key,omitzero"` // the client's public key
	ID   int         `json:"id,omitempty"`
}

// tunnelAnswer is what it gets.
type tunnelAnswer struct {
	WireGuard   string         `json:"wireguard,omitempty"`   // what does it there; empty: nothing
	WithoutIPIP string         `json:"withoutIPIP,omitempty"` // why there is none; empty: there can be
	Key         wgtypes.Key    `json:"key,omitzero"`          // the server's public key
	At          netip.AddrPort `json:"at,omitzero"`           // inner
	ID          int            `json:"id,omitempty"`
}

// Ends makes the server's ends of tunnels, for load.Server.Setup. What a session asked for goes with it.
type Ends struct {
	Server *load.Server
	Local  netip.Addr // outer

	mu   sync.Mutex
	last int
	ends map[int]*end
	undo map[int]func() // by the same IDs
}

// maxEnds is how many tunnels there may be at once: VXLAN's and WireGuard's ports are there once, and IPIP between two hosts.
const maxEnds = 4

// Setup is load.Server.Setup.
func (es *Ends) Setup(ctx context.Context, from netip.Addr, body json.RawMessage) (json.RawMessage, func(), error) {
	var r tunnelRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, nil, err
	}
	var a tunnelAnswer
	var undo func()
	var err error
	switch {
	case r.Do == "drop":
		es.drop(r.ID)
	case r.Do == "ask":
		a.WireGuard, a.WithoutIPIP = wireGuardWay(ctx), withoutIPIP(ctx, es.Local)
	case r.MTU < leastMTU || r.MTU > 65535:
		err = fmt.Errorf("MTU %d: want %d to 65535", r.MTU, leastMTU)
	case r.Do == "make" && (r.Name == "vxlan" || r.Name == "ipip" || r.Name == "wireguard"):
		a, undo, err = es.make(ctx, from, r)
	case r.Do == "mtu":
		es.mu.Lock()
		e := es.ends[r.ID]
		es.mu.Unlock()
		if e == nil {
			return nil, nil, fmt.Errorf("there is no tunnel %d", r.ID)
		}
		err = e.setMTU(ctx, r.MTU)
	default:
		err = fmt.Errorf("%q of a tunnel %q: this release knows no such thing", r.Do, r.Name)
	}
	if err != nil {
		return nil, undo, err
	}
	out, err := json.Marshal(a)
	return out, undo, err
}

func (es *Ends) make(ctx context.Context, from netip.Addr, r tunnelRequest) (a tunnelAnswer, undo func(), err error) {
	es.mu.Lock()
	defer es.mu.Unlock()
	if len(es.ends) >= maxEnds {
		return a, nil, fmt.Errorf("there are %d tunnels already", maxEnds)
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return a, nil, err
	}
	e, err := makeEnd(ctx, endSpec{Name: r.Name, Way: wireGuardWay(ctx), Side: 1, MTU: r.MTU, Local: es.Local, Remote: from, Key: key, RemoteKey: r.Key})
	if err != nil {
		return a, nil, err
	}
	l, err := load.Listen(ctx, e.place(), netip.AddrPortFrom(inner[1].Addr(), 0))
	if err != nil {
		e.close()
		return a, nil, err
	}
	serve, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = es.Server.Serve(serve, l)
	}()
	if es.ends == nil {
		es.ends, es.undo = map[int]*end{}, map[int]func(){}
	}
	es.last++
	id := es.last
	es.ends[id], es.undo[id] = e, sync.OnceFunc(func() {
		stop()
		<-done
		es.mu.Lock()
		defer es.mu.Unlock()
		delete(es.ends, id)
		delete(es.undo, id)
		e.close()
	})
	return tunnelAnswer{Key: key.PublicKey(), At: l.Addr(), ID: id}, es.undo[id], nil
}

// drop removes an end before its session ends.
func (es *Ends) drop(id int) {
	es.mu.Lock()
	undo := es.undo[id]
	es.mu.Unlock()
	if undo != nil {
		undo()
	}
}

// Hosts makes paths to a host that runs `weft bench serve`.
type Hosts struct {
	To    netip.AddrPort
	Token string
	Say   func(format string, args ...any)
	// Without says what Paths left out and why, a sentence each.
	Without []string

	main    *load.Client
	clients []*load.Client
	ends    []*end
}

// Close removes this end of the tunnels; the server removes its own when the session ends.
func (h *Hosts) Close() {
	for _, c := range h.clients {
		c.Close()
	}
	for _, e := range h.ends {
		e.close()
	}
	if h.main != nil {
		h.main.Close()
	}
}

// Paths returns those that both hosts can make.
func (h *Hosts) Paths(ctx context.Context) ([]*Path, error) {
	local, most, err := h.uplink(ctx)
	if err != nil {
		return nil, err
	}
	o := load.Options{To: h.To, Local: local, Token: h.Token}
	if h.main, err = load.Connect(ctx, o); err != nil {
		return nil, err
	}
	plain, err := load.Connect(ctx, o)
	if err != nil {
		return nil, err
	}
	h.clients = append(h.clients, plain)
	fits, err := plain.MTU(ctx, leastMTU, most)
	if err != nil {
		return nil, err
	}
	h.Say("%v to %v: packets of %d bytes pass, the interface takes %d", local, h.To.Addr(), fits, most)
	out := []*Path{{Encapsulation: report.Encapsulation{Name: "none"}, Client: plain, Most: fits,
		SetMTU: func(_ context.Context, mtu int) error { return plain.SetSegment(mtu) }}}
	var there tunnelAnswer
	if err := h.main.Setup(ctx, tunnelRequest{Do: "ask"}, &there); err != nil {
		return nil, err
	}
	for _, t := range h.tunnels(ctx, local, &there) {
		if t.why != "" {
			h.leaveOut(t.name, t.why)
			continue
		}
		p, err := h.tunnel(ctx, endSpec{Name: t.name, Way: t.way, MTU: fits - t.overhead, Local: local, Remote: h.To.Addr()})
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			h.leaveOut(t.name, err.Error())
			continue
		}
		p.Way, p.Overhead = t.way, t.overhead
		if t.way2 != t.way {
			p.Way += "-" + t.way2
		}
		out = append(out, p)
	}
	return out, nil
}

// tunnelKind is a kind of tunnel, what does it on either host, and its overhead in bytes; or why it is left out.
type tunnelKind struct {
	name, way, way2 string
	overhead        int
	why             string
}

func (h *Hosts) tunnels(ctx context.Context, local netip.Addr, there *tunnelAnswer) []tunnelKind {
	outer := 0
	if local.Is6() {
		outer = 20 // what IPv6's header has more
	}
	ipip := tunnelKind{name: "ipip", way: "kernel", way2: "kernel", overhead: 20, why: cmp.Or(withoutIPIP(ctx, local), there.WithoutIPIP)}
	wireguard := tunnelKind{name: "wireguard", way: wireGuardWay(ctx), way2: there.WireGuard, overhead: 60 + outer}
	if wireguard.way == "" || wireguard.way2 == "" {
		wireguard.why = "one of the hosts has nothing that does it"
	}
	return []tunnelKind{{name: "vxlan", way: "kernel", way2: "kernel", overhead: 50 + outer}, ipip, wireguard}
}

func (h *Hosts) leaveOut(name, why string) {
	why = strings.ReplaceAll(why, "\n", "; ")
	h.Say("%s is left out: %s", name, why)
	h.Without = append(h.Without, fmt.Sprintf("%s was not measured: %s.", name, why))
}

// uplink returns the address that this host sends to the server from, and the MTU of the interface.
func (h *Hosts) uplink(ctx context.Context) (netip.Addr, int, error) {
	k, err := kernel.Open()
	if err != nil {
		return netip.Addr{}, 0, err
	}
	defer k.Close()
	r, err := k.RouteTo(ctx, h.To.Addr())
	if err != nil {
		return netip.Addr{}, 0, err
	}
	l, ok, err := k.LinkByName(ctx, r.Device)
	if err != nil || !ok || !r.Source.IsValid() {
		return netip.Addr{}, 0, errors.Join(fmt.Errorf("find the interface towards %v", h.To.Addr()), err)
	}
	return r.Source, min(l.MTU, 65535), nil
}

// outerProtocol is what a tunnel's packets are between the hosts.
var outerProtocol = map[string]string{"vxlan": fmt.Sprintf("UDP to port %d", VXLANPort), "ipip": "IP protocol 4",
	"wireguard": fmt.Sprintf("UDP to port %d", WireGuardPort)}

// tunnel makes both ends and a session through them.
func (h *Hosts) tunnel(ctx context.Context, s endSpec) (*Path, error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	var there tunnelAnswer
	if err := h.main.Setup(ctx, tunnelRequest{Do: "make", Name: s.Name, MTU: s.MTU, Key: key.PublicKey()}, &there); err != nil {
		return nil, err
	}
	var none tunnelAnswer
	drop := func() { _ = h.main.Setup(ctx, tunnelRequest{Do: "drop", ID: there.ID}, &none) } // else it goes with the session
	s.Key, s.RemoteKey = key, there.Key
	e, err := makeEnd(ctx, s)
	if err != nil {
		drop()
		return nil, err
	}
	c, err := load.Connect(ctx, load.Options{From: e.place(), Local: inner[0].Addr(), To: there.At, Token: h.Token})
	if err != nil {
		e.close()
		drop()
		return nil, fmt.Errorf("%w; is %s filtered between the hosts?", err, outerProtocol[s.Name])
	}
	h.ends = append(h.ends, e)
	h.clients = append(h.clients, c)
	return &Path{Encapsulation: report.Encapsulation{Name: s.Name}, Client: c, Most: s.MTU, SetMTU: func(ctx context.Context, mtu int) error {
		return errors.Join(h.main.Setup(ctx, tunnelRequest{Do: "mtu", ID: there.ID, MTU: mtu}, &none), e.setMTU(ctx, mtu))
	}}, nil
}

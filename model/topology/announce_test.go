package topology

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weft/model"
)

// world is a cluster in which every node learns, applies and publishes at moments of its own. The
// store is a sequence of states; a node has seen it up to some point.
type world struct {
	history []*model.Snapshot // Self and Underlay are the reader's
	hosts   map[model.NodeName]*simHost
	ignore  bool
	trace   []string
	// encrypts has encryption switched on and off and keys rotated, too.
	encrypts bool
	// routed has the fabric carry pods' packets between racks, and pools without encapsulation.
	routed bool
	// sessions are the devices of WireGuard that have met, until one of them goes.
	sessions map[session]bool
}

type session struct {
	a, b model.NodeName // a < b
	end  model.TunnelEnd
}

func sessionOf(a, b model.NodeName, e model.TunnelEnd) session {
	return session{min(a, b), max(a, b), e}
}

// meet lets two hosts meet by whatever devices both have.
func (w *world) meet(a, b *simHost) {
	for e := range a.devices {
		if isWireGuard(e) && b.devices[e] && a != b && !w.sessions[sessionOf(a.name, b.name, e)] {
			w.note("%s and %s meet by %s", a.name, b.name, e)
			w.sessions[sessionOf(a.name, b.name, e)] = true
		}
	}
}

// met is whom a host has met, as it finds when it asks its devices.
func (w *world) met(h *simHost) map[model.Meeting]bool {
	met := map[model.Meeting]bool{}
	for s := range w.sessions {
		switch h.name {
		case s.a:
			met[model.Meeting{Node: s.b, End: s.end}] = true
		case s.b:
			met[model.Meeting{Node: s.a, End: s.end}] = true
		}
	}
	return met
}

// simHost is one node: what it knows, what its kernel has, and how far its run has come.
type simHost struct {
	name    model.NodeName
	seen    int // index into history
	k       *Compiler
	devices map[model.TunnelEnd]bool
	routes  map[model.NodeName]Path // to the block of each peer
	own     map[model.NodeName]Path // to the address of each peer itself, where that is encrypted

	view *View           // of the run that is under way
	from *model.Snapshot // what it was compiled from
	step int             // of the run: 0 none

	say   *model.Tunnels // what the last run wants the record to say
	took  *model.Tunnels // what was taken from that to be written
	basis *model.Node    // the record that is to be replaced; nil: nothing is under way
	wrote int            // index into history of what it wrote last

	guard Guard                 // in the kernel
	state model.EncryptionState // on its disk
}

var simModes = []model.Pool{
	{Encap: model.EncapVXLAN}, {Encap: model.EncapVXLAN, CrossSubnet: true},
	{Encap: model.EncapIPIP}, {Encap: model.EncapIPIP, CrossSubnet: true},
}

// neverMode is for worlds whose fabric knows the pods of both racks.
var neverMode = model.Pool{Encap: model.EncapNone}

func newWorld(ignore bool) *world {
	s := rackSnapshot(simModes[0])
	s.Underlay = model.Underlay{}
	for p, b := range s.Blocks {
		if b.Node == "gone" || !p.Overlaps(s.Pools[0].CIDR) {
			delete(s.Blocks, p)
		}
		b.Borrowed = nil
	}
	for _, n := range s.Nodes {
		n.Tunnels = &model.Tunnels{}
	}
	for i, name := range []model.NodeName{"n1", "n2", "n3"} {
		for epoch := range 2 {
			s.Nodes[name].Keys = append(s.Nodes[name].Keys, model.NodeKey{Epoch: epoch, Key: model.PublicKey{byte(i + 1), byte(epoch)}})
		}
	}
	s.Encryption = model.EncryptionConfig{Port4: 51820, Port6: 51821}
	s.IgnoreReadiness = ignore
	w := &world{history: []*model.Snapshot{s}, hosts: map[model.NodeName]*simHost{}, ignore: ignore, sessions: map[session]bool{}}
	for name := range s.Nodes {
		w.hosts[name] = &simHost{name: name, k: NewCompiler(testDrivers()), devices: map[model.TunnelEnd]bool{}, routes: map[model.NodeName]Path{}, own: map[model.NodeName]Path{}}
	}
	return w
}

func (w *world) last() *model.Snapshot { return w.history[len(w.history)-1] }

func (w *world) write(change func(*model.Snapshot)) {
	s := *w.last()
	s.Nodes, s.Pools = maps.Clone(s.Nodes), slices.Clone(s.Pools)
	change(&s)
	w.history = append(w.history, &s)
}

// note keeps the last steps for who has to find out why something was lost.
func (w *world) note(format string, args ...any) {
	if w.trace = append(w.trace, fmt.Sprintf(format, args...)); len(w.trace) > 80 {
		w.trace = w.trace[1:]
	}
}

func (w *world) setPool(p model.Pool) {
	w.write(func(s *model.Snapshot) {
		p.Name, p.CIDR = s.Pools[0].Name, s.Pools[0].CIDR
		s.Pools[0] = p
	})
}

// advance makes one small step of the host; it tells whether anything happened.
func (w *world) advance(h *simHost, t interface{ Fatal(...any) }) bool {
	switch h.step {
	case 0: // a run begins with what the host has seen
		s := *w.history[h.seen]
		s.Self, s.Underlay = h.name, simUnderlay(h.name)
		if !s.Encryption.Any() {
			h.state = model.EncryptionState{}
		}
		if !s.Encryption.Host {
			h.state.Hosts = nil
		}
		w.note("%s runs on %d of %d, %v %v, state %v", h.name, h.seen, len(w.history)-1, modeText(&s.Pools[0]), s.Encryption, h.state)
		s.EncryptionState = model.EncryptionState{Over: h.state.Over, Seen: maps.Clone(h.state.Seen), Hosts: maps.Clone(h.state.Hosts), Met: w.met(h)}
		if h.took != nil {
			s.Nodes = maps.Clone(s.Nodes)
			s.Nodes[h.name] = s.Nodes[h.name].Pending(*h.took)
		}
		v, err := h.k.Compute(&s)
		if err != nil {
			t.Fatal(err)
		}
		h.view, h.from = v, &s
	case 1: // devices and the guard come before routes
		h.guard = h.view.Guard
		for _, tun := range h.view.Tunnels {
			h.devices[tun.End] = true
		}
	case 2, 3: // routes, one peer after the other
		for i, p := range slices.DeleteFunc(slices.Clone(h.view.Paths), func(p Path) bool { return p.Reach == Local }) {
			if i == h.step-2 {
				h.routes[p.Node] = p
				w.note("%s sends to %s by %s %s", h.name, p.Node, p.Reach, p.Why)
			}
		}
		peers := slices.DeleteFunc([]model.NodeName{"n1", "n2", "n3"}, func(n model.NodeName) bool { return n == h.name })
		h.lead(peers[h.step-2])
	case 4: // and go after them
		maps.DeleteFunc(h.devices, func(e model.TunnelEnd, _ bool) bool {
			return !slices.ContainsFunc(h.view.Tunnels, func(t Tunnel) bool { return t.End == e })
		})
		maps.DeleteFunc(w.sessions, func(s session, _ bool) bool { return (s.a == h.name || s.b == h.name) && !h.devices[s.end] })
	case 5:
		if h.from.Encryption.Any() {
			h.state.Over = h.state.Over || RolledOut(h.from)
			if h.state.Seen == nil {
				h.state.Seen = map[model.NodeName]bool{}
			}
			maps.Copy(h.state.Seen, h.view.Encrypted)
			for _, p := range h.view.Hosts {
				if h.from.Encryption.Host && p.Reach == WireGuard && !p.Unready {
					h.state.Hosts = maps.Clone(h.state.Hosts)
					if h.state.Hosts == nil {
						h.state.Hosts = map[model.NodeName]bool{}
					}
					h.state.Hosts[p.Node] = true
				}
			}
		}
		say := Announce(h.from, h.view, func(string) bool { return true }, true)
		w.note("%s would say %v", h.name, say)
		h.say = &say
	}
	h.step = (h.step + 1) % 6
	return h.step != 0
}

// lead makes the kernel send to a peer's own address as the run decided.
func (h *simHost) lead(peer model.NodeName) {
	delete(h.own, peer)
	for _, p := range h.view.Hosts {
		if p.Node == peer && p.Reach != Direct {
			h.own[peer] = p
		}
	}
}

// publish makes one step of writing the host's record: taking what to say, between two runs, then
// the compare-and-swap, at any later time.
func (w *world) publish(h *simHost) {
	switch {
	case h.basis != nil:
		if w.last().Nodes[h.name] == h.basis && !equalTunnels(*h.took, *h.basis.Tunnels) {
			w.write(func(s *model.Snapshot) {
				n := *s.Nodes[h.name]
				n.Tunnels = h.took
				s.Nodes[h.name] = &n
			})
			h.wrote = len(w.history) - 1
			w.note("%s writes %v as %d", h.name, *h.took, h.wrote)
		}
		h.basis = nil
		w.note("%s wrote, or not", h.name)
	case h.step == 0 && h.say != nil && h.seen >= h.wrote:
		h.took, h.basis, h.say = h.say, w.history[h.seen].Nodes[h.name], nil
		w.note("%s takes %v to be written", h.name, *h.took)
	}
}

func equalTunnels(a, b model.Tunnels) bool {
	return slices.Equal(a.Receives, b.Receives) && slices.Equal(a.Sends, b.Sends) && a.EncryptedOnly == b.EncryptedOnly && slices.Equal(a.Routed, b.Routed)
}

func simUnderlay(n model.NodeName) model.Underlay {
	rack, host := 1, n[1:]
	if n == "n3" {
		rack, host = 2, "1"
	}
	own, other := fmt.Sprintf("172.31.%d.", rack), fmt.Sprintf("172.31.%d.0/24", 3-rack)
	return model.Underlay{
		Links: []model.Link{{Name: "eth0", MTU: 1500, Up: true, Addresses: []netip.Prefix{prefix(own + string(host) + "/24")}}},
		Routes: []model.UnderlayRoute{{Dst: prefix(own + "0/24"), Device: "eth0"},
			{Dst: prefix(other), Device: "eth0", Via: netip.MustParseAddr(own + "254")}},
	}
}

// lost returns the pairs whose packets would be lost now.
func (w *world) lost() (out []string) {
	for _, from := range w.hosts {
		for peer, p := range from.own {
			e := wireguardEnd(p.Why)
			if p.Reach != WireGuard || !w.hosts[peer].devices[e] || !from.devices[e] || !w.sessions[sessionOf(from.name, peer, e)] {
				out = append(out, fmt.Sprintf("%s sends to %s itself by %s %s (%s), which has %v", from.name, peer, p.Reach, p.Device, p.Why, w.hosts[peer].devices))
			}
		}
		for peer, p := range from.routes {
			to := w.hosts[peer]
			if p.Reach != WireGuard && (from.guard.refuses(blockOf[peer]) || to.guard.refuses(blockOf[from.name])) {
				out = append(out, fmt.Sprintf("%s sends to %s by %s (%s), which a guard refuses", from.name, peer, p.Reach, p.Why))
			}
			if p.Reach == Direct {
				if !w.routed && from.name == "n3" != (peer == "n3") {
					out = append(out, fmt.Sprintf("%s sends to %s by the fabric (%s), which does not know pods", from.name, peer, p.Why))
				}
				continue
			}
			devices := []string{"weft-vxlan", "weft-ipip", "weft-wg"}
			i := slices.IndexFunc(devices, func(d string) bool { return strings.HasPrefix(p.Device, d) })
			e := []model.TunnelEnd{{Encap: model.EncapVXLAN, Family: model.IPv4, VNI: 4096, Port: 4789}, {Encap: model.EncapIPIP, Family: model.IPv4}, wireguardEnd(p.Why)}
			if p.Reach == Unreachable || !to.devices[e[i]] || p.Reach == WireGuard && !w.sessions[sessionOf(from.name, peer, e[i])] {
				out = append(out, fmt.Sprintf("%s sends to %s by %s %s (%s), which has %v", from.name, peer, p.Reach, p.Device, p.Why, w.hosts[peer].devices))
			}
		}
	}
	return out
}

var blockOf = map[model.NodeName]netip.Addr{"n1": netip.MustParseAddr("10.244.0.1"), "n2": netip.MustParseAddr("10.244.1.1"), "n3": netip.MustParseAddr("10.244.2.1")}

func (g Guard) refuses(a netip.Addr) bool { return covered(g.Pools, a) && !covered(g.Clear, a) }

// wireguardEnd reads the end from the sentence that explains the path: devices of two epochs may change names.
func wireguardEnd(why string) model.TunnelEnd {
	for epoch := range 2 {
		e := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820 + 2*epoch, Epoch: epoch}
		if strings.Contains(why, e.String()) {
			return e
		}
	}
	return model.TunnelEnd{}
}

// round lets a host see and do everything.
func (w *world) round(h *simHost, t interface{ Fatal(...any) }) {
	for h.step != 0 {
		w.advance(h, t)
	}
	for _, o := range w.hosts {
		w.meet(h, o)
	}
	h.seen = len(w.history) - 1
	for w.advance(h, t) {
	}
	for range 3 { // write what is under way, take, write
		w.publish(h)
	}
}

// settle lets every host see and do everything, round after round.
func (w *world) settle(t interface{ Fatal(...any) }) {
	quiet := 0 // rounds without a write: what a node learns by itself takes some
	for range 90 {
		before := len(w.history)
		for _, name := range []model.NodeName{"n1", "n2", "n3"} {
			w.round(w.hosts[name], t)
		}
		if quiet++; len(w.history) != before || w.hosts["n1"].seen != before-1 {
			quiet = 0
		}
		if quiet == 3 {
			return
		}
	}
	t.Fatal("the cluster does not come to rest")
}

func (w *world) drawn(t *rapid.T, check func(string)) {
	names := []model.NodeName{"n1", "n2", "n3"}
	var asleep model.NodeName // a node that does nothing for a while: its clock, not its kernel, stands still
	for i := range rapid.IntRange(20, 200).Draw(t, "steps") {
		name := rapid.SampledFrom(names).Draw(t, fmt.Sprint("host", i))
		if i%40 == 0 {
			asleep = rapid.SampledFrom(append(names, "")).Draw(t, fmt.Sprint("asleep", i))
		}
		if name == asleep {
			continue
		}
		h := w.hosts[name]
		switch what := rapid.IntRange(0, 19).Draw(t, fmt.Sprint("what", i)); {
		case what == 0 && w.encrypts && rapid.Bool().Draw(t, fmt.Sprint("encryption", i)):
			w.write(func(s *model.Snapshot) {
				s.Encryption.Enabled4 = rapid.Bool().Draw(t, fmt.Sprint("enabled", i))
				s.Encryption.Epoch = rapid.IntRange(0, 1).Draw(t, fmt.Sprint("epoch", i))
				s.Encryption.Host = rapid.Bool().Draw(t, fmt.Sprint("hosts", i))
			})
		case what == 0:
			modes := simModes
			if w.routed {
				modes = append(slices.Clip(modes), neverMode)
			}
			w.setPool(rapid.SampledFrom(modes).Draw(t, fmt.Sprint("mode", i)))
		case what == 1: // killed and started: the kernel and the store are all that is left
			w.note("%s starts again", h.name)
			*h = simHost{name: h.name, seen: len(w.history) - 1, k: NewCompiler(testDrivers()), devices: h.devices, routes: h.routes, own: h.own, guard: h.guard, state: h.state}
		case what == 2:
			w.round(h, t)
		case what < 5 && w.encrypts && rapid.Bool().Draw(t, fmt.Sprint("meets", i)):
			w.meet(h, w.hosts[rapid.SampledFrom(names).Draw(t, fmt.Sprint("whom", i))])
		case what < 5:
			w.publish(h)
		case what < 8:
			h.seen = rapid.IntRange(h.seen, len(w.history)-1).Draw(t, fmt.Sprint("seen", i))
		default:
			w.advance(h, t)
		}
		for _, l := range w.lost() {
			check(fmt.Sprintf("%s\nstep %d: %s", strings.Join(w.trace, "\n"), i, l))
		}
	}
}

// TestModeChangesLoseNothing interleaves, at random, pool changes with the small steps of three
// nodes that see the store late, die half way and start again. At no moment does a node send by
// what its peer does not receive; in the end all is as the pool wants and nothing is left over.
func TestModeChangesLoseNothing(t *testing.T) {
	for name, routed := range map[string]bool{"by tunnels": false, "where the fabric knows pods": true} {
		t.Run(name, func(t *testing.T) { modeChangesLoseNothing(t, routed) })
	}
}

func modeChangesLoseNothing(t *testing.T, routed bool) {
	steps := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(false)
		w.routed = routed
		w.settle(t)
		if l := w.lost(); len(l) > 0 {
			t.Fatal(l)
		}
		w.drawn(t, func(l string) { t.Fatal(l) })
		w.settle(t)
		steps += len(w.history)
		pool := w.last().Pools[0]
		for _, h := range w.hosts {
			if want := min(1, int(pool.Encap)); len(h.devices) != want || want == 1 && h.view.Tunnels[0].Kept {
				t.Fatalf("%s is left with %v for %s", h.name, h.view.Tunnels, modeText(&pool))
			}
			for peer, p := range h.routes {
				sameRack := h.name != "n3" && peer != "n3"
				want := map[model.Encap]Reach{model.EncapNone: Direct, model.EncapVXLAN: VXLAN, model.EncapIPIP: IPIP}[pool.Encap]
				if pool.CrossSubnet && sameRack {
					want = Direct
				}
				if p.Reach != want {
					t.Fatalf("%s reaches %s by %s (%s), want %s", h.name, peer, p.Reach, p.Why, want)
				}
			}
		}
	})
	if steps < 1000 {
		t.Errorf("only %d states of the store were gone through", steps)
	}
	t.Logf("0 packets lost in %d states of the store", steps)
}

// TestIgnoringReadinessLoses is the control: the same steps without the handshake.
func TestIgnoringReadinessLoses(t *testing.T) {
	lost := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(true)
		w.settle(t)
		w.drawn(t, func(string) { lost++ })
	})
	if lost == 0 {
		t.Error("nothing was lost: the simulation would not notice")
	}
}

// TestRoutedIsOfPools: a pool without encapsulation lets no other pool's traffic out without a tunnel, beyond a gateway and while there is
// no tunnel yet.
func TestRoutedIsOfPools(t *testing.T) {
	s := rackSnapshot(model.Pool{Encap: model.EncapNone})
	other := model.Pool{Name: "other", CIDR: prefix("10.99.0.0/16"), Encap: model.EncapVXLAN}
	s.Pools = append(s.Pools, other)
	for _, n := range s.Nodes {
		n.Tunnels = &model.Tunnels{}
	}
	s.Blocks[prefix("10.99.0.0/26")] = &model.Block{CIDR: prefix("10.99.0.0/26"), Node: "n3"}
	compute := func() (*View, map[netip.Prefix]Reach) {
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		ways := map[netip.Prefix]Reach{}
		for _, p := range v.Paths {
			ways[p.Dst] = p.Reach
		}
		return v, ways
	}
	for range 3 { // what it says of itself is what it sees next
		v, ways := compute()
		if a, b := ways[prefix("10.244.2.0/26")], ways[prefix("10.99.0.0/26")]; a != Direct || b != Unreachable {
			t.Errorf("n3's pods of pool default are reached by %s and of pool other by %s, want Direct and Unreachable", a, b)
		}
		say := Announce(s, v, func(string) bool { return true }, true)
		if want := []netip.Prefix{prefix("10.244.0.0/16")}; !slices.Equal(say.Routed, want) {
			t.Errorf("routed is %v, want %v", say.Routed, want)
		}
		n1 := *s.Nodes["n1"]
		n1.Tunnels = &say
		s.Nodes = maps.Clone(s.Nodes)
		s.Nodes["n1"] = &n1
	}
	s.Pools = []model.Pool{{Name: "default", CIDR: prefix("10.244.0.0/16"), Encap: model.EncapVXLAN}, other}
	if _, ways := compute(); ways[prefix("10.244.2.0/26")] != Direct || ways[prefix("10.99.0.0/26")] != Unreachable {
		t.Errorf("after pool default got a tunnel: %v", ways)
	}
	s.Pools = []model.Pool{other} // the block stays for a while, nobody's
	v, _ := compute()
	if say := Announce(s, v, func(string) bool { return true }, true); len(say.Routed) > 0 {
		t.Errorf("without pool default still routed: %v", say.Routed)
	}
}

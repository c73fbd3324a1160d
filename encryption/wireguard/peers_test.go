package wireguard

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weft/encryption"
	"weft/model"
)

func peerKey(i int) model.PublicKey { return model.PublicKey{byte(i >> 8), byte(i), 1} }

// fakeDevice keeps allowed IPs as WireGuard does: a prefix has one peer, the last that got it.
type fakeDevice struct {
	peers  map[model.PublicKey]peerState
	owners map[netip.Prefix]model.PublicKey
}

func (d *fakeDevice) apply(c peerChange) {
	if c.remove {
		delete(d.peers, c.key)
		maps.DeleteFunc(d.owners, func(_ netip.Prefix, k model.PublicKey) bool { return k == c.key })
		return
	}
	p := d.peers[c.key]
	if c.endpoint.IsValid() {
		p.endpoint = c.endpoint
	}
	if c.keepalive != nil {
		p.keepalive = *c.keepalive
	}
	if c.unshare {
		p.preshared = false
	}
	d.peers[c.key] = p
	for _, a := range c.add {
		d.owners[a] = c.key
	}
	for _, a := range c.drop {
		if d.owners[a] == c.key {
			delete(d.owners, a)
		}
	}
}

func (d *fakeDevice) state() map[model.PublicKey]peerState {
	out := maps.Clone(d.peers)
	for k, p := range out {
		p.allowed = nil
		for a, o := range d.owners {
			if o == k {
				p.allowed = append(p.allowed, a)
			}
		}
		sortPrefixes(p.allowed)
		out[k] = p
	}
	return out
}

// Whatever was there: the changes lead to what is wanted, nothing is written twice, and on the way a prefix
// that is wanted and was there always has a peer: the old one or the new one.
func TestDiffPeersProperty(t *testing.T) {
	prefixes := make([]netip.Prefix, 8)
	for i := range prefixes {
		prefixes[i] = netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", i))
	}
	sortPrefixes(prefixes)
	steps, moved := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		d := fakeDevice{map[model.PublicKey]peerState{}, map[netip.Prefix]model.PublicKey{}}
		for i := range 5 {
			if rapid.Bool().Draw(t, "there") {
				d.peers[peerKey(i)] = peerState{keepalive: rapid.IntRange(0, 1).Draw(t, "keepalive"), preshared: rapid.Bool().Draw(t, "shared")}
			}
		}
		owned := map[int][]netip.Prefix{}
		for _, a := range prefixes {
			if o := peerKey(rapid.IntRange(0, 9).Draw(t, "owner")); d.has(o) {
				d.owners[a] = o
			}
			n := rapid.IntRange(0, 9).Draw(t, "wanted by")
			owned[n] = append(owned[n], a)
		}
		var want []*encryption.Peer
		for i := range 5 {
			if rapid.Bool().Draw(t, "wanted") {
				want = append(want, &encryption.Peer{Key: peerKey(i), AllowedIPs: owned[i], Keepalive: rapid.IntRange(0, 1).Draw(t, "keepalive")})
			}
		}
		before, w := maps.Clone(d.owners), wantedOf(want)
		state := d.state()
		come, gone := w.all(state)
		changes, res := diffPeers(state, come, gone, w.claimed, nil, time.Now())
		for _, c := range changes {
			// Adds of one peer happen one after the other, too.
			parts := []peerChange{{key: c.key, remove: c.remove, endpoint: c.endpoint, keepalive: c.keepalive, unshare: c.unshare}}
			for _, a := range c.add {
				parts = append(parts, peerChange{key: c.key, add: []netip.Prefix{a}})
			}
			for _, part := range append(parts, peerChange{key: c.key, drop: c.drop}) {
				if part.drop == nil && part.key == c.key && c.remove && !part.remove {
					continue
				}
				d.apply(part)
				steps++
				for a, old := range before {
					now, ok := d.owners[a]
					if !w.claimed(a) {
						continue
					}
					if !ok || now != old && !slices.ContainsFunc(want, func(w *encryption.Peer) bool { return w.Key == now && slices.Contains(w.AllowedIPs, a) }) {
						t.Fatalf("%v had %v, and after %+v it has %v, %v", a, old, part, now, ok)
					}
					if now != old {
						moved++
					}
				}
			}
		}
		have := d.state()
		if len(have) != len(want) {
			t.Fatalf("%d peers, want %d", len(have), len(want))
		}
		for _, w := range want {
			if h := have[w.Key]; !slices.Equal(h.allowed, w.AllowedIPs) || h.keepalive != w.Keepalive || h.preshared {
				t.Fatalf("peer %v: have %+v, want %+v", w.Key, h, w)
			}
		}
		if again, r := diffPeers(have, want, nil, w.claimed, nil, time.Now()); len(again) > 0 || !r.Zero() {
			t.Fatalf("once more: %+v, %v after %v", again, r, res)
		}
	})
	if moved == 0 {
		t.Errorf("no prefix moved in %d steps: nothing was tested", steps)
	}
}

func wantedOf(peers []*encryption.Peer) *wanted {
	var all []encryption.Peer
	for _, p := range peers {
		all = append(all, *p)
	}
	return want(wg, model.PublicKey{255}, all)
}

func (d *fakeDevice) has(k model.PublicKey) bool { _, ok := d.peers[k]; return ok }

func TestEndpointIsWrittenWhenThePlanChanges(t *testing.T) {
	at := netip.MustParseAddrPort
	planned, other, roamed := at("192.0.2.1:1"), at("192.0.2.2:1"), at("198.51.100.7:99")
	now := time.Unix(1e9, 0)
	cases := []struct {
		name       string
		have       netip.AddrPort
		handshake  time.Time
		said, want netip.AddrPort // said invalid: nothing was said in this process
		written    bool
	}{
		{"as planned", planned, now, planned, planned, false},
		{"roamed", roamed, now, planned, planned, false},
		{"roamed, and no handshake for long", roamed, time.Time{}, planned, planned, false},
		{"the plan changes", planned, now, planned, other, true},
		{"roamed, and the plan changes", roamed, now, planned, other, true},
		{"the plan has none now", planned, now, planned, netip.AddrPort{}, false},
		{"none yet", netip.AddrPort{}, now, planned, planned, true},
		{"adopted, and reached there", roamed, now.Add(-time.Minute), netip.AddrPort{}, planned, false},
		{"adopted, and not reached there", roamed, now.Add(-10 * time.Minute), netip.AddrPort{}, planned, true},
	}
	for _, c := range cases {
		k := peerKey(1)
		said := map[model.PublicKey]netip.AddrPort{}
		if c.said.IsValid() {
			said[k] = c.said
		}
		changes, _ := diffPeers(map[model.PublicKey]peerState{k: {endpoint: c.have, handshake: c.handshake}}, []*encryption.Peer{{Key: k, Endpoint: c.want}}, nil,
			func(netip.Prefix) bool { return false }, said, now)
		if written := len(changes) == 1 && changes[0].endpoint == c.want; written != c.written || len(changes) > 1 {
			t.Errorf("%s: %+v, want written: %v", c.name, changes, c.written)
		}
	}
}

// TestRefused: a peer that cannot be is refused by name, the others are not.
func TestRefused(t *testing.T) {
	device := encryption.Device{Name: wg, Key: testKey(1), Port: 51820, MTU: 1420}
	p := netip.MustParsePrefix
	good := func(i int) encryption.Peer {
		return encryption.Peer{Device: wg, Node: model.NodeName(fmt.Sprintf("good%d", i)), Key: peerKey(100 + i), AllowedIPs: []netip.Prefix{p(fmt.Sprintf("10.%d.0.0/16", i))}}
	}
	cases := []struct {
		name string
		bad  []encryption.Peer
		says []string
	}{
		{"no key", []encryption.Peer{{Node: "a"}}, []string{"peer a refused", "no public key"}},
		{"our key", []encryption.Peer{{Node: "a", Key: public(device.Key)}}, []string{"is this node's"}},
		{"one key twice", []encryption.Peer{{Node: "a", Key: peerKey(1)}, {Node: "b", Key: peerKey(1)}}, []string{"peer a refused", "peer b refused", "same public key"}},
		{"another's prefix", []encryption.Peer{{Node: "z", Key: peerKey(1), AllowedIPs: []netip.Prefix{p("10.2.0.0/16")}}}, []string{"peer z refused", "10.2.0.0/16 is also node good2's"}},
		{"not masked", []encryption.Peer{{Node: "a", Key: peerKey(1), AllowedIPs: []netip.Prefix{p("10.9.0.1/16")}}}, []string{"no network prefix"}},
		{"endpoint without a port", []encryption.Peer{{Node: "a", Key: peerKey(1), Endpoint: netip.MustParseAddrPort("192.0.2.1:0")}}, []string{"no address and port"}},
		{"keepalive", []encryption.Peer{{Node: "a", Key: peerKey(1), Keepalive: 65536}}, []string{"0 to 65535"}},
	}
	for _, c := range cases {
		peers := append([]encryption.Peer{good(1), good(2)}, c.bad...)
		w := want(wg, public(device.Key), peers)
		if kept, _ := w.all(nil); len(kept) != 2 || kept[0].Node != "good1" || kept[1].Node != "good2" {
			t.Errorf("%s: kept %v", c.name, kept)
		}
		err := w.refused
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: the error does not say %q: %v", c.name, says, err)
			}
		}
	}
	nested := []encryption.Peer{good(1), {Node: "borrower", Key: peerKey(1), AllowedIPs: []netip.Prefix{p("10.1.2.3/32")}}}
	if w := want(wg, public(device.Key), nested); w.refused != nil || len(w.byKey) != 2 {
		t.Errorf("an address borrowed from another's block: %v, %v", w.byKey, w.refused)
	}
	for _, bad := range []encryption.Device{
		{Name: "../x", Key: device.Key, Port: 1, MTU: 1420},
		{Name: "-x", Key: device.Key, Port: 1, MTU: 1420},
		{Name: "a-name-that-is-too-long", Key: device.Key, Port: 1, MTU: 1420},
		{Name: "x", Port: 1, MTU: 1420},
		{Name: "x", Key: device.Key, Port: 65536, MTU: 1420},
		{Name: "x", Key: device.Key, Port: 1},
		{Name: "x", Key: device.Key, Port: 51820, MTU: 1420},
	} {
		if kept, err := checkDevices([]encryption.Device{device, bad}); err == nil || len(kept) != 1 {
			t.Errorf("device %v is not refused", bad)
		}
	}
}

// Reading a plan by what differs from the one before comes to the same as reading it as a whole.
func TestNextPlanProperty(t *testing.T) {
	partly := 0
	draw := func(t *rapid.T) []encryption.Peer {
		var out []encryption.Peer
		free := rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 0, 10, rapid.ID[int]).Draw(t, "prefixes")
		for i := range 5 {
			if !rapid.Bool().Draw(t, "there") {
				continue
			}
			p := encryption.Peer{Device: wg, Node: model.NodeName(fmt.Sprint(i)), Key: peerKey(rapid.SampledFrom([]int{i, i, i, i + 5, 1}).Draw(t, "key"))}
			for n := rapid.IntRange(0, len(free)).Draw(t, "takes"); n > 0; n-- {
				p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(fmt.Sprintf("10.0.%d.0/24", free[0])))
				free = free[1:]
			}
			if rapid.IntRange(0, 9).Draw(t, "steal") == 0 {
				p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix("10.0.1.0/24"))
			}
			out = append(out, p)
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		own := model.PublicKey{255}
		a, b := draw(t), draw(t)
		w, whole := want(wg, own, a), want(wg, own, b)
		d := &state{peers: map[model.PublicKey]peerState{}}
		d.take(w.all(nil))
		come, gone, ok := w.next(b)
		if !ok {
			return
		}
		partly++
		if whole.refused != nil {
			t.Fatalf("from %v to %v: %v is not noticed", a, b, whole.refused)
		}
		d.take(come, gone)
		if changes, _ := diffPeers(d.peers, values(whole), nil, whole.claimed, nil, time.Now()); len(changes) > 0 || len(d.peers) != len(b) {
			t.Fatalf("from %v to %v: %v, still to do: %v", a, b, d.peers, changes)
		}
		if !maps.EqualFunc(w.owners, whole.owners, func(a, b *encryption.Peer) bool { return a.Key == b.Key }) {
			t.Fatalf("from %v to %v: owners %v, want %v", a, b, w.owners, whole.owners)
		}
	})
	if partly < 10 {
		t.Errorf("only %d plans were read by what differs", partly)
	}
}

// take makes s what a device holds once it was made so.
func (s *state) take(come []*encryption.Peer, gone []model.PublicKey) {
	changes, _ := diffPeers(s.peers, come, gone, func(netip.Prefix) bool { return true }, nil, time.Now())
	s.after(changes, come, gone)
}

// TestEndpointThereAndBack: an endpoint that changes and changes back is written each time.
func TestEndpointThereAndBack(t *testing.T) {
	s, said := &state{peers: map[model.PublicKey]peerState{}}, map[model.PublicKey]netip.AddrPort{}
	for i, at := range []string{"192.0.2.1:51820", "192.0.2.1:51910", "192.0.2.1:51820", "192.0.2.2:51820", "192.0.2.1:51820"} {
		p := &encryption.Peer{Device: wg, Node: "n2", Key: peerKey(1), Endpoint: netip.MustParseAddrPort(at)}
		come := []*encryption.Peer{p}
		changes, _ := diffPeers(s.peers, come, nil, func(netip.Prefix) bool { return false }, said, time.Now())
		if len(changes) != 1 || changes[0].endpoint != p.Endpoint {
			t.Errorf("step %d, to %s: changes are %v", i, at, changes)
		}
		s.after(changes, come, nil)
		said[p.Key] = p.Endpoint
		if again, _ := diffPeers(s.peers, come, nil, func(netip.Prefix) bool { return false }, said, time.Now()); len(again) > 0 {
			t.Errorf("step %d, once more: changes are %v", i, again)
		}
	}
}

func values(w *wanted) []*encryption.Peer { come, _ := w.all(nil); return come }

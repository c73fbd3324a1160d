package topology

import (
	"fmt"
	"slices"
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
			hosts := want && w.last().Encryption.Host
			for _, peer := range []model.NodeName{"n1", "n2", "n3"} {
				if p, led := h.own[peer]; peer != h.name && (led != hosts || led && p.Reach != WireGuard) {
					t.Fatalf("%s reaches %s itself by %s (%s), want encrypted: %v", h.name, peer, p.Reach, p.Why, hosts)
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

// TestLateComer: a node that comes, or has lost its memory, when the others have done with clear text sends and takes
// none either; and a guard never covers the nodes' own addresses, whatever the pools say.
func TestLateComer(t *testing.T) {
	s := rackSnapshot(simModes[0])
	s.Encryption = model.EncryptionConfig{Enabled4: true, Port4: 51820}
	wg := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820}
	for i, name := range []model.NodeName{"n2", "n3"} {
		s.Nodes[name].Tunnels = &model.Tunnels{Receives: []model.TunnelEnd{wg}, Sends: []model.TunnelEnd{wg}, EncryptedOnly: true}
		s.Nodes[name].Keys = []model.NodeKey{{Key: model.PublicKey{byte(i + 1)}}}
	}
	s.Nodes[s.Self].Keys = []model.NodeKey{{Key: model.PublicKey{9}}}
	s.EncryptionState.Met = map[model.Meeting]bool{}
	compute := func() *View {
		v, err := Compute(s, testDrivers())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	seen := 0
	v := compute()
	for _, p := range v.Paths {
		if p.Node == "n2" || p.Node == "n3" {
			if seen++; p.Reach != WireGuard && p.Reach != Unreachable && !p.Foreign && p.Dst.Addr().Is4() {
				t.Errorf("%s of %s is reached by %s: %s", p.Dst, p.Node, p.Reach, p.Why)
			}
		}
	}
	if seen < 2 {
		t.Fatalf("only %d paths were looked at", seen)
	}
	say := Announce(s, v, func(string) bool { return true }, true)
	for _, e := range say.Sends {
		if !isWireGuard(e) {
			t.Errorf("the record would say that it sends by %s", e)
		}
	}
	if !say.EncryptedOnly {
		t.Error("the record would say that it takes clear text")
	}
	s.Nodes[s.Self].Tunnels = &say
	if g := compute().Guard; len(g.Clear) > 0 || len(g.Pools) == 0 {
		t.Errorf("once that is said, the guard is %v", g)
	}
	// A control: while the others send in clear, too, so does this one.
	s.Nodes[s.Self].Tunnels = nil
	vxlan := model.TunnelEnd{Encap: model.EncapVXLAN, Family: model.IPv4, VNI: s.VXLAN.VNI, Port: s.VXLAN.Port}
	s.Nodes["n2"].Tunnels.Sends, s.Nodes["n2"].Tunnels.Receives = append(s.Nodes["n2"].Tunnels.Sends, vxlan), append(s.Nodes["n2"].Tunnels.Receives, vxlan)
	if i := slices.IndexFunc(compute().Paths, func(p Path) bool { return p.Node == "n2" && p.Reach != WireGuard && p.Reach != Unreachable }); i < 0 {
		t.Error("a node that still sends in clear is not reached in clear")
	}
	s.EncryptionState.Over = true
	s.Pools[0].CIDR = prefix("172.31.0.0/16")
	for _, p := range compute().Peers {
		if g := compute().Guard; covered(g.Pools, p.Address) && !covered(g.Clear, p.Address) {
			t.Errorf("the guard %v cuts off node %s (%s)", g, p.Node, p.Address)
		}
	}
	s.Pools[0].CIDR = prefix("172.31.2.0/24") // not this host's own link
	if g := compute().Guard; len(g.Pools) == 0 || !covered(g.Clear, s.Nodes["n3"].Addresses[0].Addr()) {
		t.Errorf("a pool over another rack: %v", g)
	}
}

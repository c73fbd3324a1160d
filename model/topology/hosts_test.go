package topology

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft/model"
)

// hostSnapshot is the rack with encrypted pods and hosts, in which n2 is ready for it and n3 is not.
func hostSnapshot() (*model.Snapshot, model.TunnelEnd) {
	s := rackSnapshot(simModes[0])
	s.Encryption = model.EncryptionConfig{Enabled4: true, Host: true, Port4: 51820, Port6: 51821}
	wg := model.TunnelEnd{Encap: model.EncapWireGuard, Family: model.IPv4, Port: 51820}
	for i, name := range []model.NodeName{"n1", "n2"} {
		s.Nodes[name].Tunnels = &model.Tunnels{Receives: []model.TunnelEnd{wg}, Sends: []model.TunnelEnd{wg, {}}}
		s.Nodes[name].Keys = []model.NodeKey{{Key: model.PublicKey{byte(i + 1)}}}
	}
	s.Nodes["n3"].Tunnels = &model.Tunnels{}
	s.EncryptionState.Met = map[model.Meeting]bool{{Node: "n2", End: wg}: true}
	return s, wg
}

// hostPaths prints the paths to hosts, one a line, with the beginning of the reason.
func hostPaths(v *View) string {
	var b strings.Builder
	for _, p := range v.Hosts {
		why, _, _ := strings.Cut(p.Why, ", WireGuard")
		fmt.Fprintf(&b, "%s %s %v", p.Dst, p.Node, p.Reach)
		if p.Reach == WireGuard {
			fmt.Fprintf(&b, " dev %s src %v mtu %d of %d", p.Device, p.Source, p.MTU, p.DeviceMTU)
		}
		fmt.Fprintf(&b, " (%s)\n", why)
	}
	return b.String()
}

func TestHosts(t *testing.T) {
	const two = "172.31.1.2/32 n2 WireGuard dev weft-wg src 172.31.1.1 mtu 1440 of 1440 (encrypted)\n"
	const noKey = "172.31.2.1/32 n3 Direct (not encrypted, since node n3 has published no public key)\n"
	known := map[model.NodeName]bool{"n2": true, "n3": true}
	for name, c := range map[string]struct {
		change   func(*model.Snapshot)
		want     string
		problems string
	}{
		"one is ready":   {func(*model.Snapshot) {}, two + noKey, ""},
		"switched off":   {func(s *model.Snapshot) { s.Encryption.Host = false }, "", ""},
		"no encryption":  {func(s *model.Snapshot) { s.Encryption.Enabled4 = false }, "", ""},
		"another family": {func(s *model.Snapshot) { s.Encryption.Enabled4, s.Encryption.Enabled6 = false, true }, "", ""},
		"has not answered": {func(s *model.Snapshot) { s.EncryptionState.Met = map[model.Meeting]bool{} },
			"172.31.1.2/32 n2 Direct (not encrypted, since node n2 has not answered by WireGuard over IPv4, key 0, UDP 51820 yet)\n" + noKey, ""},
		// Pods' traffic that must be encrypted does not make hosts' so: who was never reached may be on its way.
		"the rollout of pods is over": {func(s *model.Snapshot) { s.EncryptionState.Over, s.EncryptionState.Seen = true, known }, two + noKey, ""},
		"was reached before": {func(s *model.Snapshot) { s.EncryptionState.Hosts = known },
			two + "172.31.2.1/32 n3 Unreachable (traffic to node n3 was encrypted and must stay so, and node n3 has published no public key)\n",
			"node n3's own address is not reachable over IPv4: traffic to node n3 was encrypted"},
		"was reached before, and has a key": {func(s *model.Snapshot) {
			s.EncryptionState.Hosts, s.Nodes["n3"].Keys = known, []model.NodeKey{{Key: model.PublicKey{3}}}
		}, two + "172.31.2.1/32 n3 WireGuard dev weft-wg src 172.31.1.1 mtu 1340 of 1440 (encrypted)\n",
			"node n3's own address may not be reachable over IPv4: encrypted, WireGuard over IPv4, key 0, UDP 51820, and not otherwise"},
		"was reached before, Preferred": {func(s *model.Snapshot) { s.EncryptionState.Hosts, s.Encryption.Preferred = known, true }, two + noKey, ""},
		"two have one address, in clear": {func(s *model.Snapshot) {
			s.EncryptionState.Met, s.Nodes["n3"].Addresses = nil, s.Nodes["n2"].Addresses
			s.Nodes["n2"].Keys = nil
		}, "172.31.1.2/32 n2 Direct (nodes n2 and n3 both have the address 172.31.1.2 in their records)\n", ""},
		"two have one address, one encrypted": {func(s *model.Snapshot) { s.Nodes["n3"].Addresses = s.Nodes["n2"].Addresses },
			"172.31.1.2/32 n2 Unreachable (nodes n2 and n3 both have the address 172.31.1.2 in their records)\n",
			"node n2's own address is not reachable over IPv4: nodes n2 and n3 both have"},
		"one has this node's address": {func(s *model.Snapshot) { s.Nodes["n2"].Addresses = s.Nodes["n1"].Addresses }, noKey, ""},
		"addresses of both families": {func(s *model.Snapshot) {
			s.Encryption.Enabled6 = true
			s.Nodes["n1"].Addresses = append(s.Nodes["n1"].Addresses, prefix("fd00:31:1::1/64"))
			s.Nodes["n2"].Addresses = append(s.Nodes["n2"].Addresses, prefix("fd00:31:1::2/64"))
		}, two + noKey + "fd00:31:1::2/128 n2 WireGuard dev weft-wg src fd00:31:1::1 mtu 1440 of 1440 (encrypted)\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := hostSnapshot()
			c.change(s)
			v, err := Compute(s, testDrivers())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, hostPaths(v)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			of := strings.Join(slices.DeleteFunc(v.Problems, func(p string) bool { return !strings.Contains(p, "own address") }), "\n")
			if (of == "") != (c.problems == "") || !strings.Contains(of, c.problems) {
				t.Errorf("problems %q, want %q", of, c.problems)
			}
		})
	}
}

// TestHostsKeepDevices: what is sent to hosts alone keeps a device that is no longer asked for announced, as long as
// that may not have ended.
func TestHostsKeepDevices(t *testing.T) {
	s, wg := hostSnapshot()
	v, err := Compute(s, testDrivers())
	if err != nil {
		t.Fatal(err)
	}
	for i := range v.Tunnels {
		v.Tunnels[i].Kept = true
	}
	for _, hosts := range []bool{true, false} {
		v.Paths = nil
		if !hosts {
			v.Hosts = nil
		}
		say := Announce(s, v, func(string) bool { return true }, true)
		if got := slices.Contains(say.Sends, wg); got != hosts {
			t.Errorf("with paths to hosts: %v; the record would say that it sends by %v: %v", hosts, wg, got)
		}
	}
}

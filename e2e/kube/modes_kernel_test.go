package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weft/internal/testkit"
)

// modes patches the pool under traffic: each encapsulation in turn.
func modes(t *testing.T, r *rig, web []pod) {
	for _, m := range []struct{ vxlan, ipip, path string }{
		{"Never", "Always", "ipip"}, {"Never", "Never", "direct"}, {"CrossSubnet", "Never", "direct"}, {"Always", "Never", "vxlan"},
	} {
		name := strings.ToLower(fmt.Sprintf("v%s-i%s-", m.vxlan, m.ipip))
		sent, lost := r.stream(name, web, func() {
			r.Kubectl(t, "patch", "ippool", "default-ipv4-ippool", "--type=merge", "-p",
				fmt.Sprintf(`{"spec":{"vxlanMode":%q,"ipipMode":%q}}`, m.vxlan, m.ipip))
			r.awaitPath(m.path)
		})
		if lost != 0 {
			t.Errorf("to vxlanMode %s, ipipMode %s: %d of %d packets were lost", m.vxlan, m.ipip, lost, sent)
		}
	}
}

// speak applies the overlay without encapsulation, and waits until both nodes' BGP speakers have their session.
func speak(t *testing.T, r *rig, web []pod) {
	sent, lost := r.stream("bgp", web, func() {
		r.Kubectl(t, "apply", "-k", manifests(t, "crds"))
		r.Kubectl(t, "apply", "-k", manifests(t, "overlays/bgp"))
		r.awaitPath("direct")
	})
	if lost != 0 {
		t.Errorf("to plain routing: %d of %d packets were lost", lost, sent)
	}
	for _, name := range strings.Fields(weftPods(t, r)) {
		testkit.Eventually(t, 20*time.Second, name+" has its BGP session", func() bool {
			time.Sleep(200 * time.Millisecond)
			out, err := r.TryKubectl(t, "", "-n", "kube-system", "exec", name, "--", "/weft", "status")
			return err == nil && strings.Contains(out, "AS 64512, 1 of 1 session established")
		})
	}
}

// awaitPath waits until every node sends to the others that way.
func (r *rig) awaitPath(path string) {
	r.t.Helper()
	for _, machine := range r.Machines {
		testkit.Eventually(r.t, 20*time.Second, machine.Name+" sends by "+path, func() bool {
			time.Sleep(100 * time.Millisecond)
			out, err := machine.Try(r.t, "ip", "route", "show", "proto", "87")
			return err == nil && pathOf(out) == path
		})
	}
}

// encrypt applies another overlay to the living cluster, and counts what then arrives by the encrypted device.
func encrypt(t *testing.T, r *rig, web []pod) {
	sent, lost := r.stream("encrypt", web, func() {
		r.Kubectl(t, "apply", "-k", manifests(t, "overlays/wireguard"))
		r.awaitPath("wireguard")
	})
	if lost != 0 {
		t.Errorf("to WireGuard: %d of %d packets were lost", lost, sent)
	}
	r.encrypted(web)
	devices := r.processes("wireguard-userspace")
	if sent, lost = r.stream("rolled", web, r.rollout); lost != 0 {
		t.Errorf("%d of %d encrypted packets were lost while the node service was replaced", lost, sent)
	}
	if now := r.processes("wireguard-userspace"); len(devices) != len(r.Machines) || !slices.Equal(now, devices) {
		t.Errorf("the processes that have WireGuard's devices are %v, want one a node as before: %v", now, devices)
	}
	if speakers := r.processes("bgp-speaker"); len(speakers) != len(r.Machines) {
		t.Errorf("the BGP speakers are %v, want one a node", speakers)
	}
	r.encrypted(web)
}

// encrypted sends packets and looks whether they come by the encrypting device.
func (r *rig) encrypted(web []pod) {
	r.t.Helper()
	before := r.received(1)
	var c counts
	if err := json.Unmarshal([]byte(r.Kubectl(r.t, "exec", web[0].name, "--", "/testpod", "udp", web[2].ip+":7000", "500", "1ms")), &c); err != nil {
		r.t.Fatal(err)
	}
	if n := r.received(1) - before; c.Answered != 500 || n < 500*16 {
		r.t.Errorf("of 500 packets of 16 bytes %d were answered, and %s received %d bytes by WireGuard", c.Answered, r.Machines[1].Name, n)
	}
}

// received is how many bytes a machine's WireGuard device has received. It counts packets that came together as one.
func (r *rig) received(machine int) (n int) {
	r.t.Helper()
	out, err := r.Machines[machine].Try(r.t, "cat", "/proc/net/dev")
	if err != nil {
		r.t.Fatal(err)
	}
	for l := range strings.Lines(out) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "weft-wg:" {
			if _, err := fmt.Sscan(f[1], &n); err != nil {
				r.t.Fatal(err)
			}
			return n
		}
	}
	r.t.Fatalf("%s has no device weft-wg:\n%s", r.Machines[machine].Name, out)
	return 0
}

// pathOf tells by what routes lead to other nodes' blocks; empty if they differ.
func pathOf(routes string) string {
	names := map[string]string{"weft-vxlan": "vxlan", "weft-ipip": "ipip", "eth0": "direct", "weft-wg": "wireguard"}
	path := ""
	for l := range strings.Lines(routes) {
		f := strings.Fields(l)
		for i := range f[:max(0, len(f)-1)] {
			if f[i] != "dev" || !strings.Contains(f[0], "/") { // a pod here has an address, not a prefix
				continue
			}
			if p := names[f[i+1]]; path == "" {
				path = p
			} else if p != path {
				return ""
			}
		}
	}
	return path
}

// processes returns those of a subcommand on all machines, with when they began.
func (r *rig) processes(subcommand string) (all []string) {
	r.t.Helper()
	for _, m := range r.Machines {
		out, err := m.Try(r.t, "ps", "-eo", "pid,lstart,args", "--no-headers")
		if err != nil {
			r.t.Fatal(err)
		}
		for l := range strings.Lines(out) {
			if f := strings.Fields(l); len(f) > 7 && f[7] == subcommand {
				all = append(all, m.Name+" "+strings.Join(f[:8], " "))
			}
		}
	}
	return all
}

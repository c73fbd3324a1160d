package kube

import (
	"fmt"
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

// pathOf tells by what routes lead to other nodes' blocks; empty if they differ.
func pathOf(routes string) string {
	names := map[string]string{"weft-vxlan": "vxlan", "weft-ipip": "ipip", "eth0": "direct", "weft-wg": "wireguard"}
	path := ""
	for l := range strings.Lines(routes) {
		f := strings.Fields(l)
		for i := range f[:max(0, len(f)-1)] {
			if f[i] != "dev" || !strings.Contains(l, " via ") {
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

package topology

import (
	"fmt"
	"slices"
	"strings"
)

// Format prints the view as canonical text: one line a path.
func (v *View) Format() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s, pod MTU %d (%s)\n", v.Self, v.PodMTU, v.PodMTUWhy)
	for _, t := range v.Tunnels {
		fmt.Fprintf(&b, "tunnel %s over %s from %s, MTU %d\n", t.Device, t.Parent, t.Local, t.MTU)
	}
	for _, p := range slices.Concat(v.Paths, v.Hosts) {
		fmt.Fprintf(&b, "%s on %s: %s", p.Dst, p.Node, p.Reach)
		if p.Via.IsValid() {
			fmt.Fprintf(&b, " via %s", p.Via)
		}
		if p.Device != "" {
			fmt.Fprintf(&b, " dev %s", p.Device)
		}
		if p.Source.IsValid() {
			fmt.Fprintf(&b, " src %s", p.Source)
		}
		if p.MTU > 0 {
			fmt.Fprintf(&b, " mtu %d", p.MTU)
		}
		fmt.Fprintf(&b, " (%s)\n", p.Why)
	}
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	return b.String()
}

package tunnel

import (
	"fmt"
	"slices"
	"strings"
)

// For returns the part of p that belongs to the devices of one driver. It may share memory with p.
func (p Plan) For(driver string) Plan {
	if !slices.ContainsFunc(p.Links, func(l Link) bool { return l.Driver != driver }) {
		return p
	}
	var out Plan
	ours := map[string]bool{}
	for _, l := range p.Links {
		if l.Driver == driver {
			ours[l.Name] = true
			out.Links = append(out.Links, l)
		}
	}
	for _, n := range p.Neighbours {
		if ours[n.Device] {
			out.Neighbours = append(out.Neighbours, n)
		}
	}
	for _, f := range p.FDB {
		if ours[f.Device] {
			out.FDB = append(out.FDB, f)
		}
	}
	for _, s := range p.Sources {
		if ours[s.Device] {
			out.Sources = append(out.Sources, s)
		}
	}
	return out
}

// Format prints the plan as canonical text, one object a line. The zero plan prints nothing.
func (p Plan) Format() string {
	var b strings.Builder
	for _, l := range p.Links {
		fmt.Fprintf(&b, "link %s driver %s local %s parent %s mtu %d", l.Name, l.Driver, l.Local, l.Parent, l.MTU)
		if !l.MAC.IsZero() {
			fmt.Fprintf(&b, " mac %s", l.MAC)
		}
		if l.Port != 0 {
			fmt.Fprintf(&b, " vni %d port %d", l.VNI, l.Port)
		}
		b.WriteByte('\n')
		for _, a := range l.Addresses {
			fmt.Fprintf(&b, "address %s dev %s\n", a, l.Name)
		}
	}
	for _, n := range p.Neighbours {
		fmt.Fprintf(&b, "neighbour %s dev %s mac %s\n", n.IP, n.Device, n.MAC)
	}
	for _, f := range p.FDB {
		fmt.Fprintf(&b, "fdb %s dev %s dst %s\n", f.MAC, f.Device, f.Dst)
	}
	for _, s := range p.Sources {
		fmt.Fprintf(&b, "source %s from %s dev %s\n", s.Inner, s.Outer, s.Device)
	}
	return b.String()
}

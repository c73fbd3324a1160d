package nat

import (
	"fmt"
	"strings"

	"weft/model"
)

// Format prints the plan as canonical text, one thing a line. The zero plan prints nothing.
func (p Plan) Format() string {
	var b strings.Builder
	for i := range p.Outgoing {
		p.Outgoing[i].format(&b)
	}
	for _, t := range p.Tunnels {
		fmt.Fprintf(&b, "source %s dev %s", t.Address, t.Device)
		if t.Pods {
			b.WriteString(" to pods")
		}
		b.WriteByte('\n')
	}
	for _, r := range p.Pods {
		fmt.Fprintf(&b, "pods %s\n", r)
	}
	if p.Hold {
		b.WriteString("hold\n")
	}
	return b.String()
}

func (o *Outgoing) format(b *strings.Builder) {
	to := "masquerade"
	if o.To.IsValid() {
		to = "to " + o.To.String()
	}
	fmt.Fprintf(b, "outgoing %s %s", o.Family, to)
	for _, r := range []struct {
		name  string
		ports model.PortRange
	}{{"ports", o.Ports}, {"udp-ports", o.UDPPorts}} {
		if !r.ports.IsZero() {
			fmt.Fprintf(b, " %s %s", r.name, r.ports)
		}
	}
	if o.Interface != "" {
		fmt.Fprintf(b, " interface %s", o.Interface)
	}
	b.WriteByte('\n')
	for _, r := range o.From {
		fmt.Fprintf(b, "  from %s\n", r)
	}
	for _, r := range o.Spared {
		fmt.Fprintf(b, "  not to %s\n", r)
	}
	for _, a := range o.Hosts {
		fmt.Fprintf(b, "  not to host %s\n", a)
	}
}

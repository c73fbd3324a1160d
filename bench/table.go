package bench

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

func (r demoRow) progress() string {
	if r.err != nil {
		return fmt.Sprintf("%s - %s: %v", r.from, r.to, r.err)
	}
	if !r.expected {
		return fmt.Sprintf("%s - %s: %s, %s", r.from, r.to, r.path, r.verdict())
	}
	return fmt.Sprintf("%s - %s: %s, MTU %d, RTT %s, %d of %d lost, %s", r.from, r.to, r.path, r.mtu, rtt(r), r.ping.Sent-r.ping.Received, r.ping.Sent, rate(r.bps))
}

func (r demoRow) verdict() string {
	switch {
	case !r.expected && !r.talks:
		return "not expected: the router knows no pod routes"
	case !r.expected:
		return "talks, although the router should know no pod routes"
	case !r.talks:
		return "DOES NOT TALK"
	case r.ping.Received < r.ping.Sent:
		return "LOSES PACKETS"
	}
	return "ok"
}

func rtt(r demoRow) string {
	if r.ping.Received == 0 {
		return "-"
	}
	return fmt.Sprintf("%.3f ms", float64(r.ping.RTT.Nanoseconds())/1e6)
}

// rate prints bits per second as people say them.
func rate(bps float64) string {
	switch {
	case bps <= 0:
		return "-"
	case bps >= 1e9:
		return fmt.Sprintf("%.1f Gbit/s", bps/1e9)
	default:
		return fmt.Sprintf("%.0f Mbit/s", bps/1e6)
	}
}

func writeDemoTable(w io.Writer, rows []demoRow) {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(table.Row{"vxlanMode", "pods on", "path", "MTU", "RTT", "lost", "TCP", "verdict"})
	last := ""
	for _, r := range rows {
		if last != "" && r.mode != last {
			t.AppendSeparator()
		}
		last = r.mode
		lost := fmt.Sprintf("%d of %d", r.ping.Sent-r.ping.Received, r.ping.Sent)
		t.AppendRow(table.Row{r.mode, r.from + " - " + r.to, r.path, r.mtu, rtt(r), lost, rate(r.bps), r.verdict()})
	}
	t.Render()
	fmt.Fprintln(w, "All nodes run on this machine: read the throughputs against each other, not as the speed of a network.")
}

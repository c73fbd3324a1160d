package bench

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"weft/internal/traffic"
)

// demoRow is one line of the table: a pair of nodes in a mode.
type demoRow struct {
	mode, from, to  string
	path            string
	mtu             int
	ping            pingResult
	bps, ratio      float64 // throughput, and its ratio to plain routing
	expected, talks bool
	err             error
}

func (r demoRow) progress() string {
	if r.err != nil {
		return fmt.Sprintf("%s - %s: %v", r.from, r.to, r.err)
	}
	if !r.expected {
		return fmt.Sprintf("%s - %s: %s, %s", r.from, r.to, r.path, r.verdict())
	}
	return fmt.Sprintf("%s - %s: %s, MTU %d, RTT %s, %d of %d lost, %s, %.2f of plain routing", r.from, r.to, r.path, r.mtu, rtt(r), r.ping.Sent-r.ping.Received, r.ping.Sent, rate(r.bps), r.ratio)
}

func (r demoRow) verdict() string {
	switch {
	case !r.expected && !r.talks:
		return "not expected to"
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

func (r demoRow) where() string {
	if r.from == "n3" || r.to == "n3" {
		return r.from + " - " + r.to + ", two racks"
	}
	return r.from + " - " + r.to + ", one rack"
}

func newTable(w io.Writer, header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(w)
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault
	t.AppendHeader(header)
	return t
}

func writeDemoTable(w io.Writer, rows []demoRow) {
	t := newTable(w, "mode of the pool", "pods on", "path", "MTU", "RTT", "lost", "TCP", "of plain", "verdict")
	for i, r := range rows {
		if i > 0 && r.mode != rows[i-1].mode {
			t.AppendSeparator()
		}
		lost, ratio := "-", "-"
		if r.expected {
			lost = fmt.Sprintf("%d of %d", r.ping.Sent-r.ping.Received, r.ping.Sent)
		}
		if r.ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.ratio)
		}
		t.AppendRow(table.Row{r.mode, r.where(), r.path, r.mtu, rtt(r), lost, rate(r.bps), ratio, r.verdict()})
	}
	t.Render()
	fmt.Fprintln(w, "All nodes run on this machine: read the throughputs against each other, not as the speed of a network.\n"+
		"\"of plain\" is the ratio to plain routing between pods of the same nodes, measured in turns with it;\n"+
		"with WireGuard, which encrypts between all pods, to plain routing between the nodes themselves.\n"+
		"Without encapsulation racks reach each other only where the router between them knows the pods' routes; this one does where it speaks BGP.")
}

func writeChanges(w io.Writer, changes []liveChange, r traffic.Report) {
	t := newTable(w, "live change", "in force after", "packets sent", "lost")
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, Align: text.AlignRight}, {Number: 3, Align: text.AlignRight}, {Number: 4, Align: text.AlignRight}})
	for i, c := range changes {
		if i == len(demoWalk)-1 {
			t.AppendSeparator()
		}
		sent, lost := r.Between(c.from, c.to)
		t.AppendRow(table.Row{c.what, fmt.Sprintf("%d ms", c.took.Milliseconds()), sent, lost})
	}
	total := r.Total()
	t.AppendFooter(table.Row{fmt.Sprintf("%d changes, nothing restarted", len(changes)), "", total.Sent, total.Lost})
	t.Style().Format.Footer = text.FormatDefault
	t.Render()
	all, broken, longest := r.Streams()
	fmt.Fprintf(w, "Between %d pairs of pods; %d of %d TCP streams broke, longest silence of one %d ms.\n",
		len(r.Pairs), broken, all, longest.Milliseconds())
}

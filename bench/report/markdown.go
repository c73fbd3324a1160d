package report

import (
	"fmt"
	"io"
	"strings"
	"time"

	"weft/bench/result"
)

// Markdown writes the summary: what to use, and tables of what was measured. note is a sentence about what is missing;
// picture is the path of a plot; either may be empty.
func (s Summary) Markdown(w io.Writer, a Advice, note, picture string) error {
	var b strings.Builder
	b.WriteString("# Encapsulations and MTUs\n\n")
	fmt.Fprintf(&b, "%s; %s.\n", s.First.Time.UTC().Format("2006-01-02 15:04 MST"), machines(s.First))
	if note != "" {
		fmt.Fprintf(&b, "\n**%s**\n", note)
	}
	if picture != "" {
		fmt.Fprintf(&b, "\n![throughput, processor time and latency by MTU](%s)\n", picture)
	}
	b.WriteString("\n## What to use\n\n")
	for _, y := range a.Why {
		fmt.Fprintf(&b, "* %s\n", y)
	}
	b.WriteString("\n| encapsulation | MTU | why |\n|---|---|---|\n")
	for _, c := range a.Choices {
		fmt.Fprintf(&b, "| %v | **%d** | %s |\n", c.Encapsulation, c.MTU, c.Why)
	}
	s.streams(&b, a)
	s.latencies(&b)
	b.WriteString("\nMedians of the rounds, in brackets the lowest and the highest. Processor time is what /proc/stat counts as user, nice, system, irq and\n" +
		"softirq: of all programs and the kernel, whatever they did meanwhile; not what a hypervisor took.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func machines(r result.Record) string {
	one := func(m result.Machine) string {
		return fmt.Sprintf("%s, %d processors (%s), kernel %s", m.Name, m.Cores, m.CPU, m.Kernel)
	}
	if r.Peer == nil {
		return one(r.Machine) + ", which is both ends; weft " + r.Version
	}
	return one(r.Machine) + " to " + one(*r.Peer) + "; weft " + r.Version
}

func (s Summary) streams(b *strings.Builder, a Advice) {
	sides := s.Sides()
	b.WriteString("\n## TCP\n\n| encapsulation | MTU |")
	for _, n := range s.Streams {
		fmt.Fprintf(b, " Gbit/s, %s | sent again |", countStreams(n))
	}
	for _, side := range sides {
		fmt.Fprintf(b, " processor s/Gbit, %s |", sideName(side))
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", 2*len(s.Streams)+len(sides)) + "\n")
	for _, e := range s.Encapsulations(Throughput) {
		for _, mtu := range s.MTUs(e, Throughput) {
			mark := fmt.Sprint(mtu)
			if a.recommends(e, mtu) {
				mark = "**" + mark + "**"
			}
			fmt.Fprintf(b, "| %v | %s |", e, mark)
			for _, n := range s.Streams {
				p := Point{Encapsulation: e, MTU: mtu, Streams: n, Metric: Throughput}
				rate := s.Of(p)
				p.Metric = Retransmits
				fmt.Fprintf(b, " %s | %.0f |", brackets(rate, 1e-9, 2), s.Of(p).Median)
			}
			for _, side := range sides {
				fmt.Fprintf(b, " %s |", brackets(s.Of(Point{Encapsulation: e, MTU: mtu, Streams: s.Streams[len(s.Streams)-1], Side: side, Metric: CPU}), 1, 3))
			}
			b.WriteString("\n")
		}
	}
	if len(s.Streams) > 0 {
		fmt.Fprintf(b, "\nProcessor time is that of %s.\n", countStreams(s.Streams[len(s.Streams)-1]))
	}
}

func (a Advice) recommends(e Encapsulation, mtu int) bool {
	for _, c := range a.Choices {
		if c.Encapsulation == e && c.MTU == mtu {
			return true
		}
	}
	return false
}

func countStreams(n int) string {
	if n == 1 {
		return "1 stream"
	}
	return fmt.Sprintf("%d streams", n)
}

func sideName(side string) string {
	if side == "both" {
		return "both ends"
	}
	return side
}

// percentiles of latency and what they are called.
var percentiles = []struct{ metric, name string }{
	{LatencyP50, "p50"}, {LatencyP90, "p90"}, {LatencyP99, "p99"}, {LatencyP999, "p99.9"},
}

func (s Summary) latencies(b *strings.Builder) {
	all := s.Encapsulations(LatencyP50)
	if len(all) == 0 {
		return
	}
	b.WriteString("\n## Requests and small packets\n\nOne request of 64 bytes at a time; UDP packets with 64 bytes of payload from one thread, as fast as it can.\n\n| encapsulation |")
	for _, p := range percentiles {
		fmt.Fprintf(b, " %s µs |", p.name)
	}
	b.WriteString(" requests | packets/s arrived | sent |\n|---|" + strings.Repeat("---|", len(percentiles)+3) + "\n")
	for _, e := range all {
		for _, mtu := range s.MTUs(e, LatencyP50) {
			at := Point{Encapsulation: e, MTU: mtu}
			of := func(metric string) Spread { at.Metric = metric; return s.Of(at) }
			fmt.Fprintf(b, "| %v |", e)
			for _, p := range percentiles {
				fmt.Fprintf(b, " %s |", brackets(of(p.metric), 1e6, 0))
			}
			fmt.Fprintf(b, " %.0f | %s | %.0f |\n", of(Requests).Median*float64(of(Requests).N), brackets(of(PacketsReceived), 1, 0), of(PacketsSent).Median)
		}
	}
}

func brackets(s Spread, scale float64, digits int) string {
	switch {
	case s.N == 0:
		return "-"
	case s.N == 1:
		return fmt.Sprintf("%.*f", digits, s.Median*scale)
	}
	return fmt.Sprintf("%.*f (%.*f-%.*f)", digits, s.Median*scale, digits, s.Low*scale, digits, s.High*scale)
}

// Note says that a run ended early; empty where it did not.
func Note(done, planned int, cause error, took time.Duration) string {
	if cause == nil {
		return ""
	}
	return fmt.Sprintf("Ended early, after %d of %d measurements and %v (%v): what follows is of these.", done, planned, took.Round(time.Second), cause)
}

package bench

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"golang.org/x/sys/unix"

	"weft/bench/report"
)

// writeAdvice prints what to use.
func writeAdvice(w io.Writer, s report.Summary, a report.Advice, note string) {
	streams := s.Streams[len(s.Streams)-1]
	header := []any{"encapsulation", "MTU", "TCP, 1 stream"}
	if streams > 1 {
		header = append(header, fmt.Sprintf("TCP, %d streams", streams))
	}
	t := newTable(w, append(header, "processor s/Gbit", "p50", "p99", "small packets/s")...)
	side := ""
	if sides := s.Sides(); len(sides) > 0 {
		side = sides[0]
	}
	for _, c := range a.Choices {
		at := report.Point{Encapsulation: c.Encapsulation, MTU: c.MTU, Metric: report.Throughput}
		row := table.Row{c.Encapsulation, c.MTU}
		for _, at.Streams = range s.Streams {
			row = append(row, rate(s.Of(at).Median))
		}
		at.Metric, at.Side = report.CPU, side
		row = append(row, fmt.Sprintf("%.3f", s.Of(at).Median))
		small := report.Point{Encapsulation: c.Encapsulation}
		if at := s.MTUs(c.Encapsulation, report.LatencyP50); len(at) > 0 {
			small.MTU = at[len(at)-1]
		}
		for _, small.Metric = range []string{report.LatencyP50, report.LatencyP99} {
			row = append(row, fmt.Sprintf("%.0f µs", s.Of(small).Median*1e6))
		}
		small.Metric = report.PacketsReceived
		t.AppendRow(append(row, fmt.Sprintf("%.0f", s.Of(small).Median)))
	}
	t.Render()
	for _, c := range a.Choices {
		fmt.Fprintf(w, "%v: MTU %d, %s.\n", c.Encapsulation, c.MTU, c.Why)
	}
	for _, y := range a.Why {
		fmt.Fprintln(w, y)
	}
	if s.First.Peer == nil {
		fmt.Fprintln(w, "Both ends are on this machine: read the figures against each other, not as the speed of a network.")
	}
	if note != "" {
		fmt.Fprintln(w, note)
	}
}

// progress shows how far a measurement is: on a terminal in one line that changes, elsewhere in lines of their own, not
// too many.
type progress struct {
	w        io.Writer
	terminal bool

	mu   sync.Mutex
	last time.Time
	open bool // the line that changes is on the screen
}

// plainInterval is the least time between two lines of progress that stay.
const plainInterval = 10 * time.Second

func newProgress(w io.Writer) *progress {
	return &progress{w: w, terminal: isTerminal(os.Stderr)}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *progress) show(done, all int, now string, left time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := fmt.Sprintf("%d of %d, about %v left: %s", done, all, left.Round(time.Second), now)
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s %.100s", bar(done, all), line)
		p.open = true
		return
	}
	if time.Since(p.last) >= plainInterval || done == all {
		p.last = time.Now()
		fmt.Fprintln(p.w, line)
	}
}

func bar(done, all int) string {
	const width = 20
	n := width * done / max(all, 1)
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}

// end leaves the terminal's line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *progress) clear() {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}

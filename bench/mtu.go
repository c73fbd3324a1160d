package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/mtu"
	"weft/bench/report"
	"weft/bench/result"
	"weft/lab"
	"weft/node/datastore/etcd"
)

// MTU measures encapsulations at several MTUs and recommends.
type MTU struct {
	Version string
	Out     io.Writer // the recommendation
	Log     io.Writer // progress
	Quick   bool
	Rounds  int
	Time    time.Duration
	Streams int
	MTUs    []int
	Dir     string // of the files

	Name string // of the lab
	Link int    // MTU of the lab's links

	Host  netip.AddrPort // of weft bench serve; the zero AddrPort: a lab
	Token string

	records []result.Record
	began   time.Time
}

func mtuCommand(version string) *cobra.Command {
	m := &MTU{Version: version}
	cmd := &cobra.Command{
		Use:   "mtu [HOST]",
		Short: "Measure which encapsulation and which MTU carry how much, and what that costs",
		Long: `Measure plain routing, VXLAN, IPIP and WireGuard, as far as this machine has them, at a range of MTUs: TCP throughput
with one stream and with several, segments sent again, processor time for a gigabit, times from request to
answer, and packets a second. Rounds alternate between all of them. Recommend an MTU for each and an encapsulation.

Without HOST it brings up a lab of four nodes, measures between their pods and takes the lab down; nothing of the machine's
own network is touched. With the address of a HOST on which weft bench serve runs, it measures between that one and this one:
plain routing, VXLAN, IPIP and WireGuard, by devices of their own that are gone when it ends. IPIP needs the kernel's module,
loaded on both, and no device of IPIP that is up on either: it has no port, so that a second tunnel would take the packets of the first.

Files in --out: mtu.jsonl (a record a line as it is measured), report.md, plot.svg and plot.png. Ctrl-C ends the
measuring; what was measured is reported.`,
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(cmd *cobra.Command, args []string) error {
			return errors.Join(m.check(cmd), m.host(args))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				m.Out, m.Log = out, log
				return m.Run(ctx)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&m.Quick, "quick", false, "two short rounds of few MTUs: less than a minute")
	f.IntVar(&m.Rounds, "rounds", 5, "how often everything is measured, in turns")
	f.DurationVar(&m.Time, "time", 500*time.Millisecond, "length of each measurement")
	f.IntVar(&m.Streams, "streams", 4, "TCP streams at once, measured beside one alone")
	f.IntSliceVar(&m.MTUs, "mtu", nil, "MTUs to try, in bytes; those that fit. None: from 1280 to what fits")
	f.StringVar(&m.Dir, "out", "", "`directory` of the files (default weft-mtu- and the time, in this one)")
	f.StringVar(&m.Name, "name", "mtu", "name of the lab")
	f.StringVar(&m.Token, "token", "", "`token` that weft bench serve printed on HOST")
	f.IntVar(&m.Link, "link-mtu", 9000, "MTU of the lab's links, in bytes")
	return cmd
}

func (m *MTU) host(args []string) (err error) {
	if len(args) == 0 {
		return nil
	}
	if m.Host, err = serveAddress(args[0]); err != nil {
		return fmt.Errorf("HOST: %w", err)
	}
	if m.Token == "" {
		return errors.New("--token is missing: give the one that weft bench serve printed")
	}
	return nil
}

const (
	quickRounds = 2
	quickTime   = 200 * time.Millisecond
)

func (m *MTU) check(cmd *cobra.Command) error {
	if m.Quick {
		for flag, set := range map[string]func(){"rounds": func() { m.Rounds = quickRounds }, "time": func() { m.Time = quickTime }} {
			if !cmd.Flags().Changed(flag) {
				set()
			}
		}
	}
	switch {
	case m.Rounds < 1 || m.Rounds > 1000:
		return fmt.Errorf("--rounds %d: want 1 to 1000", m.Rounds)
	case m.Time < 50*time.Millisecond || m.Time > time.Minute:
		return fmt.Errorf("--time %v: want 50ms to 1m", m.Time)
	case m.Streams < 1 || m.Streams > 64:
		return fmt.Errorf("--streams %d: want 1 to 64", m.Streams)
	case m.Link < 1400 || m.Link > 65535:
		return fmt.Errorf("--link-mtu %d: want 1400 to 65535", m.Link)
	}
	for _, v := range m.MTUs {
		if v < 576 || v > 65535 {
			return fmt.Errorf("--mtu %d: want 576 to 65535", v)
		}
	}
	if err := lab.CheckName(m.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	return nil
}

// Run measures, reports, and leaves the files.
func (m *MTU) Run(ctx context.Context) error {
	m.began = time.Now()
	if m.Dir == "" {
		m.Dir = "weft-mtu-" + m.began.Format("20060102-150405")
	}
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the results: %w", err)
	}
	file, err := os.Create(filepath.Join(m.Dir, "mtu.jsonl"))
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	defer file.Close()
	p := newProgress(m.Log)
	e := m.experiment(result.NewWriter(file), p)
	var without []string
	if m.Host.IsValid() {
		without, err = m.onHosts(ctx, e, p)
	} else {
		err = m.onLab(ctx, e, p)
	}
	p.end()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	done, all := e.Done()
	note := report.Note(done, all, err, time.Since(m.began))
	note = strings.TrimSpace(note + " " + strings.Join(without, " "))
	return errors.Join(err, file.Sync(), m.report(note))
}

func (m *MTU) onLab(ctx context.Context, e *mtu.Experiment, p *progress) error {
	return withLab(ctx, m.Name, mtu.LabLayout(m.Link), m.Log, func(l *lab.Lab, store *etcd.Store) error {
		b, err := mtu.OpenLab(ctx, l, store, m.Link, mtu.LabPaths(), p.say)
		if err != nil {
			return err
		}
		defer b.Close()
		paths, err := b.Paths(ctx)
		if err != nil {
			return err
		}
		return e.Run(ctx, paths)
	})
}

// onHosts returns what was left out, too.
func (m *MTU) onHosts(ctx context.Context, e *mtu.Experiment, p *progress) ([]string, error) {
	h := &mtu.Hosts{To: m.Host, Token: m.Token, Say: p.say}
	defer h.Close()
	paths, err := h.Paths(ctx)
	if err != nil {
		return nil, err
	}
	return h.Without, e.Run(ctx, paths)
}

func (m *MTU) experiment(w *result.Writer, p *progress) *mtu.Experiment {
	streams := []int{1, m.Streams}
	if m.Streams == 1 {
		streams = streams[:1]
	}
	return &mtu.Experiment{
		Rounds: m.Rounds, Time: m.Time, Streams: streams, MTUs: m.MTUs, Few: m.Quick, Say: p.say, Progress: p.show,
		Base: result.Record{Schema: result.Schema, Experiment: "mtu", Run: strings.ToLower(rand.Text()[:12]), Version: m.Version,
			Commit: result.Commit(), Machine: result.ThisMachine()},
		Write: func(r result.Record) error {
			m.records = append(m.records, r)
			return w.Write(r)
		},
	}
}

// report writes what was measured, if anything was.
func (m *MTU) report(note string) error {
	s := report.Summarise(m.records)
	if len(s.Encapsulations(report.Throughput)) == 0 {
		return nil
	}
	a := s.Recommend()
	write := func(name string, f func(io.Writer) error) error {
		file, err := os.Create(filepath.Join(m.Dir, name))
		if err != nil {
			return err
		}
		return errors.Join(f(file), file.Close())
	}
	err := errors.Join(
		write("report.md", func(w io.Writer) error { return s.Markdown(w, a, note, "plot.png") }),
		write("plot.svg", func(w io.Writer) error { return s.SVG(w, a) }),
		write("plot.png", func(w io.Writer) error { return s.PNG(w, a) }))
	writeAdvice(m.Out, s, a, note)
	fmt.Fprintf(m.Out, "Measured in %v. Files in %s: report.md, plot.png, plot.svg, mtu.jsonl (%d records).\n", time.Since(m.began).Round(time.Second), m.Dir, len(m.records))
	return err
}

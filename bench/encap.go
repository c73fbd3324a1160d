package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
	"weft/bench/mtu"
	"weft/bench/report"
	"weft/internal/kernel"
	"weft/lab"
	"weft/node/datastore/etcd"
)

// Encap compares encapsulations with plain routing, and with the same made by hand.
type Encap struct {
	Version string
	Out     io.Writer
	Log     io.Writer
	Quick   bool
	Rounds  int
	Time    time.Duration // of one measurement
	Link    int           // MTU of the lab's links
	Name    string        // of the lab

	sheet sheet
}

func encapCommand(version string) *cobra.Command {
	e := &Encap{Version: version, sheet: sheet{verb: "encap"}}
	cmd := &cobra.Command{
		Use:   "encap",
		Short: "Compare encapsulations with plain routing and with devices made by hand",
		Long: `Bring up a lab of four nodes and measure between pods, side by side in rounds that alternate: every encapsulation that this
machine has (VXLAN, IPIP, WireGuard, CrossSubnet within a subnet), plain routing, and plain routing and the same devices
on two hosts beside the nodes that are configured by hand with ip(8) and bridge(8). TCP with one and four streams,
processor time for a gigabit, packets of 64 bytes a second, and times from request to answer.

What it says are ratios of values of the same round: their median, the range that holds it at 95 %, and the least and
the most. Plain routing between another pair of pods of the same nodes is the control: its distance from 1 is the noise.

Files in --out: encap.jsonl (a record a line as it is measured) and encap.md. Ctrl-C ends the measuring; what was measured
is reported, and the exit code is 1. It says nothing of how good the ratios are: weft bench compare does.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return errors.Join(e.check(cmd), e.sheet.check(), checkName(e.Name))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				e.Out, e.Log = out, log
				return e.Run(ctx)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&e.Quick, "quick", false, "nine short rounds: about a minute")
	f.IntVar(&e.Rounds, "rounds", 20, "how often everything is measured, in turns")
	f.DurationVar(&e.Time, "time", 300*time.Millisecond, "length of each measurement")
	f.IntVar(&e.Link, "link-mtu", 1500, "MTU of the lab's links, in bytes")
	f.StringVar(&e.Name, "name", "encap", "name of the lab")
	sheetFlags(cmd, &e.sheet)
	return cmd
}

// encapQuickRounds is the least of which a range at 95 % leaves out the one that is furthest off.
const encapQuickRounds = 9

func (e *Encap) check(cmd *cobra.Command) error {
	if e.Quick && !cmd.Flags().Changed("rounds") {
		e.Rounds = encapQuickRounds
	}
	if e.Quick && !cmd.Flags().Changed("time") {
		e.Time = 80 * time.Millisecond
	}
	switch {
	case e.Rounds < 1 || e.Rounds > 1000:
		return fmt.Errorf("--rounds %d: want 1 to 1000", e.Rounds)
	case e.Time < 50*time.Millisecond || e.Time > time.Minute:
		return fmt.Errorf("--time %v: want 50ms to 1m", e.Time)
	case e.Link < 1400 || e.Link > 65535:
		return fmt.Errorf("--link-mtu %d: want 1400 to 65535", e.Link)
	}
	return nil
}

const againID = "again"

// encapPaths are those of the lab: of `weft bench mtu`, plain routing once more, and what CrossSubnet does in a subnet.
func encapPaths() []mtu.LabPath {
	return append(mtu.LabPaths(),
		mtu.LabPath{ID: "crosssubnet", Name: "crosssubnet", CIDR: "10.247.0.0/16", Mode: v3.IPPoolSpec{VXLANMode: v3.EncapCrossSubnet}, From: "n1", To: "n2", Reach: "Direct"},
		mtu.LabPath{ID: againID, Name: "none", Pool: "none", From: "n1", To: "n2", Reach: "Direct"})
}

// Run measures, reports, and leaves the files.
func (e *Encap) Run(ctx context.Context) error {
	if err := e.sheet.open(e.Version); err != nil {
		return err
	}
	p := newProgress(e.Log)
	r := &encapRun{rounds: e.Rounds, time: e.Time, write: e.sheet.write, progress: p.show}
	layout := mtu.LabLayout(e.Link)
	err := withLab(ctx, e.Name, layout, e.Log, func(l *lab.Lab, store *etcd.Store) error {
		return e.onLab(ctx, l, store, layout, p, r)
	})
	p.end()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	note := report.Note(r.done, r.all, err, time.Since(e.sheet.began))
	return errors.Join(err, e.sheet.close(e.Out, "Encapsulations against plain routing and devices made by hand", note, writeEncap))
}

func (e *Encap) onLab(ctx context.Context, l *lab.Lab, store *etcd.Store, layout string, p *progress, r *encapRun) error {
	b, err := mtu.OpenLab(ctx, l, store, e.Link, encapPaths(), p.say)
	if err != nil {
		return err
	}
	defer b.Close()
	paths, err := b.Paths(ctx)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := path.SetMTU(ctx, e.Link-path.Overhead); err != nil {
			return err
		}
		r.ways = append(r.ways, encapWay{Encapsulation: path.Encapsulation, again: path.ID == againID, client: path.Client})
	}
	conf, err := lab.Parse([]byte(layout))
	if err != nil {
		return err
	}
	h := &byHand{router: kernel.NetnsPath(l.Netns("router")), bridge: lab.Compile(conf, "").Bridges[0].Name, link: e.Link, say: p.say}
	defer h.close()
	if err := e.byHand(ctx, h, r); err != nil {
		return err
	}
	return r.run(ctx)
}

// byHand adds what a person would make to each of the ways that nodes have.
func (e *Encap) byHand(ctx context.Context, h *byHand, r *encapRun) error {
	if err := h.open(ctx); err != nil {
		return err
	}
	for i, w := range handWays {
		if !r.has(w.Encapsulation) || !w.has(ctx) {
			h.say("not made by hand, as the nodes or the kernel have none: %v", w.Encapsulation)
			continue
		}
		c, err := h.path(ctx, i, w)
		if err != nil {
			return fmt.Errorf("%v by hand: %w", w.Encapsulation, err)
		}
		r.ways = append(r.ways, encapWay{Encapsulation: w.Encapsulation, hand: true, client: c})
	}
	return nil
}

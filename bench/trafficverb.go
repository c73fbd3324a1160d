package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
	"weft/bench/result"

	"github.com/spf13/cobra"

	"weft/bench/report"
	"weft/internal/traffic"
	"weft/lab"
	"weft/node/datastore/etcd"
)

// trafficVerb is a verb of `weft bench` that does things to a lab of three nodes while their pods send.
type trafficVerb struct {
	Version string
	Out     io.Writer
	Log     io.Writer
	Quick   bool
	Times   int    // how often each thing is done
	Name    string // of the lab

	cluster
	kind      trafficKind
	sheet     sheet
	progress  *progress
	done, all int
	began     time.Time // what is done
	errs      []error   // of what was measured
}

// trafficKind is what makes one such verb another than the next.
type trafficKind struct {
	verb, short, long string
	flag, often       string // the name of the flag that sets Times, and what it says
	times, most       int
	quick             string // what --quick says
	quickTimes        int
	title             string // of the table
	measure           func(context.Context) error
	print             func(io.Writer, []figure)
}

// command returns the verb; version is this program's.
func (v *trafficVerb) command(version string, kind trafficKind) *cobra.Command {
	v.Version, v.kind, v.sheet.verb = version, kind, kind.verb
	cmd := &cobra.Command{
		Use:   kind.verb,
		Short: kind.short,
		Long:  kind.long,
		Args:  cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if v.Quick && !cmd.Flags().Changed(kind.flag) {
				v.Times = kind.quickTimes
			}
			if v.Times < 1 || v.Times > kind.most {
				return fmt.Errorf("--%s %d: want 1 to %d", kind.flag, v.Times, kind.most)
			}
			return errors.Join(v.sheet.check(), checkName(v.Name))
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				v.Out, v.Log = out, log
				return v.Run(ctx)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&v.Quick, "quick", false, kind.quick)
	f.IntVar(&v.Times, kind.flag, kind.times, kind.often)
	f.StringVar(&v.Name, "name", kind.verb, "name of the lab")
	sheetFlags(cmd, &v.sheet)
	return cmd
}

// Run brings the lab up, measures, reports, and leaves the files.
func (v *trafficVerb) Run(ctx context.Context) error {
	if err := v.sheet.open(v.Version); err != nil {
		return err
	}
	v.log, v.progress = v.Log, newProgress(v.Log)
	config := lab.DefaultConfig()
	err := withConfig(ctx, v.Name, config, v.Log, func(l *lab.Lab, store *etcd.Store) error {
		v.lab, v.store = l, store
		if err := v.attachRouted(ctx, config); err != nil {
			return err
		}
		v.began = time.Now()
		return v.kind.measure(ctx)
	})
	v.progress.end()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	note := report.Note(v.done, v.all, err, time.Since(v.sheet.began))
	return errors.Join(err, v.sheet.close(v.Out, v.kind.title, note, v.kind.print), errors.Join(v.errs...))
}

// show tells how far it is, and what it does now.
func (v *trafficVerb) show(now string) {
	v.progress.show(v.done, v.all, now, time.Since(v.began)/time.Duration(max(v.done, 1))*time.Duration(v.all-v.done))
}

// attachRouted attaches two pods to each node, and gives the router between the racks the way to them: so that they talk
// in every mode.
func (c *cluster) attachRouted(ctx context.Context, config lab.Config) error {
	if err := c.setMode(ctx, demoModes[0]); err != nil {
		return err
	}
	c.pods = map[string][]traffic.Host{}
	for _, n := range config.Nodes {
		for _, name := range []string{"a", "b"} {
			h, err := c.addPod(ctx, n.Name, name, demoPool)
			if err != nil {
				return err
			}
			c.pods[n.Name] = append(c.pods[n.Name], h)
			if err := c.teachRouter(n, h.Addr); err != nil {
				return err
			}
		}
	}
	return c.settled(ctx, demoModes[0])
}

// bySetting returns the figures that are no ratios by setting and metric, and the settings as they came.
func bySetting(all []figure) (order []string, of map[string]map[string]figure) {
	of = map[string]map[string]figure{}
	for _, f := range all {
		if f.Unit == result.Ratio {
			continue
		}
		if of[f.Setting] == nil {
			of[f.Setting], order = map[string]figure{}, append(order, f.Setting)
		}
		of[f.Setting][f.Metric] = f
	}
	return order, of
}

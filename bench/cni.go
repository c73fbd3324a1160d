package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"weft/bench/report"
	"weft/bench/result"
	"weft/lab"
	"weft/node/datastore/etcd"
)

// CNI measures CNI ADD and DEL of one real node service, beside the same links made by netlink alone.
type CNI struct {
	Version string
	Name    string // of the lab
	Pods    int    // of a round, one at a time
	AtOnce  int    // of a round, all at once
	Rounds  int
	Out     io.Writer
	Log     io.Writer

	sheet sheet
}

const (
	cniWeft, cniHand = "weft", "by hand"
	// cniAlone is the setting that docs/performance.md tells of.
	cniAlone = "one at a time, 0 policies"
)

// cniPolicies are how many policies select the pods of a batch.
var cniPolicies = []int{0, 10, 100}

func cniCommand(version string) *cobra.Command {
	c := &CNI{Version: version, sheet: sheet{verb: "cni"}}
	quick := false
	cmd := &cobra.Command{
		Use:   "cni",
		Short: "Measure CNI ADD and DEL, beside the same links made by netlink alone",
		Long: `Bring up a lab of one node and attach pods to it through CNI, by the plugin and a real configuration list: one at a time
and many at once, with 0, 10 and 100 policies that select them. The reference, measured in turns, makes what the kernel
needs at least, by netlink from this process: a veth pair, an address, routes. The namespaces are there before, for both.
For each: the latency of ADD and DEL, as a ratio to the reference; the steps of ADD as the node service logs them; and what
it asks the store for an ADD and a DEL.

Files in --out: cni.jsonl (a record a line as it is measured) and cni.md. Ctrl-C ends it; what was measured is reported.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if quick {
				setUnlessGiven(cmd, map[string]string{"pods": "8", "rounds": "6"})
			}
			return errors.Join(c.check(), c.sheet.check())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				c.Out, c.Log = out, log
				return c.Run(ctx)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "cni", "name of the lab")
	f.BoolVar(&quick, "quick", false, "less of everything: half a minute")
	f.IntVar(&c.Pods, "pods", 25, "pods of a round, one at a time")
	f.IntVar(&c.AtOnce, "at-once", 16, "pods of a round, all at once")
	f.IntVar(&c.Rounds, "rounds", 20, "rounds")
	sheetFlags(cmd, &c.sheet)
	return cmd
}

func (c *CNI) check() error {
	for _, n := range []struct {
		flag     string
		n, limit int
	}{{"pods", c.Pods, 200}, {"at-once", c.AtOnce, 200}, {"rounds", c.Rounds, 1000}} {
		if n.n < 1 || n.n > n.limit {
			return fmt.Errorf("--%s %d: want 1 to %d", n.flag, n.n, n.limit)
		}
	}
	return checkName(c.Name)
}

// Run measures, reports, and leaves the files.
func (c *CNI) Run(ctx context.Context) error {
	if err := c.sheet.open(c.Version); err != nil {
		return err
	}
	m := &cniRun{CNI: c, pace: &pace{progress: newProgress(c.Log)}}
	err := withLab(ctx, c.Name, cniLab, c.Log, func(l *lab.Lab, store *etcd.Store) error {
		m.lab, m.store = l, store
		return m.measure(ctx)
	})
	m.progress.end()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if len(c.sheet.records) > 0 {
		err = errors.Join(err, c.ranks())
	}
	note := report.Note(m.rounds, c.Rounds, err, time.Since(c.sheet.began))
	return errors.Join(err, c.sheet.close(c.Out, "CNI ADD and DEL", note, c.write))
}

// ranks writes the quantiles over all rounds.
func (c *CNI) ranks() error {
	for _, k := range c.settings() {
		for _, metric := range []string{"add", "del"} {
			values := c.sheet.values(k[0], k[1], metric)
			for _, percent := range []int{50, 90, 99} {
				if err := c.sheet.add(k[0], k[1], 0, result.Record{Metric: fmt.Sprintf("%s_p%d", metric, percent), Unit: result.Seconds,
					Value: rank(values, percent)}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// settings are the ways and settings of which both ADD and DEL were measured.
func (c *CNI) settings() (out [][2]string) {
	for _, r := range c.sheet.records {
		if k := [2]string{r.Way, r.Setting}; r.Metric == "del" && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func (c *CNI) write(w io.Writer, all []figure) {
	t := newTable(w, "", "n", "ADD p50", "p90", "p99", "of by hand", "DEL p50", "p90", "p99", "of by hand", "store requests", "DEL")
	find := func(k [2]string, metric string, ratio bool) string {
		for _, f := range all {
			if f.Way == k[0] && f.Setting == k[1] && f.Metric == metric && !f.Control && (f.Unit == result.Ratio) == ratio {
				if f.Unit == result.Count {
					return fmt.Sprintf("%.1f", f.Value)
				}
				return inUnit(f.Unit, f.Value)
			}
		}
		return "-"
	}
	for _, k := range c.settings() {
		row := table.Row{k[0] + ", " + k[1], len(c.sheet.values(k[0], k[1], "add"))}
		for _, what := range []string{"add", "del"} {
			row = append(row, find(k, what+"_p50", false), find(k, what+"_p90", false), find(k, what+"_p99", false), find(k, what+"_of_hand", true))
		}
		t.AppendRow(append(row, find(k, "requests_per_add", false), find(k, "requests_per_del", false)))
	}
	t.Render()
	fmt.Fprintf(w, "Steps of ADD, %s, medians:", cniAlone)
	for _, f := range all {
		if name, ok := stepOf(f.Metric); ok && f.Setting == cniAlone {
			fmt.Fprintf(w, " %s %s;", name, inUnit(f.Unit, f.Value))
		}
	}
	fmt.Fprintln(w, " some run beside others.")
}

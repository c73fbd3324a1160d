package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/report"
	"weft/bench/result"
	"weft/bench/suite"
)

// experiments are the verbs that leave records, in the order in which All runs them.
var experiments = []string{"encap", "mtu", "switch", "heal", "policy", "cni", "scale"}

// All runs experiments and keeps their records in one file with a report beside it.
type All struct {
	Version string
	Parts   []string
	Quick   bool
	Budget  time.Duration
	Dir     string
	Out     io.Writer
	Log     io.Writer
}

const (
	quickBudget = 10 * time.Minute
	fullBudget  = 2 * time.Hour
)

func allCommand(version string) *cobra.Command {
	a := &All{Version: version}
	cmd := &cobra.Command{
		Use:   "all [EXPERIMENT...]",
		Short: "Run all experiments and keep what they measured in one file, with a report",
		Long: `Run the experiments (` + strings.Join(experiments, ", ") + `), or those that are named, one after the other, and keep
all records in one file of the name DATE-COMMIT.jsonl in --out, with a report of the same name in Markdown and plots.
The machine, its kernel, the commit and the load average before and after each are in the file.

An experiment that fails, or takes more than its share of --budget (of the time that is left 2/(n+1) with n to go), is
named in the report and makes the exit code 1; the others go on. Ctrl-C ends all and keeps what was measured.`,
		Example: `  weft bench all --quick
  weft bench all --quick encap mtu --out /tmp/results`,
		ValidArgs: experiments,
		Args:      cobra.OnlyValidArgs,
		PreRunE: func(cmd *cobra.Command, args []string) error {
			if a.Parts = args; len(args) == 0 {
				a.Parts = experiments
			}
			if !cmd.Flags().Changed("budget") && a.Quick {
				a.Budget = quickBudget
			}
			if a.Budget < 2*time.Minute || a.Budget > 24*time.Hour {
				return fmt.Errorf("--budget %v: want 2m to 24h", a.Budget)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				a.Out, a.Log = out, log
				return a.Run(ctx, cmd.Parent())
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&a.Quick, "quick", false, "the short form of each: minutes for all")
	f.DurationVar(&a.Budget, "budget", fullBudget, "time for all; with --quick "+quickBudget.String())
	f.StringVar(&a.Dir, "out", "bench/results", "`directory` of the files")
	return cmd
}

// Run runs the experiments that are verbs of the command bench.
func (a *All) Run(ctx context.Context, bench *cobra.Command) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s := suite.New(a.Version, a.parts(program, bench))
	s.Budget, s.Out, s.Log = a.Budget, a.Out, a.Log
	if err := os.MkdirAll(a.Dir, 0o755); err != nil {
		return fmt.Errorf("make the directory of the results: %w", err)
	}
	file, err := newFile(a.Dir, resultName(time.Now(), cmp.Or(s.Base.Commit, a.Version)))
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	records, runErr := s.Run(ctx, file)
	if ctx.Err() != nil {
		runErr = errors.Join(runErr, context.Cause(ctx))
	}
	err = errors.Join(file.Sync(), file.Close())
	written, reportErr := writeReport(file.Name(), records)
	fmt.Fprintf(a.Out, "%d records of %s in %s; report: %s\n", len(records), cmp.Or(strings.Join(report.Experiments(records), ", "), "nothing"), file.Name(), written)
	for _, f := range report.Failed(records) {
		fmt.Fprintf(a.Out, "FAILED %s\n", f)
	}
	return errors.Join(runErr, err, reportErr)
}

// parts are the experiments as processes of this program; of one that is no verb of bench there is none.
func (a *All) parts(program string, bench *cobra.Command) []suite.Part {
	var out []suite.Part
	for _, name := range a.Parts {
		p := suite.Part{Name: name}
		if slices.ContainsFunc(bench.Commands(), func(c *cobra.Command) bool { return c.Name() == name }) {
			p.Argv = func(dir string) []string {
				argv := []string{program, "bench", name, "--out", dir}
				if a.Quick {
					argv = append(argv, "--quick")
				}
				return argv
			}
		}
		out = append(out, p)
	}
	return out
}

// resultName is the date and the commit, or the version where that is unknown, without an ending.
func resultName(now time.Time, commit string) string {
	hash, changes, changed := strings.Cut(commit, "+")
	if len(hash) == 40 {
		hash = hash[:12]
	}
	if changed {
		hash += "+" + changes
	}
	return now.UTC().Format("2006-01-02") + "-" + hash
}

// newFile makes NAME.jsonl, or with a number behind the name where there is one already.
func newFile(dir, name string) (*os.File, error) {
	for i := 1; ; i++ {
		path := filepath.Join(dir, name+".jsonl")
		if i > 1 {
			path = filepath.Join(dir, fmt.Sprintf("%s-%d.jsonl", name, i))
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

// writeReport writes the report and its pictures beside a file of results, and returns the report's name.
func writeReport(file string, records []result.Record) (string, error) {
	stem := strings.TrimSuffix(file, ".jsonl")
	write := func(name string, f func(io.Writer) error) error {
		file, err := os.Create(name)
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		return errors.Join(f(file), file.Close())
	}
	pictures := map[string]string{}
	var errs []error
	for _, p := range report.Pictures(records) {
		name := stem + "-" + p.Name + ".svg"
		pictures[p.Name] = filepath.Base(name)
		errs = append(errs, write(name, p.SVG))
	}
	name := stem + ".md"
	errs = append(errs, write(name, func(w io.Writer) error { return report.Document(w, records, pictures) }))
	return name, errors.Join(errs...)
}

package compare

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"weft/bench/result"
)

// Command returns `weft bench compare`.
func Command() *cobra.Command {
	var floor float64
	cmd := &cobra.Command{
		Use:   "compare OLD NEW",
		Short: "Hold two files of results against each other",
		Long: `Reads two files of JSON Lines that weft bench wrote, and compares the ratios in them, each of which was measured
beside its reference in its own run. Absolute values are not compared: they tell of the machine, and of who else used it.

A ratio got worse when the intervals of the two medians do not meet, and the medians are further apart than the noise:
than what a reference measured against itself differs from 1 in either run, and at least --floor. Then, and when the new
file lacks a ratio of the old one, the exit code is 1.`,
		Example: `  weft bench compare bench/results/old.jsonl bench/results/new.jsonl`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) != 2:
				return fmt.Errorf("want two files, the old one first: got %d", len(args))
			case floor < 0 || floor >= 1:
				return fmt.Errorf("--floor %v: want a share from 0 to 1, such as 0.02", floor)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := read(args[0])
			if err != nil {
				return err
			}
			after, err := read(args[1])
			if err != nil {
				return err
			}
			rep := Compare(before, after, floor)
			if len(rep.Rows) == 0 {
				return fmt.Errorf("compare %s with %s: neither has a ratio that says which way is good", args[0], args[1])
			}
			if err := rep.Print(cmd.OutOrStdout()); err != nil {
				return err
			}
			if rep.Failed() {
				return errors.New("some ratios got worse, or are not measured any more: the first rows")
			}
			return nil
		},
	}
	cmd.Flags().Float64Var(&floor, "floor", 0.02, "share by which a ratio has to differ to count")
	return cmd
}

func read(name string) ([]result.Record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	defer f.Close()
	records, err := result.Read(f)
	if err != nil {
		return nil, fmt.Errorf("read results: %s: %w", name, err)
	}
	return records, nil
}

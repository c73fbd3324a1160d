package bench

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"weft/bench/report"
	"weft/bench/result"
)

func reportCommand() *cobra.Command {
	var files, doc bool
	cmd := &cobra.Command{
		Use:   "report FILE...",
		Short: "Say in Markdown what files of results contain",
		Long: `Reads files of JSON Lines that weft bench wrote, and prints in Markdown where and when their records were measured,
and tables of all. With --files a report with plots is written beside each file instead; with --doc it prints the page
docs/performance.md: what is asked of this project, what the files say of it, and where others are faster.`,
		Example: `  weft bench report bench/results/2026-11-22-914978b00e82.jsonl
  weft bench report --doc bench/results/*.jsonl > docs/performance.md`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []result.Record
			var sources []source
			for _, name := range args {
				records, err := readResults(name)
				if err != nil {
					return err
				}
				all, sources = append(all, records...), append(sources, source{name, records})
				if !files {
					continue
				}
				written, err := writeReport(name, records)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), written)
			}
			switch {
			case files:
				return nil
			case doc:
				return writePerformance(cmd.OutOrStdout(), sources)
			}
			return report.Document(cmd.OutOrStdout(), all, nil)
		},
	}
	cmd.Flags().BoolVar(&files, "files", false, "write a report and plots beside each file")
	cmd.Flags().BoolVar(&doc, "doc", false, "print the page of what is asked and what is measured")
	cmd.MarkFlagsMutuallyExclusive("files", "doc")
	return cmd
}

// readResults reads a file of results in which there is at least one record.
func readResults(name string) ([]result.Record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	defer f.Close()
	records, err := result.Read(f)
	if err == nil && len(records) == 0 {
		err = errors.New("it has no record: an experiment that was ended before it measured anything leaves such a file")
	}
	if err != nil {
		return nil, fmt.Errorf("read results: %s: %w", name, err)
	}
	return records, nil
}

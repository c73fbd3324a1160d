package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

func scaleCommand(version string) *cobra.Command {
	s := &Scale{Version: version, sheet: sheet{verb: "scale"}}
	quick := false
	cmd := &cobra.Command{
		Use:   "scale",
		Short: "Measure one node service that knows thousands of nodes",
		Long: `Bring up a lab of one node, write thousands of Node and IPAMBlock records into its store, and
measure: process start to all routes in the kernel, one more node and one more block from the store to the kernel, beside
what the store takes to tell of it, resident memory, and CPU while nothing changes.

Files in --out: scale.jsonl (a record a line as it is measured) and scale.md.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if quick {
				setUnlessGiven(cmd, map[string]string{"idle": "15s"})
			}
			if s.Nodes < 1 || s.More < 1 || s.Idle < time.Second {
				return fmt.Errorf("--nodes %d --more %d --idle %v: want 1 or more, and 1s or more", s.Nodes, s.More, s.Idle)
			}
			return errors.Join(checkName(s.Name), s.sheet.check())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				s.Out, s.Log = out, log
				_, err := s.Run(ctx)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Name, "name", "scale", "name of the lab")
	f.BoolVar(&quick, "quick", false, "half as long at rest: about a minute")
	f.IntVar(&s.Nodes, "nodes", 5000, "nodes in the cluster")
	f.IntVar(&s.More, "more", 20, "nodes added one at a time, and as many blocks")
	f.DurationVar(&s.Idle, "idle", 30*time.Second, "how long the idle CPU is watched")
	sheetFlags(cmd, &s.sheet)
	return cmd
}

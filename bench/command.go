package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/compare"
	"weft/lab"
)

// DemoCommand returns `weft demo`.
func DemoCommand() *cobra.Command {
	d := &Demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a three-node cluster on this machine carrying pod traffic in each mode",
		Long: `Bring up a lab of three nodes in network namespaces of this machine, attach pods through CNI, and show
for each mode of their pool, in a rack and across: the path, MTU, RTT, loss, TCP throughput and its
ratio to plain routing between the same nodes, measured in turns. Then change the mode in every
direction, the VNI and the port while every pod sends to every other, and count what is lost.
The exit code is 1 if a pair that should talk does not, or a change loses packets. Nothing is left
behind. A lab of that name which is up already is left alone.`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case d.Pings < 1:
				return fmt.Errorf("--pings %d: want 1 or more", d.Pings)
			case d.Rounds < 1:
				return fmt.Errorf("--rounds %d: want 1 or more", d.Rounds)
			case d.Stream < 100*time.Millisecond:
				return fmt.Errorf("--stream %v: want 100ms or more", d.Stream)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				d.Out, d.Log = out, log
				return d.Run(ctx)
			})
		},
	}
	cmd.Flags().StringVar(&d.Name, "name", "demo", "name of the lab")
	cmd.Flags().DurationVar(&d.Stream, "stream", 250*time.Millisecond, "length of each TCP measurement")
	cmd.Flags().IntVar(&d.Rounds, "rounds", 7, "TCP measurements of each row, each beside one of plain routing")
	cmd.Flags().IntVar(&d.Pings, "pings", 50, "echo requests for each pair")
	return cmd
}

// Command returns `weft bench`; version is this program's.
func Command(version string) *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure this project on this machine"}
	cmd.AddCommand(scaleCommand(version), policyCommand(version), mtuCommand(version), serveCommand(), compare.Command(), allCommand(version), reportCommand())
	cmd.AddCommand(encapCommand(version), wireGuardCommand())
	cmd.AddCommand(switchCommand(version))
	cmd.AddCommand(healCommand(version), cniCommand(version))
	return cmd
}

// asRoot runs what makes a lab, until it is interrupted or nobody reads what it prints any more.
func asRoot(cmd *cobra.Command, run func(ctx context.Context, out, log io.Writer) error) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: only root can make network namespaces and mounts: try with sudo", cmd.CommandPath())
	}
	ctx, stop := lab.NotifyContext(cmd.Context())
	defer stop()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	return run(ctx, lab.Writer(cmd.OutOrStdout(), fail), lab.Writer(cmd.ErrOrStderr(), fail))
}

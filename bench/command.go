package bench

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// DemoCommand returns `weft demo`.
func DemoCommand() *cobra.Command {
	d := &Demo{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a three-node cluster on this machine carrying pod traffic in each mode",
		Long: `Bring up a lab of three nodes in network namespaces of this machine, attach six pods through CNI,
and show for each mode of the pool and each pair of nodes: the path, MTU, RTT, loss and TCP throughput.
The exit code is 1 if a pair that should talk does not. Nothing is left behind.`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case d.Pings < 1:
				return fmt.Errorf("--pings %d: want 1 or more", d.Pings)
			case d.Stream < time.Second: // iperf3 counts whole seconds
				return fmt.Errorf("--stream %v: want 1s or more", d.Stream)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			d.Out, d.Log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return d.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&d.Name, "name", "demo", "name of the lab")
	cmd.Flags().DurationVar(&d.Stream, "stream", time.Second, "length of each TCP measurement")
	cmd.Flags().IntVar(&d.Pings, "pings", 50, "echo requests for each pair")
	return cmd
}

// Command returns `weft bench`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure this project on this machine"}
	s := &Scale{}
	scale := &cobra.Command{
		Use:   "scale",
		Short: "Measure one node service that knows thousands of nodes",
		Long: `Bring up a lab of one node, write thousands of Node and IPAMBlock records into its store, and
measure: process start to all routes in the kernel, one more node from the store to the kernel,
resident memory, and CPU while nothing changes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot(cmd); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			s.Out, s.Log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			_, err := s.Run(ctx)
			return err
		},
	}
	scale.Flags().StringVar(&s.Name, "name", "scale", "name of the lab")
	scale.Flags().IntVar(&s.Nodes, "nodes", 5000, "nodes in the cluster")
	scale.Flags().IntVar(&s.More, "more", 20, "nodes added one at a time")
	scale.Flags().DurationVar(&s.Idle, "idle", 30*time.Second, "how long the idle CPU is watched")
	cmd.AddCommand(scale)
	return cmd
}

func needRoot(cmd *cobra.Command) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: only root can make network namespaces and mounts: try with sudo", cmd.CommandPath())
	}
	return nil
}

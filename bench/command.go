package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

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
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				s.Out, s.Log = out, log
				_, err := s.Run(ctx)
				return err
			})
		},
	}
	scale.Flags().StringVar(&s.Name, "name", "scale", "name of the lab")
	scale.Flags().IntVar(&s.Nodes, "nodes", 5000, "nodes in the cluster")
	scale.Flags().IntVar(&s.More, "more", 20, "nodes added one at a time")
	scale.Flags().DurationVar(&s.Idle, "idle", 30*time.Second, "how long the idle CPU is watched")
	cmd.AddCommand(scale, policyCommand())
	return cmd
}

func policyCommand() *cobra.Command {
	p := &Policy{}
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Measure how fast one node service enforces changes of policy",
		Long: `Bring up a lab of one node, attach pods to it, write policies and endpoints of other nodes into its
store, and measure: process start to all enforced; for changes of one policy, and of the labels of one
other pod, the time from before the write until the kernel's rules changed, and the processor time;
and memory.`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			for flag, n := range map[string]int{"policies": p.Policies, "endpoints": p.Endpoints, "changes": p.Changes, "pods": p.Pods} {
				if n < 1 {
					return fmt.Errorf("--%s %d: want 1 or more", flag, n)
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				p.Out, p.Log = out, log
				_, err := p.Run(ctx)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&p.Name, "name", "policy", "name of the lab")
	cmd.Flags().IntVar(&p.Policies, "policies", 1000, "GlobalNetworkPolicies in the cluster")
	cmd.Flags().IntVar(&p.Pods, "pods", 100, "pods of the node")
	cmd.Flags().IntVar(&p.Endpoints, "endpoints", 5000, "endpoints of other nodes")
	cmd.Flags().IntVar(&p.Changes, "changes", 100, "changes of each kind, one at a time")
	cmd.Flags().IntVar(&p.Rate, "rate", 0, "label changes a second for ten seconds; 0: none")
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

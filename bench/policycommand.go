package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"weft/bench/street"
	"weft/lab"
)

func policyCommand(version string) *cobra.Command {
	p := &Policy{Version: version, sheet: sheet{verb: "policy"}}
	quick := false
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Measure how fast policy is enforced, and what it costs packets",
		Long: `By each backend, bring up a lab of one node, attach pods to it, write policies and endpoints of other nodes into its
store, and measure: process start to all enforced; for changes of one policy, and of the labels of one other pod, the time
from before the write until the kernel's rules changed, and the processor time; and memory. What the store takes to tell of
a change is measured beside each.

Then, in rounds that alternate between nodes with 0, 10, 100 and 1,000 policies that select a pod, 1,000 that do not, and
sets of 10, 1,000 and 100,000 members: the processor time of a new TCP connection, of a packet that all rules are asked
about, and of one of an established flow, as a ratio to no policy.

Files in --out: policy.jsonl (a record a line as it is measured) and policy.md. Ctrl-C ends the
measuring; what was measured is printed.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if quick {
				setUnlessGiven(cmd, map[string]string{"changes": "30", "starts": "3", "rounds": "6", "time": "25ms"})
			}
			return errors.Join(p.check(), p.sheet.check())
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return asRoot(cmd, func(ctx context.Context, out, log io.Writer) error {
				p.Out, p.Log = out, log
				_, err := p.Run(ctx)
				return err
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&p.Name, "name", "policy", "name of the lab")
	f.BoolVar(&quick, "quick", false, "fewer changes and rounds: about two minutes")
	f.StringSliceVar(&p.Backends, "backend", []string{street.NFTables, street.IPTables}, "backends, one after the other")
	f.IntVar(&p.Policies, "policies", 1000, "GlobalNetworkPolicies in the cluster")
	f.IntVar(&p.Pods, "pods", 100, "pods of the node")
	f.IntVar(&p.Endpoints, "endpoints", 5000, "endpoints of other nodes")
	f.IntVar(&p.Changes, "changes", 100, "changes of each kind, one at a time")
	f.IntVar(&p.Starts, "starts", 3, "starts of the node's process, with nothing and with all")
	f.IntVar(&p.Rate, "rate", 0, "label changes a second for ten seconds, by nftables; 0: none")
	f.IntVar(&p.Rounds, "rounds", 15, "rounds of what rules cost packets; 0: none")
	f.DurationVar(&p.Time, "time", 150*time.Millisecond, "length of each measurement of a round")
	sheetFlags(cmd, &p.sheet)
	return cmd
}

// setUnlessGiven sets flags that the command line did not.
func setUnlessGiven(cmd *cobra.Command, values map[string]string) {
	for flag, value := range values {
		if !cmd.Flags().Changed(flag) {
			if err := cmd.Flags().Set(flag, value); err != nil {
				panic(fmt.Sprintf("%s --%s %s: %v", cmd.Name(), flag, value, err)) // a constant: every test of --quick meets it
			}
		}
	}
}

func (p *Policy) check() error {
	if err := lab.CheckName(p.Name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	for _, b := range p.Backends {
		if b != street.NFTables && b != street.IPTables {
			return fmt.Errorf("--backend %s: want nftables or iptables", b)
		}
	}
	// With fewer policies and pods there are labels that no rule asks about, whose change the kernel never sees.
	for _, n := range []struct {
		flag            string
		n, least, limit int
	}{
		{"policies", p.Policies, policyLabels * policyValues, 100_000}, {"pods", p.Pods, policyValues, 1000}, {"endpoints", p.Endpoints, 1, 1_000_000}, {"changes", p.Changes, 1, 100_000},
		{"starts", p.Starts, 1, 100}, {"rounds", p.Rounds, 0, 1000}, {"rate", p.Rate, 0, 10_000},
	} {
		if n.n < n.least || n.n > n.limit {
			return fmt.Errorf("--%s %d: want %d to %d", n.flag, n.n, n.least, n.limit)
		}
	}
	if p.Time < 10*time.Millisecond || p.Time > time.Minute {
		return fmt.Errorf("--time %v: want 10ms to 1m", p.Time)
	}
	return nil
}

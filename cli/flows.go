package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"weft/node/flows"
	"weft/node/status"
)

func flowsCommand() *cobra.Command {
	var runDir, output string
	var q flows.Query
	c := &cobra.Command{
		Use:   "flows [--denied] [-f] [-n NAMESPACE]",
		Short: "Show packets that the local node's policy denied or logged, and which rule did",
		Long: fmt.Sprintf(`Shows the last packets that network policy denied or logged on the local node, oldest first, each with
the policy and rule, tier or other reason. With -f it goes on with those that come. The node keeps the
last %d; of what one place denies it records ten packets a second.

What is not shown is told on standard error: packets that came faster than the node could read, and
flows that came faster than this command could print. With -o json, each line is one JSON object.`, flows.Kept),
		Example: `  weft flows --denied
  weft flows --denied -f
  weft flows -n shop -o json`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return Usagef("unknown output format %q: want json, or none for people", output)
			}
			return showFlows(cmd, runDir, output, q)
		},
	}
	addRunDir(c, &runDir)
	c.Flags().BoolVar(&q.Denied, "denied", false, "packets that were dropped, not those that a rule logged")
	c.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with those that come, until interrupted")
	c.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "about pods of this node in the `namespace`, or decided by a policy of it")
	c.Flags().StringVarP(&output, "output", "o", "", "output `format`: json")
	fixedCompletion(c, "output", "json")
	return c
}

func showFlows(cmd *cobra.Command, runDir, output string, q flows.Query) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !q.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, nodeTimeout)
		defer cancel()
	}
	p := &flowPrinter{out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(), json: output == "json"}
	err := flows.Read(ctx, runDir, q, p.line)
	switch {
	case p.err != nil:
		return fmt.Errorf("show flows: %w", p.err)
	case q.Follow && ctx.Err() != nil:
		return nil
	case errors.Is(err, flows.ErrNotServed):
		return fmt.Errorf("ask the local node in %s for flows: it does not have them; compare `weft version` with the version in `weft status`", runDir)
	case err != nil:
		return nodeAway("flows", filepath.Join(runDir, status.SocketName), err)
	}
	return nil
}

// flowPrinter prints lines as they come.
type flowPrinter struct {
	out, notes io.Writer
	json       bool
	widths     []int
	err        error // of writing
}

func (p *flowPrinter) line(l *flows.Line) error {
	if l.Flow == nil {
		p.note(l)
		return nil
	}
	if p.json {
		b, err := json.Marshal(l.Flow)
		if err == nil {
			_, err = io.WriteString(p.out, cleanJSON(string(b))+"\n")
		}
		p.err = err
		return err
	}
	p.err = p.row(l.Flow)
	return p.err
}

// row prints one flow; the first has the header above it. Columns only grow.
func (p *flowPrinter) row(f *flows.Flow) error {
	t := table{least: p.widths}
	if p.widths == nil {
		t.header = []string{"TIME", "ACTION", "PROTOCOL", "SOURCE", "DESTINATION", "REASON"}
		t.least = []int{len("15:04:05.000"), 4, len("icmpv6 type 128 code 0"), len("10.244.100.100:65535"), len("10.244.100.100:65535")}
	}
	t.add(f.Time.Local().Format("15:04:05.000"), f.Action, f.Packet(), f.Source.String(), f.Dest.String(), f.Reason)
	p.widths = t.widths()[:5]
	return t.print(p.out)
}

// note tells what is not shown.
func (p *flowPrinter) note(l *flows.Line) {
	if l.Missed > 0 {
		fmt.Fprintf(p.notes, "weft: %d flows are not shown, since they came faster than they could be printed\n", l.Missed)
	}
	if l.Lost > 0 {
		fmt.Fprintf(p.notes, "weft: %d denied or logged packets since the node started are not recorded: they came faster than it could read\n", l.Lost)
	}
	if l.Strange > 0 {
		fmt.Fprintf(p.notes, "weft: %d packets in this log group are not of this node's policy: another program writes to it\n", l.Strange)
	}
}

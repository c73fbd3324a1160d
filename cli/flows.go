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
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"weft/node/flows"
	"weft/node/status"
)

func flowsCommand() *cobra.Command {
	var output string
	var q flows.Query
	c := &cobra.Command{
		Use:   "flows [--denied] [-f] [-n NAMESPACE]",
		Short: "Show packets that the local node's policy denied or logged, and which rule did",
		Long: fmt.Sprintf(`Shows the last packets that network policy denied or logged on the local node, oldest first, each with
the policy and rule, tier or other reason. With -f it goes on with those that come. The node keeps the
last %d; of what one place denies it records ten packets a second.

`+whomLong+`

Flows of a cluster's nodes are in the order of their times, by the clock of each node; with -f as far as they come within
half a second of each other. With etcd there are none.

What is not shown is told on standard error: packets that came faster than the node could read, and
flows that came faster than this command could print. With -o json, each line is one JSON object.`, flows.Kept),
		Example: `  weft flows --denied
  weft flows --denied -f
  weft flows -n shop -o json`,
		Args: exactArgs(),
	}
	flags := addNodeFlags(c)
	c.Flags().BoolVar(&q.Denied, "denied", false, "packets that were dropped, not those that a rule logged")
	c.Flags().BoolVarP(&q.Follow, "follow", "f", false, "go on with those that come, until interrupted")
	c.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "about pods of the node in the `namespace`, or decided by a policy of it")
	c.Flags().Lookup("namespace").Annotations = map[string][]string{filterMark: {}}
	c.Flags().StringVarP(&output, "output", "o", "", "output `format`: json")
	fixedCompletion(c, "output", "json")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if output != "" && output != "json" {
			return Usagef("unknown output format %q: want json, or none for people", output)
		}
		whom, err := flags.scope()
		switch {
		case err != nil:
			return err
		case whom == byStore:
			return flags.notStored("flows")
		case whom == byServer:
			return clusterFlows(cmd, flags, output, q)
		}
		return showFlows(cmd, flags.runDir, output, q)
	}
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
	several    bool // nodes have them
	widths     []int
	err        error // of writing
}

func (p *flowPrinter) line(l *flows.Line) error { return p.from("", l) }

// from prints a line of one of several nodes.
func (p *flowPrinter) from(node string, l *flows.Line) error {
	if l.Flow == nil {
		p.note(node, l)
		return nil
	}
	if p.json {
		b, err := json.Marshal(nodeFlow{node, l.Flow})
		if err == nil {
			_, err = io.WriteString(p.out, cleanJSON(string(b))+"\n")
		}
		p.err = err
		return err
	}
	p.err = p.row(node, l.Flow)
	return p.err
}

// nodeFlow is a flow with the node that recorded it.
type nodeFlow struct {
	Node string `json:"node,omitempty"`
	*flows.Flow
}

// row prints one flow; the first has the header above it. Columns only grow.
func (p *flowPrinter) row(node string, f *flows.Flow) error {
	t := table{least: p.widths}
	header := []string{"TIME", "ACTION", "PROTOCOL", "SOURCE", "DESTINATION", "REASON"}
	least := []int{len("15:04:05.000"), 4, len("icmpv6 type 128 code 0"), len("10.244.100.100:65535"), len("10.244.100.100:65535")}
	cells := []string{f.Time.Local().Format("15:04:05.000"), f.Action, f.Packet(), f.Source.String(), f.Dest.String(), f.Reason}
	if p.several {
		header, least, cells = slices.Insert(header, 1, "NODE"), slices.Insert(least, 1, 4), slices.Insert(cells, 1, node)
	}
	if p.widths == nil {
		t.header, t.least = header, least
	}
	t.add(cells...)
	p.widths = t.widths()[:len(cells)-1]
	return t.print(p.out)
}

// note tells what is not shown.
func (p *flowPrinter) note(node string, l *flows.Line) {
	say := func(n uint64, text string) {
		if node != "" {
			text += " (node " + clean(node) + ")"
		}
		if n > 0 {
			fmt.Fprintf(p.notes, "weft: %d %s\n", n, text)
		}
	}
	say(l.Missed, "flows are not shown, since they came faster than they could be printed")
	say(l.Lost, "denied or logged packets since the node started are not recorded: they came faster than it could read")
	say(l.Strange, "packets in this log group are not of this node's policy: another program writes to it")
}

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/cli/remote"
	"weft/node/flows"
)

// flowHold is how long a flow waits for earlier ones of other nodes.
const flowHold = 500 * time.Millisecond

// heldFlow is a line that waits.
type heldFlow struct {
	node string
	line *flows.Line
	come time.Time
}

// clusterFlows merges the flows of several nodes.
func clusterFlows(cmd *cobra.Command, flags *nodeFlags, output string, q flows.Query) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f, err := flags.toAsk(ctx)
	if err != nil {
		return err
	}
	defer f.close()
	reading, end := context.WithCancel(ctx)
	defer end()
	lines := make(chan heldFlow, 1024)
	answers := make([]nodeAnswer, len(f.services))
	go func() {
		defer close(lines)
		var all sync.WaitGroup
		// Streams stay open: with -f all are asked at once.
		at := make(chan struct{}, atOnce)
		for i := range f.services {
			answers[i].Node = f.services[i].Node
			all.Go(func() {
				if !q.Follow {
					at <- struct{}{}
					defer func() { <-at }()
				}
				if err := f.readFlows(reading, &f.services[i], q, lines); err != nil && reading.Err() == nil {
					answers[i].Error = oneLine(err.Error())
					if q.Follow {
						fmt.Fprintf(cmd.ErrOrStderr(), "weft: %s: %s\n", clean(answers[i].Node), clean(answers[i].Error))
					}
				}
			})
		}
		all.Wait()
	}()
	p := &flowPrinter{out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(), json: output == "json", several: true}
	err = mergeFlows(lines, q.Follow, p.from)
	end()
	for range lines { // until all have ended
	}
	switch {
	case err != nil:
		return fmt.Errorf("show flows: %w", err)
	case q.Follow && ctx.Err() != nil:
		return nil
	case ctx.Err() != nil:
		return errors.New("show flows: interrupted")
	case q.Follow: // all streams have ended by themselves, and said why
		return &ExitError{Code: exitFailed}
	}
	return silent(cmd.ErrOrStderr(), answers)
}

// readFlows reads the flows of one node into lines, until they or ctx end.
func (f *fleet) readFlows(ctx context.Context, s *remote.Service, q flows.Query, lines chan<- heldFlow) error {
	if !q.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.patience)
		defer cancel()
	}
	from, to := io.Pipe()
	asked := make(chan error, 1)
	go func() {
		err := f.cluster.Ask(ctx, s, q.String(), q.Follow, to)
		_ = to.CloseWithError(cmp.Or(err, io.EOF))
		asked <- err
	}()
	err := flows.Lines(from, func(l *flows.Line) error {
		select {
		case lines <- heldFlow{s.Node, l, time.Now()}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	_ = from.CloseWithError(io.ErrClosedPipe)
	if said := <-asked; said != nil && !errors.Is(said, io.ErrClosedPipe) {
		err = said
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", f.patience)
	case err == nil && q.Follow && ctx.Err() == nil:
		return errors.New("its flows have ended: was its service replaced?")
	}
	return err
}

// mergeFlows hands lines on in the order of their flows' times: those that are there, or, where more come, each after it
// waited flowHold for earlier ones. It ends with the lines.
func mergeFlows(lines <-chan heldFlow, follow bool, each func(node string, l *flows.Line) error) error {
	var held []heldFlow
	byTime := func(a, b heldFlow) int {
		return cmp.Or(a.line.Time.Compare(b.line.Time), cmp.Compare(a.node, b.node), cmp.Compare(a.line.Seq, b.line.Seq))
	}
	// out hands on what came before a time; a zero one stands for all.
	out := func(before time.Time) error {
		slices.SortStableFunc(held, byTime)
		n := 0
		for i := range held {
			if before.IsZero() || held[i].come.Before(before) {
				n = i + 1 // what is earlier goes with it, however late it came
			}
		}
		for _, h := range held[:n] {
			if err := each(h.node, h.line); err != nil {
				return err
			}
		}
		held = slices.Clone(held[n:])
		return nil
	}
	tick := time.NewTicker(flowHold / 5)
	defer tick.Stop()
	for {
		select {
		case h, more := <-lines:
			switch {
			case !more:
				return out(time.Time{})
			case h.line.Flow == nil:
				if err := each(h.node, h.line); err != nil {
					return err
				}
			default:
				held = append(held, h)
			}
		case now := <-tick.C:
			if follow {
				if err := out(now.Add(-flowHold)); err != nil {
					return err
				}
			}
		}
	}
}

package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"weft/cli/remote"
	"weft/node/status"
)

// askCommand is how a workstation asks the node of another host: package remote runs it there.
func askCommand() *cobra.Command {
	var runDir string
	var follow bool
	c := &cobra.Command{
		Use:    "ask PATH",
		Short:  "Print what the local node answers for a path of its socket, as it comes",
		Hidden: true,
		Args:   exactArgs("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			if follow {
				ctx, stop = context.WithCancel(ctx)
				go func() {
					_, _ = io.Copy(io.Discard, cmd.InOrStdin())
					stop()
				}()
			} else {
				ctx, stop = context.WithTimeout(ctx, nodeTimeout)
			}
			defer stop()
			err := askHere(ctx, runDir, args[0], cmd.OutOrStdout())
			if follow && ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
	addRunDir(c, &runDir)
	c.Flags().BoolVar(&follow, "follow", false, "the answer has no end: end with standard input")
	return c
}

func askHere(ctx context.Context, runDir, path string, out io.Writer) error {
	socket := filepath.Join(runDir, status.SocketName)
	code, body, err := status.Open(ctx, runDir, path)
	if err != nil {
		return nodeAway(path, socket, err)
	}
	defer func() { _ = body.Close() }()
	if code != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 300))
		if code == http.StatusNotFound {
			return &ExitError{remote.ExitNotServed, &notServedError{path, socket, firstLine(text)}}
		}
		return fmt.Errorf("it answers %d %s: %s", code, http.StatusText(code), firstLine(text))
	}
	if _, err := io.Copy(out, body); err != nil {
		return fmt.Errorf("ask the local node for %s at %s: %w", path, socket, err)
	}
	return nil
}

package node

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"weft/node/config"
	"weft/node/datastore/etcd"
)

// Command returns `weft node`.
func Command(version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the node service of this host",
		Long: `Run the node service: it watches the store, keeps tunnels and routes in the kernel as the
resources say, and attaches pods through CNI.

Without --etcd-endpoints it starts an embedded etcd in --data-dir. Every flag has an environment
form (--node-name is WEFT_NODE_NAME) and a key in the file that --config names (nodeName).
Stopping it, even by SIGKILL, leaves the kernel as it is: traffic goes on.`,
		Args: cobra.NoArgs,
	}
	finish := config.Bind(cmd.Flags())
	var cfg *config.Config
	cmd.PreRunE = func(*cobra.Command, []string) (err error) {
		cfg, err = finish()
		return err
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(restPercent)
			if os.Getenv("GOMEMLIMIT") == "" {
				collectLate()
			}
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return Run(ctx, cfg, version, logger(cfg.Log))
	}
	return cmd
}

// StoreCommand returns the hidden `weft datastore`: the embedded etcd alone, for labs and for
// clusters of bare hosts that share one.
func StoreCommand() *cobra.Command {
	var dir, socket string
	cmd := &cobra.Command{Use: "datastore", Short: "Run the embedded etcd alone, on a Unix socket", Hidden: true, Args: cobra.NoArgs}
	cmd.Flags().StringVar(&dir, "data-dir", "/var/lib/weft/etcd", "directory of the data")
	cmd.Flags().StringVar(&socket, "socket", "/run/weft/etcd.sock", "Unix socket to listen on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		log := logger(config.Log{Level: "warn", Format: "text"})
		server, err := etcd.StartServer(ctx, etcd.ServerConfig{DataDir: dir, Socket: socket, Logger: log})
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), server.Endpoint())
		select {
		case <-ctx.Done():
			return server.Close()
		case err := <-server.Err():
			return err
		}
	}
	return cmd
}

func logger(c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // validated
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

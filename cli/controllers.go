package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weft/controllers"
	"weft/node/datastore/etcd"
)

// safeGrace is how long an ADD may take: in a shorter time than that a new pod's address may seem to be nobody's.
const safeGrace = time.Minute

func controllersCommand(version string) *cobra.Command {
	var store *storeFlags
	var level string
	cfg := controllers.Config{Version: version}
	c := &cobra.Command{
		Use:   "controllers",
		Short: "Clean up for the whole cluster: after nodes that are gone, and addresses that nobody has",
		Long: `Runs until it is ended. At every interval it looks at the whole store. What nodes left that have no record any
more goes: their pods' endpoints, their addresses, blocks and statuses. So do addresses that no endpoint has, and what
else weft ipam check finds that needs no person. Each only after it was seen twice, and for the whole grace without a
change, and after one more look right before.

Where the KubeControllersConfiguration "default" asks for it (hostEndpoint.autoCreate), every node has a host endpoint for
all its interfaces, <node>-auto-hep, which follows the node's labels and addresses.

One of it is enough for a cluster. Several at once do no harm.`,
		Example: `  weft controllers
  weft controllers --leak-grace 1h`,
		Args: exactArgs(),
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.Grace < 0 || cfg.Interval < 0 {
			return Usagef("--leak-grace %v and --interval %v: want 0 or more", cfg.Grace, cfg.Interval)
		}
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return Usagef("--log-level %q: want debug, info, warn or error", level)
		}
		if store.kubernetes() {
			return Usagef("weft controllers works with an etcd store in this release: give --etcd-endpoints, or --run-dir for the store of the local node")
		}
		where, err := store.config()
		if err != nil {
			return err
		}
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
		if cfg.Grace > 0 && cfg.Grace < safeGrace {
			cfg.Log.Warn("the grace is shorter than an ADD may take: what a node that is gone for so long has is given away", "grace", cfg.Grace)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return runControllers(ctx, where, cfg)
	}
	store = addStoreFlags(c)
	f := c.Flags()
	f.DurationVar(&cfg.Grace, "leak-grace", 0, "how long something has to be without an owner before it goes; 0: as the KubeControllersConfiguration says, else 15m")
	f.DurationVar(&cfg.Interval, "interval", 0, "time between two looks at the store; 0: as the KubeControllersConfiguration says, else 5m")
	f.StringVar(&cfg.Health, "health-listen", "", "host:port that serves /livez and /readyz; empty: none")
	f.StringVar(&cfg.Metrics, "metrics-listen", "", "host:port that serves /metrics; empty: none")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func runControllers(ctx context.Context, where etcd.Config, cfg controllers.Config) error {
	where.Logger = cfg.Log
	store, err := etcd.Open(ctx, where)
	if err != nil {
		return fmt.Errorf("find the store: %w", err)
	}
	defer store.Close()
	cfg.Store = store
	return controllers.Run(ctx, cfg)
}

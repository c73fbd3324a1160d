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
	"weft/node/config"
	"weft/node/datastore/etcd"
	"weft/node/datastore/kube"
)

// safeGrace is how long an ADD may take: in a shorter time than that a new pod's address may seem to be nobody's.
const safeGrace = time.Minute

func controllersCommand(version string) *cobra.Command {
	var store *storeFlags
	var level string
	var kind string
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

One of it is enough for a cluster. Of several one acts, by a lease in the store; another takes over within 2 s of
its end, and within 17 s when it was killed or lost the store.`,
		Example: `  weft controllers
  weft controllers --leak-grace 1h
  weft controllers --kubeconfig ~/.kube/config`,
		Args: exactArgs(),
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		if cfg.Grace < 0 || cfg.Interval < 0 {
			return Usagef("--leak-grace %v and --interval %v: want 0 or more", cfg.Grace, cfg.Interval)
		}
		if kind != "" && kind != config.DatastoreKubernetes && kind != config.DatastoreEtcd {
			return Usagef("--datastore %q: want %s or %s", kind, config.DatastoreKubernetes, config.DatastoreEtcd)
		}
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return Usagef("--log-level %q: want debug, info, warn or error", level)
		}
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
		if cfg.Grace > 0 && cfg.Grace < safeGrace {
			cfg.Log.Warn("the grace is shorter than an ADD may take: what a node that is gone for so long has is given away", "grace", cfg.Grace)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return runControllers(ctx, store, kind, cfg)
	}
	store = addStoreFlags(c)
	f := c.Flags()
	f.DurationVar(&cfg.Grace, "leak-grace", 0, "how long something has to be without an owner before it goes; 0: as the KubeControllersConfiguration says, else 15m")
	f.DurationVar(&cfg.Interval, "interval", 0, "time between two looks at the store; 0: as the KubeControllersConfiguration says, else 5m")
	f.StringVar(&kind, "datastore", "", "kubernetes: the API server is the store, by --kubeconfig, else by the service account of the pod that this runs in; etcd: etcd is; empty: as --kubeconfig and --etcd-endpoints say")
	f.StringVar(&cfg.Health, "health-listen", "", "host:port that serves /livez and /readyz; empty: none")
	f.StringVar(&cfg.Metrics, "metrics-listen", "", "host:port that serves /metrics; empty: none")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	return c
}

func runControllers(ctx context.Context, where *storeFlags, kind string, cfg controllers.Config) error {
	var err error
	if kind == config.DatastoreKubernetes || kind == "" && where.kubernetes() {
		cfg.Store, err = kube.Open(kube.Config{Kubeconfig: where.kubeconfig, Waiting: true, RequestTimeout: requestTimeout, Logger: cfg.Log})
	} else {
		var at etcd.Config
		if at, err = where.config(); err == nil {
			at.Logger = cfg.Log
			cfg.Store, err = etcd.Open(ctx, at)
		}
	}
	if err != nil {
		return fmt.Errorf("find the store: %w", err)
	}
	defer func() { _ = cfg.Store.Close() }()
	return controllers.Run(ctx, cfg)
}

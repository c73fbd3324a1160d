package node

import (
	"log/slog"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"weft/encryption/wireguard/userspace"
	"weft/internal/supervise"
	"weft/node/config"
	bgpspeaker "weft/routing/bgp/speaker"
)

// KeeperSocket is the socket of `weft keeper` below the run directory.
const KeeperSocket = "keeper.sock"

// KeeperCommand returns `weft keeper`.
func KeeperCommand() *cobra.Command {
	socket := filepath.Join(config.DefaultRunDir, KeeperSocket)
	cmd := &cobra.Command{
		Use:   "keeper",
		Short: "Start the processes that outlive the node service's container",
		Long: `Start processes for the node service where that is in a container: WireGuard's, where the kernel has none, and the
BGP speaker. They end with the keeper, not with the node service, which is told of it by --keeper. It starts nothing
else, for nobody but root, and needs no configuration.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&socket, "socket", socket, "`path` of the socket that it listens on")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		k := supervise.Keeper{Socket: socket, Commands: []string{userspace.CommandName, bgpspeaker.CommandName},
			Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
		return k.Run(ctx)
	}
	return cmd
}

package node

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"weft/node/cni/install"
	"weft/node/cni/rpc"
	"weft/node/config"
)

// installInterval is between two looks at whether the runtime still finds this node's network.
const installInterval = 10 * time.Second

// installCNI puts the CNI plugin and its configuration there once the node can attach pods, and keeps them there.
func (s *service) installCNI(ctx context.Context) error {
	o := cniFiles(s.cfg.RunDir, s.cfg.CNIBinDir, s.cfg.CNIConfDir)
	if o.ConfDir == "" {
		return nil
	}
	wait, last := time.Duration(0), ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		if wait = installInterval; s.ready() != nil {
			if last == "" { // not once
				wait = 100 * time.Millisecond
			}
			continue
		}
		changed, err := o.Install()
		switch {
		case err != nil && err.Error() != last:
			s.log.Error("the container runtime does not find this node's network", "err", err)
			last = err.Error()
		case err == nil:
			last = "installed"
		}
		if changed {
			s.log.Info("CNI plugin and configuration installed", "plugin", o.BinDir, "configuration", o.ConfDir)
		}
	}
}

func cniFiles(runDir, binDir, confDir string) install.Options {
	own, _ := os.Executable()
	return install.Options{BinDir: binDir, ConfDir: confDir, Plugin: filepath.Join(filepath.Dir(own), "weft-cni"), Socket: filepath.Join(runDir, rpc.SocketName)}
}

// CleanupCommand returns `weft cleanup`.
func CleanupCommand() *cobra.Command {
	var o CleanupOptions
	var binDir, confDir string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Take away all that the node service left on this host",
		Long: `Take away all that the node service left on this host, so that it is as before: CNI files,
processes, routes and rules, devices, nftables, iptables and eBPF programs, sysctls as they were,
what the service keeps in its run directory. It refuses while a node service runs, and while pods are attached
unless --pods is given; --dry-run tells of all in any case.
The data directory (keys, journal of pods, embedded store) stays unless --data is given.
What the store says of the node stays there: weft delete node NAME.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.BoolVar(&o.DryRun, "dry-run", false, "only tell what would be removed")
	f.BoolVar(&o.Pods, "pods", false, "take the network from pods that are attached")
	f.BoolVar(&o.Data, "data", false, "remove the data directory as well")
	f.StringVar(&o.DataDir, "data-dir", config.EnvOr("data-dir", config.DefaultDataDir), "directory that the node service had for its data")
	f.StringVar(&o.RunDir, "run-dir", config.EnvOr("run-dir", config.DefaultRunDir), "directory that it had for sockets")
	f.StringVar(&binDir, "cni-bin-dir", config.EnvOr("cni-bin-dir", "/opt/cni/bin"), "directory of CNI plugins")
	f.StringVar(&confDir, "cni-conf-dir", config.EnvOr("cni-conf-dir", "/etc/cni/net.d"), "directory of CNI configurations")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.CNI = cniFiles(o.RunDir, binDir, confDir)
		return Cleanup(cmd.Context(), o, cmd.OutOrStdout(), logger(config.Log{Level: "warn", Format: "text"}))
	}
	return cmd
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weft/cli/install"
	"weft/node/datastore/kube"
)

// installFlags are those of weft install.
type installFlags struct {
	install.Options
	kubeconfig string
	dryRun     bool
	systemd    bool
	timeout    time.Duration
}

func installCommand(version string) *cobra.Command {
	var o installFlags
	o.Release = releaseOf(newVersionInfo(version))
	c := &cobra.Command{
		Use:   "install",
		Short: "Install weft in a Kubernetes cluster, or on this host as a systemd service",
		Long: `Applies the manifests that this program carries to the Kubernetes cluster of the kubeconfig, and waits
until the node service is ready on every node: the kinds, the roles and admission policies, the
DaemonSet, and what the overlay says of the network. It may be run again, with another overlay too. Each
node needs the image: "make image" makes one that "ctr -n k8s.io images import" takes.

With --systemd it writes a unit for this program on this host instead, which has etcd as its store, starts
it, and has it started with the host. What it is to run with stands in ` + install.EnvironmentFile + `, which is
left as it is if it is there.

With --dry-run it prints what it would apply or write, asks no cluster, and changes nothing.`,
		Example: `  weft install
  weft install --overlay wireguard --pool 10.20.0.0/16
  weft install --dry-run > weft.yaml
  weft install --systemd --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.systemd {
				return installUnit(cmd, o)
			}
			return installCluster(cmd, o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.Overlay, "overlay", "vxlan", "how pods of different nodes talk: "+strings.Join(install.Overlays(), ", "))
	f.StringVar(&o.Pool, "pool", "", "`CIDR` of the addresses of pods; unless given, what the cluster's pool has, or 10.244.0.0/16; of no network that nodes or pods have to reach")
	f.StringVar(&o.Image, "image", "", "container `image`, localhost/weft:latest unless given")
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "`file` that leads to the cluster (env KUBECONFIG); ~/.kube/config unless given")
	f.BoolVar(&o.dryRun, "dry-run", false, "print, and change nothing")
	f.BoolVar(&o.systemd, "systemd", false, "this host without Kubernetes: a systemd unit")
	f.DurationVar(&o.timeout, "timeout", 3*time.Minute, "how long all may take")
	hideDefaults(c, "kubeconfig")
	fixedCompletion(c, "overlay", install.Overlays()...)
	return c
}

func installCluster(cmd *cobra.Command, o installFlags) error {
	kinds, rest, err := install.Manifests(o.Options)
	if err != nil {
		return &UsageError{err}
	}
	if o.dryRun {
		text, err := install.YAML(append(kinds, rest...))
		if err == nil {
			_, err = cmd.OutOrStdout().Write(text)
		}
		return err
	}
	if o.kubeconfig == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("find the kubeconfig: %w; name it with --kubeconfig", err)
		}
		o.kubeconfig = filepath.Join(home, ".kube", "config")
	}
	client, base, err := kube.HTTPClient(kube.Config{Kubeconfig: o.kubeconfig})
	if err != nil {
		return fmt.Errorf("find the cluster: %w; name another with --kubeconfig, or print the manifests with --dry-run", err)
	}
	cluster := &install.Cluster{Client: client, Base: base, Say: func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	if o.Options, err = cluster.KeepPool(ctx, o.Options); err == nil {
		if kinds, rest, err = install.Manifests(o.Options); err == nil {
			err = cluster.Install(ctx, kinds, rest)
		}
	}
	if err != nil {
		return fmt.Errorf("install on %s: %w", base, err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "weft is installed on %s, overlay %s: every node is ready\n", base, o.Overlay)
	return nil
}

// releaseOf tells one build from another, as far as it knows.
func releaseOf(v versionInfo) string {
	if v.Version == "unknown" && v.Commit != "" {
		return v.Commit
	}
	return v.Version
}

func installUnit(cmd *cobra.Command, o installFlags) error {
	if f := cmd.Flags(); f.Changed("overlay") || f.Changed("pool") || f.Changed("image") || f.Changed("kubeconfig") {
		return Usagef("--systemd is of a host without Kubernetes: --overlay, --pool, --image and --kubeconfig say nothing there; pools are applied with weft apply")
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	files, err := install.Unit(program)
	if err != nil {
		return err
	}
	if o.dryRun {
		for _, f := range files {
			fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s\n", f.Path, f.Text)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
	defer cancel()
	err = install.WriteUnit(ctx, "/", files, func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) })
	if errors.Is(err, install.ErrNoSystemd) {
		return fmt.Errorf("the files are written, but %w: start %s node by other means", err, program)
	}
	return err
}

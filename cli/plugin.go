package cli

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/node/datastore/kube"
)

// How kubectl names a plugin and what completes its arguments: "kubectl weft" runs the one, Tab the other.
const (
	pluginName   = "kubectl-weft"
	completeName = "kubectl_complete-weft"
)

// pluginMark is in the annotations of the root where it is kubectl's plugin.
const pluginMark = "weft/kubectl-plugin"

// AsNamed makes root what the name of the program asks for: kubectl's plugin when it is kubectl-weft, or
// kubectl_complete-weft, by which kubectl completes the plugin's arguments. args are the program's, its name first.
func AsNamed(root *cobra.Command, args []string) {
	if len(args) == 0 {
		return
	}
	rest := args[1:]
	switch filepath.Base(args[0]) {
	case pluginName:
	case completeName:
		rest = append([]string{cobra.ShellCompRequestCmd}, rest...)
	default:
		return
	}
	root.SetArgs(rest)
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl weft", pluginMark: "yes"}
	root.Long = strings.Replace(root.Long, storeLong, pluginLong, 1)
	for _, c := range root.Commands() {
		if slices.Contains([]string{"node", "cleanup", "store", "lab", "demo", "bench", "completion"}, c.Name()) {
			root.RemoveCommand(c)
		}
	}
	walk(root, func(c *cobra.Command) {
		c.Example = strings.ReplaceAll(c.Example, "  weft ", "  kubectl weft ")
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if strings.HasPrefix(f.Name, "etcd-") || f.Name == "run-dir" {
				f.Hidden = true
			}
			if f.Name == "kubeconfig" {
				f.Usage = "kubeconfig `file`; without it KUBECONFIG, or ~/.kube/config"
			}
		})
	})
}

// pluginLong is what the help of the root says of the store, in place of storeLong.
const pluginLong = `The cluster is the one of the kubeconfig's current context, or of --context; -n is the context's namespace unless given.`

func isPlugin(c *cobra.Command) bool { return c.Root().Annotations[pluginMark] != "" }

// useContextNamespace has -n be the namespace of the kubeconfig's context, as kubectl does.
func useContextNamespace(c *cobra.Command) {
	f := c.Flags().Lookup("namespace")
	if !isPlugin(c) || f == nil || f.Changed || f.Annotations[filterMark] != nil {
		return
	}
	if all := c.Flags().Lookup("all-namespaces"); all != nil && all.Changed {
		return
	}
	cfg := kube.Config{AsKubectl: true}
	if file := c.Flags().Lookup("kubeconfig"); file != nil && file.Changed {
		cfg.Kubeconfig = file.Value.String()
	}
	if name := c.Flags().Lookup("context"); name != nil {
		cfg.Context = name.Value.String()
	}
	// What is wrong with the kubeconfig the command says when it uses it.
	if namespace, err := kube.Namespace(cfg); err == nil {
		_ = f.Value.Set(namespace)
	}
}

// filterMark is on a flag --namespace that narrows what is shown, and says nothing when not given.
const filterMark = "weft/filter"

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v3 "weft/api/v3"
)

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print the script that teaches a shell to complete weft's arguments",
		Long: `Prints the script by which a shell completes commands, flags, kinds and the names of resources.

For bash, put  source <(weft completion bash)  into ~/.bashrc (the package bash-completion must be
installed). For zsh, write it to a file _weft in a directory of $fpath. For fish, write it to
~/.config/fish/completions/weft.fish.`,
		Example: `  weft completion bash
  weft completion zsh
  weft completion fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return fmt.Errorf("SHELL is missing: want %s", oneOf(shells))
			case len(args) > 1:
				return fmt.Errorf("unexpected argument %q", args[1])
			case !slices.Contains(shells, args[0]):
				return fmt.Errorf("unknown shell %q: want %s", args[0], oneOf(shells))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			}
			return root.GenFishCompletion(out, true)
		},
	}
}

// fixedCompletion completes the values of a flag.
func fixedCompletion(c *cobra.Command, flag string, values ...string) {
	err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic(err) // a flag that this command does not have: found by the first test
	}
}

// completionTimeout bounds how long a person who pressed Tab waits.
const completionTimeout = time.Second

// completeKindThenNames completes KIND NAME.... A store that is away completes nothing and says
// nothing: the person is still typing.
func completeKindThenNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) == 0 {
		return kindNames(cmd.Name() == "get"), none
	}
	kind, ok := v3.LookupKind(args[0])
	if !ok {
		return nil, none
	}
	names, err := namesOf(cmd, kind)
	if err != nil {
		return nil, none
	}
	return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args[1:], n) }), none
}

func namesOf(cmd *cobra.Command, k v3.KindInfo) ([]string, error) {
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	// The flags that say where the store is have been parsed into this command already.
	flags, err := givenStoreFlags(cmd)
	if err != nil {
		return nil, err
	}
	store, err := flags.openWithin(ctx, completionTimeout)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	list, err := store.List(ctx, k.Kind)
	if err != nil {
		return nil, err
	}
	useContextNamespace(cmd)
	namespace, err := cmd.Flags().GetString("namespace")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, o := range withBuiltin(k, list.Items) {
		if !k.Namespaced || o.GetNamespace() == namespace || namespace == "" && o.GetNamespace() == defaultNamespace {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names, nil
}

// givenStoreFlags reads back what addStoreFlags defined on cmd.
func givenStoreFlags(cmd *cobra.Command) (*storeFlags, error) {
	f := cmd.Flags()
	endpoints, err := f.GetStringSlice("etcd-endpoints")
	if err != nil {
		return nil, err
	}
	s := &storeFlags{endpoints: endpoints, cmd: cmd}
	for name, at := range map[string]*string{
		"etcd-cacert": &s.caFile, "etcd-cert": &s.certFile, "etcd-key": &s.keyFile, "etcd-user": &s.user,
		"etcd-password-file": &s.passwordFile, "kubeconfig": &s.kubeconfig, "context": &s.context, "run-dir": &s.runDir,
	} {
		if *at, err = f.GetString(name); err != nil {
			return nil, err
		}
	}
	s.runDirGiven = func() bool { return f.Changed("run-dir") }
	s.kubeconfigGiven = func() bool { return f.Changed("kubeconfig") || f.Changed("context") }
	return s, nil
}

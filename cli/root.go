package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// Root returns the command "weft" with the ctl verbs. The caller adds the commands that run things
// and hands the result to Execute. version is what `weft version` prints.
func Root(version string) *cobra.Command {
	root := &cobra.Command{
		Use:   "weft",
		Short: "Overlay networking: one node service per host, and the commands to drive it",
		Long: `weft carries pod traffic between hosts: directly where the underlay can, by VXLAN where it cannot.

"weft node" is the service that runs on every host. The other commands read and change the
cluster's resources, or ask the local node what it does and why.

` + storeLong + `

Exit codes: 0 done, 1 failed, 2 wrong use.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		Version:           version,
	}
	root.SetVersionTemplate("weft {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(
		applyCommand(), createCommand(), replaceCommand(), deleteCommand(),
		getCommand(), labelCommand(), patchCommand(),
		statusCommand(), planCommand(), ipamCommand(),
		peersCommand(), encryptionCommand(), bgpCommand(), controllersCommand(version),
		whyCommand(), flowsCommand(), askCommand(),
		versionCommand(version), completionCommand(), installCommand(version), importCommand(), docsCommand(),
	)
	return root
}

// storeLong is what the help of the root says of the store.
const storeLong = `The store is found by --etcd-endpoints or WEFT_ETCD_ENDPOINTS, or by --kubeconfig, --context or KUBECONFIG where it is
Kubernetes; else it is the one that the local node keeps (` + defaultRunDir + `/` + etcdSocketName + `).

The program is kubectl's plugin, "kubectl weft", where it has the name kubectl-weft in a directory of PATH.`

// UsageError is a wrong use of a command: exit code 2.
type UsageError struct{ Err error }

// Error prints what is wrong and how to learn more.
func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *UsageError) Unwrap() error { return e.Err }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error { return &UsageError{fmt.Errorf(format, args...)} }

// ExitError ends the process with a code of its own; with a nil Err nothing is printed, because the
// command has said already what failed.
type ExitError struct {
	Code int
	Err  error
}

// Error prints the cause.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Err }

// Execute runs root on the process's arguments (or on root.SetArgs's) and returns the exit code.
// An error is one line on standard error.
func Execute(ctx context.Context, root *cobra.Command) int {
	started := false
	walk(root, func(c *cobra.Command) { prepare(c, &started) })
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var exit *ExitError
	if errors.As(err, &exit) {
		if exit.Err != nil {
			printError(root.ErrOrStderr(), exit.Err)
		}
		return exit.Code
	}
	var code interface{ CommandExitCode() int }
	if errors.As(err, &code) {
		printError(root.ErrOrStderr(), err)
		return code.CommandExitCode()
	}
	var usage *UsageError
	if !started || errors.As(err, &usage) {
		fmt.Fprintln(root.ErrOrStderr(), oneLine(usageText(cmd, err)))
		return exitUsage
	}
	printError(root.ErrOrStderr(), err)
	return exitFailed
}

// usageText adds to a complaint about the command line where to read more.
func usageText(cmd *cobra.Command, err error) string {
	// cobra's suggestions come on lines of their own.
	text := strings.Join(strings.Fields(err.Error()), " ")
	// cobra takes what is too much for a command that has none, if it wants no arguments.
	if surplus, ok := strings.CutPrefix(text, "unknown command "); ok && !cmd.HasSubCommands() {
		surplus, _, _ = strings.Cut(surplus, " for ")
		text = "it takes no arguments, got " + surplus
	}
	return fmt.Sprintf("%s: %s; see %s --help", cmd.CommandPath(), text, cmd.CommandPath())
}

func walk(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		walk(sub, f)
	}
}

// prepare makes a command note that its arguments were accepted: whatever fails before that is
// wrong use. A command that only groups others refuses what is none of them, which cobra does for
// the root alone.
func prepare(c *cobra.Command, started *bool) {
	switch run, runE := c.Run, c.RunE; {
	case runE != nil:
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			useContextNamespace(cmd)
			return runE(cmd, args)
		}
	case run != nil:
		c.Run = func(cmd *cobra.Command, args []string) {
			*started = true
			run(cmd, args)
		}
	case c.HasParent() && c.HasSubCommands():
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return Usagef("unknown command %q: want %s", args[0], oneOf(names))
		}
	}
}

// printError writes err as one line without control characters.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "weft: %s\n", oneLine(err.Error()))
}

// oneOf prints alternatives for people: "a, b or c".
func oneOf(names []string) string {
	switch len(names) {
	case 0:
		return "nothing"
	case 1:
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// exactArgs is cobra.ExactArgs with names for what is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// minArgs wants at least the named arguments.
func minArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("%s is missing", names[len(args)])
		}
		return nil
	}
}

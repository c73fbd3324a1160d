package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Command returns `weft lab` with its verbs. Arguments that make no sense are refused before a verb
// runs (cobra's Args and PreRunE), so that the caller can tell wrong use from failure. Results go to
// standard output, progress and errors to standard error.
func Command() *cobra.Command {
	name := DefaultName
	c := &cobra.Command{
		Use:   "lab",
		Short: "Run a cluster of network namespaces on this machine",
		Long: `lab runs a cluster on this machine: every node is a weft node process in a network
namespace of its own, joined by an underlay of subnets and a router. Pods are attached through CNI.

Namespaces are LAB.NODE and LAB.NAMESPACE.POD, for use with ip netns exec. Nothing of the machine's
own network is touched, and nothing leads out of the lab.`,
	}
	c.PersistentFlags().StringVar(&name, "name", DefaultName, "`name` of the lab")
	open := func(cmd *cobra.Command) (*Lab, error) {
		if os.Geteuid() != 0 {
			what := "make and enter network namespaces and mounts"
			if cmd.Name() == "env" || cmd.Name() == "status" {
				what = "read the lab's directory and speak with its nodes"
			}
			return nil, fmt.Errorf("%s: only root can %s: try with sudo", cmd.CommandPath(), what)
		}
		return New(name, Options{Progress: cmd.ErrOrStderr()})
	}
	c.AddCommand(upCommand(open), downCommand(open), statusCommand(open), envCommand(open),
		podCommand(open), execCommand(open), stopCommand(open), startCommand(open))
	for _, sub := range c.Commands() {
		completeNames(sub, open)
		checkNameFirst(sub, &name)
		endOnSignal(sub)
	}
	return c
}

// endOnSignal makes ctrl-c, or a terminal that goes away, end a verb's context, so that it cleans up what it is half way through.
// An exec'ed command gets the signal itself.
func endOnSignal(c *cobra.Command) {
	for _, sub := range c.Commands() {
		endOnSignal(sub)
	}
	run := c.RunE
	if run == nil || c.Name() == "exec" {
		return
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if ctx == nil { // a program that did not use ExecuteContext
			ctx = context.Background()
		}
		ctx, stop := NotifyContext(ctx)
		defer stop()
		cmd.SetContext(ctx)
		return run(cmd, args)
	}
}

// opener returns the lab that --name names.
type opener func(*cobra.Command) (*Lab, error)

// checkNameFirst makes a bad --name a wrong use of every verb.
func checkNameFirst(c *cobra.Command, name *string) {
	for _, sub := range c.Commands() {
		checkNameFirst(sub, name)
	}
	next := c.PreRunE
	c.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := CheckName(*name); err != nil {
			return fmt.Errorf("--name: %w", err)
		}
		if next != nil {
			return next(cmd, args)
		}
		return nil
	}
}

func upCommand(open opener) *cobra.Command {
	var file string
	var keep bool
	c := &cobra.Command{
		Use:   "up [-f lab.yaml]",
		Short: "Build the lab and wait until every node is ready",
		Long: `up builds the underlay, starts the store and the nodes, and returns when every node is ready. The
lab stays up in the background. Without -f it has three nodes: n1 and n2 in rack1, n3 in rack2.

A lab that is not ready within 60 seconds is removed again; --keep leaves it for a look around.`,
		Example: "  weft lab up\n  weft lab up -f lab.yaml --name big",
		Args:    cobra.NoArgs,
	}
	c.Flags().StringVarP(&file, "file", "f", "", "lab.yaml; - reads standard input")
	c.Flags().BoolVar(&keep, "keep", false, "keep what was made when the lab does not come up")
	c.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		config := DefaultConfig()
		if file != "" {
			if config, err = readConfig(file, cmd.InOrStdin()); err != nil {
				return err
			}
		}
		name := cmd.Flag("name")
		if name.Changed && config.Name != DefaultName && config.Name != name.Value.String() {
			fmt.Fprintf(cmd.ErrOrStderr(), "--name %s goes before name: %s of %s\n", name.Value, config.Name, file)
		}
		if !name.Changed {
			if err := name.Value.Set(config.Name); err != nil {
				return err
			}
		}
		l, err := open(cmd)
		if err != nil {
			return err
		}
		if err := l.Up(cmd.Context(), config, keep); err != nil {
			return explain(cmd.ErrOrStderr(), err)
		}
		s, err := l.Status(cmd.Context())
		if err != nil {
			return err
		}
		return s.WriteTable(cmd.OutOrStdout())
	}
	return c
}

func readConfig(file string, stdin io.Reader) (Config, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(stdin, maxConfigBytes+1))
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return Config{}, fmt.Errorf("read lab.yaml: %w", err)
	}
	return Parse(data)
}

// explain prints the end of the log of a node that is not ready, and returns the error.
func explain(w io.Writer, err error) error {
	var e *NotReadyError
	if errors.As(err, &e) && len(e.Log) > 0 {
		fmt.Fprintf(w, "last lines of the log of %s:\n", e.Node)
		for _, line := range e.Log {
			fmt.Fprintf(w, "  %s\n", printable(line))
		}
	}
	return err
}

// printable takes control characters out of a line that somebody else wrote.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

func downCommand(open opener) *cobra.Command {
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove the lab: processes, namespaces, mounts and files",
		Long: `down leaves nothing of the lab behind. It also removes what an interrupted up has left, and what
somebody started inside the lab's namespaces. Without a lab it does nothing.`,
		Args: cobra.NoArgs,
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := open(cmd)
		if err != nil {
			return err
		}
		r, err := l.Down(cmd.Context())
		if err != nil {
			return err
		}
		l.say("lab %s is down: %d processes and %d network namespaces removed", l.name, r.Processes, r.Namespaces)
		return nil
	}
	return c
}

func statusCommand(open opener) *cobra.Command {
	output := "table"
	c := &cobra.Command{
		Use:   "status [-o json]",
		Short: "Show the nodes of the lab and their pods",
		Args:  cobra.NoArgs,
	}
	c.Flags().StringVarP(&output, "output", "o", output, "table or json")
	c.PreRunE = func(*cobra.Command, []string) error {
		if output != "table" && output != "json" {
			return fmt.Errorf("--output %q: want table or json", output)
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := open(cmd)
		if err != nil {
			return err
		}
		s, err := l.Status(cmd.Context())
		if err != nil {
			return err
		}
		if output == "json" {
			return printJSON(cmd.OutOrStdout(), s)
		}
		return s.WriteTable(cmd.OutOrStdout())
	}
	return c
}

func printJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

func envCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:     "env",
		Short:   "Print the exports with which weft get and apply reach the lab's store",
		Example: "  eval \"$(weft lab env)\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := open(cmd)
			if err != nil {
				return err
			}
			vars, err := l.Env()
			if err != nil {
				return err
			}
			for _, v := range vars {
				fmt.Fprintf(cmd.OutOrStdout(), "export %s\n", v)
			}
			return nil
		},
	}
}

func execCommand(open opener) *cobra.Command {
	c := &cobra.Command{
		Use:   "exec NODE|NAMESPACE/NAME -- COMMAND...",
		Short: "Run a command on a node or in a pod",
		Long: `exec runs a command in the network and mount namespaces of a node, where weft status speaks with
that node, or in the network namespace of a pod. Its exit code is the command's.`,
		Example: "  weft lab exec n1 -- ip route\n  weft lab exec default/web -- ping -c1 10.244.0.7",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("want NODE or NAMESPACE/NAME, and a command after --")
			}
			return checkTarget(args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open(cmd)
			if err != nil {
				return err
			}
			return l.Exec(args[0], args[1:])
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w: what has flags of its own comes after --, as in n1 -- ip -br addr", err)
	})
	return c
}

func checkTarget(s string) error {
	if strings.Contains(s, "/") {
		_, _, err := ParsePodName(s)
		return err
	}
	return CheckName(s)
}

func stopCommand(open opener) *cobra.Command {
	signal := "TERM"
	c := &cobra.Command{
		Use:   "stop NODE [--signal KILL]",
		Short: "Stop the node service of a node; what the kernel holds stays",
		Args:  oneName("NODE"),
	}
	c.Flags().StringVar(&signal, "signal", signal, strings.Join(stopSignals, ", "))
	var sig unix.Signal
	c.PreRunE = func(*cobra.Command, []string) (err error) {
		if sig, err = ParseSignal(signal); err != nil {
			return fmt.Errorf("--signal: %w", err)
		}
		return nil
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := open(cmd)
		if err != nil {
			return err
		}
		did, err := l.Stop(cmd.Context(), args[0], sig)
		if err == nil && !did {
			l.say("%s is not running", args[0])
		} else if err == nil {
			l.say("%s stopped", args[0])
		}
		return err
	}
	return c
}

func startCommand(open opener) *cobra.Command {
	return &cobra.Command{
		Use:   "start NODE",
		Short: "Start the node service of a node that was stopped, and wait until it is ready",
		Args:  oneName("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open(cmd)
			if err != nil {
				return err
			}
			did, err := l.Start(cmd.Context(), args[0])
			if err == nil && !did {
				l.say("%s is running already", args[0])
			} else if err == nil && args[0] == storeName {
				l.say("store answers on %s", l.StoreEndpoint())
			}
			return explain(cmd.ErrOrStderr(), err)
		},
	}
}

// oneName wants exactly one argument, the name of a node.
func oneName(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("want one %s, got %d arguments", what, len(args))
		}
		return CheckName(args[0])
	}
}

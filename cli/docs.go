package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func docsCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "docs",
		Short:  "Print the manual of all commands as Markdown (docs/commands.md)",
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(Markdown(cmd.Root()))
			return err
		},
	}
}

// Markdown returns the manual of root and all commands below it: docs/commands.md. It depends on
// nothing but the commands, not on the environment.
func Markdown(root *cobra.Command) []byte {
	var b bytes.Buffer
	b.WriteString(manualHead(root))
	walk(root, func(c *cobra.Command) {
		if c == root || !documented(c) {
			return
		}
		b.WriteByte('\n')
		b.Write(markdownSection(c))
	})
	return b.Bytes()
}

func manualHead(root *cobra.Command) string {
	return fmt.Sprintf("# The commands of %s\n\n<!-- Made by `%s docs`; do not edit. -->\n\n%s\n", root.Name(), root.Name(), root.Long)
}

func documented(c *cobra.Command) bool {
	for ; c.HasParent(); c = c.Parent() {
		if c.Hidden || c.Name() == "help" {
			return false
		}
	}
	return true
}

// markdownSection is what the manual says of one command.
func markdownSection(c *cobra.Command) []byte {
	var b bytes.Buffer
	c.InitDefaultHelpFlag()
	fmt.Fprintf(&b, "## %s\n\n%s.\n\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."))
	fmt.Fprintf(&b, "```\n%s\n```\n", c.UseLine())
	if c.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", c.Long)
	}
	if c.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n\n```\n%s\n```\n", unindent(c.Example))
	}
	writeFlags(&b, c)
	return b.Bytes()
}

func writeFlags(w io.Writer, c *cobra.Command) {
	// A default that is this machine's name is no other reader's.
	host, _ := os.Hostname()
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.DefValue != "" && strings.EqualFold(f.DefValue, host) {
			f.DefValue = ""
			f.Usage += " (default: the host's name)"
		}
	})
	usages := strings.TrimRight(c.NonInheritedFlags().FlagUsages(), "\n")
	if usages != "" {
		fmt.Fprintf(w, "\nFlags:\n\n```\n%s\n```\n", usages)
	}
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

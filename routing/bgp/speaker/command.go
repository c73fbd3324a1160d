package speaker

import (
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/supervise"
)

// CommandName is the subcommand of weft.
const CommandName = "bgp-speaker"

// Process is the command line of the process.
type Process struct {
	Dir       string // of the socket, and of what it remembers
	Interface int
}

// Args returns the arguments after the name of the binary. They hold no secret.
func (p Process) Args() []string {
	return []string{CommandName, "--dir", p.Dir, "--interface", strconv.Itoa(p.Interface)}
}

// ParseArgs reads a command line with the name of the binary in front; false where it is something else.
func ParseArgs(args []string) (Process, bool) {
	if len(args) != 6 || args[1] != CommandName || args[2] != "--dir" || args[4] != "--interface" {
		return Process{}, false
	}
	n, err := strconv.Atoi(args[5])
	return Process{Dir: args[3], Interface: n}, err == nil
}

// Socket is the path of the process's socket.
func (p Process) Socket() string { return filepath.Join(p.Dir, "bgp-speaker.sock") }

// ran is the file that exists from the first configuration on until the speaker stops for good: a process
// that finds it takes over from one whose routes neighbours may still hold (RFC 4724).
func (p Process) ran() string { return filepath.Join(p.Dir, "bgp-speaker.ran") }

// Command returns the hidden `weft bgp-speaker`.
func Command() *cobra.Command {
	var p Process
	cmd := &cobra.Command{
		Use:    CommandName,
		Short:  "Speak BGP for this network namespace",
		Long:   "Speak BGP for this network namespace. The node service starts it and tells it what to do.",
		Hidden: true, Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&p.Dir, "dir", "/run/weft", "`directory` of the socket")
	cmd.Flags().IntVar(&p.Interface, "interface", Interface, "`version` of the interface that the node service expects")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return Run(ctx, p, supervise.Readiness())
	}
	return cmd
}

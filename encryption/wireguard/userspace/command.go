package userspace

import (
	"fmt"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"weft/internal/supervise"
)

// CommandName is the subcommand of weft.
const CommandName = "wireguard-userspace"

// Interface is the version of what the node service relies on: arguments, socket, TUN device. A process
// of another version is not adopted but replaced.
const Interface = 1

// DefaultSocketDir is where wg(8) looks for the sockets of such processes.
const DefaultSocketDir = "/var/run/wireguard"

// Process is the command line of one process.
type Process struct {
	Device    string
	SocketDir string
	Interface int
}

// Args returns the arguments after the name of the binary. They hold no secret.
func (p Process) Args() []string {
	return []string{CommandName, "--device", p.Device, "--sockets", p.SocketDir, "--interface", strconv.Itoa(p.Interface)}
}

// ParseArgs reads what Args returned, also with the name of the binary in front; false where it is
// something else.
func ParseArgs(args []string) (Process, bool) {
	if len(args) == 8 {
		args = args[1:]
	}
	if len(args) != 7 || args[0] != CommandName {
		return Process{}, false
	}
	n, err := strconv.Atoi(args[6])
	p := Process{Device: args[2], SocketDir: args[4], Interface: n}
	want := p.Args()
	for i := range want {
		if args[i] != want[i] {
			return Process{}, false
		}
	}
	return p, err == nil
}

// Socket is the path of the process's socket.
func (p Process) Socket() string { return filepath.Join(p.SocketDir, p.Device+".sock") }

var deviceName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,14}$`)

// CheckDevice refuses names that could lead elsewhere as a path or an argument.
func CheckDevice(name string) error {
	if !deviceName.MatchString(name) {
		return fmt.Errorf("WireGuard device name %.60q: want 1 to 15 of a-z, 0-9, '.' and '-', beginning with a letter or digit", name)
	}
	return nil
}

// Command returns the hidden `weft wireguard-userspace`.
func Command() *cobra.Command {
	var p Process
	cmd := &cobra.Command{
		Use:    CommandName,
		Short:  "Run one WireGuard device in user space",
		Long:   "Run one WireGuard device in user space. The node service starts it where the kernel has no WireGuard.",
		Hidden: true, Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&p.Device, "device", "", "`name` of the device")
	cmd.Flags().StringVar(&p.SocketDir, "sockets", DefaultSocketDir, "`directory` of the socket")
	cmd.Flags().IntVar(&p.Interface, "interface", Interface, "`version` of the interface that the node service expects")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return Run(ctx, p, supervise.Readiness())
	}
	return cmd
}

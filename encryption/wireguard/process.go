package wireguard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"weft/encryption/wireguard/userspace"
	"weft/internal/kernel"
	"weft/internal/supervise"
)

// processes starts the processes that have devices in user space, finds those of an earlier process of
// ours, and notices when one ends.
type processes struct {
	*supervise.Processes
	socketDir string
	logDir    string
}

// process is one that runs, or ran; its name is the device's.
type process = supervise.Process

func newProcesses(h *kernel.Handle, log *slog.Logger, o Options, died func(*process)) *processes {
	return &processes{
		Processes: &supervise.Processes{Handle: h, Log: log, Executable: o.Executable, Env: o.Env, Keeper: o.Keeper, Died: died},
		socketDir: o.SocketDir, logDir: o.LogDir,
	}
}

func (ps *processes) of(device string) userspace.Process {
	return userspace.Process{Device: device, SocketDir: ps.socketDir, Interface: userspace.Interface}
}

func (ps *processes) command(device string) supervise.Command {
	want := ps.of(device)
	return supervise.Command{
		Name: device, What: "process of WireGuard device " + device, Args: want.Args(), Socket: want.Socket(), Log: ps.logPath(device),
		Version: want.Interface, Help: ", or give the device another name",
		Is: func(args []string) (int, bool) {
			p, ok := userspace.ParseArgs(args)
			return p.Interface, ok && p.Device == device && supervise.SameDir(p.SocketDir, want.SocketDir)
		},
	}
}

func (ps *processes) logPath(device string) string {
	return filepath.Join(ps.logDir, "wireguard-"+device+".log")
}

// get returns the live process of a device, started if need be. started tells that it knows no key and no
// peers.
func (ps *processes) get(ctx context.Context, device string) (p *process, started bool, err error) {
	return ps.Get(ctx, ps.command(device))
}

// adopt looks for a process that answers on the device's socket.
func (ps *processes) adopt(ctx context.Context, device string) (*process, error) {
	return ps.Adopt(ctx, ps.command(device))
}

func (ps *processes) wait() time.Duration { return ps.Wait() }

func (ps *processes) take(device string) *process { return ps.Take(device) }

func (ps *processes) end(ctx context.Context, p *process) error { return ps.End(ctx, p) }

// endOthers ends the processes of ours in this network namespace whose device is not wanted.
func (ps *processes) endOthers(ctx context.Context, wanted map[string]bool) (ended int, err error) {
	entries, err := os.ReadDir(ps.socketDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("look for processes of WireGuard devices: %w", err)
	}
	devices := map[string]bool{}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok && userspace.CheckDevice(name) == nil {
			devices[name] = true
		}
	}
	for _, name := range ps.Names() {
		devices[name] = true
	}
	var errs []error
	for name := range devices {
		if wanted[name] {
			continue
		}
		p := ps.Take(name)
		if p == nil {
			if p, err = ps.adopt(ctx, name); err != nil || p == nil {
				continue // not ours
			}
		}
		ps.Log.Info("ending the process of a WireGuard device", "device", name, "pid", p.PID)
		errs = append(errs, ps.End(ctx, p))
		ended++
	}
	return ended, errors.Join(errs...)
}

package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// found is a process that listens on a socket, as who looked sees it.
type found struct {
	pid   int  // in the PID namespace of who looked
	far   bool // that is the keeper's, and not this one
	args  []string
	pidfd *os.File // nil where only the number was asked for
	netns *os.File // its network namespace; as pidfd
}

func (f *found) close() {
	closeAll([]*os.File{f.pidfd, f.netns}) // a nil one is closed already
}

// become says which process it is.
func (p *Process) become(f *found) error {
	fd, err := unix.FcntlInt(uintptr(number(f.pidfd)), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else the runtime's poller does not take it
		unix.Close(fd)
		return err
	}
	p.PID, p.Far, p.fd = f.pid, f.far, os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// errElsewhere: who listens is in a PID namespace that cannot be seen from here.
var errElsewhere = errors.New("a process of another PID namespace listens there")

// find looks for the process that listens on a socket; nil when none does.
func find(ctx context.Context, socket string) (*found, error) {
	pid, err := Listener(ctx, socket)
	if err != nil || pid == 0 {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil // it ended just now
	}
	if err != nil {
		return nil, fmt.Errorf("follow process %d, which listens on %s: %w", pid, socket, err)
	}
	f := &found{pid: pid, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	// After the descriptor: from here on the process is the one that was asked.
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err == nil {
		f.args = strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		f.netns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	}
	if again, lerr := Listener(ctx, socket); err == nil && (lerr != nil || again != pid) {
		err = errors.Join(lerr, errors.New("it changed meanwhile"))
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("look at process %d, which listens on %s: %w", pid, socket, err)
	}
	return f, nil
}

// Adopt looks for a process that answers on the command's socket; nil when none does. One that is ours and
// of another version is ended; one of another network namespace, or that is not ours, is an error.
func (ps *Processes) Adopt(ctx context.Context, want Command) (*Process, error) {
	f, err := find(ctx, want.Socket)
	if errors.Is(err, errElsewhere) && ps.Keeper != "" {
		f, err = ps.findByKeeper(ctx, want.Socket)
	}
	if err != nil || f == nil {
		return nil, err
	}
	other := func(what string) error {
		return fmt.Errorf("socket %s of the %s: process %d listens there, and %s: end it by hand%s", want.Socket, want.What, f.pid, what, want.Help)
	}
	version, ok := want.Is(f.args)
	if ok {
		err = ps.sameNamespace(f.netns, other)
	} else {
		err = other("is not " + want.Args[0] + " as this node starts it")
	}
	p := &Process{Command: want, Since: time.Now(), Adopted: true, ended: make(chan struct{})}
	if err == nil {
		err = p.become(f)
	}
	f.close()
	if err != nil {
		return nil, err
	}
	ps.follow(p)
	if version != want.Version {
		ps.Log.Info("replacing the "+want.What, "pid", f.pid, "version", version, "want", want.Version)
		return nil, ps.End(ctx, p)
	}
	ps.Log.Info("adopted the "+want.What, "pid", f.pid)
	return p, nil
}

// SameDir tells whether two paths lead to one directory: a process may know it by another name.
func SameDir(a, b string) bool {
	if a == b {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func (ps *Processes) sameNamespace(netns *os.File, other func(string) error) error {
	own, err := ps.Handle.Namespace()
	if err != nil {
		return err
	}
	defer own.Close()
	mine, err := own.Stat()
	if err != nil {
		return err
	}
	its, err := netns.Stat()
	if err != nil {
		return fmt.Errorf("look at its network namespace: %w", err)
	}
	if !os.SameFile(mine, its) {
		return other("is in another network namespace")
	}
	return nil
}

// Listener returns the process that listens on a Unix socket, by its credentials (unix(7), SO_PEERCRED);
// 0 when nobody does.
func Listener(ctx context.Context, socket string) (pid int, err error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if pid, err = PeerPID(c.(*net.UnixConn)); err != nil {
		return 0, fmt.Errorf("ask who listens on %s: %w", socket, err)
	}
	if pid == 0 {
		return 0, fmt.Errorf("socket %s: %w: end it", socket, errElsewhere)
	}
	return pid, nil
}

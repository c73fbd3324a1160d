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

// Adopt looks for a process that answers on the command's socket; nil when none does. One that is ours and
// of another version is ended; one of another network namespace, or that is not ours, is an error.
func (ps *Processes) Adopt(ctx context.Context, want Command) (*Process, error) {
	pid, err := Listener(ctx, want.Socket)
	if err != nil || pid == 0 {
		return nil, err
	}
	other := func(what string) error {
		return fmt.Errorf("socket %s of the %s: process %d listens there, and %s: end it by hand%s", want.Socket, want.What, pid, what, want.Help)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil // it ended just now
	}
	if err != nil {
		return nil, fmt.Errorf("follow process %d, the %s: %w", pid, want.What, err)
	}
	p := &Process{Command: want, PID: pid, fd: os.NewFile(uintptr(fd), "pidfd"), Since: time.Now(), Adopted: true, ended: make(chan struct{})}
	// After the descriptor: from here on the process is the one that was asked.
	version, ok, err := look(pid, want)
	if again, lerr := Listener(ctx, want.Socket); err == nil && (lerr != nil || again != pid) {
		err = errors.Join(lerr, errors.New("it changed meanwhile"))
	}
	switch {
	case err != nil:
	case !ok:
		err = other("is not " + want.Args[0] + " as this node starts it")
	default:
		err = ps.sameNamespace(pid, other)
	}
	if err != nil {
		p.fd.Close()
		return nil, err
	}
	ps.follow(p)
	if version != want.Version {
		ps.Log.Info("replacing the "+want.What, "pid", pid, "version", version, "want", want.Version)
		return nil, ps.End(ctx, p)
	}
	ps.Log.Info("adopted the "+want.What, "pid", pid)
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

// look reads a process's command line.
func look(pid int, want Command) (version int, ok bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, false, fmt.Errorf("look at process %d: %w", pid, err)
	}
	version, ok = want.Is(strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"))
	return version, ok, nil
}

func (ps *Processes) sameNamespace(pid int, other func(string) error) error {
	own, err := ps.Handle.Namespace()
	if err != nil {
		return err
	}
	defer own.Close()
	mine, err := own.Stat()
	if err != nil {
		return err
	}
	its, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return fmt.Errorf("look at the network namespace of process %d: %w", pid, err)
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
		return 0, fmt.Errorf("socket %s: a process of another PID namespace listens there: end it", socket)
	}
	return pid, nil
}

// PeerPID returns the process at the other end of a connection, as it was when that was made or listened
// for; 0 where it is in another PID namespace.
func PeerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var inner error
	err = raw.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, inner); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

package supervise

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Answers tells whether a connection is to the process, and to no other.
func (p *Process) Answers(ctx context.Context, c *net.UnixConn) (bool, error) {
	pid, err := PeerPID(c)
	if err != nil {
		return false, err
	}
	if !p.Far {
		return pid == p.PID && p.Alive(), nil
	}
	if pid != 0 {
		return false, nil // in a PID namespace that can be seen from here, and the keeper's cannot
	}
	same, err := p.isPeer(c)
	if errors.Is(err, errors.ErrUnsupported) {
		same, err = p.isPeerByKeeper(ctx, c)
	}
	return same, err
}

// isPeer compares the pidfd of who is at the other end with that of the process: in pidfs (Linux 6.9) each process has an
// inode of its own. An older kernel is errors.ErrUnsupported.
func (p *Process) isPeer(c *net.UnixConn) (bool, error) {
	var peer int
	err := control(c, func(fd int) (err error) {
		peer, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD) // Linux 6.5
		return err
	})
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return false, errors.ErrUnsupported
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return false, nil // it has ended
	case err != nil:
		return false, fmt.Errorf("ask for the pidfd of the peer: %w", err)
	}
	defer unix.Close(peer)
	its, err := processInode(peer)
	if err != nil {
		return false, err
	}
	var mine uint64
	err = p.withFD(func(fd int) (err error) { mine, err = processInode(fd); return err })
	return err == nil && its == mine, err
}

// processInode is a process's number that no other one has until the next boot.
func processInode(pidfd int) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pidfd, &fs); err != nil {
		return 0, fmt.Errorf("look at a pidfd: %w", err)
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0, errors.ErrUnsupported // all pidfds have one inode
	}
	var st unix.Stat_t
	if err := unix.Fstat(pidfd, &st); err != nil {
		return 0, fmt.Errorf("look at a pidfd: %w", err)
	}
	return st.Ino, nil
}

// isPeerByKeeper lets the keeper read the peer's number in its own PID namespace. As long as the process lives nobody else
// there has its number.
func (p *Process) isPeerByKeeper(ctx context.Context, c *net.UnixConn) (bool, error) {
	f, err := c.File()
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, files, err := p.of.toKeeper(ctx, keepRequest{Peer: true}, f)
	closeAll(files)
	if err != nil {
		return false, fmt.Errorf("who listens is in another PID namespace, which only its keeper can tell about: if that is of an older release, delete its pod: %w", err)
	}
	return r.PID == p.PID && p.Alive(), nil
}

// PeerPID returns the process at the other end of a connection, as it was when that was made or listened
// for; 0 where it is in another PID namespace.
func PeerPID(c *net.UnixConn) (pid int, err error) {
	err = control(c, func(fd int) error { pid, err = peerOf(fd); return err })
	return pid, err
}

// peerOfFile is PeerPID for a connection that somebody else opened.
func peerOfFile(c *os.File) (pid int, err error) {
	if pid, err = peerOf(number(c)); err != nil {
		err = fmt.Errorf("ask whom the connection is to: %w", err)
	}
	return pid, err
}

func peerOf(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

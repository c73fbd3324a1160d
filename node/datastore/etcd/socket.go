package etcd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a listening Unix socket that was private from its first moment.
type socket struct {
	listener *net.UnixListener
	path     string
	lock     *os.File
	inode    uint64
}

// listen makes the socket in a directory that nobody else can enter, then moves it into place:
// there is no moment in which another user could connect, and a stale one is replaced in the
// same step. A socket on which something still answers is left alone.
func listen(path string) (_ *socket, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &socket{path: path}
	if s.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.dropLock()
		}
	}()
	if err := checkStale(path); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".weft-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	fd, err := unix.Open(tmp, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: tmp, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	// By way of /proc, so that the longer name of the moment does not hit the limit of the path.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", fd), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	made := filepath.Join(tmp, "s")
	if err = errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		_ = l.Close()
		return nil, err
	}
	s.listener, s.inode = l, inodeOf(path)
	return s, nil
}

// checkStale tells whether path may be replaced.
func checkStale(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s exists and is not a socket: remove it or use another path", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
	}
	if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s is in use by another process: stop it or use another path", path)
	}
	return nil
}

// unlink removes the socket's name if it is still ours.
func (s *socket) unlink() {
	if s.inode != 0 && inodeOf(s.path) == s.inode {
		_ = os.Remove(s.path)
	}
	s.inode = 0
}

func (s *socket) close() {
	s.unlink()
	_ = s.listener.Close()
	s.dropLock()
}

// dropLock removes the lock file while it is still locked: lockFile copes with a file that
// vanishes under it.
func (s *socket) dropLock() {
	_ = os.Remove(s.lock.Name())
	_ = s.lock.Close()
}

func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// lockFile takes an exclusive lock that ends with this process, and names the holder if there is
// one. The file's content is for people; only the lock counts.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			holder, _ := io.ReadAll(io.LimitReader(f, 100))
			_ = f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock %s: %w", path, err)
			}
			who := strings.TrimSpace(string(holder))
			if who == "" {
				who = "another process"
			}
			return nil, fmt.Errorf("in use by %s: stop it first or use another path", who)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Ino != inodeOf(path) {
			_ = f.Close() // its holder removed it while we waited for the lock
			continue
		}
		_ = f.Truncate(0)
		_, _ = fmt.Fprintf(f, "process %d (%s)\n", os.Getpid(), filepath.Base(os.Args[0]))
		return f, nil
	}
}
